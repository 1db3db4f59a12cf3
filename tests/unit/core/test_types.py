"""Packed batches, weights and records."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    Mode,
    SparseRows,
    TokenVectors,
    as_modes,
    offsets_of,
    ordered_modes,
)
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scores import PRESETS, Components, Weights
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.testing.fake import FakeEncoder

TEXTS = ["the fox", "", "a much longer text about the fox", "one"]
ROWS = st.lists(
    st.dictionaries(st.integers(0, 99), st.floats(0.125, 9.0, width=16), max_size=5), max_size=6
)


def encoded(texts: list[str], modes: frozenset[Mode] = ALL_MODES) -> EmbeddingBatch:
    return FakeEncoder().encode(texts, kind="document", modes=modes)


def same(left: EmbeddingBatch, right: EmbeddingBatch) -> bool:
    if left.modes != right.modes or len(left) != len(right):
        return False
    for a, b in zip(left, right, strict=True):
        if a.sparse != b.sparse or (a.tokens, a.truncated) != (b.tokens, b.truncated):
            return False
        for x, y in ((a.dense, b.dense), (a.colbert, b.colbert)):
            if x is not None and not np.array_equal(x, y):
                return False
    return True


@given(st.lists(st.integers(0, len(TEXTS) - 1), max_size=7))
def test_take_gives_the_texts_in_the_given_order(rows: list[int]) -> None:
    assert same(encoded(TEXTS).take(rows), encoded([TEXTS[i] for i in rows]))


@given(st.lists(st.lists(st.sampled_from(TEXTS), max_size=3), min_size=1, max_size=4))
def test_concat_lays_batches_end_to_end(parts: list[list[str]]) -> None:
    together = EmbeddingBatch.concat([encoded(part) for part in parts])
    assert same(together, encoded([text for part in parts for text in part]))


@pytest.mark.parametrize("mode", ["dense", "sparse", "colbert"])
def test_concat_and_take_keep_absent_modes_absent(mode: Mode) -> None:
    batch = encoded(TEXTS, frozenset([mode]))
    assert EmbeddingBatch.concat([batch, batch]).modes == {mode}
    assert batch.take([0]).modes == {mode}


def test_take_copies() -> None:
    batch = encoded(TEXTS)
    taken = batch.take([0, 1, 2, 3])
    assert batch.dense is not None
    assert taken.dense is not None
    before = taken.dense.copy()
    batch.dense[:] = 7
    assert np.array_equal(taken.dense, before)


def test_concat_of_mixed_modes_or_of_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="one set of modes"):
        EmbeddingBatch.concat([encoded(["a"]), encoded(["a"], frozenset(["dense"]))])
    with pytest.raises(InputError, match="0 mixed parts"):
        EmbeddingBatch.concat([])


def test_only_drops_the_other_modes_without_a_copy() -> None:
    batch = encoded(TEXTS)
    only = batch.only(["sparse", "colbert"])
    assert only.modes == {"sparse", "colbert"}
    assert only.sparse is batch.sparse
    assert only.colbert is batch.colbert
    assert only.tokens is batch.tokens
    assert batch.modes == ALL_MODES


def test_only_of_an_absent_mode_names_both_sides() -> None:
    batch = encoded(TEXTS, frozenset(["dense"]))
    with pytest.raises(InputError, match=r"\['colbert'\] not in this batch.*\['dense'\]"):
        batch.only(["dense", "colbert"])


def test_a_text_of_a_batch_is_its_row() -> None:
    batch = encoded(TEXTS)
    row = batch[-2]
    assert row.sparse == encoded([TEXTS[2]])[0].sparse
    assert row.colbert is not None
    assert len(row.colbert) == row.tokens - 1
    for outside in (4, -5):
        with pytest.raises(IndexError, match="batch of 4"):
            batch[outside]


def test_an_empty_batch_holds_its_modes() -> None:
    empty = EmbeddingBatch.empty(["dense", "colbert"], dim=3, colbert_dim=2)
    assert len(empty) == 0
    assert empty.modes == {"dense", "colbert"}
    assert list(empty) == []


@given(ROWS)
def test_sparse_rows_come_back_as_the_dicts_they_were(rows: list[dict[int, float]]) -> None:
    packed = SparseRows.from_dicts(rows)
    assert len(packed) == len(rows)
    assert [packed.as_dict(i) for i in range(len(rows))] == rows
    for i in range(len(rows)):
        assert list(packed.as_dict(i)) == sorted(rows[i])


def test_sparse_rows_leave_out_weights_that_are_not_positive() -> None:
    assert SparseRows.from_dicts([{1: 0.0, 2: -1.0, 3: 0.5}]).as_dict(0) == {3: 0.5}


@given(st.lists(st.lists(st.integers(0, 4), max_size=3), max_size=3))
def test_token_vectors_concat_keeps_every_text(parts: list[list[int]]) -> None:
    made = [
        TokenVectors(np.full((sum(p), 2), i, np.float32), offsets_of(p))
        for i, p in enumerate(parts)
    ]
    together = TokenVectors.concat(made, 2)
    expected = [(i, length) for i, part in enumerate(parts) for length in part]
    assert len(together) == len(expected)
    for j, (i, length) in enumerate(expected):
        assert together.row(j).tolist() == [[i, i]] * length


def test_offsets_are_running_ends() -> None:
    assert offsets_of([2, 0, 3]).tolist() == [0, 2, 2, 5]
    assert offsets_of([]).tolist() == [0]


@pytest.mark.parametrize("wrong", [[], "", "lexical", ["dense", "bm25"]])
def test_modes_that_are_none_are_an_error(wrong: Any) -> None:
    with pytest.raises(InputError, match="one or more of"):
        as_modes(wrong)


def test_modes_have_one_order() -> None:
    assert as_modes("sparse") == {"sparse"}
    assert ordered_modes({"colbert", "dense"}) == ["dense", "colbert"]


@pytest.mark.parametrize(
    "form",
    [
        Weights(1, 2, 3),
        (1, 2, 3),
        [1.0, 2.0, 3.0],
        np.array([1, 2, 3]),
        {"colbert": 3, "dense": 1, "sparse": 2},
    ],
)
def test_weights_are_read_from_every_form(form: Any) -> None:
    assert Weights.parse(form) == Weights(1, 2, 3)


def test_weights_are_read_from_a_preset() -> None:
    assert Weights.parse("default") == Weights() == PRESETS["default"]


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("unheard", "unknown weights preset 'unheard'"),
        ((1, 2), "three numbers"),
        ((1, 2, 3, 4), "three numbers"),
        ({"dense": 1, "sparse": 1}, "need all of"),
        ({"dense": 1, "sparse": 1, "colbert": 1, "bm25": 1}, "bm25"),
        ((0, 0, 0), "positive, finite sum"),
        ((1e308, 1e308, 1e308), "positive, finite sum"),
        ((1, -1, 1), "at least 0"),
        ((1, float("nan"), 1), "finite"),
        ((1, float("inf"), 1), "finite"),
        ((1, True, 1), "finite numbers"),
        ((1, "2", 3), "finite numbers"),
        (5, "three numbers"),
        (None, "three numbers"),
    ],
)
def test_weights_that_cannot_be_read_are_an_error(form: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Weights.parse(form)


def test_weights_restricted_to_nothing_are_an_error() -> None:
    assert Weights(1, 2, 3).restricted(["sparse"]) == Weights(0, 2, 0)
    with pytest.raises(InputError, match="nothing to score by"):
        Weights.only("dense").restricted(["sparse"])


def test_the_modes_of_weights_are_those_that_count() -> None:
    assert Weights(1, 0, 0.5).modes == {"dense", "colbert"}
    assert Weights.only("sparse").modes == {"sparse"}


def test_components_of_unequal_shape_are_an_error() -> None:
    with pytest.raises(InputError, match="differ in shape"):
        Components(np.zeros(2, np.float32), np.zeros(3, np.float32))


def test_components_take_indexes_what_is_there() -> None:
    parts = Components(dense=np.arange(3, dtype=np.float32))
    assert parts.take([2, 0]).as_dict(0) == {"dense": 2.0}
    assert parts.take(slice(1)).shape == (1,)


@pytest.mark.parametrize(("record_id", "text"), [("", "t"), (7, "t"), (None, "t"), ("a", None)])
def test_a_record_needs_an_id_and_a_text(record_id: Any, text: Any) -> None:
    with pytest.raises(InputError):
        Record(record_id, text)


def test_a_record_shows_its_content_and_hashes_its_text() -> None:
    record = Record("a", "encoded", content="shown")
    assert record.display_text == "shown"
    assert Record("a", "encoded").display_text == "encoded"
    assert dataclasses.replace(record, content="").display_text == ""
    assert record.text_hash == Record("b", "encoded", {"x": 1}).text_hash
    assert record.text_hash != Record("a", "other").text_hash
    assert len(Record("a", "lone \ud800").text_hash) == 64
