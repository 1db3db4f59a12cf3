"""One query's search of an index, as the store and the retriever run it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.plan import SearchOptions, Stage
from bge_m3_integrations.langchain.events import Found, watched
from bge_m3_integrations.langchain.foreign import encoder_of
from bge_m3_integrations.langchain.together import Together


def find(
    index: HybridIndex,
    query: str,
    options: SearchOptions,
    together: Together | None,
    *,
    watch: bool = False,
) -> Found:
    """Search with the rest of a batch, or alone.

    Args:
        index: What is searched. A query of a foreign model goes past the engine, which would
            gather queries that the model takes one by one anyway.
        query: The query's text.
        options: Of the search.
        together: The batch that the query belongs to.
        watch: Whether the steps of a search that runs alone are wanted.

    Returns:
        What was found.
    """
    foreign = encoder_of(index.engine)
    if foreign is None and together is not None:
        found = together.search(index, query, options)
        if found is not None:
            return found
    options, stages = watched(options, wanted=watch)
    if foreign is None:
        return Found(index.search(query, **options), stages)
    with _encoding(stages):
        batch = foreign.encode([query], kind="query", modes=["dense"])
    return Found(index.search_embedded(batch, **options)[0], stages)


async def afind(
    index: HybridIndex,
    query: str,
    options: SearchOptions,
    together: Together | None,
    *,
    watch: bool = False,
) -> Found:
    """See `find`; a foreign model's own coroutine is awaited."""
    foreign = encoder_of(index.engine)
    if foreign is None and together is not None:
        found = await together.asearch(index, query, options)
        if found is not None:
            return found
    options, stages = watched(options, wanted=watch)
    if foreign is None:
        return Found(await index.asearch(query, **options), stages)
    with _encoding(stages):
        batch = await foreign.aencode_query(query)
    return Found((await in_thread(index.search_embedded, batch, **options))[0], stages)


@contextmanager
def _encoding(stages: list[Stage]) -> Iterator[None]:
    """The step that the index does not see, as it would tell it."""
    start = time.perf_counter()
    yield
    stages.append(Stage("encode", time.perf_counter() - start, {"queries": 1}))
