"""A `HybridIndex` as a LangChain vector store."""

# LangChain's methods take any keyword, these only known ones
# mypy: disable-error-code="override"
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias, Unpack

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.progress import ProgressLike
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.filters import And
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.profiles import check_name
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.arguments import (
    EngineLike,
    IndexLike,
    given_once,
    has_index,
    index_of,
)
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.langchain.documents import (
    as_list,
    dedupe_by_id,
    document_filter,
    to_document,
    to_documents,
    to_records,
)
from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings
from bge_m3_integrations.langchain.keywords import (
    AddOptions,
    DocumentFilter,
    NewStoreOptions,
    StoreOptions,
    StoreRetrieverOptions,
)
from bge_m3_integrations.langchain.lazy_index import StoreConfig, StoreIndex
from bge_m3_integrations.langchain.search_options import ranking_options
from bge_m3_integrations.langchain.vectorstore_retriever import BGEM3VectorStoreRetriever
from bge_m3_integrations.langchain.vectorstore_search import SearchingStore

EmbeddingLike: TypeAlias = BGEM3 | BGEM3Embeddings | IndexLike
_ROLE = "langchain.vectorstore"


@public_class
class BGEM3VectorStore(SearchingStore):
    """A vector store that finds documents by dense, sparse and ColBERT scores together.

    `BGEM3VectorStore(engine)` is in memory, `BGEM3VectorStore(engine, path="my_index")` in a
    folder, `BGEM3VectorStore(index=index)` over an index that you hold. A folder is checked and
    reserved now, and opened when it is first needed. One forward pass per text, also for all three
    modes.

    Every search by text takes the keywords `filter`, `weights`, `candidates` and `fusion`, which
    replace the store's own for one call, and `score_threshold`, below which hits are left
    out. A filter is a dict such as `{"year": {"$gte": 2020}}`, a filter tree, or a function over a
    `Document`. An unknown keyword is an error.

    The async methods search without a thread that waits for the model; adding runs in a thread.

    Args:
        embedding: An engine, an index, or a `BGEM3Embeddings`, whose engine is taken. None over a
            folder that says which model made it.
        **options: See below.

    Options:
        engine: An engine, by the name that it has everywhere else.
        index: An index that you hold, and close.
        path: A folder; see `HybridIndex.open` for `colbert`, `filter_fields`,
            `allow_dtype_mismatch` and `isolated`.
        store: Keeps the documents of a new index that is in no folder.
        modes: The modes to keep; None is all that the engine has.
        colbert: How a folder keeps token vectors.
        pooling: How many token vectors of a document are merged into one.
        filter_fields: Metadata paths that filters in a folder are to be fast on.
        allow_dtype_mismatch: Let an int8 engine search a folder made in float, or the reverse.
        isolated: Search a folder in a process of its own, so that no thread here waits for it.
        create: Whether an index may begin where a folder holds none. None begins one with the first
            document, and until then a search is an error; True lets searches find nothing; False
            is an error now.
        read_only: Change nothing in a folder, which several processes may then search.
        weights: How much each mode counts; None is the default preset.
        candidates: How many documents each mode looks up; see `HybridIndex.search`.
        fusion: How scores become one ranking value, or its name; None is the weighted sum.

    Raises:
        InputError: The arguments contradict each other, or there are none.
        StoreError: The folder cannot be used, another process holds it, or it is another index
            than is asked for.
    """

    def __init__(
        self, embedding: EmbeddingLike | None = None, **options: Unpack[StoreOptions]
    ) -> None:
        encodes, held = _parted(embedding, options.get("engine"), options.get("index"))
        self._opening = StoreIndex(encodes, held, StoreConfig.from_options(options))
        self._ranking = ranking_options(options)
        check_name(self._ranking.get("weights"), self._opening.folder)
        self._embeddings = encodes if isinstance(encodes, BGEM3Embeddings) else None
        self._ready: HybridIndex | None = None

    @classmethod
    def from_documents(
        cls,
        documents: Iterable[Document],
        embedding: EmbeddingLike | None = None,
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = 256,
        progress: ProgressLike = None,
        **kwargs: Unpack[StoreOptions],
    ) -> Self:
        """Make a store and add documents to it.

        Args:
            documents: Each is encoded once; they stay as they are.
            embedding: See the class.
            ids: One per document; see `add_documents`.
            batch_size: Most documents encoded and written at a time.
            progress: See `HybridIndex.add`.
            **kwargs: Options of the constructor.

        Returns:
            The store.
        """
        store = cls(embedding, **kwargs)
        try:
            store.add_documents(documents, ids=ids, batch_size=batch_size, progress=progress)
        except BaseException:
            store.close()  # nobody else could give its folder back
            raise
        return store

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: EmbeddingLike | None = None,
        metadatas: Iterable[dict[str, Any] | None] | None = None,
        **kwargs: Unpack[NewStoreOptions],
    ) -> Self:
        """Make a store and add texts to it.

        Args:
            texts: Each is encoded once.
            embedding: See the class.
            metadatas: One per text.
            **kwargs: Options of `from_documents`.

        Returns:
            The store.

        Raises:
            InputError: There are more or fewer metadatas or ids than texts.
        """
        return cls.from_documents(to_documents(texts, metadatas), embedding, **kwargs)

    @classmethod
    async def afrom_documents(
        cls,
        documents: Iterable[Document],
        embedding: EmbeddingLike | None = None,
        **kwargs: Unpack[NewStoreOptions],
    ) -> Self:
        """See `from_documents`."""
        return await in_thread(cls.from_documents, documents, embedding, **kwargs)

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: EmbeddingLike | None = None,
        metadatas: Iterable[dict[str, Any] | None] | None = None,
        **kwargs: Unpack[NewStoreOptions],
    ) -> Self:
        """See `from_texts`."""
        return await in_thread(cls.from_texts, texts, embedding, metadatas, **kwargs)

    @property
    def index(self) -> HybridIndex:
        """The index below the store, with `optimize`, `flush`, `backup`, `ingest` and more."""
        return self._declared(self._opening.get())

    @property
    def engine(self) -> BGEM3 | None:
        """The engine that encodes; None for a folder that names its model and is not open yet."""
        return self._opening.engine

    @property
    def embeddings(self) -> Embeddings:
        """The same model's dense vectors as `Embeddings`."""
        if self._embeddings is None:
            self._embeddings = BGEM3Embeddings(engine=self.engine or self.index.engine)
        return self._embeddings

    def add_documents(
        self,
        documents: Iterable[Document],
        *,
        ids: Iterable[str | None] | None = None,
        batch_size: int = 256,
        progress: ProgressLike = None,
        current_time: object = None,
    ) -> list[str]:
        """Encode documents and keep them; a known id is replaced.

        Args:
            documents: Any number; they stay as they are. If an id comes twice, the later one holds.
            ids: Any strings, before the documents' own; None stands for the document's own id, or
                one that is made of its text and metadata, so adding it again changes nothing.
            batch_size: Most documents encoded and written at a time.
            progress: See `HybridIndex.add`.
            current_time: LangChain's time-weighted retriever passes it on; its documents have it in
                their metadata already, and nothing else is made of it.

        Returns:
            The ids, one per document.

        Raises:
            InputError: There are more or fewer ids than documents, or an unknown keyword.
        """
        del current_time
        size = check_int("batch_size", batch_size)
        records = to_records(documents, ids=ids)
        if held := dedupe_by_id(records):
            self.index.add(held, batch_size=size, progress=progress)
        return [record.id for record in records]

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any] | None] | None = None,
        **kwargs: Unpack[AddOptions],
    ) -> list[str]:
        """Encode texts and keep them; see `add_documents`.

        Args:
            texts: Also from a generator.
            metadatas: One per text.
            **kwargs: Options of `add_documents`.

        Returns:
            The ids, one per text.

        Raises:
            InputError: There are more or fewer metadatas or ids than texts.
        """
        return self.add_documents(to_documents(texts, metadatas), **kwargs)

    async def aadd_documents(
        self, documents: Iterable[Document], **kwargs: Unpack[AddOptions]
    ) -> list[str]:
        """See `add_documents`."""
        return await in_thread(self.add_documents, documents, **kwargs)

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Iterable[dict[str, Any] | None] | None = None,
        **kwargs: Unpack[AddOptions],
    ) -> list[str]:
        """See `add_texts`."""
        return await in_thread(self.add_texts, texts, metadatas, **kwargs)

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: DocumentFilter | None = None,
        delete_all: bool = False,
    ) -> bool:
        """Delete by ids, by a filter, or everything: exactly one of them.

        Args:
            ids: Which documents; unknown ids are passed over, no ids delete nothing.
            filter: Which documents, as a search takes it.
            delete_all: Delete every document.

        Returns:
            True.

        Raises:
            InputError: None of them is given or several are, or the filter is an empty dict.
            FilterError: The filter is malformed.
        """
        if (ids is None) + (filter is None) + (not delete_all) != 2:
            raise InputError(
                f"delete got ids={ids!r}, filter={filter!r} and delete_all={delete_all}; give ids, "
                "or a filter, or delete_all=True for all documents"
            )
        if isinstance(filter, Mapping) and not filter:
            raise InputError("an empty filter matches every document; pass delete_all=True")
        wanted = None if ids is None else as_list(ids, "ids")
        where = And(()) if delete_all else document_filter(filter)
        self._index().delete(ids=wanted, where=where)
        return True

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: DocumentFilter | None = None,
        delete_all: bool = False,
    ) -> bool:
        """See `delete`."""
        return await in_thread(self.delete, ids, filter=filter, delete_all=delete_all)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Get the documents of the ids, in order; unknown ids are skipped."""
        held = self._index().get(as_list(ids, "ids"))
        return [to_document(record) for record in held if record is not None]

    @checks_itself
    def as_retriever(self, **options: Unpack[StoreRetrieverOptions]) -> BGEM3VectorStoreRetriever:
        """Make a retriever over this store.

        Args:
            **options: `search_type`, one of `SEARCH_TYPES`; `search_kwargs`, the options of
                every search; `include_scores`, which puts each document's scores
                into its metadata; `name`, `tags` and `metadata`.

        Returns:
            The retriever.
        """
        options["tags"] = options.get("tags") or self._get_retriever_tags()
        return BGEM3VectorStoreRetriever(self, **options)

    def close(self) -> None:
        """Close an index that this store opened; one that was given stays open."""
        self._opening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __copy__(self) -> Self:
        return self  # a handle on one collection, as the index is

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise InputError(
            f"a {type(self).__name__} cannot be pickled: one process at a time holds an index; "
            f"open its folder in the other process: {type(self).__name__}(engine, path=...)"
        )

    def __repr__(self) -> str:
        return called(self, self._opening.shown)

    def _get_retriever_tags(self) -> list[str]:
        """Without opening a folder or declaring a second user of the engine."""
        return [type(self).__name__, BGEM3Embeddings.__name__]

    def _index(self) -> HybridIndex:
        if self._ready is not None:
            return self._ready
        return self._declared(self._opening.get(begun=True))

    def _declared(self, index: HybridIndex) -> HybridIndex:
        """Declare the modes that the engine will be asked for."""
        if self._ready is None:
            # not in the constructor: the modes may come from the model's files
            kept = index.modes & index.store.capabilities.score
            index.engine.declare(_ROLE, query=index.modes, document=kept)
            self._ready = index
        return index

    async def _aindex(self) -> HybridIndex:
        return self._ready if self._ready is not None else await in_thread(self._index)


def _parted(
    first: EmbeddingLike | None, engine: EngineLike | None, index: IndexLike | None
) -> tuple[BGEM3 | BGEM3Embeddings | None, HybridIndex | None]:
    """The embedding and the index, either of which may be the first argument."""
    encodes: Any = given_once(first, engine, "embedding and engine=")
    if has_index(encodes):
        return None, index_of(given_once(encodes, index, "embedding and index="))
    return encodes, None if index is None else index_of(index)
