"""Retrieval collections and labelled pairs, in the layouts that people have them in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.evaluation.files import kind_of, read_lines, read_objects, read_table

_QUERY = ("query", "question", "sentence1")
_DOCUMENT = ("document", "passage", "text", "answer", "sentence2")
_LABEL = ("label", "score", "relevance")
_ID = ("_id", "id", "docid", "query-id", "corpus-id")
_LABELS = {"1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
_FILES = (".jsonl", ".csv", ".tsv", ".json", ".txt", ".parquet", ".zip")
_HEADER = re.compile(r"score|rel(evance)?|label|grade|judge?ment|qrel", re.IGNORECASE)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A collection with judged queries.

    Attributes:
        name: For tables and reports.
        queries: Texts by id.
        qrels: For each query id the judged documents: grades by document id, 0 is not relevant.
        records: The documents; empty where an index has them already.
        source: File and line of a judgement, for errors.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]
    records: Sequence[Record] = ()
    source: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.queries:
            raise InputError(f"the dataset {self.name} has no queries")
        self._check_values()
        if unknown := [query for query in self.qrels if query not in self.queries]:
            raise InputError(
                f"the dataset {self.name} judges queries that it does not hold: {_some(unknown)}"
                f"{self._where(unknown[0])}; take them out, or add them to the queries, whose ids "
                f"are {_some(list(self.queries))}"
            )
        if not self.judged:
            raise InputError(
                f"the dataset {self.name} has no query with a relevant document: "
                f"{len(self.queries)} queries, {len(self.qrels)} of them judged; a relevant "
                "document has a grade above 0"
            )
        if self.records:
            self.check_documents({record.id for record in self.records})

    def _check_values(self) -> None:
        """Refuse what type checkers would: a notebook has none."""
        if not isinstance(self.queries, Mapping) or not isinstance(self.qrels, Mapping):
            raise InputError("queries must be a dict of texts by id, qrels one of grades by query")
        for query, text in self.queries.items():
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"the text of query {query!r} must not be empty, and is {text!r}")
        for query, grades in self.qrels.items():
            if not isinstance(grades, Mapping) or not all(
                isinstance(grade, int | np.integer) for grade in grades.values()
            ):
                raise InputError(
                    f"the judgements of query {query!r} must be whole numbers by document id, such "
                    f'as {{"a": 1, "b": 0}}, not {grades!r}'
                )
        if not isinstance(self.records, Sequence) or not all(
            isinstance(record, Record) for record in self.records
        ):
            raise InputError('records must be a list of Record, such as Record("id", "text")')

    @property
    def judged(self) -> list[str]:
        """The ids of the queries with a relevant document: the only ones that measure anything."""
        return [query for query in self.queries if any(g > 0 for g in self._grades(query))]

    def check_documents(self, known: set[str]) -> None:
        """Refuse judgements of documents that are not there: they could never be found.

        Args:
            known: Ids of the collection.

        Raises:
            InputError: A judged document is unknown; the message has file and line.
        """
        for query, grades in self.qrels.items():
            if unknown := [document for document in grades if document not in known]:
                place = self._where(query, unknown[0])
                raise InputError(
                    f"query {query!r} judges documents that the collection lacks: {_some(unknown)}"
                    f"{place}; take the judgements out, or add the documents"
                )

    def _grades(self, query: str) -> Sequence[int]:
        return list(self.qrels.get(query, {}).values())

    def _where(self, query: str, document: str | None = None) -> str:
        for (one, other), place in self.source.items():
            if one == query and document in (None, other):
                return f" ({place})"
        return ""


@dataclass(frozen=True, slots=True)
class LabelledPairs:
    """Pairs of query and document with a label: 1 belongs together, 0 does not.

    Attributes:
        name: For tables and reports.
        pairs: Texts of query and document.
        labels: One per pair, 0 or 1.
    """

    name: str
    pairs: Sequence[tuple[str, str]]
    labels: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.pairs) != len(self.labels):
            raise InputError(f"{len(self.pairs)} pairs came with {len(self.labels)} labels")
        for i, label in enumerate(self.labels):
            if label not in (0, 1):
                raise InputError(f"label {i} of {self.name} must be 0 or 1, not {label!r}")
        if len(set(self.labels)) < 2:
            held = f"all {len(self.labels)} labels are {self.labels[0]}" if self.labels else "empty"
            raise InputError(
                f"the pairs of {self.name} must have labels of both kinds, 0 and 1, but they are "
                f"{held}; add pairs of the other kind"
            )


def load_dataset(source: str | Path, *, split: str = "test") -> Dataset | LabelledPairs:
    """Load a collection, or labelled pairs.

    Args:
        source: A folder in BEIR's layout (`corpus.jsonl`, `queries.jsonl`, `qrels/test.tsv` or
            `qrels.tsv`) or FlagEmbedding's (`corpus.jsonl`, `test_queries.jsonl`,
            `test_qrels.jsonl`); a JSONL, CSV or TSV file of query, document and label; or the name
            of a data set on a hub, such as "BeIR/scifact". Files may end in .gz.
        split: Which judgements.

    Returns:
        A `Dataset` of a folder or a hub, `LabelledPairs` of a file. A title is put before its
        text, with a space, as BEIR does, and is kept as metadata.

    Raises:
        InputError: Something is missing or malformed; the message has the file, the line and the
            fix.
    """
    if not isinstance(source, str | Path) or not str(source).strip():
        raise InputError(f"a dataset is a folder, a file, or a hub's name, not {source!r}")
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path, split)
    if path.is_file():
        return _pairs(path)
    named = isinstance(source, str) and _HUB_NAME.fullmatch(source) and source[0] != "."
    if not named or kind_of(path) in _FILES or path.parent.is_dir():
        raise InputError(
            f"there is no data set at {path}: no folder, no file, and no name of a hub, which has "
            'the form "organisation/name"'
        )
    return _hub(str(source), split)


def read_qrels(path: Path) -> tuple[dict[str, dict[str, int]], dict[tuple[str, str], str]]:
    """Read judgements: "query, document, grade" by tabs, with or without a header, or TREC's.

    Args:
        path: A .tsv or .txt file, or FlagEmbedding's .jsonl of qid, docid and relevance.

    Returns:
        Grades, and the file and line of each.

    Raises:
        InputError: A line is malformed.
    """
    qrels: dict[str, dict[str, int]] = {}
    places: dict[tuple[str, str], str] = {}
    for number, row in _judgements(path):
        where = f"{path}, line {number}"
        if row is None:
            raise InputError(
                f"{where}: expected a query id, a document id and a whole number, separated by tabs"
            )
        query, document, grade = row
        if qrels.setdefault(query, {}).setdefault(document, grade) != grade:
            raise InputError(
                f"{where}: query {query!r} and document {document!r} are judged {grade}, and "
                f"{qrels[query][document]} in {places[query, document]}; keep one of them"
            )
        places[query, document] = where
    return qrels, places


def _judgements(path: Path) -> Iterator[tuple[int, tuple[str, str, int] | None]]:
    if kind_of(path) == ".jsonl":
        for number, row in read_objects(path):
            names = ("qid", "query-id"), ("docid", "corpus-id"), ("relevance", "score")
            yield number, _judgement([first_of(row, group) for group in names])
        return
    begun = False
    for number, line in read_lines(path):
        cells = line.strip("\r\n").split("\t") if "\t" in line else line.split()
        cells = [cell.strip() for cell in cells]
        if begun or not _HEADER.fullmatch(cells[-1]):
            yield number, _judgement([cells[0], *cells[2:]] if len(cells) == 4 else cells)
        begun = True


def _judgement(cells: Sequence[Any]) -> tuple[str, str, int] | None:
    if len(cells) != 3 or cells[0] in (None, "") or cells[1] in (None, ""):
        return None
    try:
        grade = float(cells[2])
    except (TypeError, ValueError, OverflowError):
        return None
    return (str(cells[0]), str(cells[1]), int(grade)) if grade.is_integer() else None


def _folder(path: Path, split: str) -> Dataset:
    queries = _found(path, "queries.jsonl", f"{split}_queries.jsonl")
    judged = _found(path, f"qrels/{split}.tsv", "qrels.tsv", f"{split}_qrels.jsonl")
    qrels, places = read_qrels(judged)
    texts: dict[str, str] = {}
    for number, row in read_objects(queries):
        where = f"{queries}, line {number}"
        _put(texts, row, _query_text(row, where), where)
    corpus = _found(path, "corpus.jsonl", required=False)
    records: dict[str, Record] = {}
    for number, row in [] if corpus is None else read_objects(corpus):
        where = f"{corpus}, line {number}"
        _put(records, row, _record(row, where), where)
    return Dataset(path.name, texts, qrels, list(records.values()), places)


def _record(row: Mapping[str, Any], where: str) -> Record:
    """A document; collections have some without a text."""
    title = row.get("title") or ""
    if not isinstance(title, str):
        raise InputError(f"{where}: a title must be a text, not {title!r}")
    text = f"{title} {_text(row, where)}".strip()
    return Record(_id(row, where), text, {"title": title} if title else {})


def _query_text(row: Mapping[str, Any], where: str) -> str:
    if not (text := _text(row, where)).strip():
        raise InputError(f"{where}: a query must not be empty")
    return text


def _text(row: Mapping[str, Any], where: str) -> str:
    text = first_of(row, ("text", "contents", "content", "query"))
    if not isinstance(text, str):
        raise InputError(f'{where}: expected a "text", not {text!r}; there are {sorted(row)}')
    return text


def _put(into: dict[str, Any], row: Mapping[str, Any], value: Any, where: str) -> None:
    if (name := _id(row, where)) in into:
        raise InputError(f"{where}: the id {name!r} was there before; ids must be distinct")
    into[name] = value


def _id(row: Mapping[str, Any], where: str) -> str:
    found = first_of(row, _ID)
    if isinstance(found, bool) or not isinstance(found, str | int) or found == "":
        raise InputError(
            f'{where}: expected an "_id" or "id" that is a text or a whole number, not {found!r}; '
            f"there are {sorted(row)}"
        )
    return str(found)


def _pairs(path: Path) -> LabelledPairs:
    pairs: list[tuple[str, str]] = []
    labels: list[int] = []
    for number, row in table_rows(path):
        cells = [first_of(row, names) for names in (_QUERY, _DOCUMENT, _LABEL)]
        where = f"{path}, line {number}"
        if not all(isinstance(text, str) and text.strip() for text in cells[:2]):
            raise InputError(
                f"{where}: expected texts as query and document, under one of {list(_QUERY)} and "
                f"one of {list(_DOCUMENT)}; there are {sorted(row)}"
            )
        pairs.append((cells[0], cells[1]))
        labels.append(_label(cells[2], where))
    if not pairs:
        raise InputError(f"{path} is empty: expected rows of query, document and label")
    return LabelledPairs(path.name, pairs, labels)


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .jsonl, .csv or .tsv file, with their line numbers."""
    kind = kind_of(path)
    if kind == ".jsonl":
        return read_objects(path)
    if kind not in _SEPARATORS:
        raise InputError(
            f"{path} must be a folder, or a file that ends in {['.jsonl', *_SEPARATORS]}"
        )
    return read_table(path, _SEPARATORS[kind])


