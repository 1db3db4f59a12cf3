"""Learned weights beside their index: who sees them, who may change them, and damaged files."""

from __future__ import annotations

import json
import pickle
import stat
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Record, StoreError
from bge_m3_integrations.core.learned import LearnedWeights
from bge_m3_integrations.core.weighting import LEARNED_FILE
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.index.test_learning import records


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with HybridIndex.open(tmp_path / "i", BGEM3(FakeEncoder()), colbert="float32") as index:
        index.add(records())
        index.learn_weights()
    return tmp_path / "i"


def test_an_index_that_is_read_only_is_refused_before_any_work(folder: Path) -> None:
    encoder = FakeEncoder()
    before = (folder / LEARNED_FILE).read_bytes()
    with HybridIndex.open(folder, BGEM3(encoder), read_only=True) as index:
        with pytest.raises(StoreError, match=r"read_only=True, .*learn_weights\(save=False\)"):
            index.learn_weights(seed=1)
        assert not encoder.calls
        learned = index.learn_weights(seed=1, save=False)
        assert index.weighting("learned") == learned
    assert (folder / LEARNED_FILE).read_bytes() == before


def test_another_handle_and_another_process_see_new_weights_at_once(folder: Path) -> None:
    with (
        HybridIndex.open(folder, BGEM3(FakeEncoder())) as one,
        HybridIndex.open(folder, BGEM3(FakeEncoder())) as two,
    ):
        old = two.weighting("learned")
        new = one.learn_weights(seed=1, documents=50)
        assert new != old
        assert two.weighting("learned") == new
        assert two.learned_weights is two.learned_weights  # read once
        (folder / LEARNED_FILE).unlink()
        assert one.learned_weights is two.learned_weights is None


def test_the_file_is_as_readable_as_its_neighbours_and_nothing_else_is_left(folder: Path) -> None:
    mode = stat.S_IMODE((folder / LEARNED_FILE).stat().st_mode)
    assert mode == stat.S_IMODE((folder / "manifest.json").stat().st_mode)
    assert [path.name for path in folder.iterdir() if LEARNED_FILE in path.name] == [LEARNED_FILE]


def test_a_copy_whose_numbers_are_the_same_takes_them_along(folder: Path, tmp_path: Path) -> None:
    with HybridIndex.open(folder, BGEM3(FakeEncoder())) as index:
        learned = index.weighting("learned")
        index.copy_to(tmp_path / "same")
        index.copy_to(tmp_path / "other", colbert="float16")
    with HybridIndex.open(tmp_path / "same", BGEM3(FakeEncoder())) as copy:
        assert copy.weighting("learned") == learned
    with HybridIndex.open(tmp_path / "other", BGEM3(FakeEncoder())) as copy:
        assert copy.learned_weights is None
    with HybridIndex(BGEM3(FakeEncoder())) as memory:
        memory.add(records())
        learned = memory.learn_weights()
        memory.copy_to(tmp_path / "of memory")
    with HybridIndex.open(tmp_path / "of memory", BGEM3(FakeEncoder())) as copy:
        assert copy.weighting("learned") == learned


def test_they_are_values_that_frameworks_may_copy_hash_and_send(folder: Path) -> None:
    with HybridIndex.open(folder, BGEM3(FakeEncoder())) as index:
        learned = index.learned_weights
    assert isinstance(learned, LearnedWeights)
    for copy in (deepcopy(learned), pickle.loads(pickle.dumps(learned))):
        assert copy == learned
        assert hash(copy) == hash(learned)


def test_an_index_that_grows_in_this_process_says_so_once() -> None:
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records())
        index.learn_weights()
        index.search("word3", weights="learned")
        index.add([Record(f"e{i}", "more of it") for i in range(59)])
        with pytest.warns(UserWarning, match="in memory were learned when it had 60 documents"):
            index.add(["and one more"])
        index.ingest([Record("f", "still more")])
        index.search("word3", weights="learned")


def test_weights_of_an_index_with_other_modes_are_refused_by_name() -> None:
    learned = {}
    for modes in ("dense", "sparse"), ("dense", "colbert"):
        with HybridIndex(BGEM3(FakeEncoder()), modes=modes) as index:  # type: ignore[arg-type]
            index.add(records())
            learned[modes] = index.learn_weights()
            assert index.search("word3", weights=learned[modes])
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records())
        for modes, profile in learned.items():
            said = f"on the modes '{' . '.join(modes)}', and here it is 'dense . sparse . colbert'"
            with pytest.raises(InputError, match=said):
                index.search("word3", weights=profile)


@pytest.mark.parametrize("seed", ["a", None, 1.5, True, -1])
def test_a_seed_is_a_whole_number(seed: Any) -> None:
    with HybridIndex(BGEM3(FakeEncoder())) as index:
        index.add(records())
        with pytest.raises(InputError, match="seed must be a whole number"):
            index.learn_weights(seed=seed)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"counts": lambda held: held[:3]}, "columns of the idf are not alike"),
        ({"token_ids": lambda held: held.astype(float)}, "columns of the idf are not alike"),
        ({"token_ids": lambda held: held[::-1]}, "unsorted tokens"),
        ({"counts": lambda held: -held}, "negative counts"),
        ({"script": lambda held: held * 0 + 99}, "a script without a name"),
        ({"power": lambda _: float("nan")}, "the power is nan"),
        ({"imputation": lambda _: [1.0]}, r"the imputation is \[1.0\]"),
        ({"weights": lambda _: {"dense": -1, "sparse": 0, "colbert": 1}}, "weights must be"),
        ({"weights": lambda _: None}, "TypeError"),
    ],
    ids=range(9),
)
def test_what_a_search_would_stumble_over_is_damage(folder: Path, change: Any, said: str) -> None:
    path = folder / LEARNED_FILE
    held = dict(np.load(path))
    about = json.loads(held.pop("about").tobytes())
    for name, changed in change.items():
        place = held if name in held else about
        place[name] = changed(place[name])
    np.savez(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **held)
    with (
        HybridIndex.open(folder, BGEM3(FakeEncoder())) as index,
        pytest.raises(StoreError, match=f"is damaged .*{said}.*; learn again"),
    ):
        index.search("word3", weights="learned")


def test_what_cannot_be_read_is_not_called_damaged(folder: Path) -> None:
    (folder / LEARNED_FILE).unlink()
    (folder / LEARNED_FILE).mkdir()
    with HybridIndex.open(folder, BGEM3(FakeEncoder())) as index:
        with pytest.raises(StoreError, match=r"cannot be read: Is a directory; make it readable"):
            index.search("word3", weights="learned")
        with pytest.raises(StoreError, match=r"not kept in .*Is a directory"):
            index.learn_weights()
    assert not [path for path in folder.iterdir() if path.name.endswith(".new")]
