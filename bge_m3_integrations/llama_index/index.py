"""LlamaIndex's `VectorStoreIndex` over a `BGEM3VectorStore`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Self, Unpack

from llama_index.core import Settings, StorageContext
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager
from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.indices.vector_store.retrievers import VectorIndexRetriever
from llama_index.core.ingestion.pipeline import run_transformations
from llama_index.core.schema import BaseNode, Document, IndexNode, TransformComponent
from llama_index.core.storage.docstore.types import RefDocInfo
from llama_index.core.utils import get_tqdm_iterable, iter_batch
from llama_index.core.vector_stores.types import BasePydanticVectorStore

from bge_m3_integrations._internal.keywords import checks_itself, public_class, refuse
from bge_m3_integrations.core.display import called
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.arguments import EngineLike, IndexLike
from bge_m3_integrations.llama_index.contexts import (
    engine_words,
    lists_texts,
    parted,
    store_of,
    struct_of,
    with_ours,
    words,
)
from bge_m3_integrations.llama_index.document_index import DocumentIndex
from bge_m3_integrations.llama_index.embedding import BGEM3Embedding
from bge_m3_integrations.llama_index.keywords import (
    DocumentsOptions,
    LoadedOptions,
    NewIndexOptions,
)
from bge_m3_integrations.llama_index.nodes import copied, with_text
from bge_m3_integrations.llama_index.retriever import BGEM3Retriever, RetrieverOptions
from bge_m3_integrations.llama_index.storage import local
from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore

_BATCH = 256
_OLD_FILE = "multi_embed_store.pkl"
_OLD = (
    "an index of llama-index-indices-managed-bge-m3 keeps its numbers as a pickle, which runs "
    "whatever code is in it (CVE-2024-14021), so it is not read. Its nodes are in docstore.json: "
    "BGEM3Index(list(SimpleDocumentStore.from_persist_dir(folder).docs.values()), engine=...) "
    "encodes them again; see docs/from-bgem3index.md"
)


@public_class
class BGEM3Index(DocumentIndex):
    """A `VectorStoreIndex` that finds nodes by all three scores of BGE-M3.

    Each node is encoded once, when it is added; there is no `embed_model` to choose. It is
    LlamaIndex's own index over a `BGEM3VectorStore` otherwise: documents are inserted, updated,
    refreshed and deleted, and `persist` writes JSON and an index in a folder, no pickle.

    Args:
        nodes: The first nodes; none is fine. An engine, or an index or adapter over one,
            may come in their place.
        engine: Encodes; None is the vector store's, or `BGEM3()`.
        vector_store: Keeps the nodes; None is the storage context's, or a new one in memory.
        storage_context: Further stores. The index keeps this very object, as stock indexes do,
            and puts its vector store into it; an empty default one is replaced.
        objects: Index nodes with the objects they lead to.
        index_struct: LlamaIndex's, of an index that is loaded.
        callback_manager: As in every LlamaIndex index.
        transformations: Make nodes of documents.
        show_progress: Show a bar while nodes are added.
        use_async: Add nodes through the async methods.
        insert_batch_size: Nodes added at a time; it is also a step of the bar.
        store_nodes_override: Keep all nodes in the docstore too, where LlamaIndex's PrevNext,
            BM25 and AutoMerging look for them; what the vector store holds already is put there
            now. None goes on as the loaded index was made, and keeps none for a new one.

    Raises:
        InputError: Engine, vector store and storage context contradict each other, or nodes come
            with an index that is loaded.
    """

    def __init__(
        self,
        nodes: Sequence[BaseNode] | EngineLike | IndexLike | None = None,
        *,
        engine: EngineLike | None = None,
        vector_store: IndexLike | None = None,
        storage_context: StorageContext | None = None,
        objects: Sequence[IndexNode] | None = None,
        index_struct: IndexDict | None = None,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        show_progress: bool = False,
        use_async: bool = False,
        insert_batch_size: int = _BATCH,
        store_nodes_override: bool | None = None,
    ) -> None:
        given, engine, vector_store = parted(nodes, engine, vector_store)
        if given is not None and index_struct is not None:
            raise InputError(
                f"an index that is loaded (index_struct {index_struct.index_id}) begins with its "
                f"own nodes, not with {len(given)} others; add them with insert_nodes(nodes)"
            )
        context = with_ours(storage_context, vector_store, engine)
        if store_nodes_override is None:
            store_nodes_override = index_struct is not None and lists_texts(index_struct, context)
        super().__init__(
            nodes=list(given or []) if index_struct is None else None,
            store_nodes_override=store_nodes_override,
            use_async=use_async,
            embed_model=BGEM3Embedding(engine=store_of(context).engine),
            insert_batch_size=insert_batch_size,
            objects=None if objects is None else [node.model_copy() for node in objects],
            index_struct=index_struct,
            storage_context=context,
            callback_manager=callback_manager,
            transformations=transformations,
            show_progress=show_progress,
        )
        if store_nodes_override:
            self._fill_docstore()

    def __repr__(self) -> str:
        return called(self, lambda: [repr(store_of(self.storage_context))])

    @classmethod
    def from_documents(  # type: ignore[override]  # which takes any keyword
        cls,
        documents: Sequence[Document],
        storage_context: StorageContext | None = None,
        show_progress: bool = False,
        callback_manager: CallbackManager | None = None,
        transformations: list[TransformComponent] | None = None,
        *,
        engine: EngineLike | None = None,
        vector_store: IndexLike | None = None,
        **options: Unpack[DocumentsOptions],
    ) -> Self:
        """Make an index of documents, which are split into nodes.

        Args:
            documents: They stay as they are.
            storage_context: See the class.
            show_progress: See the class.
            callback_manager: See the class.
            transformations: Make nodes of documents; None is `Settings.transformations`.
            engine: See the class.
            vector_store: See the class.
            **options: Those of the class.

        Returns:
            The index.
        """
        _, engine, vector_store = parted(None, engine, vector_store)
        context = with_ours(storage_context, vector_store, engine)
        steps = transformations or Settings.transformations
        made = run_transformations(copied(documents), steps, show_progress=show_progress)
        index = cls(
            storage_context=context,
            show_progress=show_progress,
            callback_manager=callback_manager,
            transformations=steps,
            **options,
        )
        index._begin_with({document.id_: document.hash for document in documents}, with_text(made))
        return index

    @classmethod
    def from_vector_store(  # type: ignore[override]  # there is no embed_model
        cls, vector_store: BasePydanticVectorStore, **options: Unpack[NewIndexOptions]
    ) -> Self:
        """Make an index over the nodes of an existing vector store.

        Args:
            vector_store: A `BGEM3VectorStore`.
            **options: Those of the class.

        Returns:
            The index.

        Raises:
            InputError: It is another store.
        """
        if not isinstance(vector_store, BGEM3VectorStore):
            raise InputError(
                f"BGEM3Index needs a BGEM3VectorStore, not {type(vector_store).__name__}; use "
                "VectorStoreIndex.from_vector_store"
            )
        return cls(vector_store=vector_store, **options)

    @classmethod
    @checks_itself  # the constructor has a word for nodes
    def from_persist_dir(
        cls,
        persist_dir: str | Path,
        engine: BGEM3 | None = None,
        *,
        index_id: str | None = None,
        **options: Unpack[LoadedOptions],
    ) -> Self:
        """Open an index that `persist` wrote; nothing is encoded.

        Args:
            persist_dir: The folder.
            engine: Encodes; None is the model that made the index.
            index_id: Which index, where the folder's `index_store.json` has several.
            **options: Those of the class but `nodes`, which `insert_nodes` takes.

        Returns:
            The index; `index.close()` gives its folder free.

        Raises:
            StoreError: There is no index, or another engine made it.
        """
        try:
            store = BGEM3VectorStore.from_persist_dir(persist_dir, engine=engine)
        except StoreError as error:
            if (local(persist_dir, None) / _OLD_FILE).exists():
                raise StoreError(f"{persist_dir} holds {_OLD_FILE}: {_OLD}") from error
            raise
        try:
            folder = str(local(persist_dir, None))
            context = StorageContext.from_defaults(persist_dir=folder, vector_store=store)
            struct = struct_of(context, index_id, persist_dir)
            return cls(index_struct=struct, storage_context=context, **options)
        except BaseException:
            store.index.close()
            raise

    @classmethod
    def load_from_disk(cls, persist_dir: str | Path, *_: object, **__: object) -> NoReturn:
        """Raise an error that explains the replacement, `from_persist_dir`.

        Args:
            persist_dir: What the class of `llama-index-indices-managed-bge-m3` wrote.

        Raises:
            StoreError: Always; it says how to rebuild the index.
        """
        raise StoreError(f"load_from_disk({str(persist_dir)!r}) is not offered: {_OLD}")

    @property
    def engine(self) -> BGEM3:
        """The engine that encodes; adapters that share it share forward passes."""
        return self.vector_store.engine

    @property
    def ref_doc_info(self) -> dict[str, RefDocInfo]:
        """The ids of the nodes of each source document, by the document's id."""
        info: dict[str, RefDocInfo] = {}
        for node in self.vector_store.get_nodes():
            if (source := node.source_node) is not None:
                held = info.setdefault(source.node_id, RefDocInfo())
                held.node_ids.append(node.node_id)
                held.metadata.update(source.metadata or {})
        return info

    def as_retriever(self, **kwargs: Any) -> BaseRetriever:
        """Make a `BGEM3Retriever`, which searches by the hybrid score.

        With a word that only LlamaIndex's `VectorIndexRetriever` has (`vector_store_query_mode`,
        `alpha`, `vector_store_kwargs` and others), it is one of those over the same vector store.

        Args:
            **kwargs: The retriever's options. LlamaIndex hands the options of query and chat
                engines here too; those are passed over.

        Returns:
            A retriever.

        Raises:
            TypeError: A word is none of these, or words of both retrievers are mixed.
        """
        ours = set(RetrieverOptions.__annotations__)
        stock = words(VectorIndexRetriever.__init__) | {"vector_store_kwargs"}
        if unknown := kwargs.keys() - ours - stock - engine_words():
            refuse(sorted(unknown), sorted(ours | stock))
        usual: dict[str, Any] = {
            "callback_manager": self._callback_manager,
            "object_map": self._object_map,
        }
        options = {name: value for name, value in kwargs.items() if name in ours | stock}
        if not options.keys() - ours:
            return BGEM3Retriever.from_vector_store(self.vector_store, **{**usual, **options})
        if mixed := options.keys() - stock:
            raise TypeError(
                f"{sorted(mixed)} are of BGEM3Retriever, {sorted(options.keys() - ours)} of "
                "VectorIndexRetriever; give those of one (vector_store_kwargs takes weights)"
            )
        return VectorIndexRetriever(self, **{**usual, **options})

    def persist(self, persist_dir: str | Path) -> None:
        """Write the index to a folder; other files there are kept.

        Args:
            persist_dir: The folder; see `BGEM3VectorStore.persist` for what is written.
        """
        self._storage_context.persist(persist_dir=local(persist_dir, None))

    def close(self) -> None:
        """Close the index below, which releases its folder."""
        self.vector_store.index.close()

    def _add_nodes_to_index(
        self,
        index_struct: IndexDict,
        nodes: Sequence[BaseNode],
        show_progress: bool = False,
        **insert_kwargs: Any,
    ) -> None:
        batches = list(iter_batch(nodes, self._insert_batch_size))
        with Cuts():  # one warning for all batches
            for batch in get_tqdm_iterable(batches, show_progress, "Adding nodes"):
                super()._add_nodes_to_index(index_struct, batch, **insert_kwargs)

    def _get_node_with_embedding(
        self, nodes: Sequence[BaseNode], show_progress: bool = False
    ) -> list[BaseNode]:
        """The nodes as they are: the vector store encodes them, once, in all modes."""
        del show_progress
        return list(nodes)

    async def _aget_node_with_embedding(
        self, nodes: Sequence[BaseNode], show_progress: bool = False
    ) -> list[BaseNode]:
        return self._get_node_with_embedding(nodes, show_progress)
