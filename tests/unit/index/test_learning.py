"""Weights without labels: what is learned, on what, how it ranks, and where it is kept."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bge_m3_integrations import (
    BGEM3,
    HybridIndex,
    InputError,
    Record,
    StoreError,
    Weights,
    save_profile,
)
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.core.idf import IdfTable
from bge_m3_integrations.core.learned import LearnedSum, LearnedWeights
from bge_m3_integrations.core.weighting import LEARNED_FILE as FILE_NAME
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.index.learning.curve import Contest, curve_of, gain_of, simplex
from bge_m3_integrations.index.learning.file import LearnedFile
from bge_m3_integrations.index.learning.questions import questions_of, units
from bge_m3_integrations.index.reencode import Reencoder
from bge_m3_integrations.testing import FakeEncoder

WORDS = [f"word{i}" for i in range(400)]


def records(count: int = 60, seed: int = 0) -> list[Record]:
    """Documents of four sentences over words of their own and common ones; half have titles."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        own = rng.choice(WORDS, 6, replace=False)
        sentences = [f"{' '.join([*rng.choice(own, 4), 'the', 'a', 'of'])}." for _ in range(4)]
        title = f"{own[0]} and {own[1]}" if i % 2 else ""
        text = f"{title} {' '.join(sentences)}".strip()
        out.append(Record(f"d{i:03}", text, {"title": title} if title else {}))
    return out


@pytest.fixture
def index() -> Iterator[HybridIndex]:
    with HybridIndex(BGEM3(FakeEncoder())) as made:
        made.add(records())
        yield made


def test_it_learns_and_searches_by_what_it_learned(index: HybridIndex) -> None:
    learned = index.learn_weights()
    assert learned.name == "learned"
    assert learned.documents == 60
    assert learned.queries == 90
    assert learned.gains["learned"] >= max(learned.gains.values()) - 0.01
    assert sum((learned.weights.dense, learned.weights.sparse, learned.weights.colbert)) == (
        pytest.approx(1)
    )
    hits = index.search("word3 word9", weights="learned")
    same = index.search("word3 word9", weights=learned)
    assert [(h.id, h.score) for h in hits] == [(h.id, h.score) for h in same]
    assert hits[0].weighting == "learned"
    assert hits[0].fusion == "learned_sum"
    assert "lexical" in str(learned)


def test_the_parts_of_a_hit_sum_to_its_score_and_the_sparse_score_is_the_raw_one(
    index: HybridIndex,
) -> None:
    index.learn_weights()
    plain = {hit.id: hit for hit in index.search("word3 the word9", exact=True, limit=60)}
    for hit in index.search("word3 the word9", weights="learned", exact=True, limit=60):
        assert hit.lexical is not None
        w, parts = hit.weights, hit.components
        total = w.dense * parts["dense"] + w.sparse * hit.lexical + w.colbert * parts["colbert"]
        assert total == pytest.approx(hit.score, abs=1e-6)
        assert parts["sparse"] == pytest.approx(plain[hit.id].components["sparse"], abs=1e-6)
        assert hit.to_dict()["lexical"] == hit.lexical
        assert hit.score_details["lexical"] == hit.lexical
    assert plain["d000"].lexical is None
    assert "lexical" not in plain["d000"].to_dict()


def test_a_rerank_gives_the_scores_of_the_search_and_encodes_each_document_once() -> None:
    encoder = FakeEncoder()
    with HybridIndex(BGEM3(encoder)) as index:
        held = records()
        index.add(held)
        index.learn_weights()
        found = {h.text: h.score for h in index.search("word3 word9", weights="learned", limit=60)}
        texts = [record.text for record in held]
        encoder.calls.clear()
        ranked = index.rerank("word3 word9", texts, weights="learned")
        asked = [text for call in encoder.calls for text in call.texts]
        assert len(asked) == len(set(asked))
        for one in ranked:
            if texts[one.index] in found:
                assert one.score == pytest.approx(found[texts[one.index]], abs=1e-6)
                assert one.lexical is not None


