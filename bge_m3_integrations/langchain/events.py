"""The steps of a search as LangChain's custom events, for those who listen."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig

from bge_m3_integrations.index.request import SearchOptions, Stage

PREFIX = "bge_m3."
"""Of the names: "bge_m3.encode", "bge_m3.find", "bge_m3.score", "bge_m3.rank"."""


def observed(
    options: SearchOptions,
    stages: list[Stage],
    run: CallbackManagerForRetrieverRun | AsyncCallbackManagerForRetrieverRun,
) -> SearchOptions:
    """Return options of a search whose steps go to a list, if anybody hears of them in its run."""
    wanted = any(not handler.ignore_custom_event for handler in run.inheritable_handlers)
    return {**options, "observe": stages.append} if wanted else options


def tell(stages: Sequence[Stage], run: CallbackManagerForRetrieverRun) -> None:
    """Report the steps as events of a retriever's run."""
    for stage in stages:
        config: RunnableConfig = {"callbacks": run.get_child()}
        dispatch_custom_event(PREFIX + stage.name, _data(stage), config=config)


async def atell(stages: Sequence[Stage], run: AsyncCallbackManagerForRetrieverRun) -> None:
    """See `tell`."""
    for stage in stages:
        config: RunnableConfig = {"callbacks": run.get_child()}
        await adispatch_custom_event(PREFIX + stage.name, _data(stage), config=config)


def _data(stage: Stage) -> dict[str, float]:
    return {"seconds": stage.seconds, "queries": 1, **stage.counts}
