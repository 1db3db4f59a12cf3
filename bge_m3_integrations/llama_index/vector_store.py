"""LlamaIndex's vector store over a `HybridIndex`."""

# no postponed annotations: pydantic reads them
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self, Unpack

from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)
from pydantic import ConfigDict, Field, PrivateAttr

from bge_m3_integrations._internal.keywords import checks_itself, public_class, refuse
from bge_m3_integrations._internal.pydantic_fields import refuse_fields
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.embeddings import Mode, Modes
from bge_m3_integrations.core.filters import And, Filter, Ids
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import check_name
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.arguments import EngineLike, IndexLike, has_index, index_for
from bge_m3_integrations.index.config import IndexOptions
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.opening import NotBegun
from bge_m3_integrations.index.request import SearchOptions
from bge_m3_integrations.llama_index.document_hashes import Origin
from bge_m3_integrations.llama_index.duplicates import warn_of_doubles
from bge_m3_integrations.llama_index.engine_fields import ParsedWeights, own_choices
from bge_m3_integrations.llama_index.filters import chooses, to_filter
from bge_m3_integrations.llama_index.given_vectors import add_compared
from bge_m3_integrations.llama_index.keywords import StoreFields
from bge_m3_integrations.llama_index.nodes import checked_nodes, of_documents, record_to_node
from bge_m3_integrations.llama_index.persisted_store import PersistedStore
from bge_m3_integrations.llama_index.vector_store_query import (
    ParsedQuery,
    QueryOptions,
    aencoded,
    answer,
    encoded,
    read_query,
)

ROLE = "llama_index.vector_store"
_FOLDER = frozenset(IndexOptions.__annotations__)