def test_the_same_seed_gives_the_same_weights_whatever_the_order_and_the_threads() -> None:
    learned: list[LearnedWeights] = []
    for order in (1, -1):
        with HybridIndex(BGEM3(FakeEncoder())) as index:
            index.add(records()[::order])
            threads = [
                threading.Thread(target=lambda i=index: learned.append(i.learn_weights(seed=3)))
                for _ in range(4)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert len(learned) == 8
    assert len({(one.weights, one.queries, tuple(one.gains.items())) for one in learned}) == 1
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records(120))
        assert index.learn_weights(seed=1, documents=60) != index.learn_weights(
            seed=2, documents=60
        )


def test_only_questions_and_rests_are_encoded() -> None:
    encoder = FakeEncoder()
    with HybridIndex(BGEM3(encoder)) as index:
        index.add(records())
        encoder.calls.clear()
        learned = index.learn_weights()
        asked = [len(call.texts) for call in encoder.calls if call.kind == "query"]
        rests = [len(call.texts) for call in encoder.calls if call.kind == "document"]
        assert sum(asked) <= learned.queries
        assert sum(rests) <= learned.queries


@pytest.mark.parametrize("missing", ["dense", "sparse", "colbert"])
def test_modes_that_the_index_lacks_are_left_out(missing: str) -> None:
    modes: Any = [mode for mode in ("dense", "sparse", "colbert") if mode != missing]
    with HybridIndex(BGEM3(FakeEncoder()), modes=modes) as index:
        index.add(records())
        learned = index.learn_weights()
        assert learned.weights.modes <= set(modes)
        assert set(learned.gains) >= {"learned", *modes}
        assert index.search("word3", weights="learned")[0].score > 0


def test_what_cannot_be_learned_from_is_refused_with_the_fix(index: HybridIndex) -> None:
    with HybridIndex(BGEM3(FakeEncoder()), modes=["dense"]) as one:
        one.add(records())
        with pytest.raises(InputError, match=r"no weights to learn: this index keeps \['dense'\]"):
            one.learn_weights()
    with HybridIndex(BGEM3(FakeEncoder())) as few:
        few.add(records(39))
        with pytest.raises(InputError, match=r"at least 40 documents .* has 39 such.*tune\(\)"):
            few.learn_weights()
    with HybridIndex(BGEM3(FakeEncoder())) as short:
        short.add(["one sentence"])
        with pytest.raises(InputError, match="has 0 such documents among 1"):
            short.learn_weights()
    with pytest.raises(InputError, match=r"documents must be .* at least 40"):
        index.learn_weights(documents=39)
    with pytest.raises(InputError, match=r"has learned, and it has none; call index.learn_weights"):
        index.search("x", weights="learned")
    with pytest.raises(InputError, match="are those of an index"):
        index.engine.rerank("x", ["y"], weights="learned")


def test_they_are_kept_in_the_folder_and_found_again(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "i", BGEM3(FakeEncoder())) as index:
        index.add(records())
        learned = index.learn_weights()
        first = index.search("word3 word9", weights="learned")
    with HybridIndex.open(tmp_path / "i", BGEM3(FakeEncoder())) as index:
        again = index.search("word3 word9", weights="learned")
        assert [(h.id, h.score) for h in again] == [(h.id, h.score) for h in first]
        index.compact()
        assert index.weighting("learned") == learned
        index.backup(tmp_path / "backup")
    HybridIndex.restore(tmp_path / "backup", tmp_path / "restored")
    with HybridIndex.open(tmp_path / "restored", BGEM3(FakeEncoder()), read_only=True) as index:
        assert index.weighting("learned") == learned
        assert index.learn_weights(save=False) == learned
    with HybridIndex.open(tmp_path / "j", BGEM3(FakeEncoder())) as index:
        index.add(records())
        index.learn_weights(save=False)
        assert not (tmp_path / "j" / FILE_NAME).exists()


def test_weights_of_another_model_or_storage_are_refused_by_name(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder()), colbert="float32") as index:
        index.add(records())
        index.learn_weights()
    with HybridIndex.open(tmp_path / "b", BGEM3(FakeEncoder()), colbert="float16") as index:
        index.add(records())
        shutil.copy(tmp_path / "a" / FILE_NAME, tmp_path / "b" / FILE_NAME)
        with pytest.raises(InputError, match="kept as 'float32', and here it is 'float16'"):
            index.search("x", weights="learned")
    with HybridIndex(BGEM3(FakeEncoder(dim=16))) as index:
        index.add(records())
        learned = LearnedFile(tmp_path / "a").now()
        assert learned is not None
        with pytest.raises(InputError, match="'learned' was measured on the model"):
            index.search("x", weights=learned)


