"""The parts of a store's `repr`: said at once, or left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from bge_m3_integrations.core.display import counted, path_name
from bge_m3_integrations.core.embeddings import Modes, ordered_modes
from bge_m3_integrations.stores.base import OffersBackup, Store


@runtime_checkable
class CountsNow(Protocol):
    """A store that can say how much it holds without waiting for anybody."""

    def count_now(self) -> int | None:
        """The number of records; None where that takes a lock that is held, or a closed store.

        A `repr` shows it: also in a debugger, where the thread that holds a lock stands still.
        """
        ...


def parts_of(store: Store, *, closed: bool = False) -> Iterator[str]:
    """The parts of a store's `repr`."""
    if isinstance(store, OffersBackup):
        yield path_name(store.path)
    if closed:
        yield "closed"
        return
    yield from documents_in(store)
    yield modes_name(store.capabilities.score)


def documents_in(store: Store) -> Iterator[str]:
    """The number of documents, where that is known at once."""
    number = store.count_now() if isinstance(store, CountsNow) else None
    if number is not None:
        yield counted(number, "document")


def place_of(store: Store) -> str:
    """The folder of a store, "in memory", or the class of a store of the user's."""
    if isinstance(store, OffersBackup):
        return path_name(store.path)
    return "in memory" if type(store).__name__ == "MemoryStore" else f"over {type(store).__name__}"


def modes_name(modes: Modes) -> str:
    """Modes as a `repr` has them: "dense + sparse"."""
    return " + ".join(ordered_modes(modes))
