"""One process: one subject over one collection; writes what is known after every step.

It runs under the subject's own interpreter, so it imports numpy and the subject and nothing else.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import traceback
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks._search.corpus import Corpus
from benchmarks._search.measure import Run, Save, parts
from benchmarks._search.results import Outcome
from benchmarks._search.subjects import KINDS
from benchmarks._search.subjects.base import Kind, Setup, Subject
from benchmarks._worker import first_line, versions_of


def run(kind: Kind, setup: Setup, *, seconds: float, save: Save) -> Outcome:
    """Measure a subject; what goes wrong is the result, beside what was measured before.

    Args:
        kind: The subject.
        setup: What it is measured over.
        seconds: The time box.
        save: Is given what is known after every step.

    Returns:
        All that is known at the end.
    """
    outcome = Outcome(kind.name, setup.corpus.documents)
    if missing := [module for module in kind.modules if not _importable(module)]:
        return replace(outcome, status="not installed", detail=f"no module {', '.join(missing)}")
    last = replace(outcome, versions=versions_of(kind.distributions))
    subject = None
    try:
        _drawn_once(setup)
        subject = kind.open(setup)
        running = Run(setup, subject, last, save, seconds)
        last = running.all()
    except Exception as error:
        traceback.print_exc()
        last = last if subject is None else running.outcome
        detail = f"{last.doing or 'opening'}: {first_line(error)}"
        last = replace(last, status="error", detail=detail)
    _closed(subject)
    return last


def _drawn_once(setup: Setup) -> None:
    """What the corpus keeps, and the room that one part takes, are there before memory counts."""
    part = next(parts(setup))
    setup.corpus.texts(part.start, len(part))
    if setup.colbert:
        setup.corpus.tokens(part)


def _importable(module: str) -> bool:
    with suppress(ImportError):
        return importlib.util.find_spec(module) is not None
    return False


def _closed(subject: Subject | None) -> None:
    """Close it: some have processes of their own."""
    if subject is not None:
        with suppress(Exception):
            subject.close()


def _main() -> None:
    given = _parser().parse_args()
    corpus = Corpus(given.documents, dim=given.dim, distinct=given.distinct, seed=given.seed)
    setup = Setup(
        corpus,
        corpus.queries(given.queries),
        given.folder,
        given.colbert,
        given.storage,
        64 if given.colbert else 256,
        given.checkpoint,
    )

    def save(outcome: Outcome) -> None:
        partial = given.out.with_suffix(".part")
        partial.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
        partial.replace(given.out)

    save(run(KINDS[given.subject], setup, seconds=given.seconds, save=save))
    sys.stderr.flush()
    os._exit(0)  # some peers leave threads behind that never end


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--subject", choices=list(KINDS), required=True)
    add("--documents", type=int, required=True)
    add("--queries", type=int, required=True)
    add("--dim", type=int, required=True)
    add("--seed", type=int, default=0)
    add("--distinct", type=int)
    add("--colbert", action="store_true")
    add("--storage", default="turbo8")
    add("--seconds", type=float, required=True)
    for name in ("--folder", "--out"):
        add(name, type=Path, required=True)
    add("--checkpoint", type=Path)
    return parser


if __name__ == "__main__":
    _main()
