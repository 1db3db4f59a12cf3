"""A checkpoint gives the modes whose heads are among its files, and says what it lacks."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.errors import (
    CheckpointError,
    InputError,
    MissingHeadError,
    MissingHeadWarning,
)

TEXTS = ["dense vector of a document", "sparse"]
HEADS = {"sparse": "sparse_linear.pt", "colbert": "colbert_linear.pt"}


@pytest.fixture
def folder(xlm_roberta: Path, tmp_path: Path) -> Path:
    copied = Path(shutil.copytree(xlm_roberta, tmp_path / "dense_only"))
    for name in HEADS.values():
        (copied / name).unlink()
    return copied


@pytest.fixture
def engine(folder: Path) -> BGEM3:
    return BGEM3(folder, device="cpu", dtype="float32")


def test_a_dense_only_checkpoint_gives_the_dense_vectors_of_the_whole_one(
    engine: BGEM3, xlm_roberta: Path
) -> None:
    whole = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    batch = engine.encode_documents(TEXTS, modes=["dense"])
    np.testing.assert_array_equal(batch.dense, whole.encode_documents(TEXTS).dense)
    assert engine.modes == {"dense"}
    assert engine.encoder.colbert_dim == 0
    assert engine.encode_documents([], modes=["dense"]).modes == {"dense"}


@pytest.mark.parametrize("missing", ["sparse", "colbert"])
def test_one_head_alone_gives_its_mode(xlm_roberta: Path, tmp_path: Path, missing: str) -> None:
    copied = Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))
    (copied / HEADS[missing]).unlink()
    engine = BGEM3(copied, device="cpu", dtype="float32")
    assert engine.modes == {"dense", "sparse", "colbert"} - {missing}
    assert engine.encode_documents(TEXTS, modes=engine.modes).modes == engine.modes
    with pytest.raises(MissingHeadError, match=HEADS[missing]):
        engine.encode_documents(TEXTS)


@pytest.mark.parametrize("mode", ["sparse", "colbert"])
@pytest.mark.parametrize("kind", [CheckpointError, InputError])
def test_a_mode_without_a_head_names_the_mode_the_file_and_what_there_is(
    engine: BGEM3, folder: Path, mode: Any, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as raised:
        engine.encode_queries(TEXTS, modes=["dense", mode])
    text = str(raised.value)
    assert f"no {mode} head" in text
    assert HEADS[mode] in text
    assert str(folder) in text
    assert "modes=['dense']" in text
    assert "BAAI" not in text  # no invitation to take another model's head


def test_all_ways_to_a_missing_mode_say_so(engine: BGEM3) -> None:
    encoder: Any = engine.encoder
    with pytest.raises(MissingHeadError, match=r"sparse_linear\.pt and colbert_linear\.pt"):
        engine.encode_queries(TEXTS)
    with pytest.raises(MissingHeadError, match="colbert"):
        engine.submit(TEXTS, modes=["colbert"]).result()
    with pytest.raises(MissingHeadError, match="sparse"):
        engine.score(TEXTS, TEXTS, weights=(1, 1, 0))
    with pytest.raises(MissingHeadError, match="colbert"):
        HybridIndex(engine, modes=["colbert"]).add([Record("a", "dense")])
    with pytest.raises(MissingHeadError, match="colbert"):
        encoder.encoder.encode(TEXTS, kind="query", modes=["colbert"])


def test_a_score_and_an_index_without_modes_take_dense_alone_and_warn_once(engine: BGEM3) -> None:
    with pytest.warns(MissingHeadWarning, match=r"no head for sparse and colbert.*\['dense'\]"):
        scores = engine.score(TEXTS, TEXTS)
    assert scores.components.modes == {"dense"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        index = HybridIndex(engine)
        index.add([Record("a", TEXTS[0]), Record("b", TEXTS[1])])
        assert index.modes == {"dense"}
        assert index.search(TEXTS[0], limit=1)[0].id == "a"
        assert engine.rerank(TEXTS[1], TEXTS)[0].index == 1


def test_who_names_the_modes_is_not_warned(engine: BGEM3, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.encode_queries(TEXTS, modes=["dense"])
        engine.score(TEXTS, TEXTS, weights=(1, 0, 0))
        with HybridIndex.open(tmp_path / "index", engine, modes=["dense"]) as index:
            index.add([Record("a", TEXTS[0])])
        with HybridIndex.open(tmp_path / "index", engine) as index:
            assert index.search(TEXTS[0], limit=1)[0].id == "a"


def test_a_head_that_is_added_is_another_model(folder: Path, engine: BGEM3, bert: Path) -> None:
    before = engine.fingerprint
    shutil.copy(bert / "sparse_linear.pt", folder)
    assert BGEM3(folder).fingerprint != before
    assert BGEM3(folder).modes == {"dense", "sparse"}


def test_langchains_embeddings_need_the_dense_vector_only(folder: Path) -> None:
    pytest.importorskip("langchain_core")
    from bge_m3_integrations.langchain import BGEM3Embeddings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        embeddings = BGEM3Embeddings(model=folder, device="cpu", dtype="float32")
        assert len(embeddings.embed_query("dense")) == embeddings.engine.encoder.dim
        assert len(embeddings.embed_documents(TEXTS)) == 2
