"""Weight profiles: the file, what is found by a name, reloads, and refusals by name."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Weights
from bge_m3_integrations.core.fusion import ReciprocalRank, ScaledSum, WeightedSum
from bge_m3_integrations.core.profile_file import read_profiles, save_profile
from bge_m3_integrations.core.weighting import MeasuredOn, WeightProfile
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["the cat sleeps", "a lazy dog", "honey from bees", "the cat and the dog"]


@pytest.fixture
def index() -> Iterator[HybridIndex]:
    with HybridIndex(BGEM3(FakeEncoder())) as made:
        made.add(TEXTS)
        yield made


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "profiles.toml"
    monkeypatch.setenv("BGE_M3_PROFILES", str(path))
    return path


def written(path: Path, text: str) -> None:
    """Write as an editor does: a new file in place of the old one."""
    new = path.with_suffix(".new")
    new.write_text(text, "utf-8")
    new.replace(path)


def test_a_profile_of_the_file_ranks_by_its_weights_and_its_fusion(
    index: HybridIndex, file: Path
) -> None:
    written(file, '[mine]\nweights = [1, 2, 0]\nfusion = "scaled_sum"\n')
    hits = index.search("cat", weights="mine")
    same = index.search("cat", weights=(1, 2, 0), fusion=ScaledSum())
    assert [(h.id, h.score) for h in hits] == [(h.id, h.score) for h in same]
    assert hits[0].weighting == "mine"
    assert hits[0].fusion == "scaled_sum"
    assert same[0].weighting is None
    assert index.search("cat")[0].weighting == "default"
    assert index.search("cat", weights="keyword")[0].to_dict()["weighting"] == "keyword"


def test_a_file_is_found_beside_the_index_before_the_environment_and_by_its_path(
    file: Path, tmp_path: Path
) -> None:
    written(file, "[both]\nweights = [1, 0, 0]\n[far]\nweights = [0, 1, 0]\n")
    other = tmp_path / "其他.toml"
    written(other, "[far]\nweights = [0, 0, 1]\n")
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder())) as index:
        index.add(TEXTS)
        assert index.path is not None
        written(index.path / "profiles.toml", "[both]\nweights = [1, 1, 1]\n")
        assert index.weighting("both").weights == Weights(1, 1, 1)
        assert index.weighting("far").weights == Weights(0, 1, 0)
        assert index.weighting(f"{other}:far").weights == Weights(0, 0, 1)
        assert index.search("cat", weights=f"{other}:far")[0].weights == Weights(0, 0, 1)
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder())) as index:
        assert index.weighting("both").weights == Weights(1, 1, 1)  # the index opens with it there


def test_without_a_file_the_presets_are_all_there_is(
    index: HybridIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BGE_M3_PROFILES", raising=False)
    with pytest.raises(InputError, match=r"unknown weights 'mien'.*'keyword'.*none by BGE_M3"):
        index.search("cat", weights="mien")


def test_an_unknown_name_is_an_error_with_all_names(index: HybridIndex, file: Path) -> None:
    with pytest.raises(InputError, match=r"no weight profiles in .*profiles.toml: No such file"):
        index.search("cat", weights="mien")
    written(file, "[mine]\nweights = [1, 0, 0]\n")
    with pytest.raises(InputError, match=r"unknown weights 'mien'.*'mine' in .*profiles.toml"):
        index.search("cat", weights="mien")
    with pytest.raises(InputError, match=r"no weight profiles in .*nowhere.toml"):
        index.search("cat", weights="nowhere.toml:mine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a\n", r"is no TOML file of weight profiles: .*line 1"),
        ("[a]\nfusion = 'scaled_sum'\n", r"line 1: profile 'a' needs weights"),
        ("\n\n[b]\nweights = [1, 2]\n", r"line 3: profile 'b': weights need three numbers"),
        ("[b]\nweights = [1, 2, -1]\n", r"at least 0, not \(1, 2, -1\)"),
        ("[b]\nweights = [nan, 2, 1]\n", r"finite numbers"),
        ("[b]\nweights = {dense = 1}\n", r"weights need all of"),
        ("[b]\nweights = [1, 0, 0]\nfusion = 'rrf'\n", r"unknown fusion 'rrf'; there are"),
        ("[b]\nweights = [1, 0, 0]\nk = 3\n", r"k=3 is for the fusion 'reciprocal_rank'"),
        ("[b]\nweights = [1, 0, 0]\nfusion = 'reciprocal_rank'\nk = 0\n", r"k .*above 0"),
        ("[b]\nweights = [1, 0, 0]\nwieghts = 1\n", r"unknown keys \['wieghts'\]"),
        ("[keyword]\nweights = [1, 0, 0]\n", r"'keyword' is a name of the package"),
        ("[learned]\nweights = [1, 0, 0]\n", r"'learned' is a name of the package"),
        ("b = 3\n", r"line 1: profile 'b' needs weights"),
        ("[b]\nweights = [1, 0, 0]\nallow_mismatch = 1\n", r"must be true or false, not 1"),
        (
            "[b]\nweights = [1, 0, 0]\n[b.measured_on]\nmodel = 'x'\n",
            r"measured_on must be a table",
        ),
        ("[b]\nweights = [1, 0, 0]\n[b.measured_on]\nstorage = 3\n", r"storage .*text, not 3"),
    ],
)
def test_a_broken_file_is_an_error_with_file_line_and_fix(
    index: HybridIndex, file: Path, text: str, message: str
) -> None:
    written(file, text)
    with pytest.raises(InputError, match=message) as caught:
        index.search("cat", weights="b")
    assert str(file) in str(caught.value)


def test_what_is_no_text_is_no_profile_file(index: HybridIndex, file: Path) -> None:
    file.write_bytes(b"\xff\xfe[\x00a\x00]\x00")
    with pytest.raises(InputError, match="is no TOML file"):
        index.search("cat", weights="b")


def test_a_change_is_seen_and_a_broken_file_keeps_the_last_good_one_and_says_so_once(
    index: HybridIndex, file: Path
) -> None:
    written(file, "[mine]\nweights = [1, 0, 0]\n")
    assert index.search("cat", weights="mine")[0].weights == Weights(1, 0, 0)
    written(file, "[mine]\nweights = [0, 0, 1]\n# longer\n")
    assert index.search("cat", weights="mine")[0].weights == Weights(0, 0, 1)
    written(file, "[mine]\nweights = ")
    with pytest.warns(UserWarning, match="is no TOML.*read before stay in use"):
        assert index.search("cat", weights="mine")[0].weights == Weights(0, 0, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert index.search("cat", weights="mine")[0].weights == Weights(0, 0, 1)
    file.unlink()
    with pytest.warns(UserWarning, match=r"No such file.*stay in use"):
        assert index.search("cat", weights="mine")[0].weights == Weights(0, 0, 1)
    written(file, "[mine]\nweights = [0, 1, 0]\n")
    assert index.search("cat", weights="mine")[0].weights == Weights(0, 1, 0)


def test_reloads_under_eight_threads_never_mix_two_weightings_in_one_list(
    index: HybridIndex, file: Path
) -> None:
    versions = [f"[mine]\nweights = [{i}, 1, {9 - i}]\n" for i in range(1, 9)]
    written(file, versions[0])
    stop, wrong = threading.Event(), list[Any]()

    def search() -> None:
        while not stop.is_set():
            try:
                for hits in index.search_batch(["cat", "dog"], weights="mine"):
                    weights = {hit.weights for hit in hits}
                    scores = [hit.score for hit in hits]
                    again = [pytest.approx(h.hybrid) for h in hits]
                    if len(weights) != 1 or scores != again or scores != sorted(scores)[::-1]:
                        wrong.append(hits)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=search) for _ in range(8)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for thread in threads:
            thread.start()
        for turn in range(200):
            written(file, versions[turn % 8] + "#" * turn)
        stop.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_a_profile_of_another_model_or_storage_is_refused_or_taken_with_a_warning(
    index: HybridIndex, file: Path
) -> None:
    mine = index.engine.fingerprint
    profile = WeightProfile("p", Weights(1, 1, 1), measured_on=MeasuredOn(fingerprint=mine))
    assert index.search("cat", weights=profile)[0].weighting == "p"
    other = replace(profile, measured_on=MeasuredOn(fingerprint="another"))
    with pytest.raises(
        InputError, match=f"'p' was measured on the model 'another', and here it is '{mine}'"
    ):
        index.search("cat", weights=other)
    with pytest.raises(InputError, match="the model 'another'"):
        index.engine.rerank("cat", TEXTS, weights=other)
    stored = replace(profile, measured_on=MeasuredOn(storage="turbo8"))
    with pytest.raises(InputError, match="kept as 'turbo8', and here it is 'float32'"):
        index.search("cat", weights=stored)
    save_profile(replace(other, allow_mismatch=True), file)
    with pytest.warns(UserWarning, match=r"the model 'another'.*used all the same"):
        assert index.search("cat", weights="p")[0].weights == Weights(1, 1, 1)


def test_a_profiles_fusion_and_another_one_contradict_each_other(index: HybridIndex) -> None:
    profile = WeightProfile("p", Weights(1, 1, 1), ScaledSum())
    with pytest.raises(InputError, match=r"'p' is for ScaledSum.*fusion=WeightedSum"):
        index.search("cat", weights=profile, fusion=WeightedSum())
    assert index.search("cat", weights=profile, fusion=ScaledSum())
    free = index.search("cat", weights="keyword", fusion=ReciprocalRank())
    assert free[0].fusion == "reciprocal_rank"
    with pytest.raises(InputError, match="'p' is for scaled_sum, and these scores are raw"):
        index.engine.score(["cat"], TEXTS, weights=profile)
    ranked = index.rerank("cat", TEXTS, weights=profile)
    by_search = {hit.text: hit.score for hit in index.search("cat", weights=profile, exact=True)}
    assert {TEXTS[r.index]: r.score for r in ranked} == pytest.approx(by_search, abs=1e-6)
    assert ranked[0].score_details["fusion"] == "scaled_sum"
    assert ranked[0].score_details["weighting"] == "p"


def test_a_file_that_was_written_reads_as_it_was_and_keeps_what_people_wrote(file: Path) -> None:
    written(file, "# ours\n[other] # keep\nweights = [1, 0, 0]\n")
    profile = WeightProfile(
        "订单 2",
        Weights(0.5, 0.25, 0.25),
        ReciprocalRank(30.0),
        MeasuredOn(fingerprint="f", storage="turbo8", collection="c", evidence='20 "queries"'),
        allow_mismatch=True,
    )
    save_profile(profile, file)
    save_profile(replace(profile, weights=Weights(1, 1, 1)), file)
    save_profile(profile, file)
    assert read_profiles(file)["订单 2"] == profile
    assert file.read_text("utf-8").startswith("# ours\n[other] # keep\n")
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["", "keyword", "learned", "a:b", None])
def test_a_name_that_could_not_be_found_again_is_not_written(file: Path, name: Any) -> None:
    with pytest.raises(InputError, match="a profile for"):
        save_profile(WeightProfile(name, Weights()), file)
    assert not file.exists()


def test_a_broken_file_is_not_overwritten(file: Path) -> None:
    written(file, "[mine\n")
    with pytest.raises(InputError, match="is no TOML"):
        save_profile(WeightProfile("a", Weights()), file)
    assert file.read_text() == "[mine\n"


def test_a_function_of_the_query_chooses_for_each_query_of_a_batch(index: HybridIndex) -> None:
    def choose(query: str) -> Any:
        return "keyword" if "dog" in query else (1, 0, 0)

    queries = ["cat", "lazy dog", "honey", "dog"]
    batch = index.search_batch(queries, weights=choose)
    alone = [index.search(query, weights=choose(query)) for query in queries]
    assert [[h.id for h in hits] for hits in batch] == [[h.id for h in hits] for hits in alone]
    assert [hits[0].weighting for hits in batch] == [None, "keyword", None, "keyword"]
    assert index.search_batch([], weights=choose) == []
    reranked = index.rerank_batch(queries, [TEXTS] * 4, weights=choose)
    assert [r[0].weighting for r in reranked] == [None, "keyword", None, "keyword"]
    assert index.engine.rerank("dog", TEXTS, weights=choose)[0].weighting == "keyword"


@pytest.mark.parametrize("returned", [None, "nothing", (1, 2), lambda query: (1, 1, 1)])
def test_a_function_that_returns_no_weights_is_an_error(index: HybridIndex, returned: Any) -> None:
    with pytest.raises(InputError, match=r"no weights|unknown weights|three numbers"):
        index.search("cat", weights=lambda query: returned)


def test_where_no_text_is_known_a_function_is_an_error(index: HybridIndex) -> None:
    embedded = index.engine.encode_queries(["cat"])
    with pytest.raises(InputError, match="a function of the query's text, which is not known"):
        index.search_embedded(embedded, weights=lambda query: (1, 0, 0))
    with pytest.raises(InputError, match="a function of the query's text, which is not known"):
        index.engine.score(["cat"], TEXTS, weights=lambda query: (1, 0, 0))


async def test_names_and_functions_work_in_coroutines_and_diverse_searches(
    index: HybridIndex, file: Path
) -> None:
    written(file, "[mine]\nweights = [1, 0, 0]\n")
    for weights in ("mine", lambda query: "mine"):
        assert (await index.asearch("cat", weights=weights))[0].weighting == "mine"
        assert index.search_diverse("cat", weights=weights)[0].weighting == "mine"
