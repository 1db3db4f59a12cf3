"""The demo's data: a small handbook about retrieval, judged questions, a small model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import CheckpointError

FOLDER = Path(__file__).resolve().parent
LANGUAGES = ("en", "zh")

Group = Literal["plain", "keyword", "cross", "paraphrase"]


@dataclass(frozen=True, slots=True)
class Question:
    """A question with judged documents.

    Attributes:
        id: "q001" and so on.
        lang: The language of the text, "en" or "zh".
        group: What makes it hard: "plain" nothing, "keyword" is a few search terms, "cross" has
            its answer in the other language only, "paraphrase" shares no word with its answer.
        text: The query.
        relevant: Document id to grade: 2 answers the question, 1 helps.
    """

    id: str
    lang: str
    group: Group
    text: str
    relevant: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Quality:
    """One system's measure on the demo questions, from the checkpoint's own evaluation.

    Attributes:
        system: Such as "checkpoint hybrid 0.4/0.2/0.4", "bm25" or "random dense".
        collection: "handbook" (this demo) or "cranfield".
        ndcg: nDCG@10 over all questions, in [0, 1].
    """

    system: str
    collection: str
    ndcg: float


def checkpoint_path() -> Path:
    """The folder of the demo checkpoint.

    Returns:
        A folder in BGE-M3's format.

    Raises:
        CheckpointError: This installation came without it.
    """
    folder = FOLDER / "checkpoint"
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the demo checkpoint is not in {folder}; install the package from a wheel or a full "
            "checkout, or pass --model with a folder or a hub id such as BAAI/bge-m3"
        )
    return folder


def load_corpus() -> list[Record]:
    """The handbook's documents, English ones first, in order of id.

    Returns:
        Records with id "en/<slug>" or "zh/<slug>", the title as first line of the text, and
        metadata "title", "lang" and "source".
    """
    folders = [FOLDER / "handbook" / lang for lang in LANGUAGES]
    paths = [path for folder in folders for path in sorted(folder.glob("*.md"))]
    return [_record(path) for path in paths]


def load_questions() -> list[Question]:
    """The judged questions, in the order of the file."""
    lines = (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(**json.loads(line)) for line in lines]


def load_quality(checkpoint: Path) -> list[Quality]:
    """Load the measurements made along with a checkpoint.

    Args:
        checkpoint: A checkpoint's folder; `evaluation.json` lies in it.

    Returns:
        nDCG@10 of every system on every collection; nothing if there is no such file.
    """
    path = checkpoint / "evaluation.json"
    if not path.is_file():
        return []
    report = json.loads(path.read_text(encoding="utf-8"))
    return [
        Quality(system, collection, float(groups["all"]["ndcg@10"]))
        for collection, systems in report.items()
        for system, groups in _objects(systems)
        if "ndcg@10" in groups.get("all", {})
    ]


def _objects(value: object) -> list[tuple[str, dict[str, Any]]]:
    """The entries of an object that are objects: the file may also hold remarks."""
    entries = value.items() if isinstance(value, dict) else ()
    return [(name, entry) for name, entry in entries if isinstance(entry, dict)]


def _record(path: Path) -> Record:
    text = path.read_text(encoding="utf-8").removeprefix("# ").strip()
    lang = path.parent.name
    metadata = {"title": text.partition("\n")[0], "lang": lang, "source": f"{lang}/{path.name}"}
    return Record(f"{lang}/{path.stem}", text, metadata)


__all__ = [
    "FOLDER",
    "LANGUAGES",
    "Quality",
    "Question",
    "checkpoint_path",
    "load_corpus",
    "load_quality",
    "load_questions",
]
__dir__ = public_names(__name__)