@pytest.mark.parametrize("damage", [b"", b"PK", b"x" * 100, None])
def test_a_damaged_file_is_an_error_that_says_what_to_do(
    tmp_path: Path, damage: bytes | None
) -> None:
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder())) as index:
        index.add(records())
        index.learn_weights()
    path = tmp_path / "a" / FILE_NAME
    path.write_bytes(path.read_bytes()[:-200] if damage is None else damage)
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder())) as index:
        with pytest.raises(StoreError, match=r"is damaged .*; learn again, or remove the file"):
            index.search("x", weights="learned")
        index.learn_weights()
        assert index.search("word3", weights="learned")


def test_a_file_of_pickles_is_not_loaded(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder())) as index:
        index.add(records(1))
        np.savez(tmp_path / "a" / FILE_NAME, about=np.array([{"format": 1}], dtype=object))
        with pytest.raises(StoreError, match="is damaged"):
            index.search("x", weights="learned")


def test_an_index_that_has_doubled_says_so_once(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder())) as index:
        index.add(records())
        index.learn_weights()
        index.add([Record(f"e{i}", "more of it") for i in range(60)])
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder())) as index:
        with pytest.warns(UserWarning, match="it had 60 documents, and it has 120 now"):
            index.search("x", weights="learned")
        index.search("x", weights="learned")


@pytest.mark.parametrize(
    "options",
    [{"colbert": "reencode"}, {"pooling": 2}, {"colbert": "float16"}, {"isolated": True}],
    ids=str,
)
def test_every_kind_of_storage_can_be_learned_from(tmp_path: Path, options: Any) -> None:
    with HybridIndex.open(tmp_path / "i", BGEM3(FakeEncoder()), **options) as index:
        index.add(records())
        learned = index.learn_weights()
        assert index.search("word3", weights="learned")[0].weighting == "learned"
        assert learned.measured_on.storage is not None


def test_the_text_of_a_question_is_not_in_the_rest_and_its_document_no_rival() -> None:
    for question in questions_of(records(), documents=60, seed=0):
        assert question.text not in question.rest
        assert question.rest
    seen = questions_of(records(), documents=60, seed=0)
    assert {question.kind for question in seen} == {"sentence", "title"}


def test_a_sentence_that_comes_twice_in_its_document_is_no_question() -> None:
    refrain = "The same words come back again."
    twice = Record("r", " ".join([refrain, "A line of its own here.", refrain, refrain]))
    for seed in range(20):
        for question in questions_of([twice], documents=1, seed=seed):
            assert question.text == "A line of its own here."


def test_metadata_before_the_content_is_no_question_and_stays_in_the_rest() -> None:
    content = "Alpha beta gamma delta. Epsilon zeta eta theta. Iota kappa lambda mu."
    head = "file_path: /data/part one/a.txt\npage_label: 7\ntitle: Greek letters\n\n"
    record = Record("r", head + content, {"title": "Greek letters"}, content=content)
    for seed in range(20):
        sentence, title = questions_of([record], documents=1, seed=seed)
        assert sentence.text in content
        assert sentence.rest.startswith(head)
        assert title.text == "Greek letters"
        assert title.rest == (head + content).replace("Greek letters", "")
    elsewhere = Record("r", content, content="what a reader sees")
    assert questions_of([elsewhere], documents=1, seed=0)[0].text in content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One two three four. Is five six seven? And eight nine ten!", 3),
        ("第一句话在这里。第二句话比较长一些！第三句话也在这里。", 3),
        ("A sentence of five words. Ok.", 1),
        ("", 0),
        ("   \n ", 0),
        ("two words", 1),
    ],
)
def test_sentences_of_texts(text: str, expected: int) -> None:
    found = units(text)
    assert len(found) == expected
    assert "".join("".join(found).split()) == "".join(text.split())


def test_long_texts_without_stops_are_cut_and_nothing_is_lost() -> None:
    for text in (" ".join(WORDS[:200]), "字" * 300, "a" * 5000, "x. " * 50):
        found = units(text)
        assert "".join("".join(found).split()) == "".join(text.split())
    assert len(units(" ".join(WORDS[:30]))) == 3


