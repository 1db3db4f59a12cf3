"""How a quantity grows with the collection, and what a larger one would need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FAR = 10_000_000


@dataclass(frozen=True, slots=True)
class Growth:
    """A quantity at several sizes.

    Attributes:
        name: Of the quantity.
        unit: Of its values.
        sizes: Documents, ascending.
        values: At each size.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def slope(self) -> float:
        """Per document, by least squares."""
        return float(np.polyfit(self.sizes, self.values, 1)[0])

    @property
    def exponent(self) -> float:
        """The power of the size by which it grew between the last two sizes; 1 is in proportion."""
        if min(self.values[-2:]) <= 0:
            return math.nan
        return math.log(self.values[-1] / self.values[-2]) / math.log(
            self.sizes[-1] / self.sizes[-2]
        )

    def at(self, documents: int) -> float:
        """What a straight line from the largest measured size says; it never falls."""
        return self.values[-1] + max(0.0, self.slope) * (documents - self.sizes[-1])


def growths(points: Sequence[tuple[str, str, int, float]]) -> list[Growth]:
    """Group (name, unit, size, value) by name; names at fewer than two sizes are left out."""
    grouped: dict[tuple[str, str], dict[int, float]] = {}
    for name, unit, size, value in points:
        grouped.setdefault((name, unit), {})[size] = value
    return [
        Growth(name, unit, tuple(sorted(held)), tuple(held[size] for size in sorted(held)))
        for (name, unit), held in grouped.items()
        if len(held) > 1
    ]
