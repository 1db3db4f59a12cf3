"""Texts become tokens: what is refused, where each is cut, and where each token stands."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.errors import (
    InputError,
    TruncationWarning,
)
from tests.checkpoints import POSITIONS


@pytest.fixture(scope="module")
def engine(xlm_roberta: Path) -> BGEM3:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32")


def test_a_million_characters_are_cut_at_the_limit_and_counted(engine: BGEM3) -> None:
    with pytest.warns(TruncationWarning, match="1 of 1 text "):
        batch = engine.encode_documents(["dense " * 166_667], modes={"dense"})
    assert batch.tokens[0] == POSITIONS
    assert batch.tokens[0] + batch.truncated[0] > 166_667


def test_a_lone_surrogate_is_an_error_that_says_where_and_how_to_mend_it(engine: BGEM3) -> None:
    with pytest.raises(InputError, match=r"text 1 .*ud800.* at character 3.*clean=True"):
        engine.encode_documents(["fine", "abc\ud800"])


@pytest.mark.parametrize("length", [1, POSITIONS + 1])
def test_a_length_that_the_model_cannot_take_names_the_range(engine: BGEM3, length: int) -> None:
    with pytest.raises(InputError, match=f"between 2 .* {POSITIONS}"):
        engine.encode_documents(["a"], max_length=length)


@pytest.mark.parametrize("length", [True, 8.5, "8"])
def test_a_length_that_is_no_whole_number_is_refused(engine: BGEM3, length: Any) -> None:
    with pytest.raises(InputError, match=r"max_length must be a whole number .* not "):
        engine.encode_documents(["a"], max_length=length)


def test_spans_point_into_the_users_text_behind_the_instruction(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", document_instruction="search the text of ")
    text = "dense vector 稠密"
    tokens = engine.tokenize([text])
    own = [tuple(span) for span in tokens.spans.tolist() if span != [-1, -1]]
    covered = "".join(text[start:end] for start, end in own)
    assert unicodedata.normalize("NFKC", covered).replace(" ", "") == text.replace(" ", "")
    assert tokens.spans[0].tolist() == [-1, -1]
    assert len(own) < len(tokens.ids) - 2


def test_each_tokens_colbert_row_counts_from_the_second_token(engine: BGEM3) -> None:
    tokens = engine.tokenize(["dense", "sparse vector"])
    rows = np.split(tokens.colbert_rows, tokens.offsets[1:-1])
    for row in rows:
        assert row.tolist() == list(range(-1, len(row) - 1))


def test_ids_become_readable_tokens_and_unknown_ids_are_refused(engine: BGEM3) -> None:
    ids = engine.tokenize(["dense"]).row(0).tolist()
    words = engine.encoder.id_to_token(ids)
    assert words[0] == "<s>"
    assert "dense" in "".join(words)
    with pytest.raises(InputError, match="999999"):
        engine.encoder.id_to_token([999_999])