def test_in_two_scripts_a_document_of_the_other_one_is_not_punished_for_its_script() -> None:
    rng = np.random.default_rng(0)
    han = [chr(0x4E00 + i) for i in range(300)]

    def chinese(i: int) -> Record:
        own = rng.choice(han, 20, replace=False)
        return Record(f"z{i:03}", "".join("".join(rng.choice(own, 12)) + "。" for _ in range(4)))

    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add([*records(), *(chinese(i) for i in range(60))])
        learned = index.learn_weights()
        assert isinstance(learned.fusion, LearnedSum)
        assert learned.fusion.imputation is not None
        hits = index.search("word3 word9 the", weights="learned", exact=True, limit=120)
        foreign = [hit for hit in hits if hit.id.startswith("z")]
        assert foreign
        assert {hit.components["sparse"] for hit in foreign} == {0.0}
        assert len({hit.lexical for hit in foreign}) > 1
        ranked = index.rerank("word3 word9 the", [hit.text for hit in hits], weights="learned")
        by_search = [hit.score for hit in hits]
        assert [one.score for one in ranked] == pytest.approx(sorted(by_search)[::-1], abs=1e-5)


def test_a_lexical_value_is_one_where_all_of_the_query_is_there_and_has_its_weights() -> None:
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records())
        learned = index.learn_weights()
        assert isinstance(learned.fusion, LearnedSum)
        queries = index.engine.encode_queries(["word3 word9", "", "nothing known"])
        again = learned.fusion.reweighted(queries)
        sums = [float(again.sparse.row(i)[1].sum()) for i in range(3)]
        assert sums == pytest.approx([1.0, 0.0, 1.0])


def test_the_soft_maximum_by_hand() -> None:
    grid = simplex(3)
    assert len(grid) == 231
    assert grid.sum(axis=1) == pytest.approx(1)
    rng = np.random.default_rng(0)
    # the first mode always puts the right one first, the others are noise
    lists = [
        Contest("sentence", np.concatenate([[[1.0, a, b]], rng.random((50, 3)) * [0.9, 1, 1]]))
        for a, b in rng.random((60, 2))
    ]
    curve = curve_of(lists, ["dense", "sparse", "colbert"])
    best = curve.weights(curve.best)
    assert best.dense > 0.5
    assert gain_of(lists, ["dense", "sparse", "colbert"], Weights.only("dense")) == 1.0
    ties = [Contest("sentence", np.ones((3, 3)))]
    assert gain_of(ties, ["dense", "sparse", "colbert"], Weights()) == pytest.approx(1 / np.log2(3))


def test_documents_that_go_while_it_learns_cost_nothing_but_themselves() -> None:
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records(200))
        vectors, gone = index.store.vectors, iter(["d007", "d113"])

        def while_deleting(ids: Any, modes: Any) -> Any:
            if (one := next(gone, None)) is not None:
                index.delete(ids=[one])
            return vectors(ids, modes)

        index.store.vectors = while_deleting  # type: ignore[method-assign]
        learned = index.learn_weights()
        assert isinstance(learned.fusion, LearnedSum)
        assert learned.fusion.idf is not None
        assert learned.fusion.idf.documents == 198


def test_a_mode_that_scores_all_alike_gets_no_weight_out_of_proportion() -> None:
    rng = np.random.default_rng(0)
    lists = [
        Contest("sentence", np.stack([rng.random(20), np.zeros(20), rng.random(20)], axis=1))
        for _ in range(50)
    ]
    curve = curve_of(lists, ["dense", "sparse", "colbert"])
    assert curve.weights(curve.best).sparse < 0.2


def test_copies_of_a_document_are_no_rivals_of_its_questions() -> None:
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add([replace(r, id=f"{r.id}-{version}") for r in records() for version in range(12)])
        learned = index.learn_weights(documents=60)
        assert learned.gains["learned"] > 0.5


def test_where_all_documents_are_copies_nothing_is_learned() -> None:
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add([Record(f"d{i}", records(1)[0].text) for i in range(60)])
        with pytest.raises(InputError, match=r"nothing can be learned here: .* copies of each"):
            index.learn_weights()
        assert index.learned_weights is None


