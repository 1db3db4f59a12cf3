"""Calibrations with round numbers, for tests of what reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bge_m3_integrations import Calibration, HybridIndex, Weights
from bge_m3_integrations.core.calibration import Measured
from bge_m3_integrations.core.calibration_parts import Relevance, Rule, Unrelated
from bge_m3_integrations.index.calibrated import index_key

MEASURED = Measured(
    fingerprint="f",
    model="m",
    query_instruction="",
    storage="float32",
    weights=Weights(),
    fusion="weighted_sum",
    max_score=1.0,
    documents=100,
    collection="tests",
    date="2026-12-01",
)


def relevance(rule: Rule | None = None, **changed: Any) -> Relevance:
    """Ten hits at each of the probabilities 0.05, 0.15, ...; of those at 0.05 + k / 10, k right."""
    probability = np.repeat(np.arange(0.05, 1, 0.1), 10)
    right = np.concatenate([np.arange(10) < k for k in range(10)])
    held = Relevance(
        rule=rule or Rule(10.0, 0.0, -5.0, (10.0, -5.0)),
        queries=20,
        pairs=100,
        relevant=int(right.sum()),
        ece=0.05,
        raw_ece=0.2,
        brier=0.1,
        bins=np.stack([np.arange(0.05, 1, 0.1), np.arange(10) / 10, np.full(10, 10.0)], axis=1),
        curve=Relevance.curve_of(probability, right),
    )
    return replace(held, **changed)


def calibration(index: HybridIndex | None = None, *, judged: bool = True) -> Calibration:
    """Percentile 100 * value of 1,000 pairs; probability 1 / (1 + exp(5 - 10 * value))."""
    measured = MEASURED
    if index is not None:
        measured = replace(
            measured, **index_key(index.engine, index.store, index._searcher.colbert_kind)
        )
    null = Unrelated.from_values(np.linspace(0, 1, 1000), queries=50)
    return Calibration(measured, null, relevance() if judged else None)
