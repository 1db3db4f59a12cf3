from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.compat import BGEM3FlagModel
from bge_m3_integrations.evaluation.parity import TEXTS, compare_with_flag, verify_model
from bge_m3_integrations.testing import FakeEncoder


class Corrupted:
    """The compat model, with one output changed."""

    def __init__(self, flag: BGEM3FlagModel, mode: str, value: float) -> None:
        self.flag, self.mode, self.value = flag, mode, value

    def encode(self, texts: list[str], **options: Any) -> Mapping[str, Any]:
        found = dict(self.flag.encode(texts, **options))
        if self.mode == "dense_vecs":
            found[self.mode] = (
                np.where(np.arange(len(texts)) == 3, self.value, 0)[:, None] + found[self.mode]
            )
        elif self.mode == "colbert_vecs":
            found[self.mode] = [v + self.value * (i == 3) for i, v in enumerate(found[self.mode])]
        elif self.mode == "lexical_weights":
            found[self.mode] = [
                {t: w + self.value * (i == 3) for t, w in row.items()}
                for i, row in enumerate(found[self.mode])
            ]
        return found

    def compute_score(self, pairs: list[Any], **options: Any) -> Any:
        scores = self.flag.compute_score(pairs, **options)
        if self.mode in scores:
            scores[self.mode] = [value + self.value for value in scores[self.mode]]
        return scores


@pytest.fixture
def flag() -> BGEM3FlagModel:
    model = BGEM3FlagModel("unused", use_fp16=False)
    vars(model)["engine"] = BGEM3(FakeEncoder())
    return model


def failed(flag: BGEM3FlagModel, mode: str, value: float) -> list[str]:
    checks = compare_with_flag(flag.engine, Corrupted(flag, mode, value), tolerance=1e-4)
    return [check.name for check in checks if not check.passed]


def test_equal_numbers_pass(flag: BGEM3FlagModel) -> None:
    assert failed(flag, "none", 0.0) == []
    assert len(TEXTS) == 12


@pytest.mark.parametrize("value", [0.01, float("nan")])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("dense_vecs", "FlagEmbedding, dense vectors"),
        ("colbert_vecs", "FlagEmbedding, token vectors"),
        ("lexical_weights", "FlagEmbedding, lexical weights"),
        ("dense", "FlagEmbedding, score dense"),
        ("sparse+dense", "FlagEmbedding, score sparse+dense"),
        ("colbert+sparse+dense", "FlagEmbedding, score colbert+sparse+dense"),
    ],
)
def test_one_wrong_number_fails_its_check_and_no_other(
    flag: BGEM3FlagModel, mode: str, name: str, value: float
) -> None:
    assert failed(flag, mode, value) == [name]


def test_a_flag_embedding_that_cannot_be_imported_is_one_line_and_the_rest_goes_on(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "FlagEmbedding", raising=False)
    folder = broken_flag_embedding(xlm_roberta.parent / "broken")
    monkeypatch.syspath_prepend(folder)
    report = verify_model(str(xlm_roberta), device="cpu")
    note = next(note for note in report.notes if "FlagEmbedding" in note)
    assert "ImportError: cannot import name 'gone'" in note
    assert "transformers" in note
    assert 'pip install "bge-m3-integrations[flag]"' in note
    assert "\n" not in note
    assert [check.name for check in report.checks] == ["a text alone or in a batch, dense"]
    assert report.passed


def broken_flag_embedding(folder: Path) -> Path:
    package = folder / "FlagEmbedding"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("from json import gone\n")
    return folder


def test_a_dense_only_checkpoint_is_verified_by_what_it_has(
    xlm_roberta: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(xlm_roberta, tmp_path / "dense_only")
    (folder / "sparse_linear.pt").unlink()
    report = verify_model(str(folder), device="cpu")
    assert any("no sparse head" in note for note in report.notes)
    assert report.passed