def test_learning_over_an_index_that_reencodes_asks_for_few_rivals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    scores = Reencoder.scores

    def counted(self: Reencoder, queries: Any, documents: Any) -> Any:
        asked.extend(map(len, documents))
        return scores(self, queries, documents)

    monkeypatch.setattr(Reencoder, "scores", counted)
    with HybridIndex(BGEM3(FakeEncoder()), reencode=True) as index:
        index.add(records(300))
        learned = index.learn_weights(documents=40)
    assert max(asked[: learned.queries]) <= 30  # ten of each of three lookups


def test_a_store_that_gives_no_numbers_back_has_all_tokens_alike() -> None:
    table = IdfTable.empty()
    assert len(set(table.factors(np.array([1, 5, 9], np.int32), 1.0).tolist())) == 1
    assert table.script_of(np.array([1], np.int32), np.ones(1, np.float32)) is None


def test_adapters_take_learned_weights_by_their_name() -> None:
    lc = pytest.importorskip("bge_m3_integrations.langchain")
    li = pytest.importorskip("bge_m3_integrations.llama_index")
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records())
        index.learn_weights()
        expected = [hit.id for hit in index.search("word3 word9", weights="learned", limit=4)]
        retriever = lc.BGEM3Retriever(index=index, weights="learned", include_scores=True)
        found = retriever.invoke("word3 word9")
        assert [document.id for document in found] == expected
        assert found[0].metadata["bge_m3_scores"]["weighting"] == "learned"
        nodes = li.BGEM3Retriever(index, weights="learned", similarity_top_k=4).retrieve(
            "word3 word9"
        )
        assert [node.node.node_id for node in nodes] == expected
        best = lc.BGEM3Reranker(index=index, weights="learned").compress_documents(
            found, "word3 word9"
        )
        assert best[0].id == expected[0]


def test_the_commands_learn_and_show(tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "i", BGEM3(checkpoint_path())) as index:
        index.add(load_corpus())
    run = CliRunner()
    result = run.invoke(app, ["weights", "show", str(tmp_path / "i")])
    assert result.exit_code == 1
    assert "bge-m3 weights learn" in result.output
    result = run.invoke(app, ["weights", "learn", str(tmp_path / "i")])
    assert result.exit_code == 0, result.output
    assert "Weights learned on" in result.stdout
    result = run.invoke(app, ["weights", "show", str(tmp_path / "i"), "--json"])
    assert result.exit_code == 0, result.output
    held = json.loads(result.stdout)
    assert held["fusion"] == "learned_sum"
    assert held["documents"] >= 40
    assert replace(Weights(**held["weights"])).modes


def test_writing_fails_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HybridIndex.open(tmp_path / "a", BGEM3(FakeEncoder())) as index:
        index.add(records())

        def full(*args: Any, **options: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(np, "savez_compressed", full)
        with pytest.raises(StoreError, match=r"No space left .*learn_weights\(save=False\)"):
            index.learn_weights()
        assert not [p for p in (tmp_path / "a").iterdir() if FILE_NAME in p.name]


def test_a_profile_of_a_file_takes_the_word_frequencies_of_the_index_or_is_refused(
    index: HybridIndex, tmp_path: Path
) -> None:
    learned = index.learn_weights()
    place = tmp_path / "p.toml"
    save_profile(replace(learned, name="mine"), place)
    name = f"{place}:mine"
    texts = [record.text for record in records()]
    by_name = index.rerank("word3 word9", texts, weights=name)
    by_value = index.rerank("word3 word9", texts, weights=learned)
    assert [(r.index, r.score) for r in by_name] == [(r.index, r.score) for r in by_value]
    assert index.explain("word3", "d000", weights=name).lexical_value == pytest.approx(
        index.explain("word3", "d000", weights=learned).lexical_value
    )
    for call in (index.engine.rerank, index.engine.explain):
        with pytest.raises(InputError, match="needs the word frequencies that an index has"):
            call("word3", texts[0] if call == index.engine.explain else texts, weights=name)
    with HybridIndex(index.engine) as other:
        other.add(records())
        with pytest.raises(InputError, match=r"call index.learn_weights"):
            other.search("word3", weights=name)
