"""The searches that are timed, each for the ten best documents."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks._search.corpus import FIELDS

LIMIT = 10
WEIGHTS = {"dense": 0.4, "sparse": 0.2, "colbert": 0.4}
"""Our default preset; where a mode is not scored the others keep their ratio."""


@dataclass(frozen=True, slots=True)
class Task:
    """One kind of search.

    Attributes:
        name: In the tables.
        modes: What is scored.
        candidates: How many dense and sparse look up each; their union is scored.
        field: The keyword field that must have the value of the query's own document.
    """

    name: str
    modes: tuple[str, ...]
    candidates: int = 100
    field: str | None = None

    @property
    def lookups(self) -> tuple[str, ...]:
        """The modes that candidates come from."""
        return tuple(mode for mode in self.modes if mode != "colbert")


def _filtered(field: str, values: int) -> Task:
    return Task(f"hybrid {100 // values} %", ("dense", "sparse"), field=field)


TASKS = {
    task.name: task
    for task in (
        Task("dense", ("dense",)),
        Task("sparse", ("sparse",)),
        Task("colbert", ("colbert",)),
        Task("hybrid", ("dense", "sparse")),
        *(_filtered(field, values) for field, values in reversed(FIELDS.items())),
        Task("hybrid+colbert", ("dense", "sparse", "colbert"), candidates=50),
    )
}
"""With token vectors 50 and 50 are looked up, so that about 100 are scored by MaxSim. "colbert" is
a find by MaxSim over the whole collection, which no oracle checks here."""
