"""LangChain documents to records and back; nothing that is given is changed or shared."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, TypeVar

from langchain_core.documents import Document

from bge_m3_integrations._internal.keywords import public_function
from bge_m3_integrations.core.filters import Filter, RecordPredicate, as_filter
from bge_m3_integrations.core.metadata import plain
from bge_m3_integrations.core.records import Hit, Record
from bge_m3_integrations.errors import FilterError, InputError
from bge_m3_integrations.index.record_inputs import made_id

T = TypeVar("T")

SCORES_KEY = "bge_m3_scores"
"""Where `shown` puts a hit's scores in the metadata."""
PAYLOAD_KEY: Final = "langchain"
"""Where the keys of dates stand in a record's payload."""
_DATES: Final[Mapping[str, type[date]]] = {"date": date, "datetime": datetime}


@public_function
def to_record(document: Document, *, record_id: str | None = None) -> Record:
    """Make a record from a document; its `page_content` is encoded.

    A `date` or `datetime` under a key of its own is kept as its ISO text, which filters see; the
    document that comes back has the date again, as LangChain's time-weighted retriever needs.

    Args:
        document: Its metadata is copied deeply.
        record_id: The record's id; None is the document's own, or where it has none one that is
            made of its text and metadata, so that adding it again replaces it.

    Returns:
        A record that `to_document` turns back into an equal document with an id.

    Raises:
        InputError: The id is empty, this is no document, or its metadata hold what JSON does not
            keep.
    """
    if not isinstance(document, Document):
        raise InputError(f"a Document is needed, not {type(document).__name__} {document!r}")
    chosen = document.id if record_id is None else record_id
    name = "document" if chosen is None else f"document {chosen!r}"
    dates = {
        k: type(v).__name__ for k, v in document.metadata.items() if type(v) in (date, datetime)
    }
    texts = {key: document.metadata[key].isoformat() for key in dates}
    metadata = plain({**document.metadata, **texts}, f"{name}: metadata")
    return Record(
        id=made_id(document.page_content, metadata) if chosen is None else chosen,
        text=document.page_content,
        metadata=deepcopy(metadata),  # after the check: it holds itself no more
        payload={PAYLOAD_KEY: {"dates": dates}} if dates else None,
    )


def to_records(
    documents: Iterable[Document], *, ids: Iterable[str | None] | None = None
) -> list[Record]:
    """Documents as records, under their own ids where none is given for them; see `to_record`."""
    held = as_list(documents, "documents")
    chosen = [None] * len(held) if ids is None else same_length(held, ids, "ids")
    return [to_record(d, record_id=i) for d, i in zip(held, chosen, strict=True)]


def to_documents(
    texts: Iterable[str], metadatas: Iterable[dict[str, Any] | None] | None
) -> list[Document]:
    """Texts as documents, with the metadata of each; see `to_records` for the errors."""
    held = as_list(texts, "texts")
    about = [None] * len(held) if metadatas is None else same_length(held, metadatas, "metadatas")
    return [
        Document(page_content=text, metadata=metadata or {})
        for text, metadata in zip(held, about, strict=True)
    ]


def dedupe_by_id(records: Iterable[Record]) -> list[Record]:
    """Of records with one id the last, at the place of the first: as if they came one by one."""
    return list({record.id: record for record in records}.values())


@public_function
def to_document(record: Record) -> Document:
    """Make a document from a record, with the text for readers, whichever framework wrote it."""
    metadata = deepcopy(dict(record.metadata))
    dates = (record.payload or {}).get(PAYLOAD_KEY, {}).get("dates", {})
    metadata.update({key: _DATES[kind].fromisoformat(metadata[key]) for key, kind in dates.items()})
    return Document(id=record.id, page_content=record.display_text, metadata=metadata)


def document_filter(value: Any) -> Filter | None:
    """Read a filter tree, a condition in dict form, or a function over a `Document`."""
    if callable(value) and not isinstance(value, Filter | Mapping):
        if inspect.iscoroutinefunction(value):
            raise FilterError(f"a filter cannot be awaited: give a plain function, not {value!r}")
        return RecordPredicate(_OverDocument(value))
    return as_filter(value)


@dataclass(frozen=True, slots=True)
class _OverDocument:
    """A function over documents as one over records; equal where the function is the same."""

    fn: Callable[[Document], bool]

    def __call__(self, record: Record) -> bool:
        answer: object = self.fn(to_document(record))
        if inspect.isawaitable(answer):
            raise FilterError(f"a filter cannot be awaited: {self.fn!r} gave {answer!r}")
        return bool(answer)


def shown(hits: Sequence[Hit], *, scores: bool) -> list[Document]:
    """The documents of hits; with scores, `SCORES_KEY` of their metadata is `Hit.score_details`."""
    documents = [to_document(hit.record) for hit in hits]
    if scores:
        for document, hit in zip(documents, hits, strict=True):
            document.metadata[SCORES_KEY] = hit.score_details
    return documents


def as_list(values: Iterable[T], name: str) -> list[T]:
    """The values as a list; one string in place of many, or what is no collection, is refused."""
    if isinstance(values, str):
        raise InputError(f"{name} must be several, not the one string {values[:60]!r}")
    if isinstance(values, bytes | Mapping | Document):
        raise InputError(f"{name} must be several, not one {type(values).__name__}; write [...]")
    if not isinstance(values, Iterable):
        raise InputError(f"{name} must be several, such as a list, not {values!r}")
    return list(values)


def same_length(documents: Sequence[object], others: Iterable[T], name: str) -> list[T]:
    """The other values as a list, if there is one for each document."""
    values = as_list(others, name)
    if len(values) != len(documents):
        raise InputError(f"{len(documents)} documents, but {len(values)} {name}; give one for each")
    return values
