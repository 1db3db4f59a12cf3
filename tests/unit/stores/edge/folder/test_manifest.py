from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge.folder.config import FolderConfig
from bge_m3_integrations.stores.edge.folder.manifest import NAME, EncoderInfo, Manifest

NOTE = EncoderInfo(
    "f" * 64, "org/name", "main", "float32", 512, "cls", "document: ", "query: ", True
)
HELD = Manifest(("dense", "sparse", "colbert"), 8, 4, "turbo8", 2, ("lang", "year"), 3, NOTE)


def written(folder: Path, text: str) -> Path:
    (folder / NAME).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("manifest", [HELD, Manifest(("sparse",), None, None, None)])
def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path, manifest: Manifest) -> None:
    manifest.write(tmp_path)
    assert Manifest.read(tmp_path) == manifest
    assert [file.name for file in tmp_path.iterdir()] == [NAME]


def test_no_file_is_no_manifest(tmp_path: Path) -> None:
    assert Manifest.read(tmp_path) is None
    assert Manifest.read(tmp_path / "nowhere") is None


def test_what_was_begun_has_no_shard_before_its_first_generation() -> None:
    begun = Manifest(("sparse",), None, None, None)
    assert begun.generation == 0
    assert begun.next().shard == "shard-0001"
    assert replace(begun, generation=12345).shard == "shard-12345"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "{}", '{"kind": "webextension"}', "[" * 100_000, "\x00\x01"],
)
def test_another_file_of_that_name_is_not_taken_for_ours(tmp_path: Path, text: str) -> None:
    with pytest.raises(StoreError, match="no manifest of ours"):
        Manifest.read(written(tmp_path, text))


def test_bytes_that_are_no_text_are_not_taken_for_ours(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff\xfe{")
    with pytest.raises(StoreError, match="no manifest of ours"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_named_beside_ours(tmp_path: Path, version: object) -> None:
    text = json.dumps({**asdict(HELD), "format": version})
    with pytest.raises(StoreError, match=rf"has format {version}, this version reads 1"):
        Manifest.read(written(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("modes", None),
        ("modes", []),
        ("modes", ["dense", "verse"]),
        ("modes", 3),
        ("dim", None),
        ("dim", "8"),
        ("dim", 0),
        ("colbert_dim", -1),
        ("colbert", None),
        ("colbert", "turbo4"),
        ("colbert", ""),
        ("colbert", 3),
        ("filter_fields", "lang"),
        ("filter_fields", [1, 2]),
        ("filter_fields", {"lang": 1}),
        ("encoder", {"fingerprint": 5}),
        ("encoder", {"fingerprint": None}),
        ("encoder", {"fingerprint": "f", "model": 5}),
        ("encoder", {"fingerprint": "f", "max_length": "512"}),
        ("encoder", {"fingerprint": "f", "clean": "no"}),
        ("encoder", {"fingerprint": "f", "query_instruction": 1}),
        ("pooling", 0),
        ("filter_fields", 5),
        ("generation", "../elsewhere"),
        ("generation", -1),
        ("generation", True),
        ("encoder", "x"),
        ("encoder", {"unheard": 1}),
        ("unheard", 1),
    ],
)
def test_a_damaged_manifest_is_said_to_be_damaged(tmp_path: Path, name: str, value: Any) -> None:
    with pytest.raises(StoreError, match="damaged"):
        Manifest.read(written(tmp_path, json.dumps({**asdict(HELD), name: value})))


@pytest.mark.parametrize(
    "name", ["modes", "dim", "colbert_dim", "colbert", "filter_fields", "encoder"]
)
def test_a_manifest_that_lacks_a_value_it_needs_is_damaged(tmp_path: Path, name: str) -> None:
    held = asdict(HELD)
    del held[name]
    if name in {"pooling", "generation"}:
        pytest.skip("has a default")
    with pytest.raises(StoreError, match="damaged"):
        Manifest.read(written(tmp_path, json.dumps(held)))


def test_a_kind_of_token_vectors_that_is_unknown_is_named_with_those_that_are_known(
    tmp_path: Path,
) -> None:
    with pytest.raises(StoreError, match=r"colbert='turbo4' is not one of .*'turbo8'.*newer"):
        Manifest.read(written(tmp_path, json.dumps({**asdict(HELD), "colbert": "turbo4"})))


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file is a file"):
        Manifest.read(tmp_path / "file")


def test_a_folder_in_place_of_the_manifest_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        Manifest.read(tmp_path)


def test_what_is_not_asked_for_is_as_it_is(tmp_path: Path) -> None:
    FolderConfig().check(HELD, tmp_path)


@pytest.mark.parametrize(
    ("wanted", "asked", "held"),
    [
        (FolderConfig(modes=["dense"]), "dense", "colbert"),
        (FolderConfig(dim=9), "9", "8"),
        (FolderConfig(colbert_dim=5), "5", "4"),
        (FolderConfig(colbert="float16"), "float16", "turbo8"),
        (FolderConfig(colbert="reencode"), "reencode", "turbo8"),
        (FolderConfig(pooling=3), "3", "2"),
        (FolderConfig(filter_fields=("lang",)), r"\('lang',\)", "year"),
        (FolderConfig(filter_fields=()), r"\(\)", "year"),
        (FolderConfig(encoder=replace(NOTE, fingerprint="e" * 64)), "e" * 12, "f" * 12),
        (FolderConfig(encoder=replace(NOTE, dtype="int8")), "int8", "float32"),
        (FolderConfig(encoder=replace(NOTE, max_length=256)), "256", "512"),
        (FolderConfig(encoder=replace(NOTE, max_length=None)), "the full length", "512"),
    ],
)
def test_a_contradiction_names_both_sides(
    tmp_path: Path, wanted: FolderConfig, asked: str, held: str
) -> None:
    with pytest.raises(StoreError, match=asked) as error:
        wanted.check(HELD, tmp_path)
    assert held in str(error.value)


@pytest.mark.parametrize("fields", [(), ("lang",)])
def test_fields_contradict_an_index_that_filters_by_all(
    tmp_path: Path, fields: tuple[str, ...]
) -> None:
    with pytest.raises(StoreError, match="filter_fields 'all'"):
        FolderConfig(filter_fields=fields).check(replace(HELD, filter_fields=None), tmp_path)


def test_a_kind_of_token_vectors_contradicts_an_index_without_them(tmp_path: Path) -> None:
    sparse = Manifest(("sparse",), None, None, None)
    with pytest.raises(StoreError, match="'turbo8' is asked for"):
        FolderConfig(colbert="turbo8").check(sparse, tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", None])
def test_another_float_dtype_is_fine(tmp_path: Path, dtype: str | None) -> None:
    FolderConfig(encoder=replace(NOTE, dtype=dtype)).check(HELD, tmp_path)


def test_int8_may_meet_float_where_that_is_allowed(tmp_path: Path) -> None:
    note = replace(NOTE, dtype="int8")
    FolderConfig(encoder=note, allow_dtype_mismatch=True).check(HELD, tmp_path)
    FolderConfig(encoder=NOTE, allow_dtype_mismatch=True).check(
        replace(HELD, encoder=note), tmp_path
    )
    with pytest.raises(StoreError, match="was made in int8, but float32"):
        FolderConfig(encoder=NOTE).check(replace(HELD, encoder=note), tmp_path)


def test_the_name_of_the_model_does_not_matter(tmp_path: Path) -> None:
    FolderConfig(encoder=replace(NOTE, model="elsewhere", revision="v2")).check(HELD, tmp_path)