@public_class
class BGEM3VectorStore(PersistedStore):
    """A hybrid index as LlamaIndex's vector store, with nodes, metadata and all numbers.

    Modes of a query:

    - DEFAULT is the hybrid search by `weights`: LlamaIndex gives this name to what a store does
      best, not to dense search, and hybrid is what this one is for. Dense search is
      `weights=(1, 0, 0)`, here or in `vector_store_kwargs`, or HYBRID with `alpha=1`.
    - HYBRID is the same, or with `alpha` dense and lexical scores as alpha to 1 - alpha, without
      ColBERT. Beside weights, of the store or of the query, alpha is an error.
    - SPARSE and TEXT_SEARCH rank by the lexical score.
    - MMR chooses unlike nodes among the best 50 (`mmr_prefetch_k`) of DEFAULT; `mmr_threshold` 1
      looks at relevance alone, 0 at unlikeness alone, None is 0.5.

    `sparse_top_k` is how many nodes the lexical lookup brings, `hybrid_top_k` how many come back.
    `vector_store_kwargs` take `weights`, `score_threshold`, `mmr_threshold` and
    `mmr_prefetch_k`.

    The text of a query is encoded here, once, in all modes. An embedding that comes with it, or
    with a node, is compared with the engine's own (cosine 0.99) and not kept. So take
    `BGEM3Embedding(engine=...)` of the same engine as `embed_model`: the memo then gives both the
    same forward. A query of an embedding alone, its text None or empty, is a dense search.

    LlamaIndex embeds a batch of nodes before it adds the batch, and the memo (`BGEM3(memo_bytes=)`,
    64 MiB) holds token vectors of some thirty texts of 400 tokens. The others wait in a temporary
    file (`spill_bytes`, 4 GiB: 2,500 texts of 400 tokens). What does not fit there is encoded
    again, counted in `engine.stats.evicted_forwards`: take a smaller `insert_batch_size`, a larger
    file, or a cache on disk (`BGEM3(..., cache=folder)`), which also survives the process.

    Args:
        index: Where the nodes are: an index, an adapter over one, or an engine, for a new index in
            memory, or in the folder `path`.
        engine: An engine, by its name. None over a folder that says which model made it.
        path: The folder of an index, which is opened now; `close` releases it.
        **options: What `HybridIndex.open` takes besides (`create`, `colbert`, `pooling`, `modes`,
            `filter_fields`, `allow_dtype_mismatch`, `isolated`, `read_only`), and its fields.

    Raises:
        InputError: The arguments contradict each other, or there are none.
        StoreError: See `HybridIndex.open`.
    """

    model_config = ConfigDict(
        extra="forbid", arbitrary_types_allowed=True, hide_input_in_errors=True
    )

    stores_text: bool = Field(default=True, frozen=True)
    is_embedding_query: bool = Field(
        default=True,
        description="False: a VectorStoreIndex gives the text alone, and nothing is compared.",
    )
    weights: ParsedWeights = None
    candidates: Mapping[Mode, int] | None = Field(
        default=None,
        frozen=True,
        description="How many nodes each mode looks up; see `HybridIndex.search`.",
    )

    _looked: bool = PrivateAttr(default=False)

    @checks_itself
    def __init__(
        self,
        index: IndexLike | EngineLike | None = None,
        *,
        engine: EngineLike | None = None,
        path: str | Path | None = None,
        **options: Unpack[StoreFields],
    ) -> None:
        refuse_fields(type(self), options, more=["index", "engine", "path", *_FOLDER])
        fields: dict[str, Any] = {n: v for n, v in options.items() if n not in _FOLDER}
        super().__init__(**fields)
        folder: Any = {n: v for n, v in options.items() if n in _FOLDER}
        held = index_for(index, engine=engine, path=path, options=folder)
        check_name(self.weights, held.path)
        self._index = held
        self._ours = not has_index(index)
        kept = held.store.capabilities.score  # index.modes would read the model's files
        again: Modes = {"colbert"} if held.reencodes else ()
        held.engine.declare(ROLE, query=kept | set(again), document=kept)

    def close(self) -> None:
        """Close an index that this store made or opened; one that was given stays open."""
        if self._ours:
            self._index.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @classmethod
    def class_name(cls) -> str:
        """The name that LlamaIndex serializes by."""
        return "BGEM3VectorStore"

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield None, getattr(self, "_index", None)
        yield from own_choices(self, hidden=())

    @property
    def client(self) -> HybridIndex:
        """The index, by LlamaIndex's name for the client of a vector store."""
        return self._index

    @property
    def index(self) -> HybridIndex:
        """The index that holds the nodes."""
        return self._index

    @property
    def engine(self) -> BGEM3:
        """The engine that encodes; share it with a `BGEM3Embedding`."""
        return self._index.engine

    def add(
        self,
        nodes: Sequence[BaseNode],
        *,
        origins: Mapping[str, Origin] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Encode nodes and keep them; a known id is replaced.

        Args:
            nodes: If an id comes twice, the later node holds.
            origins: What `BGEM3Index` has the nodes of whole documents remember of these.
            **kwargs: None are known.

        Returns:
            The ids, in order.

        Raises:
            InputError: An embedding that a node carries was made by another model. Batches of 256
                before it are kept.
        """
        _refuse(kwargs)
        held = checked_nodes(nodes)
        distinct = {node.node_id: node for node in held}
        if not self._looked:
            self._looked = True
            warn_of_doubles(self._index, list(distinct.values()))
        add_compared(self._index, list(distinct.values()), origins or {})
        return [node.node_id for node in held]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """See `add`."""
        with Cuts():  # told here, where the user's line is on the stack
            return await in_thread(partial(self.add, nodes, **kwargs))

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document; of an unknown one there are none.

        Args:
            ref_doc_id: The document's id; a node without a source is its own document.
            **delete_kwargs: None are known.
        """
        _refuse(delete_kwargs)
        self._index.delete(where=of_documents([ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """See `delete`."""
        await in_thread(partial(self.delete, ref_doc_id, **delete_kwargs))

    def get_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Get nodes by id, by metadata or by both.

        Args:
            node_ids: None is all, an empty list none; unknown ids are passed over.
            filters: Which of them.

        Returns:
            New nodes, in the order of `node_ids`, else in ascending order of id.
        """
        records = self.records(_chosen(node_ids, filters))
        if node_ids is None:
            return [record_to_node(record) for record in records]
        held = {record.id: record for record in records}
        return [record_to_node(held[i]) for i in dict.fromkeys(node_ids) if i in held]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """See `get_nodes`."""
        return await in_thread(self.get_nodes, node_ids, filters)

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete nodes by id, by metadata or by both.

        Args:
            node_ids: An empty list is none; unknown ids are passed over.
            filters: Which of them.
            **delete_kwargs: None are known.

        Raises:
            InputError: Nothing is chosen: what a form with nothing selected gives must not empty a
                store.
        """
        _refuse(delete_kwargs)
        if node_ids is None and not (filters and chooses(filters)):
            raise InputError("delete_nodes needs node_ids or filters; clear() deletes all nodes")
        self._index.delete(where=_chosen(node_ids, filters))

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """See `delete_nodes`."""
        await in_thread(partial(self.delete_nodes, node_ids, filters, **delete_kwargs))

    def clear(self) -> None:
        """Delete all nodes."""
        self._index.delete(where=And(()))

    async def aclear(self) -> None:
        """See `clear`."""
        await in_thread(self.clear)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Find the best nodes; the class's docstring explains the modes.

        Empty `node_ids` and `doc_ids` mean all: LlamaIndex's retriever always gives the former.

        Args:
            query: With a text, an embedding or both.
            **kwargs: `weights`, `mmr_threshold`, `mmr_prefetch_k`, `score_threshold`; see
                `QueryOptions`.

        Returns:
            New nodes, their scores and ids. There are fewer than asked for where fewer match the
            filters, or share a token with the query of a lexical search.

        Raises:
            InputError: The mode is not supported, things in the query do not go together, or its
                embedding was made by another model.
            FilterError: The filter is malformed.
        """
        asked = self._asked(query, kwargs)
        return answer(asked, encoded(asked, self._index), self._index)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """See `query`; no thread waits for the encoder."""
        asked = await in_thread(self._asked, query, kwargs)
        batch = await aencoded(asked, self._index)
        return await in_thread(answer, asked, batch, self._index)

    def records(self, where: Filter) -> Iterator[Record]:
        """Get the records of nodes that match a filter of this package, in order of id."""
        page = self._index.scroll(where)
        yield from page.records
        while page.after is not None:
            page = self._index.scroll(where, after=page.after)
            yield from page.records

    def _asked(self, query: VectorStoreQuery, given: Mapping[str, Any]) -> ParsedQuery:
        if not isinstance(query, VectorStoreQuery):
            raise InputError(
                f"query must be a VectorStoreQuery, not {type(query).__name__}; a text goes by "
                "VectorStoreQuery(query_str=...), or use a BGEM3Retriever"
            )
        if isinstance(self._index.store, NotBegun):  # no model is read in vain
            raise self._index.store.error()
        usual: SearchOptions = {"weights": self.weights, "candidates": self.candidates}
        return read_query(query, QueryOptions.read(given), usual, self._index)


def _chosen(node_ids: Sequence[str] | None, filters: MetadataFilters | None) -> Filter:
    ids = [] if node_ids is None else [Ids(node_ids)]
    tree = to_filter(filters)
    return And([*ids, *([] if tree is None else [tree])])


def _refuse(kwargs: Mapping[str, Any]) -> None:
    if kwargs:
        refuse(kwargs, [])
