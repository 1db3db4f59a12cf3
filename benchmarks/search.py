"""Searching: our index over a store, and every installed peer, over synthetic collections.

    python -m benchmarks.search --folder FOLDER --sizes 1000 10000 --colbert --json search.json

No model is needed, as embeddings are drawn (`benchmarks/_search/corpus.py` says how); with
`--checkpoint-cache` queries are also encoded, by the full-size random checkpoint. Every subject
runs in a process of its own. `--read JSON ...` prints earlier results: those of several runs
together, where they kept the same things.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import _table
from benchmarks._checkpoint import checkpoint
from benchmarks._machine import machine
from benchmarks._search import report
from benchmarks._search.comparison import Oracle
from benchmarks._search.corpus import Corpus
from benchmarks._search.results import Outcome
from benchmarks._search.start import Starter
from benchmarks._search.subjects import KINDS, chosen
from benchmarks._search.subjects.base import Kind

REMARKS = (
    "A pair of values is before and after optimize. B/doc is what came on top of the empty "
    "collection; brackets: the part of resident memory that no file backs.",
    "Our dense and sparse finds look up 100 documents, our hybrid 100 and 100, with ColBERT 50 and "
    "50; the other stores are asked for 10 by their own search.",
    "Recall is the share of the ten that brute force with the same candidates, filter and weights "
    "has; a filter asks for the value of the query's own document.",
    "Lines to more documents are straight: they say too much where a store changes from comparing "
    "with all documents to an index.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    if given.read:
        held = _joined(given.read)
        _report(given, held, [Outcome.of(raw) for raw in held["outcomes"]])
        return
    outcomes = _measure(given)
    _report(given, _as_json(given, outcomes), outcomes)


def _measure(given: argparse.Namespace) -> list[Outcome]:
    """All sizes; JSON is written after each process, so that an interruption loses one."""
    starter, outcomes = _starter(given), []
    for documents in given.sizes:
        corpus = Corpus(documents, dim=given.dim, distinct=given.colbert_documents, seed=given.seed)
        oracle = Oracle(corpus, corpus.queries(given.queries))
        for kind in chosen(given.only, given.store):
            outcome = _refused(kind, documents, given.colbert) or starter.run(kind, documents)
            outcomes.append(oracle.compared(outcome))
            _progress(outcome)
            _write(given, outcomes)
    return outcomes


def _starter(given: argparse.Namespace) -> Starter:
    passed = ["--queries", str(given.queries), "--dim", str(given.dim), "--seed", str(given.seed)]
    passed += ["--storage", given.storage, *(["--colbert"] if given.colbert else [])]
    if given.colbert_documents is not None:
        passed += ["--distinct", str(given.colbert_documents)]
    if given.checkpoint_cache is not None:
        passed += ["--checkpoint", str(checkpoint(given.checkpoint_cache))]
    pythons = dict(pair.split("=", 1) for pair in given.python)
    folder = given.folder.resolve()
    return Starter(folder, passed, given.minutes, pythons, given.threads, given.keep)


def _refused(kind: Kind, documents: int, colbert: bool) -> Outcome | None:
    """A row for what is not tried."""
    skipped = Outcome(kind.name, documents, status="skipped")
    if documents > kind.most:
        return replace(skipped, detail=f"is given {kind.most:,} documents at most")
    if kind.needs_colbert and not colbert:
        return replace(skipped, detail="needs token vectors: --colbert")
    return None


def _progress(outcome: Outcome) -> None:
    line = f"{outcome.subject} {outcome.documents:,}/{outcome.wanted:,}: {outcome.status}"
    print(f"{line} {outcome.detail}".strip(), file=sys.stderr, flush=True)


def _as_json(given: argparse.Namespace, outcomes: Sequence[Outcome]) -> dict[str, object]:
    return {
        "machine": machine(),
        "colbert": given.colbert,
        "storage": given.storage,
        "colbert_documents": given.colbert_documents,
        "dim": given.dim,
        "queries": given.queries,
        "minutes": given.minutes,
        "outcomes": [asdict(outcome) for outcome in outcomes],
    }


def _joined(files: Sequence[Path]) -> dict[str, Any]:
    """The results of several runs as one; what they differ in is named once for each."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    joined = dict(runs[0])
    for file, run in zip(files[1:], runs[1:], strict=True):
        for name in ("colbert", "storage", "dim"):
            if run[name] != joined[name]:
                raise SystemExit(
                    f"{file} has {name} {run[name]!r}, {files[0]} {joined[name]!r}: a line through "
                    "both says nothing; print them apart"
                )
        joined["outcomes"] = [*joined["outcomes"], *run["outcomes"]]
    if len(runs) > 1:
        dates = ", ".join(run["machine"].get("date", "?") for run in runs)
        joined["machine"] = {**joined["machine"], "date": dates}
        for name in ("colbert_documents", "queries", "minutes"):
            joined[name] = ", ".join(str(run[name]) for run in runs)
    return joined


def _write(given: argparse.Namespace, outcomes: Sequence[Outcome]) -> None:
    if given.json:
        text = json.dumps(_as_json(given, outcomes), indent=1)
        given.json.write_text(text, encoding="utf-8")


def _report(given: argparse.Namespace, held: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    facts = {key: value for key, value in held.items() if key not in ("machine", "outcomes")}
    for name, found in {**held["machine"], **facts}.items():
        print(f"- {name}: {found}")
    for line in report.notes(outcomes):
        print(f"- {line}")
    for line in REMARKS:
        print(f"- {line}")
    layout = _table.markdown if given.markdown else _table.plain
    for rows in (
        report.collection_rows(outcomes),
        report.search_rows(outcomes),
        report.text_rows(outcomes),
        report.growth_rows(outcomes),
    ):
        if len(rows) > 1:
            print(f"\n{layout(rows)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--folder", type=Path, default=Path(".bench/search"), help="for collections, removed again")
    add("--sizes", type=int, nargs="*", default=[1_000, 10_000], help="documents")
    add("--queries", type=int, default=100)
    add("--colbert", action="store_true", help="with token vectors: 120 a document")
    add(
        "--colbert-documents",
        type=int,
        metavar="N",
        help="make token vectors of N documents, the others repeat them; default: of all",
    )
    add("--storage", choices=["turbo8", "float16", "float32"], default="turbo8")
    add("--store", nargs="*", choices=["edge", "memory"], default=["edge"], help="our stores")
    add("--only", nargs="*", default=[], help=f"names or their beginnings: {', '.join(KINDS)}")
    add("--python", nargs="*", default=[], metavar="FAMILY=PATH", help="interpreter of a family")
    add("--minutes", type=float, default=30, help="time box of each subject at each size")
    add("--checkpoint-cache", type=Path, help="search by text too, with the checkpoint here")
    add("--threads", type=int, help="of each process; each library's own choice by default")
    add("--keep", action="store_true", help="leave the collections in the folder")
    add("--dim", type=int, default=1024, help="other widths only try the harness")
    add("--seed", type=int, default=0)
    add("--json", type=Path, help="where results go")
    add("--read", type=Path, nargs="+", metavar="JSON", help="print earlier results, of one kind")
    add("--markdown", action="store_true")
    return parser


if __name__ == "__main__":
    main()
