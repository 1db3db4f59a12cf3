"""Explanations: parts sum to the scores, and every part has its place in the user's text."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bge_m3_integrations import (
    BGEM3,
    HybridIndex,
    InputError,
    ReciprocalRank,
    Record,
    ScaledSum,
    WeightProfile,
    Weights,
)
from bge_m3_integrations.cli.main import app
from bge_m3_integrations.core.explanation import Explanation, difference_of
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.words import SPECIAL, words_of
from bge_m3_integrations.demo import checkpoint_path, load_corpus
from bge_m3_integrations.testing import FakeEncoder

LATIN = [
    "token",
    "vectors",
    "compare",
    "GPUs",
    "half-precision",
    "naïve",
    "ﬃ",
    "½",
    "é",
    "A1",
    "x_y",
    "don't",
    "U.S.",
    "\u200b",
]
HAN = list("混合检索的权重怎么定稠密稀疏多向量，。？ＡＢ𠀀々")
CYRILLIC = ["сравнение", "векторов", "токенов", "на", "видеокартах", "ёлка", "й"]
MIXED = [
    "👩‍👩‍👧",
    "🇩🇪",
    "\x07",
    "a\x00b",
    "مرحبا",
    "ไทย",
    "かな",
    "한국어",
    "\u3000",
    "\t",
    "™",
    "①",
]


@pytest.fixture(scope="module")
def engine() -> BGEM3:
    return BGEM3(checkpoint_path(), device="cpu", dtype="float32", max_length=64)


def text(rng: random.Random, words: list[str], joint: str) -> str:
    return joint.join(rng.choice(words) for _ in range(rng.randint(1, 14))) or "x"


def pairs(count: int) -> Iterator[tuple[str, str]]:
    rng = random.Random(0)
    kinds = [(LATIN, " "), (HAN, ""), (CYRILLIC, " "), ([*MIXED, *LATIN, *HAN], " ")]
    for i in range(count):
        kind = kinds[i % 4]
        yield text(rng, *kind), text(rng, *kind)


def checked(made: Explanation) -> None:
    """Parts sum; spans are substrings."""
    if "sparse" in made.scores and not made.estimated:
        assert made.lexical_value is not None
        assert sum(m.value for m in made.lexical) == pytest.approx(made.lexical_value, abs=1e-5)
    if "colbert" in made.scores:
        total = sum(one.value for one in made.alignments)
        assert total == pytest.approx(made.scores["colbert"], abs=1e-5)
    assert sum(made.parts.values()) == pytest.approx(made.score, abs=1e-5)
    for side in (made.query, made.document):
        ends = -1
        for word in side.words:
            if word.start < 0:
                assert word.text == SPECIAL
                continue
            assert word.text == side.text[word.start : word.end]
            assert word.text
            assert word.start >= ends
            ends = word.end
        places = [token for word in side.words for token in word.tokens]
        assert len(places) == len(set(places))


def test_a_thousand_pairs_in_four_scripts_sum_to_the_engines_scores(engine: BGEM3) -> None:
    asked = list(pairs(1000))
    scores = engine.score_pairs(asked)
    for i, (query, document) in enumerate(asked):
        made = engine.explain(query, document)
        checked(made)
        assert made.query.text == query
        assert made.score == pytest.approx(float(scores.hybrid[i]), abs=1e-5)
        for mode, value in made.scores.items():
            assert value == pytest.approx(float(getattr(scores, mode)[i]), abs=1e-5)
        if made.lexical_value is not None:
            assert made.lexical_value == pytest.approx(float(scores.sparse[i]), abs=1e-5)


@pytest.mark.parametrize(
    ("given", "spans", "expected"),
    [
        ("Unbelievable", [(0, 1), (0, 2), (2, 5), (5, 12)], ["Unbelievable"]),
        ("混合检索", [(0, 1), (0, 2), (2, 4)], ["混合", "检索"]),
        ("½ x", [(0, 1), (0, 1), (0, 1), (2, 3)], ["½", "x"]),
        ("half-life", [(0, 4), (4, 5), (5, 9)], ["half", "-", "life"]),
        ("e\u0301x", [(0, 1), (1, 2), (2, 3)], ["e\u0301x"]),
        ("a b", [(-1, -1), (0, 1), (2, 3), (-1, -1)], ["a", "b", SPECIAL]),
        ("GPUs用", [(0, 3), (3, 4), (4, 5)], ["GPUs", "用"]),
        ("", [], []),
    ],
)
def test_tokens_are_grouped_into_words_that_people_read(
    given: str, spans: list[tuple[int, int]], expected: list[str]
) -> None:
    assert [word.text for word in words_of(given, spans)] == expected


class Shifting(FakeEncoder):
    """Deletes control characters, and counts the places behind them as if they had not been."""

    def tokenize(self, texts: Any, *, kind: Any, max_length: int | None = None) -> Any:
        return super().tokenize(
            [text.replace("\x07", "") for text in texts], kind=kind, max_length=max_length
        )


def test_places_behind_deleted_control_characters_are_mended() -> None:
    made = BGEM3(Shifting()).explain("\x07abc \x07def", "def abc")
    assert [word.text for word in made.query.words if word.start >= 0] == ["abc", "def"]
    checked(made)


def test_with_cleaning_places_are_of_the_cleaned_text_which_comes_along() -> None:
    pytest.importorskip("ftfy")
    made = BGEM3(FakeEncoder(), clean=True).explain("cafÃ©   au lait", "café")
    assert made.query.given == "cafÃ©   au lait"
    assert made.query.text == "café au lait"
    checked(made)
    assert made.lexical[0].query.text == "café"


def test_each_text_is_encoded_once_and_each_word_left_out_once_on_request() -> None:
    encoder = FakeEncoder()
    engine = BGEM3(encoder)
    engine.explain("the cat sleeps", "a cat")
    assert sum(len(call.texts) for call in encoder.calls) == 2
    encoder.calls.clear()
    made = engine.explain("the dog sleeps", "a dog", without="query")
    assert sum(len(call.texts) for call in encoder.calls) == 2 + 3
    assert {one.word.text for one in made.without} == {"the", "dog", "sleeps"}
    full = engine.score(["the dog sleeps"], ["a dog"]).dense[0, 0]
    rest = engine.score(["the  sleeps"], ["a dog"]).dense[0, 0]
    change = next(one.change for one in made.without if one.word.text == "dog")
    assert change == pytest.approx(float(rest - full), abs=1e-6)


def test_what_was_cut_off_is_said(engine: BGEM3) -> None:
    made = engine.explain("cats", "word " * 400)
    assert made.document.truncated > 300
    assert "tokens of the document were cut off" in str(made)
    checked(made)


def test_weights_decide_which_parts_there_are(engine: BGEM3) -> None:
    dense = engine.explain("cats", "dogs", weights=(1, 0, 0))
    assert set(dense.parts) == {"dense"}
    assert not dense.lexical
    assert not dense.alignments
    scaled = WeightProfile("p", Weights(0, 1, 1), ScaledSum())
    made = engine.explain("GPU token", "token GPU", weights=scaled)
    checked(made)
    assert made.weighting == "p"
    raw = engine.explain("GPU token", "token GPU", weights=(0, 1, 1))
    assert made.lexical_value != pytest.approx(raw.lexical_value)
    with pytest.raises(InputError, match="ranks by the places of all candidates"):
        engine.explain("a", "b", weights=WeightProfile("r", Weights(), ReciprocalRank()))
    with pytest.raises(InputError, match="which these weights do not count"):
        engine.explain("a", "b", weights=(0, 1, 0), without="query")
    with pytest.raises(InputError, match='must be "query" or "document"'):
        engine.explain("a", "b", without="both")  # type: ignore[arg-type]
    with pytest.raises(InputError):
        engine.explain("a", 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("modes", [["dense"], ["dense", "sparse"], ["dense", "colbert"]])
def test_a_model_without_a_head_explains_by_the_others(modes: Any) -> None:
    made = BGEM3(FakeEncoder(modes=modes)).explain("the cat", "a cat")
    assert set(made.parts) == set(modes)
    checked(made)


@pytest.mark.parametrize("given", ["", " ", "\x07", "👩‍👩‍👧", "a" * 3000])
def test_strange_texts_have_an_explanation(engine: BGEM3, given: str) -> None:
    for made in (engine.explain(given, "cats"), engine.explain("cats", given)):
        checked(made)
        assert str(made)
        assert made._repr_html_()
        json.dumps(made.to_dict())


def test_a_difference_sums_to_the_difference_of_the_scores(engine: BGEM3) -> None:
    found = engine.explain_difference("token vectors", "compare token vectors", "bees make honey")
    total = sum(part.difference for part in found.parts)
    assert total == pytest.approx(found.a.score - found.b.score, abs=1e-5)
    sizes = [abs(part.difference) for part in found.parts]
    assert sizes == sorted(sizes, reverse=True)
    back = difference_of(found.b, found.a)
    assert sum(p.difference for p in back.parts) == pytest.approx(-total, abs=1e-6)
    json.dumps(found.to_dict())


def test_the_html_has_no_script_and_escapes_what_users_wrote(engine: BGEM3, tmp_path: Path) -> None:
    evil = "<script>alert('x')</script> <b>token</b>"
    made = engine.explain(evil, f"{evil} vectors", without="query")
    made.save_html(tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text("utf-8")
    assert "<script" not in page
    assert "<b>" not in page
    assert "http" not in page


def test_an_index_explains_hits_by_their_own_weights(engine: BGEM3) -> None:
    with HybridIndex(engine) as index:
        index.add(load_corpus())
        for weights in ("keyword", (1, 1, 0)):
            hit = index.search("half precision", weights=weights, limit=1)[0]
            made = index.explain("half precision", hit)
            checked(made)
            assert made.score == pytest.approx(hit.score, abs=1e-4)
        index.learn_weights()
        hit = index.search("half precision", weights="learned", limit=1)[0]
        made = index.explain("half precision", hit)
        checked(made)
        assert made.score == pytest.approx(hit.score, abs=1e-4)
        assert made.lexical_value == pytest.approx(hit.lexical, abs=1e-4)
        assert index.explain("half precision", hit.id).weighting == "default"
        found = index.explain_difference("half precision", hit, load_corpus()[0].id)
        assert found.parts
        with pytest.raises(InputError, match="this index has no record 'nowhere'"):
            index.explain("x", "nowhere")


def test_an_estimated_lexical_value_is_a_part_without_words(engine: BGEM3) -> None:
    query = "过滤 搜索"
    with HybridIndex(engine) as index:
        index.add(load_corpus())
        index.learn_weights()
        hits = index.search(query, weights="learned", exact=True, limit=200)
        foreign = [hit for hit in hits if hit.text.isascii()][:5]
        own = next(hit for hit in hits if "搜索" in hit.text)
        assert len(foreign) == 5
        for hit in foreign:
            made = index.explain(query, hit)
            assert made.estimated
            assert not made.lexical
            checked(made)
            assert made.score == pytest.approx(hit.score, abs=1e-4)
            assert made.lexical_value == pytest.approx(hit.lexical, abs=1e-4)
            assert "estimated from the other scores" in str(made)
            assert "Estimated from the other scores" in made._repr_html_()
            assert made.to_dict()["estimated"]
            found = index.explain_difference(query, own, hit, weights="learned")
            gap = sum(part.difference for part in found.parts)
            assert gap == pytest.approx(found.a.score - found.b.score, abs=1e-6)
            assert "(estimated)" in str(found)
        assert not index.explain(query, own).estimated


def test_learned_weights_of_a_file_are_explained_with_an_index_only(engine: BGEM3) -> None:
    profile = WeightProfile("mine", Weights(), LearnedSum())
    with pytest.raises(InputError, match="'mine' is for learned_sum, which needs the word"):
        engine.explain("token", "token vectors", weights=profile)


def test_the_command_shows_an_explanation_and_a_difference(tmp_path: Path) -> None:
    run = CliRunner()
    html = tmp_path / "x.html"
    result = run.invoke(app, ["explain", "token vectors", "vectors of tokens", "--html", str(html)])
    assert result.exit_code == 0, result.output
    assert "whole meaning" in result.stdout
    assert html.exists()
    result = run.invoke(app, ["explain", "token", "a token", "bees", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parts"]
    with HybridIndex.open(tmp_path / "i", BGEM3(checkpoint_path())) as index:
        index.add([Record("r1", "token vectors")])
    result = run.invoke(app, ["explain", "token", "r1", "--index", str(tmp_path / "i")])
    assert result.exit_code == 0, result.output
    result = run.invoke(app, ["explain", "token", "r2", "--index", str(tmp_path / "i")])
    assert result.exit_code == 1
    assert "no record 'r2'" in result.output


def test_similarities_are_those_of_the_best_tokens(engine: BGEM3) -> None:
    made = engine.explain("token vectors", "vectors of tokens")
    assert made.similarity is not None
    assert made.similarity.shape == (len(made.query.words), len(made.document.words))
    assert float(np.nanmax(made.similarity)) <= 1.0001
