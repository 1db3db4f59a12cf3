"""MTEB runs our hybrid by its own protocol, on a task that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset as Rows  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.models.models_protocols import SearchProtocol  # noqa: E402

from bge_m3_integrations import BGEM3, HybridIndex  # noqa: E402
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions  # noqa: E402
from bge_m3_integrations.evaluation import Dataset, Evaluation, evaluate  # noqa: E402
from bge_m3_integrations.evaluation.mteb import MTEBSearch  # noqa: E402


class DemoRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
    """The demo's questions as a task."""

    metadata = mteb.TaskMetadata(
        name="DemoRetrieval",
        description="The demo corpus of this package.",
        dataset={"path": "local/demo", "revision": "1"},
        type="Retrieval",
        category="t2t",
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )

    def load_data(self, **kwargs: Any) -> None:
        """Take the rows that are here."""
        corpus = [{"id": r.id, "title": "", "text": r.text} for r in load_corpus()]
        questions = load_questions()[:30]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Rows.from_list(corpus),
                    "queries": Rows.from_list([{"id": q.id, "text": q.text} for q in questions]),
                    "relevant_docs": {q.id: dict(q.relevant) for q in questions},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


@pytest.fixture(scope="module")
def engine() -> BGEM3:
    return BGEM3(checkpoint_path(), device="cpu", dtype="float32")


def test_mteb_measures_what_we_measure(engine: BGEM3, tmp_path: Path) -> None:
    model = MTEBSearch(engine, weights="keyword")
    assert isinstance(model, SearchProtocol)
    results = mteb.evaluate(model, DemoRetrieval(), cache=None, overwrite_strategy="always")
    theirs = results.task_results[0].scores["test"][0]
    questions = load_questions()[:30]
    ours = evaluate(
        engine,
        Dataset(
            "demo",
            {q.id: q.text for q in questions},
            {q.id: dict(q.relevant) for q in questions},
            load_corpus(),
        ),
        metrics=["ndcg@10", "recall@100"],
    )
    assert isinstance(ours, Evaluation)
    run = ours["keyword"]
    assert theirs["ndcg_at_10"] == pytest.approx(run.measure("ndcg@10").mean, abs=1e-5)
    assert theirs["recall_at_100"] == pytest.approx(run.measure("recall@100").mean, abs=1e-5)


def test_the_names_on_the_board_and_reranking_of_given_documents(engine: BGEM3) -> None:
    model = MTEBSearch(engine, name="me/bge-m3-hybrid", revision="1")
    meta = model.mteb_model_meta
    assert (meta.name, meta.revision, meta.model_type) == ("me/bge-m3-hybrid", "1", ["hybrid"])
    records = load_corpus()[:10]
    model.index([{"id": r.id, "title": "T", "text": r.text} for r in records])
    some = [record.id for record in records[3:6]]
    found = model.search([{"id": 1, "text": "vectors"}], top_k=10, top_ranked={"1": some})
    assert set(found["1"]) == set(some)
    with HybridIndex(engine) as index:
        index.add([(f"T {records[3].text}")])
        assert found["1"][records[3].id] == pytest.approx(index.search("vectors")[0].score)
