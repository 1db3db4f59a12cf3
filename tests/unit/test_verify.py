from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.compat import BGEM3FlagModel
from bge_m3_integrations.testing import FakeEncoder
from bge_m3_integrations.verify import TEXTS, compare_with_flag


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
