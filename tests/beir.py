"""A data set as a folder in BEIR's layout."""

from __future__ import annotations

import json
from pathlib import Path

from bge_m3_integrations.evaluation import Dataset


def write(data: Dataset, folder: Path) -> None:
    """Write queries and judgements; the documents are in an index."""
    folder.mkdir(exist_ok=True)
    queries = [json.dumps({"_id": i, "text": text}) for i, text in data.queries.items()]
    (folder / "queries.jsonl").write_text("\n".join(queries), encoding="utf-8")
    rows = [f"{q}\t{d}\t{grade}" for q, grades in data.qrels.items() for d, grade in grades.items()]
    (folder / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]), "utf-8")
