"""MTEB runs our hybrid by its own protocol, on a task that needs no download."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

mteb = pytest.importorskip("mteb")

from datasets import Dataset as Rows  # noqa: E402
from mteb.abstasks.retrieval import AbsTaskRetrieval  # noqa: E402
from mteb.models.models_protocols import SearchProtocol  # noqa: E402

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Record  # noqa: E402
from bge_m3_integrations.demo import checkpoint_path, load_corpus, load_questions  # noqa: E402
from bge_m3_integrations.evaluation import Dataset, Evaluation, evaluate  # noqa: E402
from bge_m3_integrations.evaluation.mteb import MTEBSearch  # noqa: E402
from bge_m3_integrations.testing import FakeEncoder  # noqa: E402


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


CORPUS = [{"id": str(i), "title": None, "text": f"word{i} and more"} for i in range(60)]


def test_options_are_checked_before_a_corpus_is_encoded(engine: BGEM3) -> None:
    wrong: list[dict[str, Any]] = [{"wieghts": "x"}, {"weights": "nope"}, {"candidates": {"x": 3}}]
    for options in wrong:
        with pytest.raises((InputError, TypeError), match=r"wieghts|nope|candidates"):
            MTEBSearch(engine, **options)
    with pytest.raises(InputError, match="takes a BGEM3, not str"):
        MTEBSearch("BAAI/bge-m3")  # type: ignore[arg-type]


def test_a_search_without_a_corpus_is_an_error() -> None:
    model = MTEBSearch(BGEM3(FakeEncoder()))
    query = [{"id": "1", "text": "word1"}]
    with pytest.raises(InputError, match=r"call index\(corpus\) first"):
        model.search(query, top_k=3)
    with pytest.raises(InputError, match="comes twice"):
        model.index(CORPUS[:2] * 2)
    with pytest.raises(InputError, match=r"call index\(corpus\) first"):
        model.search(query, top_k=3)  # the last corpus is not there either


def test_conversations_empty_texts_and_candidates_of_reranking_tasks() -> None:
    model = MTEBSearch(BGEM3(FakeEncoder()), candidates={"dense": 5})
    model.index([*CORPUS, {"id": "empty", "title": "only a title", "text": None}])
    turns = [{"role": "user", "content": "word1"}, {"role": "user", "content": "word2"}]
    found = model.search([{"id": "a", "text": turns}, {"id": "b", "text": "word1\nword2"}], top_k=4)
    assert found["a"] == found["b"]
    assert len(found["a"]) == 4
    given = {"a": ["1", "2"]}
    found = model.search(
        [{"id": "a", "text": "word1"}, {"id": "b", "text": "x"}], top_k=4, top_ranked=given
    )
    assert set(found["a"]) == {"1", "2"}
    assert found["b"] == {}


def test_learned_weights_are_learned_from_each_corpus(engine: BGEM3) -> None:
    model = MTEBSearch(engine, weights="learned")
    records = load_corpus()
    model.index([{"id": r.id, "title": "", "text": r.text} for r in records])
    found = model.search([{"id": "1", "text": "backups"}], top_k=10)
    with HybridIndex(engine) as index:
        index.add([Record(r.id, r.text) for r in records])
        index.learn_weights(progress=False)
        hits = index.search("backups", weights="learned")
    assert list(found["1"]) == [hit.id for hit in hits]
