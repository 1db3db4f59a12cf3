"""MTEB's interface for searching models, so that the benchmark measures the hybrid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core.filters import Ids
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.weighting import LEARNED
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions

_BATCH = 64


class MTEBSearch:
    """A model for `mteb.evaluate`: retrieval and reranking tasks, by the hybrid of an engine.

        results = mteb.evaluate(MTEBSearch(BGEM3()), tasks)

    It is `mteb`'s `SearchProtocol`. Each task's corpus is kept in memory, and replaces the last.

    Args:
        engine: Encodes.
        name: On the board: "organisation/model".
        revision: Of the model.
        **options: Of `HybridIndex.search`, such as weights and candidates; weights="learned" learns
            them from each corpus.

    Raises:
        InputError: An option is unknown or malformed.
        MissingExtraError: mteb is not installed.
    """

    def __init__(
        self,
        engine: BGEM3,
        *,
        name: str | None = None,
        revision: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> None:
        require("mteb", extra="mteb")
        if not isinstance(engine, BGEM3):
            raise InputError(f"MTEBSearch takes a BGEM3, not {type(engine).__name__}")
        self._engine, self._options = engine, options
        folder = Path(engine.name).is_dir()
        self._name = name or (f"local/{Path(engine.name).name}" if folder else engine.name)
        self._revision = revision
        self._index = HybridIndex(engine)
        self._learns = options.get("weights") == LEARNED
        # a typo would else show after a whole corpus was encoded
        self._index.score_candidates([], **options | ({"weights": None} if self._learns else {}))

    @property
    def mteb_model_meta(self) -> Any:
        """The model's `ModelMeta`: name, revision and kind."""
        meta = require("mteb.models.model_meta", extra="mteb")
        hybrid = len(Weights().restricted(self._engine.modes).modes) > 1
        return meta.ModelMeta.create_empty(
            {
                "name": self._name,
                "revision": self._revision or self._engine.fingerprint[:16],
                "model_type": ["hybrid" if hybrid else "dense"],
            }
        )

    def index(self, corpus: Any, **about: Any) -> None:
        """Encode a task's corpus.

        Args:
            corpus: Rows with id, title and text; a title is put before its text.
            **about: What MTEB says of the task; not used.
        """
        del about
        self._index.close()
        self._index = HybridIndex(self._engine)
        records = (_record(row) for row in corpus)
        self._index.add(records, progress=False)
        if self._learns:
            self._index.learn_weights(progress=False)

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **about: Any,
    ) -> dict[str, dict[str, float]]:
        """Search the corpus.

        Args:
            queries: Rows with id and text.
            top_k: Most documents of a query.
            top_ranked: In reranking tasks the documents of each query.
            **about: What MTEB says of the task; not used.

        Returns:
            Scores by query and document.

        Raises:
            InputError: There is no corpus.
        """
        del about
        if not len(self._index):
            raise InputError("there is nothing to search: call index(corpus) first, as mteb does")
        rows = [(str(row["id"]), _text(row["text"])) for row in queries]
        options: Any = {**self._options, "limit": top_k}
        if top_ranked is not None:
            given = {query: Ids(frozenset(top_ranked.get(query, ()))) for query, _ in rows}
            options |= {"exact": True, "candidates": None}
            return {
                query: _scores(self._index.search(text, **options | {"where": given[query]}))
                for query, text in rows
            }
        found: dict[str, dict[str, float]] = {}
        for at in range(0, len(rows), _BATCH):
            batch = rows[at : at + _BATCH]
            hits = self._index.search_batch([text for _, text in batch], **options)
            found |= {query: _scores(held) for (query, _), held in zip(batch, hits, strict=True)}
        return found


def _record(row: Mapping[str, Any]) -> Record:
    title = row.get("title") or ""
    text = f"{title} {row['text'] or ''}".strip()
    return Record(str(row["id"]), text, {"title": title} if title else {})


def _scores(hits: Any) -> dict[str, float]:
    return {hit.id: hit.score for hit in hits}


def _text(text: Any) -> str:
    """A query; a conversation, as some tasks have it, is its turns line by line."""
    if isinstance(text, str):
        return text
    turns = (turn["content"] if isinstance(turn, Mapping) else turn for turn in text)
    return "\n".join(map(str, turns))
