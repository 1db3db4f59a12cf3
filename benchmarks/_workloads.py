"""Texts to encode: lengths that are fixed, words that are drawn as rarely as words are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks._shape import Shape, word

PARITY_TEXTS = 6
"""So many of the mixed texts are compared in all three heads; all are in the dense one."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Texts, and how they are given to an encoder.

    Args:
        name: As on the command line.
        lengths: Tokens of each text, `<s>` and `</s>` included.
        single: One call per text, as queries come; otherwise all in one call.
        seed: Of the words.
    """

    name: str
    lengths: tuple[int, ...]
    single: bool = False
    seed: int = 0

    @property
    def tokens(self) -> int:
        """Real tokens in all texts: what tok/s counts."""
        return sum(self.lengths)

    def texts(self, shape: Shape) -> list[str]:
        """The texts, the same in every process."""
        return [
            text_of(length, shape=shape, seed=(self.seed, i))
            for i, length in enumerate(self.lengths)
        ]


def text_of(length: int, *, shape: Shape, seed: Sequence[int] = (0,)) -> str:
    """A text of so many tokens, `<s>` and `</s>` included.

    A word's rank is log-uniform: the word of rank r comes up in proportion to 1/r (Zipf), so the
    rows of the embedding table that are touched repeat as they do in language.
    """
    draw = np.random.default_rng((length, *seed)).random(length - 2)
    ranks = np.exp(draw * np.log(shape.words)).astype(np.int64) % shape.words
    stride = _coprime(shape.words)  # frequent words lie anywhere in the table
    return " ".join(word(int(rank * stride % shape.words)) for rank in ranks)


def ladder(count: int, *, total: int, longest: int) -> tuple[int, ...]:
    """Lengths in a geometric row up to `longest` that add up to `total`, in shuffled order."""
    low, high = 3.0, float(longest)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _row(count, middle, longest).sum() < total else (low, middle)
    row = _row(count, low, longest)
    row[1 : 1 + total - int(row.sum())] += 1
    if row.sum() != total:
        raise ValueError(f"{count} lengths up to {longest} cannot add up to {total}")
    order = np.random.default_rng(0).permutation(count)
    return tuple(int(length) for length in row[order])


def _row(count: int, shortest: float, longest: int) -> np.ndarray:
    return np.floor(np.geomspace(shortest, longest + 0.5, count)).astype(np.int64)


def _coprime(words: int) -> int:
    stride = int(words * 0.618)
    while np.gcd(stride, words) != 1:
        stride += 1
    return stride


_MAKERS: dict[str, Callable[[], Workload]] = {
    "mixed": lambda: Workload("mixed", ladder(48, total=6_315, longest=468)),
    "short": lambda: Workload("short", ladder(48, total=768, longest=28), seed=1),
    "query": lambda: Workload("query", (12,) * 20, single=True, seed=2),
    "long2000": lambda: Workload("long2000", (2_000,), seed=3),
    "long4000": lambda: Workload("long4000", (4_000,), seed=4),
    "long8192": lambda: Workload("long8192", (8_192,), seed=5),
}
NAMES = tuple(_MAKERS)


def workload(name: str) -> Workload:
    """The workload of a name."""
    return _MAKERS[name]()


def warm_up() -> Workload:
    """What every encoder sees before the clock starts: 200 tokens, in other words."""
    return Workload("warm-up", (8, 20, 52, 120), seed=9)


def calibration() -> Workload:
    """What static quantisation looks at."""
    return Workload("calibration", ladder(32, total=2_048, longest=256), seed=8)
