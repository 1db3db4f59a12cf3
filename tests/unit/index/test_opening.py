"""HybridIndex in a folder: opened, closed, opened again, by the right model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.base import Page
from bge_m3_integrations.stores.edge import lifecycle
from bge_m3_integrations.testing import FakeEncoder

RECORDS = [
    Record(f"{i:02}", f"document {i} about {'foxes' if i % 2 else 'bridges'}", {"n": i})
    for i in range(20)
]


def fake(**options: int) -> BGEM3:
    return BGEM3(FakeEncoder(**options))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(folder: Path) -> Iterator[HybridIndex]:
    with HybridIndex.open(folder, fake(), colbert="float32") as opened:
        opened.add(RECORDS)
        yield opened


def test_what_was_added_is_there_after_reopening(index: HybridIndex, folder: Path) -> None:
    before = index.search("bridges 4", limit=5)
    index.close()
    with HybridIndex.open(folder, fake()) as again:
        after = again.search("bridges 4", limit=5)
        assert again.count() == len(RECORDS)
    assert [hit.record for hit in after] == [hit.record for hit in before]
    assert [hit.components for hit in after] == [hit.components for hit in before]
    assert {hit.colbert_kind for hit in after} == {"float32"}


def test_a_folder_gives_the_same_hits_as_memory(index: HybridIndex) -> None:
    memory = HybridIndex(fake())
    memory.add(RECORDS)
    for where in (None, {"n": {"$gte": 10}}, lambda metadata: metadata["n"] % 3 == 0):
        ours = index.search("foxes 3", limit=6, where=where)
        theirs = memory.search("foxes 3", limit=6, where=where)
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]
        for mine, its in zip(ours, theirs, strict=True):
            assert mine.score == pytest.approx(its.score, abs=1e-5)


def test_a_closed_index_searches_no_more_though_another_holds_its_folder(folder: Path) -> None:
    with HybridIndex.open(folder, fake()) as other:
        index = HybridIndex.open(folder, fake())
        index.add(RECORDS)
        index.close()
        for use in (lambda: index.search("fox"), index.count, lambda: index.add(RECORDS)):
            with pytest.raises(StoreError, match="this index is closed"):
                use()
        assert other.count() == len(RECORDS)


def test_two_opens_share_one_index_and_the_last_close_releases_it(folder: Path) -> None:
    first, second = HybridIndex.open(folder, fake()), HybridIndex.open(folder, fake())
    first.add(RECORDS[:3])
    assert second.count() == 3
    first.close()
    first.close()
    assert second.count() == 3
    second.close()
    with pytest.raises(StoreError, match="closed"):
        second.count()


def test_another_model_is_refused_and_both_are_named(index: HybridIndex, folder: Path) -> None:
    index.close()
    with pytest.raises(StoreError, match=r"made by .*fingerprint.*is to search it"):
        HybridIndex.open(folder, fake(dim=8))
    with pytest.raises(StoreError, match=r"colbert 'float32', but 'turbo8'"):
        HybridIndex.open(folder, fake(), colbert="turbo8")
    with HybridIndex.open(folder, fake()) as again:
        assert again.count() == len(RECORDS)


def test_an_old_index_loads_its_own_model(folder: Path, xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32", max_length=30)
    with HybridIndex.open(folder, engine) as index:
        index.add(RECORDS[:3])
        before = index.search("document 2", limit=3)
    with HybridIndex.open(folder) as again:
        assert again.engine.name == str(xlm_roberta)
        assert again.engine.options["max_length"] == 30
        assert [hit.id for hit in again.search("document 2", limit=3)] == [h.id for h in before]


def test_a_models_folder_is_found_again_from_another_place(
    folder: Path, xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(xlm_roberta.parent)
    HybridIndex.open(folder, BGEM3(f"./{xlm_roberta.name}", device="cpu"), create=True).close()
    monkeypatch.chdir(folder)
    with HybridIndex.open(folder) as again:
        assert again.engine.name == str(xlm_roberta.resolve())


def test_an_index_of_an_encoder_object_asks_for_its_engine(
    index: HybridIndex, folder: Path
) -> None:
    index.close()
    with pytest.raises(StoreError, match="pass engine="):
        HybridIndex.open(folder)


def test_an_engine_without_a_mode_is_refused_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(InputError, match="colbert"):
        HybridIndex.open(folder, fake(), modes=["dense"], colbert="tiny")
    assert not (folder / "manifest.json").exists()


def test_ingesting_again_encodes_nothing_and_counts_it(index: HybridIndex) -> None:
    encoder_calls = index.engine.stats.texts
    done = index.ingest(iter(RECORDS))
    assert (done.encoded, done.rewritten, done.unchanged) == (0, 0, 20)
    assert index.engine.stats.texts == encoder_calls


def test_an_ingestion_encodes_new_texts_and_rewrites_new_metadata(index: HybridIndex) -> None:
    changed = [
        Record("00", RECORDS[0].text, {"n": 100}),
        Record("01", "another text", {"n": 1}),
        Record("99", "a new one"),
        Record("99", "a newer one"),
        *RECORDS[2:],
    ]
    texts = index.engine.stats.texts
    reported: list[tuple[int, int | None]] = []
    done = index.ingest(changed, batch_size=8, progress=lambda n, of: reported.append((n, of)))
    assert (done.encoded, done.rewritten, done.unchanged) == (2, 1, 18)
    assert index.engine.stats.texts - texts == 2
    assert reported[-1] == (22, 22)
    assert [index.get([key])[0] for key in ("00", "99")] == [changed[0], changed[3]]
    assert index.search("another text", limit=1)[0].id == "01"


def test_reencoding_keeps_no_token_vectors_and_gives_the_same_scores(
    index: HybridIndex, tmp_path: Path
) -> None:
    with HybridIndex.open(tmp_path / "other", fake(), colbert="reencode") as again:
        again.add(RECORDS)
        ours, theirs = again.search("foxes 3", limit=6), index.search("foxes 3", limit=6)
        assert [hit.id for hit in ours] == [hit.id for hit in theirs]
        for mine, its in zip(ours, theirs, strict=True):
            assert mine.components == pytest.approx(its.components, abs=1e-5)
        assert {hit.colbert_kind for hit in ours} == {"reencode"}
        assert again.store.capabilities.score == {"dense", "sparse"}


@pytest.mark.parametrize("pooling", [0, -2, 1.5])
def test_a_pooling_that_is_none_begins_no_index(folder: Path, pooling: int) -> None:
    with pytest.raises(InputError, match="pooling must be a whole number"):
        HybridIndex.open(folder, fake(), pooling=pooling)
    HybridIndex.open(folder, fake()).close()


@pytest.mark.parametrize(("width", "kind"), [(1024, "turbo8"), (1023, "float16")])
def test_token_vectors_are_kept_as_exactly_as_their_width_needs(
    tmp_path: Path, width: int, kind: str
) -> None:
    encoder = FakeEncoder(colbert_dim=width)
    with HybridIndex.open(tmp_path / "index", BGEM3(encoder)) as index:
        assert index.store.capabilities.colbert_kind == kind


def test_pooling_is_kept_in_the_manifest_and_named_in_the_hits(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    path = tmp_path / "pooled"
    with HybridIndex.open(path, fake(), pooling=2) as index:
        index.add(RECORDS)
    with HybridIndex.open(path, fake()) as index:
        held = index.store.vectors(["00"], ["colbert"]).colbert
        alone = index.engine.encode_documents([RECORDS[0].text], modes=["colbert"]).colbert
        assert held is not None
        assert alone is not None
        assert len(held.vectors) == int(np.ceil(len(alone.vectors) / 2))
        assert index.search("foxes")[0].colbert_kind == "float16, 2 tokens a vector"


def test_a_backup_is_an_index_and_can_be_restored(index: HybridIndex, tmp_path: Path) -> None:
    index.backup(tmp_path / "backup")
    index.delete(ids=["00", "01"])
    HybridIndex.restore(tmp_path / "backup", tmp_path / "restored")
    with HybridIndex.open(tmp_path / "restored", fake()) as restored:
        assert restored.get([r.id for r in RECORDS]) == RECORDS
    assert index.count() == len(RECORDS) - 2
    with pytest.raises(StoreError, match="already holds"):
        index.backup(tmp_path / "restored")
    with pytest.raises(StoreError, match="no backup"):
        HybridIndex.restore(tmp_path / "nothing", tmp_path / "elsewhere")


def paged(
    monkeypatch: pytest.MonkeyPatch, index: HybridIndex, meanwhile: Callable[[], object]
) -> None:
    """Have something happen as the copy of an index comes to the third page."""
    pages: list[Page] = []
    scroll = index.store.scroll

    def scrolled(**options: Any) -> Page:
        pages.append(scroll(**options))
        if len(pages) == 3:
            meanwhile()
            return replace(
                pages[-1], records=[r for r in pages[-1].records if index.get([r.id])[0]]
            )
        return pages[-1]

    monkeypatch.setattr(index.store, "scroll", scrolled)


MANY = [Record(f"{i:03}", f"document {i}") for i in range(300)]


@pytest.fixture
def many() -> HybridIndex:
    index = HybridIndex(fake())
    index.add(MANY)
    return index


@pytest.mark.parametrize("there", [False, True])
def test_a_copy_that_was_cut_is_no_index_and_can_be_repeated(
    many: HybridIndex, folder: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def cut() -> None:
        with pytest.raises(StoreError, match=r"no manifest\.json"):
            HybridIndex.open(folder, fake())
        raise KeyboardInterrupt

    if there:
        folder.mkdir()
    paged(monkeypatch, many, cut)
    with pytest.raises(KeyboardInterrupt):
        many.copy_to(folder)
    assert [file.name for file in folder.parent.rglob("*")] == [folder.name] * there
    many.copy_to(folder)
    with HybridIndex.open(folder, fake()) as copy:
        assert copy.get([record.id for record in MANY]) == MANY
    assert {file.name for file in folder.iterdir()} - {"lock"} == {"manifest.json", "shard-0001"}


def test_a_copy_goes_on_behind_a_page_that_was_deleted_meanwhile(
    many: HybridIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = [record.id for record in MANY[128:192]]
    paged(monkeypatch, many, lambda: many.delete(ids=third))
    many.copy_to(folder)
    with HybridIndex.open(folder, fake()) as copy:
        assert copy.count() == many.count() == 236


@pytest.mark.parametrize("deleted", [[], [MANY[5].id]], ids=["changed", "deleted too"])
def test_a_copy_holds_the_numbers_of_its_own_texts_though_they_change_meanwhile(
    many: HybridIndex, folder: Path, monkeypatch: pytest.MonkeyPatch, deleted: list[str]
) -> None:
    vectors, changed = many.store.vectors, MANY[3]
    other = Record(changed.id, "quite another text")

    def late(ids: list[str], modes: Any) -> Any:
        if changed.id in ids and many.get([changed.id])[0] == changed:
            many.add([other])
            many.delete(ids=deleted)
        return vectors(ids, modes)

    monkeypatch.setattr(many.store, "vectors", late)
    many.copy_to(folder)
    with HybridIndex.open(folder, fake()) as copy:
        assert copy.get([changed.id]) == [other]
        assert copy.count() == len(MANY) - len(deleted)
        found = copy.store.vectors([changed.id], ["dense"]).dense
        expected = fake().encode_documents([other.text]).dense
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_copy_spares_what_somebody_else_puts_into_its_folder(
    many: HybridIndex, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paged(monkeypatch, many, lambda: (folder / "letter.txt").write_text("dear"))
    with pytest.raises(StoreError, match=r"holds \['letter.txt'\] by now"):
        many.copy_to(folder)
    assert [file.name for file in folder.iterdir()] == ["letter.txt"]


def test_a_backup_that_was_cut_leaves_nothing(
    index: HybridIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(_: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lifecycle, "sync_files", cut)
        with pytest.raises(KeyboardInterrupt):
            index.backup(tmp_path / "backup")
    assert not (tmp_path / "backup").exists()
    index.backup(tmp_path / "backup")


def test_a_memory_index_has_no_backup(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"HybridIndex\.open"):
        HybridIndex(fake()).backup(tmp_path / "backup")


def test_compacting_keeps_everything(index: HybridIndex) -> None:
    index.delete(ids=[record.id for record in RECORDS[:10]])
    said: list[str] = []
    index.compact(progress=said.append)
    assert said[-1] == "done"
    assert index.get([record.id for record in RECORDS]) == [None] * 10 + RECORDS[10:]
    index.add(RECORDS[:1])
    assert index.count() == 11


def test_diverse_hits_are_relevant_and_unlike_each_other() -> None:
    index = HybridIndex(fake())
    twins = [Record(f"twin{i}", "the fox on the bridge") for i in range(4)]
    index.add([*twins, Record("other", "the fox in the garden")])
    plain = [hit.id for hit in index.search("fox on the bridge", limit=2)]
    assert plain == ["twin0", "twin1"]
    diverse = index.search_diverse("fox on the bridge", limit=2, mmr_lambda=0.3)
    assert [hit.id for hit in diverse] == ["twin0", "other"]
    assert index.search_diverse("fox", limit=2, mmr_lambda=1.0) == index.search("fox", limit=2)
    with pytest.raises(InputError, match="mmr_lambda"):
        index.search_diverse("fox", mmr_lambda=1.5)
