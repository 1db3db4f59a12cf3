"""The figures that BAAI/bge-m3's model card prints, on its real weights.

Run with `BGE_M3_PATH=folder pytest -m real_weights`, or without the variable to download them.
"""

from __future__ import annotations

import os

import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.evaluation.parity import (
    PUBLISHED_TOLERANCE,
    compare_with_flag,
    compare_with_published,
    load_flag,
)
from bge_m3_integrations.evaluation.parity_report import Check

pytestmark = pytest.mark.real_weights


@pytest.fixture(scope="module")
def engine() -> BGEM3:
    """The real model in float32."""
    return BGEM3(os.environ.get("BGE_M3_PATH", DEFAULT_MODEL), device="cpu", dtype="float32")


def failed(checks: list[Check]) -> list[Check]:
    return [check for check in checks if not check.passed]


def test_the_published_lexical_weights_and_scores_are_met(engine: BGEM3) -> None:
    assert failed(compare_with_published(engine, tolerance=PUBLISHED_TOLERANCE)) == []


def test_flagembedding_gives_the_same_numbers_on_the_same_weights(engine: BGEM3) -> None:
    pytest.importorskip("FlagEmbedding")
    from bge_m3_integrations.encoders.torch.hub import resolve_checkpoint

    flag = load_flag(resolve_checkpoint(engine.name).folder, device="cpu", half=False)
    assert failed(compare_with_flag(engine, flag, tolerance=1e-4)) == []
