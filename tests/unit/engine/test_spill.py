from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch
from bge_m3_integrations.engine.spill import Key, Spill
from bge_m3_integrations.testing import FakeEncoder

DENSE = frozenset({"dense"})


def row(text: str) -> EmbeddingBatch:
    return FakeEncoder().encode([text], kind="document", modes=ALL_MODES)


def key(text: str) -> Key:
    return (512, text)


def assert_is(found: EmbeddingBatch | None, text: str) -> None:
    assert found is not None
    expected = row(text)
    np.testing.assert_array_equal(found.dense, expected.dense)
    assert found[0].sparse == expected[0].sparse
    np.testing.assert_array_equal(found[0].colbert, expected[0].colbert)
    assert found.tokens.tolist() == expected.tokens.tolist()


def size_of(spill: Spill) -> int:
    assert spill._file is not None
    return os.fstat(spill._file.fileno()).st_size


def test_a_row_comes_back_as_often_as_it_is_awaited() -> None:
    spill = Spill(10**6)
    assert spill.put(key("a b"), row("a b"), awaited=2)
    assert_is(spill.take(key("a b"), DENSE), "a b")
    assert_is(spill.take(key("a b"), ALL_MODES), "a b")
    assert spill.take(key("a b"), DENSE) is None
    assert spill.take(key("c"), DENSE) is None


def test_a_mode_that_was_not_kept_is_not_made_up() -> None:
    spill = Spill(10**6)
    spill.put(key("a"), row("a").only({"dense"}), awaited=1)
    assert spill.take(key("a"), ALL_MODES) is None
    assert spill.take(key("a"), DENSE) is not None


def test_the_file_is_empty_when_nothing_is_awaited() -> None:
    spill = Spill(10**6)
    for text in "abc":
        spill.put(key(text), row(text), awaited=1)
    assert size_of(spill) > 0
    for text in "cab":
        spill.take(key(text), DENSE)
    assert size_of(spill) == 0


def test_random_rows_in_a_small_ring_are_right_or_lost_the_oldest_first() -> None:
    bound, draw = 20_000, random.Random(0)
    spill, put, lost = Spill(bound), list[str](), 0
    for i in range(2000):
        if put and draw.random() < 0.4:
            place = draw.randrange(len(put))
            text = put.pop(place)
            found = spill.take(key(text), DENSE)
            if found is None:  # and so are all that were put before it
                assert all(spill.take(key(older), DENSE) is None for older in put[:place])
                lost, put = lost + 1 + place, put[place:]
            else:
                assert_is(found, text)
        else:
            text = " ".join(["word"] * draw.randint(1, 20) + [str(i)])
            put.append(text)
            assert spill.put(key(text), row(text), awaited=1)
        assert size_of(spill) <= bound
    assert 0 < lost < 1000


def test_a_row_larger_than_the_file_may_be_is_lost() -> None:
    spill = Spill(100)
    assert not spill.put(key("a"), row("a"), awaited=1)
    assert spill.take(key("a"), DENSE) is None


def test_a_nearly_full_disk_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    spill = Spill(10**6)
    full = shutil._ntuple_diskusage(10**12, 10**12 - 10**9, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert not spill.put(key("a"), row("a"), awaited=1)


def test_a_folder_that_cannot_be_written_costs_the_row_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(**_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    assert not Spill(10**6).put(key("a"), row("a"), awaited=1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_does_not_touch_its_parents_rows() -> None:
    spill = Spill(10**6)
    spill.put(key("a"), row("a"), awaited=1)
    child = os.fork()
    if child == 0:
        wrong = spill.take(key("a"), DENSE) is not None
        spill.put(key("b"), row("b"), awaited=1)
        spill.take(key("b"), DENSE)
        os._exit(int(wrong))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_is(spill.take(key("a"), DENSE), "a")


def sharing(encoder: FakeEncoder, **options: Any) -> BGEM3:
    engine = BGEM3(encoder, memo_bytes=4096, **options)
    engine.declare("embedding", document={"dense"})
    engine.declare("store", document=ALL_MODES)
    return engine


TEXTS = [f"text number {i}" for i in range(200)]


def test_a_memo_that_overflows_costs_no_second_forward() -> None:
    encoder = FakeEncoder()
    engine = sharing(encoder)
    engine.encode_documents(TEXTS, modes={"dense"})
    got = engine.encode_documents(TEXTS)
    assert encoder.forwards == dict.fromkeys(TEXTS, 1)
    assert engine.stats.spilled > 150
    assert engine.stats.evicted_forwards == 0
    np.testing.assert_array_equal(
        got.dense, BGEM3(FakeEncoder()).encode_documents(TEXTS, modes={"dense"}).dense
    )


def test_what_everybody_has_had_is_not_written() -> None:
    engine = sharing(FakeEncoder())
    for text in TEXTS:
        engine.encode_documents([text], modes={"dense"})
        engine.encode_documents([text])
    assert engine.stats.spilled == 0


@pytest.mark.parametrize("options", [{"spill_bytes": 0}, {"cache": True}], ids=["none", "cache"])
def test_nothing_is_spilled_where_it_is_off_or_a_cache_keeps_all(
    options: dict[str, Any], tmp_path: Path
) -> None:
    if "cache" in options:
        options = {"cache": tmp_path / "cache"}
    engine = sharing(FakeEncoder(), **options)
    engine.encode_documents(TEXTS, modes={"dense"})
    engine.encode_documents(TEXTS)
    assert engine.stats.spilled == 0
    assert engine.stats.evicted_forwards > 0


def test_callers_that_ask_for_queries_only_spill_no_documents() -> None:
    engine = BGEM3(FakeEncoder(), memo_bytes=4096)
    engine.declare("retriever", query=ALL_MODES)
    engine.declare("store", document=ALL_MODES)
    engine.encode_documents(TEXTS)
    assert engine.stats.spilled == 0


def test_a_wrong_bound_is_refused() -> None:
    with pytest.raises(InputError, match="spill_bytes"):
        BGEM3(FakeEncoder(), spill_bytes=-1)
