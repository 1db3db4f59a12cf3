"""Damages to a cache's file: wrong numbers never come back, whatever is hit."""

from __future__ import annotations

import errno
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch
from bge_m3_integrations.engine.cache import CacheWarning, EmbeddingCache
from bge_m3_integrations.engine.cache_file import CacheFile, Item
from bge_m3_integrations.engine.cached_encoder import CachedEncoder
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.testing import FakeEncoder

TEXTS = [f"text {i} of foxes, rivers and stones" for i in range(40)]
TIMES = 67


def encoder_of(folder: Path) -> CachedEncoder:
    return CachedEncoder(FakeEncoder(dim=256, colbert_dim=64), EmbeddingCache(folder))


def encode(encoder: CachedEncoder | FakeEncoder) -> EmbeddingBatch:
    return encoder.encode(TEXTS, kind="document", modes=ALL_MODES)


def flipped(held: bytearray, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 8, 200])):
        held[chance.randrange(len(held))] ^= 1 << chance.randrange(8)


def overwritten(held: bytearray, chance: random.Random) -> None:
    start = chance.randrange(len(held))
    size = len(held[start : start + chance.choice([4, 600, 70_000])])
    held[start : start + size] = chance.choice([bytes(size), chance.randbytes(size)])


def exchanged(held: bytearray, chance: random.Random) -> None:
    one, other = (65_536 * chance.randrange(1, len(held) // 65_536) for _ in range(2))
    first, second = (held[start : start + 65_536] for start in (one, other))
    held[one : one + 65_536], held[other : other + 65_536] = second, first


def cut(held: bytearray, chance: random.Random) -> None:
    del held[chance.randrange(len(held)) :]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    with encoder_of(folder).cache as cache:
        encode(CachedEncoder(FakeEncoder(dim=256, colbert_dim=64), cache))
    return folder


@pytest.mark.filterwarnings("ignore::bge_m3_integrations.engine.cache.CacheWarning")
@pytest.mark.parametrize("damage", [flipped, overwritten, exchanged, cut])
def test_no_damage_gives_wrong_numbers(
    sound: Path, tmp_path: Path, damage: Callable[[bytearray, random.Random], None]
) -> None:
    expected, ends = encode(FakeEncoder(dim=256, colbert_dim=64)), Counter[str]()
    for time in range(TIMES):
        folder = tmp_path / f"{time}"
        shutil.copytree(sound, folder)
        encoder = encoder_of(folder)
        held = bytearray(encoder.cache.file.path.read_bytes())
        damage(held, random.Random(time))
        encoder.cache.file.path.write_bytes(held)
        try:
            assert_same(encode(encoder), expected)
            # what was bad was computed again and put in its place
            assert_same(encode(encoder), expected)
        except StoreError as error:
            ends["told" if str(encoder.cache.file.path) in str(error) else "riddle"] += 1
            continue
        finally:
            encoder.cache.close()
        ends["counted" if encoder.stats.cache_damaged else "unharmed"] += 1
    assert not ends["riddle"]
    assert ends["told"] + ends["counted"] > TIMES // 3, ends


def test_a_damaged_value_is_computed_again_once_and_counted(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path)
    expected = encode(encoder)
    with sqlite3.connect(encoder.cache.file.path) as db:
        db.execute("UPDATE bodies SET value = zeroblob(length(value)) WHERE id = 5")
        db.execute("UPDATE entries SET id = 7 WHERE id = 8")  # another's value
    db.close()
    assert_same(encode(encoder), expected)
    assert encoder.stats.cache_damaged == 2
    assert encoder.stats.forwards == len(TEXTS) + 2
    assert_same(encode(encoder), expected)
    assert encoder.stats.cache_damaged == 2
    assert encoder.stats.cache_hits == 2 * len(TEXTS) - 2


def test_a_byte_store_forgets_a_damaged_value(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, max_bytes=10**6)
    file.write([Item("key", "bytes", b"value"), Item("other", "bytes", b"other value")])
    with sqlite3.connect(file.path) as db:
        db.execute("UPDATE bodies SET value = x'00' WHERE id = 1")
    db.close()
    assert file.read(["key", "other"], ["bytes"]) == [{}, {"bytes": b"other value"}]


def test_a_file_from_before_checksums_stays_in_use_and_gets_them(tmp_path: Path) -> None:
    before = encoder_of(tmp_path)
    expected = encode(before)
    before.cache.close()
    with sqlite3.connect(before.cache.file.path) as db:
        db.execute("DROP TABLE sums")
    db.close()
    encoder = encoder_of(tmp_path)
    assert_same(encode(encoder), expected)
    assert (encoder.stats.forwards, encoder.stats.cache_damaged) == (0, 0)
    with sqlite3.connect(encoder.cache.file.path) as db:
        db.execute("UPDATE bodies SET value = zeroblob(length(value)) WHERE id = 5")
    db.close()
    assert_same(encode(encoder), expected)
    assert (encoder.stats.forwards, encoder.stats.cache_damaged) == (1, 1)


def test_a_value_that_an_older_version_wrote_beside_us_is_computed_again(tmp_path: Path) -> None:
    encoder = encoder_of(tmp_path)
    expected = encode(encoder)
    with sqlite3.connect(encoder.cache.file.path) as db:
        db.execute("DELETE FROM sums WHERE id = 5")
    db.close()
    assert_same(encode(encoder), expected)
    assert encoder.stats.cache_damaged == 1


@pytest.mark.parametrize(
    "program",
    [
        "DELETE FROM totals",
        "UPDATE totals SET held = 'many'",
        "UPDATE totals SET written = 9223372036854775807",
        "UPDATE entries SET size = x'00'",
        "UPDATE entries SET size = 'much', used = 'never'",
    ],
)
def test_damaged_counts_are_named_and_no_other_error(tmp_path: Path, program: str) -> None:
    file = CacheFile(tmp_path, max_bytes=1000)
    file.write([Item(b"key", "dense", b"v" * 600)])
    with sqlite3.connect(file.path) as db:
        db.execute(program)
    db.close()
    with pytest.raises(StoreError, match=r"embeddings\.sqlite3 is damaged.*delete it"):
        file.write([Item(b"other", "dense", b"v" * 600)])


def assert_same(found: EmbeddingBatch, expected: EmbeddingBatch) -> None:
    assert found.dense is not None
    assert expected.dense is not None
    assert found.colbert is not None
    assert expected.colbert is not None
    assert found.sparse is not None
    assert expected.sparse is not None
    np.testing.assert_array_equal(found.dense, expected.dense)
    np.testing.assert_array_equal(found.colbert.vectors, expected.colbert.vectors)
    np.testing.assert_array_equal(found.sparse.token_ids, expected.sparse.token_ids)
    np.testing.assert_array_equal(found.sparse.weights, expected.sparse.weights)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.truncated, expected.truncated)


def test_a_disk_that_is_full_from_the_start_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, **_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    encoder = encoder_of(tmp_path)
    with pytest.warns(CacheWarning, match=f"computed anew.*{tmp_path}.*No space left"):
        assert_same(encode(encoder), encode(FakeEncoder(dim=256, colbert_dim=64)))
    assert encoder.stats.cache_failures == 2  # a read and a write


@pytest.mark.parametrize("begun", [True, False])
def test_a_full_disk_is_no_reason_to_fail(mounted: Callable[..., Path], begun: bool) -> None:
    disk = mounted("-t", "tmpfs", "-o", "size=4m", "tmpfs")
    if begun:
        before = encoder_of(disk / "cache")
        encode(before)
        before.cache.close()
    fill(disk)
    encoder = encoder_of(disk / "cache")
    with pytest.warns(CacheWarning):
        assert_same(encode(encoder), encode(FakeEncoder(dim=256, colbert_dim=64)))
    encoder.cache.close()


def fill(disk: Path) -> None:
    with suppress(OSError), (disk / "rest").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
