"""What a peer is: how it is found, loaded and asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True, slots=True)
class Setting:
    """What a run was given.

    Args:
        checkpoint: The random checkpoint's folder.
        cache: Where exports of it are kept.
        token_budget: Of our packs; None is our default.
    """

    checkpoint: Path
    cache: Path
    token_budget: int | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """What a peer returned, in one form: `sparse` by token id, `colbert` without padding."""

    dense: np.ndarray
    sparse: list[dict[int, float]] | None = None
    colbert: list[np.ndarray] | None = None


class Model(Protocol):
    """A loaded peer. `encode` is timed; `read` brings what it returned into our form."""

    def encode(self, texts: list[str], *, query: bool) -> Any:
        """All heads that the peer has."""
        ...

    def read(self, raw: Any) -> Encoded:
        """What `encode` returned, as arrays."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """One row of the table.

    Args:
        name: Of the row; its first word is the family, which `--python` and `--only` go by.
        heads: 3, or 1 where only dense vectors come out.
        modules: What must be importable.
        distributions: Whose versions are noted.
        load: Load the model; timed.
        prepare: Export the checkpoint to the peer's format; not timed, in a process of its own.
        secondary: A variant that is measured once, not in every repetition.
        limited: Whether `--isa` has any effect on its kernels.
    """

    name: str
    heads: int
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    load: Callable[[Setting], Model]
    prepare: Callable[[Setting], None] | None = None
    secondary: bool = False
    limited: bool = True

    @property
    def family(self) -> str:
        """The first word of the name."""
        return self.name.partition("-")[0]
