"""The steps of a search as LangChain's custom events, for those who listen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)

from bge_m3_integrations.core.records import Hit
from bge_m3_integrations.index.plan import SearchOptions, Stage

PREFIX = "bge_m3."
"""Of the names: "bge_m3.encode", "bge_m3.find", "bge_m3.score", "bge_m3.rank"."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search gave one query.

    Attributes:
        hits: Best first.
        stages: The steps of the search, in order.
        queries: How many queries the steps were for.
    """

    hits: Sequence[Hit]
    stages: Sequence[Stage] = ()
    queries: int = 1


def listens(run: CallbackManagerForRetrieverRun | AsyncCallbackManagerForRetrieverRun) -> bool:
    """Whether anybody hears custom events of this run."""
    return any(not handler.ignore_custom_event for handler in run.inheritable_handlers)


def watched(options: SearchOptions, *, wanted: bool = True) -> tuple[SearchOptions, list[Stage]]:
    """Options of a search whose steps go to a list, if they are wanted."""
    stages: list[Stage] = []
    options = options.copy()
    if wanted:
        options["observe"] = stages.append
    return options, stages


def tell(found: Found, run: CallbackManagerForRetrieverRun) -> None:
    """Report the steps as events of a retriever's run."""
    if listens(run):
        for name, data in _events(found):
            dispatch_custom_event(name, data, config={"callbacks": run.get_child()})


async def atell(found: Found, run: AsyncCallbackManagerForRetrieverRun) -> None:
    """See `tell`."""
    if listens(run):
        for name, data in _events(found):
            await adispatch_custom_event(name, data, config={"callbacks": run.get_child()})


def _events(found: Found) -> Iterator[tuple[str, dict[str, float]]]:
    for stage in found.stages:
        about = {"seconds": stage.seconds, "queries": found.queries, **stage.counts}
        yield PREFIX + stage.name, about