def _label(value: Any, where: str) -> int:
    label = _LABELS.get(str(value).strip().lower())
    if label is None:
        raise InputError(f"{where}: the label must be 0 or 1, under one of {_LABEL}, not {value!r}")
    return label


def _hub(name: str, split: str) -> Dataset:
    """A data set of a hub, in the layouts of BEIR's and MTEB's organisations."""
    corpus = _hub_part(name, [(name, "corpus")])
    asked = _hub_part(name, [(name, "queries"), (name, "query")])
    judged = _hub_part(
        name, [(f"{name}-qrels", None), (name, "default"), (name, "qrels")], split=split
    )
    records = []
    for number, row in enumerate(corpus, 1):
        records.append(_record(row, f"{name}, corpus, row {number}"))
    queries = {
        _id(row, f"{name}, queries, row {n}"): _query_text(row, f"{name}, queries, row {n}")
        for n, row in enumerate(asked, 1)
    }
    qrels: dict[str, dict[str, int]] = {}
    for number, row in enumerate(judged, 1):
        found = _judgement([row.get(cell) for cell in ("query-id", "corpus-id", "score")])
        if found is None:
            raise InputError(
                f"{name}, judgements, row {number}: expected a query-id, a corpus-id and a whole "
                f"number as score, not {dict(row)}"
            )
        qrels.setdefault(found[0], {})[found[1]] = found[2]
    return Dataset(name, queries, qrels, records)


def _hub_part(
    name: str, places: Sequence[tuple[str, str | None]], *, split: str | None = None
) -> Any:
    """The rows of the first place that is there; of one split, or of the only one."""
    datasets = require("datasets", extra="eval")
    failed = []
    for place, config in places:
        try:
            splits = datasets.load_dataset(place, config)
            return splits[split] if split else next(iter(splits.values()))
        except Exception as error:  # each release and each layout raises its own
            failed.append(f"{place}, {config or 'default'}: {type(error).__name__}: {error}")
    raise InputError(
        f"{name!r} is no folder or file here, and was not loaded from a hub: {'; '.join(failed)}"
    )


def _found(folder: Path, *names: str, required: bool = True) -> Any:
    for name in names:
        for place in (folder / name, folder / f"{name}.gz"):
            if place.is_file():
                return place
    if required:
        raise InputError(f"{folder} has none of {list(names)}; `load_dataset` tells the layouts")
    return None


def first_of(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    """The value of a row under the first of some names that it has; None without."""
    return next((row[name] for name in names if row.get(name) is not None), None)


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return f"{', '.join(map(repr, ids[:3]))}{more}"
