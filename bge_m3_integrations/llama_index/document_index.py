"""Inserting, updating and deleting the documents of an index, with consistent bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from llama_index.core import VectorStoreIndex
from llama_index.core.async_utils import run_async_tasks
from llama_index.core.ingestion.pipeline import arun_transformations, run_transformations
from llama_index.core.schema import BaseNode, Document
from llama_index.core.storage.docstore.types import RefDocInfo

from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.index.opening import NotBegun
from bge_m3_integrations.llama_index.contexts import store_of
from bge_m3_integrations.llama_index.document_hashes import (
    NO_HASH,
    Held,
    document_id,
    hash_held,
    held_of,
    origins_of,
)
from bge_m3_integrations.llama_index.nodes import copied, of_documents, with_text
from bge_m3_integrations.llama_index.vector_store import BGEM3VectorStore


class DocumentIndex(VectorStoreIndex):
    """LlamaIndex's index over a `BGEM3VectorStore`, whose records say what is kept.

    LlamaIndex keeps an account beside the vector store: document hashes, index nodes. Here it
    follows the records, which are on disk first.
    """

    @property
    def vector_store(self) -> BGEM3VectorStore:
        """The vector store that holds the nodes."""
        return store_of(self._storage_context)

    def insert(self, document: Document, **insert_kwargs: Any) -> None:
        """Split a document into nodes, encode them and keep them.

        Args:
            document: It stays as it is.
            **insert_kwargs: Handed to the transformations, and to `BGEM3VectorStore.add`.
        """
        with self._callback_manager.as_trace("insert"):
            nodes = self._made_of([document], **insert_kwargs)
            origins = origins_of({document.id_: document.hash}, nodes)
            self.insert_nodes(nodes, origins=origins, **insert_kwargs)
            self._docstore.set_document_hash(document.id_, document.hash)

    async def ainsert(self, document: Document, **insert_kwargs: Any) -> None:
        """See `insert`."""
        with self._callback_manager.as_trace("ainsert"):
            made = await arun_transformations(
                copied([document]),
                self._transformations,
                show_progress=self._show_progress,
                **insert_kwargs,
            )
            nodes = with_text(made)
            origins = origins_of({document.id_: document.hash}, nodes)
            await self.ainsert_nodes(nodes, origins=origins, **insert_kwargs)
            await self._docstore.aset_document_hash(document.id_, document.hash)

    def delete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id; unknown ids are passed over.

        Args:
            node_ids: Any number.
            delete_from_docstore: Delete what the document store keeps of them, too.
            **delete_kwargs: None are known.
        """
        super().delete_nodes(node_ids, delete_from_docstore, **delete_kwargs)
        if delete_from_docstore:
            for node_id in self._listed.keys() & set(node_ids):
                self._docstore.delete_document(node_id, raise_error=False)
        self._forget_nodes(None, *node_ids)
        self._storage_context.index_store.add_index_struct(self._index_struct)

    async def adelete_nodes(
        self, node_ids: list[str], delete_from_docstore: bool = False, **delete_kwargs: Any
    ) -> None:
        """See `delete_nodes`."""
        await in_thread(partial(self.delete_nodes, node_ids, delete_from_docstore, **delete_kwargs))

    def refresh_ref_docs(self, documents: Sequence[Document], **update_kwargs: Any) -> list[bool]:
        """Insert new documents, and put changed ones in the place of what they were.

        Args:
            documents: By their ids; unchanged ones are not encoded.
            **update_kwargs: `insert_kwargs`, `update_kwargs`, as in every LlamaIndex index.

        Returns:
            For each document whether it was new or changed.
        """
        self._note_stored(documents)
        return super().refresh_ref_docs(documents, **update_kwargs)

    async def arefresh_ref_docs(
        self, documents: Sequence[Document], **update_kwargs: Any
    ) -> list[bool]:
        """See `refresh_ref_docs`."""
        await in_thread(self._note_stored, documents)
        return await super().arefresh_ref_docs(documents, **update_kwargs)

    def _note_stored(self, documents: Sequence[Document]) -> None:
        """Have the document store know of each document what the vector store's records say.

        The document store alone would be wrong after a process that ended before `persist`, and
        after an insertion that was cut off.
        """
        if isinstance(self.vector_store.index.store, NotBegun):
            return
        held = held_of(self.vector_store.records(of_documents([d.id_ for d in documents])))
        for document in documents:
            noted = self._docstore.get_document_hash(document.id_)
            true = self._hash_of(document, held, noted)
            if true is not None and true != noted:
                self._docstore.set_document_hash(document.id_, true)

    def _hash_of(self, document: Document, held: Held, noted: str | None) -> str | None:
        """The hash that a document has in the vector store; None of an unknown one."""
        if document.source_node is not None:
            return noted  # its nodes name that one as their source, so they cannot be told apart
        if document.id_ in held:
            return hash_held(held[document.id_], noted)
        if noted == document.hash and document.id_ in map(document_id, self._made_of([document])):
            return NO_HASH  # its nodes were deleted
        return noted

    def _fill_docstore(self) -> None:
        """Bring the docstore up to what the records say: they are on disk first."""
        index = self.vector_store.index
        if isinstance(index.store, NotBegun) or index.count() == len(self._listed):
            return
        for node in self.vector_store.get_nodes():
            if node.node_id not in self._listed:
                self._index_struct.add_node(node, text_id=node.node_id)
                self._docstore.add_documents([node], allow_update=True)
        self._storage_context.index_store.add_index_struct(self._index_struct)

    def _begin_with(self, hashes: Mapping[str, str], nodes: Sequence[BaseNode]) -> None:
        """Keep all nodes of some documents, whose hashes are by their ids."""
        given: dict[str, Any] = {"origins": origins_of(hashes, nodes)}
        given["show_progress"] = self._show_progress
        if self._use_async:
            run_async_tasks([self.ainsert_nodes(nodes, **given)])
        else:
            self.insert_nodes(nodes, **given)
        for key, value in hashes.items():
            self._docstore.set_document_hash(key, value)

    def _made_of(self, documents: Sequence[Document], **options: Any) -> list[BaseNode]:
        """All nodes of documents, which stay as they are."""
        made = run_transformations(
            copied(documents), self._transformations, show_progress=self._show_progress, **options
        )
        return with_text(made)

    def _delete_from_index_struct(self, ref_doc_id: str) -> None:
        self._forget_nodes(self._docstore.get_ref_doc_info(ref_doc_id), ref_doc_id)
        # else refresh_ref_docs would take a document that was deleted for an unchanged one
        if self._docstore.get_document_hash(ref_doc_id) is not None:
            self._docstore.set_document_hash(ref_doc_id, NO_HASH)

    async def _adelete_from_index_struct(self, ref_doc_id: str) -> None:
        self._forget_nodes(await self._docstore.aget_ref_doc_info(ref_doc_id), ref_doc_id)
        if await self._docstore.aget_document_hash(ref_doc_id) is not None:
            await self._docstore.aset_document_hash(ref_doc_id, NO_HASH)

    def _forget_nodes(self, info: RefDocInfo | None, *node_ids: str) -> None:
        """Take nodes out of LlamaIndex's own list: it notes index and image nodes there."""
        for node_id in {*node_ids, *(info.node_ids if info else ())} & {*self._listed}:
            del self._listed[node_id]

    @property
    def _listed(self) -> dict[str, str]:
        listed: dict[str, str] = self._index_struct.nodes_dict
        return listed

    def _delete_from_docstore(self, ref_doc_id: str) -> None:
        # the base class leaves it all where the vector store keeps the texts
        self._docstore.delete_ref_doc(ref_doc_id, raise_error=False)
        self._docstore.delete_document(ref_doc_id, raise_error=False)

    async def _adelete_from_docstore(self, ref_doc_id: str) -> None:
        await self._docstore.adelete_ref_doc(ref_doc_id, raise_error=False)
        await self._docstore.adelete_document(ref_doc_id, raise_error=False)
