"""A translation table from the parallel sentences: IBM model 1 in both directions."""

from __future__ import annotations

from collections import Counter

import numpy as np

ROUNDS = 8
NULL = -1


def _model1(pairs: list[tuple[list[int], list[int]]], size: int) -> dict[tuple[int, int], float]:
    """Estimates t(target | source) by expectation maximisation."""
    sources, targets, groups = [], [], []
    group = 0
    for left, right in pairs:
        heads = [size, *left]  # `size` stands for the empty word
        for target in right:
            sources += heads
            targets += [target] * len(heads)
            groups += [group] * len(heads)
            group += 1
    codes = np.asarray(sources, dtype=np.int64) * (size + 1) + np.asarray(targets)
    unique, cell = np.unique(codes, return_inverse=True)
    owner = (unique // (size + 1)).astype(np.int64)
    table = np.ones(len(unique))
    group_of = np.asarray(groups)
    for _ in range(ROUNDS):
        weight = table[cell]
        share = weight / np.bincount(group_of, weights=weight)[group_of]
        count = np.bincount(cell, weights=share, minlength=len(unique))
        table = count / np.bincount(owner, weights=count, minlength=size + 1)[owner]
    return {
        (int(code // (size + 1)), int(code % (size + 1))): float(value)
        for code, value in zip(unique, table, strict=True)
        if value > 0.02 and code // (size + 1) != size
    }


def translations(
    pairs: list[tuple[list[int], list[int]]], size: int
) -> tuple[dict[int, dict[int, float]], dict[int, dict[int, float]]]:
    """Estimates which pieces translate each other.

    Args:
        pairs: The piece ids of English and Chinese sentences.
        size: The size of the vocabulary.

    Returns:
        For each Chinese piece its English pieces with weights, and the other way round. The weight
        is the geometric mean of both directions, so that only mutual translations stay.
    """
    forward = _model1(pairs, size)
    backward = _model1([(right, left) for left, right in pairs], size)
    seen = Counter(piece for _, right in pairs for piece in set(right))
    to_english: dict[int, dict[int, float]] = {}
    to_chinese: dict[int, dict[int, float]] = {}
    for (english, chinese), value in forward.items():
        other = backward.get((chinese, english), 0.0)
        weight = (value * other) ** 0.5
        if weight > 0.05 and seen[chinese] > 1:
            to_english.setdefault(chinese, {})[english] = weight
            to_chinese.setdefault(english, {})[chinese] = weight
    return to_english, to_chinese
