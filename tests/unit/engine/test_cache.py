from __future__ import annotations

import copy
import os
import pickle
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, Modes, TokenVectors
from bge_m3_integrations.engine.cache import CACHE_BYTES, CacheKey, EmbeddingCache
from bge_m3_integrations.engine.cache_file import CacheFile, Item
from bge_m3_integrations.engine.cache_sql import FORMAT, opened
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.testing import FakeEncoder

ROOT = Path(__file__).parents[3]
KEY = CacheKey("print", "float32", "document", "", 512)
TEXTS = ["red fox", "", "a much longer text about foxes and rivers", "火车"]


def encoded(texts: list[str], modes: Modes = ALL_MODES) -> EmbeddingBatch:
    return FakeEncoder(max_length=6).encode(texts, kind="document", modes=modes)


def assert_same_bits(row: EmbeddingBatch | None, expected: EmbeddingBatch) -> None:
    assert row is not None
    assert row.modes == expected.modes
    for ours, theirs in zip(arrays(row), arrays(expected), strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert ours.tobytes() == theirs.tobytes()
        assert ours.flags.writeable


def arrays(batch: EmbeddingBatch) -> list[np.ndarray[Any, Any]]:
    found = [batch.tokens, batch.truncated]
    if batch.dense is not None:
        found.append(batch.dense)
    if batch.sparse is not None:
        found += [batch.sparse.indptr, batch.sparse.token_ids, batch.sparse.weights]
    if batch.colbert is not None:
        found += [batch.colbert.vectors, batch.colbert.offsets]
    return found


def item(i: int, size: int = 872) -> Item:  # 872 and 128 of overhead
    return Item(f"{i}".encode(), "dense", bytes([i % 256]) * size)


def there(file: CacheFile, *numbers: int) -> list[bool]:
    return [bool(found) for found in file.read([f"{i}".encode() for i in numbers], ["dense"])]


@pytest.mark.parametrize("modes", [ALL_MODES, {"dense"}, {"sparse"}, {"colbert", "sparse"}])
def test_what_comes_back_is_equal_bit_by_bit(tmp_path: Path, modes: Modes) -> None:
    batch, keys = encoded(TEXTS, modes), KEY.digests(TEXTS)
    with EmbeddingCache(tmp_path) as cache:
        cache.put_many(keys, batch)
    with EmbeddingCache(tmp_path) as again:
        for i, row in enumerate(again.get_many(keys, modes=modes)):
            assert_same_bits(row, batch.take([i]))


def test_half_precision_token_vectors_stay_half_precision(tmp_path: Path) -> None:
    batch, keys = encoded(["red fox"], {"colbert"}), KEY.digests(["red fox"])
    assert batch.colbert is not None
    half = TokenVectors(batch.colbert.vectors.astype(np.float16), batch.colbert.offsets)
    with EmbeddingCache(tmp_path) as cache:
        cache.put_many(keys, replace(batch, colbert=half))
        assert_same_bits(cache.get_many(keys, modes=["colbert"])[0], replace(batch, colbert=half))


def test_a_later_mode_is_added_and_a_missing_one_is_a_miss(tmp_path: Path) -> None:
    keys = KEY.digests(["red fox"])
    with EmbeddingCache(tmp_path) as cache:
        cache.put_many(keys, encoded(["red fox"], {"dense"}))
        assert cache.get_many(keys, modes=["dense", "sparse"]) == [None]
        cache.put_many(keys, encoded(["red fox"], {"sparse"}))
        found = cache.get_many(keys, modes=["dense", "sparse"])
        assert_same_bits(found[0], encoded(["red fox"], {"dense", "sparse"}))


@pytest.mark.parametrize(
    "change",
    [
        {"fingerprint": "x"},
        {"precision": "int8"},
        {"kind": "query"},
        {"instruction": "find"},
        {"limit": 511},
        {"fingerprint": "printf", "precision": "loat32"},
    ],
)
def test_a_key_differs_by_all_that_decides_an_embedding(change: dict[str, Any]) -> None:
    assert KEY.digests(["a"]) == KEY.digests(["a"])
    assert replace(KEY, **change).digests(["a"]) != KEY.digests(["a"])
    assert KEY.digests(["b", "a\ud800"]) != KEY.digests(["a", "b"])


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, max_bytes=16_000)
    for i in range(16):
        file.write([item(i)])
    assert there(file, 0) == [True]
    for i in range(16, 18):
        file.write([item(i)])
    assert there(file, 0, 1, 2, 3, 17) == [True, False, False, True, True]


def test_ten_times_the_bound_leaves_the_bound_and_a_file_of_its_size(tmp_path: Path) -> None:
    bound = 20_000_000
    file = CacheFile(tmp_path, max_bytes=bound)
    for i in range(100):
        file.write([item(i * 10 + j, 200_000) for j in range(10)])
    assert 0.98 * bound < file.held <= bound
    assert there(file, 0, 999) == [False, True]
    file.close()
    assert file.path.stat().st_size < 1.35 * bound
    with sqlite3.connect(file.path) as db:
        assert db.execute("SELECT sum(size) FROM entries").fetchone()[0] <= bound
        lost = "SELECT count(*) FROM bodies WHERE id NOT IN (SELECT id FROM entries)"
        assert db.execute(lost).fetchone()[0] == 0
    db.close()


def test_what_is_larger_than_the_bound_is_not_kept_and_pushes_nothing_out(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, max_bytes=5000)
    file.write([item(1), item(2, 6000)])
    assert there(file, 1, 2) == [True, False]
    file.write([item(i) for i in range(10, 20)])
    assert there(file, 1, 14, 15, 19) == [False, False, True, True]


def test_of_more_than_fits_together_nothing_before_what_did_not_fit_is_kept(
    tmp_path: Path,
) -> None:
    file = CacheFile(tmp_path, max_bytes=5000)
    file.write([item(1, 1000), item(2, 4000), item(3, 1000)])
    assert there(file, 1, 2, 3) == [False, False, True]


def test_reads_write_nothing_while_nothing_is_written(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, max_bytes=16_000)
    file.write([item(i) for i in range(8)])
    file.close()
    before = file.path.read_bytes()
    for _ in range(3):
        there(file, 7)
    file.close()
    assert file.path.read_bytes() == before


def test_a_value_replaced_counts_once(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, max_bytes=16_000)
    for _ in range(5):
        file.write([item(1), item(1)])
    assert file.held == 1000


def test_nothing_is_opened_before_it_is_needed(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    assert cache.held == 0
    assert cache.max_bytes == CACHE_BYTES
    assert (tmp_path / "a" / "b" / "embeddings.sqlite3").exists()


def test_copies_and_pickles_hold_the_arguments_and_read_the_same_file(tmp_path: Path) -> None:
    keys = KEY.digests(TEXTS)
    cache = EmbeddingCache(tmp_path, max_bytes=123_456)
    cache.put_many(keys, encoded(TEXTS))
    for other in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert (other.path, other.max_bytes) == (cache.path, cache.max_bytes)
        assert None not in other.get_many(keys, modes=ALL_MODES)
        other.close()


@pytest.mark.parametrize("arguments", [{"path": ""}, {"path": 3}])
def test_a_path_that_names_no_folder_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="folder"):
        EmbeddingCache(**arguments)


@pytest.mark.parametrize("bound", [0, -1, 1.5, None])
def test_a_bound_of_no_size_is_refused(tmp_path: Path, bound: Any) -> None:
    with pytest.raises(InputError, match="max_bytes"):
        EmbeddingCache(tmp_path, max_bytes=bound)


def test_keys_and_texts_must_be_as_many(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 keys for a batch of 2"):
        EmbeddingCache(tmp_path).put_many([b"k"], encoded(["a", "b"]))


@pytest.mark.parametrize("content", [b"no database at all, but long enough" * 40, None])
def test_a_damaged_file_is_named_with_the_fix_and_left_alone(
    tmp_path: Path, content: bytes | None
) -> None:
    cache = EmbeddingCache(tmp_path)
    cache.put_many(KEY.digests(TEXTS), encoded(TEXTS))
    cache.close()
    if content is None:  # a sound header before pages of nonsense
        whole = cache.file.path.read_bytes()
        content = whole[:4096] + os.urandom(len(whole) - 4096)
    cache.file.path.write_bytes(content)
    with pytest.raises(StoreError, match=r"embeddings\.sqlite3 is damaged.*delete it"):
        cache.get_many(KEY.digests(TEXTS), modes=ALL_MODES)
    assert cache.file.path.read_bytes() == content


def test_a_value_of_the_wrong_length_is_damage(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    key = KEY.digests(["a"])[0]
    for value in (b"", b"short", b"<f4\0" + b"\1" * 60, b"\xff\xff\xff\xff" + bytes(28)):
        cache.file.write([Item(key, "dense", value)])
        with pytest.raises(StoreError, match="is damaged"):
            cache.get_many([key], modes=["dense"])


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (f"PRAGMA user_version = {FORMAT + 6}", "has format 7, and this version reads 1"),
        ("CREATE TABLE mine (x)", "something else"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, program: str, message: str) -> None:
    cache = EmbeddingCache(tmp_path)
    with sqlite3.connect(cache.file.path) as db:
        db.execute(program)
    db.close()
    with pytest.raises(StoreError, match=message):
        assert cache.held


def test_a_file_in_place_of_the_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(StoreError, match="taken"):
        assert EmbeddingCache(tmp_path / "taken").held


def test_threads_share_one_cache(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)

    def work(thread: int) -> None:
        for i in range(20):
            texts = [f"thread {thread} text {i}"]
            cache.put_many(KEY.digests(texts), encoded(texts))
            assert_same_bits(cache.get_many(KEY.digests(texts), modes=ALL_MODES)[0], encoded(texts))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    texts = [f"thread {thread} text {i}" for thread in range(8) for i in range(20)]
    assert None not in cache.get_many(KEY.digests(texts), modes=ALL_MODES)


def test_threads_that_open_a_new_file_at_once_all_get_it(tmp_path: Path) -> None:
    def open_file(path: Path, start: Barrier) -> None:
        start.wait()
        opened(path).close()

    with ThreadPoolExecutor(8) as pool:
        for i in range(20):  # over half of such starts failed while the two reads were apart
            path, start = tmp_path / f"{i}.sqlite3", Barrier(8)
            list(pool.map(lambda _, path=path, start=start: open_file(path, start), range(8)))


WRITER = """
import sys
from pathlib import Path
from threading import Barrier
from bge_m3_integrations.engine.cache_file import CacheFile, Item
file, name = CacheFile(Path(sys.argv[1]), max_bytes=10**9), sys.argv[2]
for i in range(int(sys.argv[3])):
    file.write([Item(f"{name} {i}", "p", f"{name} {i}".encode() * 9000) for _ in range(1)])
    print(i, flush=True)
"""


def writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    names, count = ["a", "b", "c"], 60
    running = [writer(tmp_path, name, count) for name in names]
    for process in running:
        process.communicate()
        assert process.returncode == 0
    file = CacheFile(tmp_path, max_bytes=10**9)
    keys = [f"{name} {i}" for name in names for i in range(count)]
    assert file.read(keys, ["p"]) == [{"p": key.encode() * 9000} for key in keys]
    assert sorted(file.text_keys("p")) == sorted(keys)


def test_a_killed_process_leaves_all_that_it_had_written(tmp_path: Path) -> None:
    done = 0
    for number in range(4):
        process = writer(tmp_path, f"n{number}", 100_000)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.05 * number)
        process.kill()
        last = [*process.stdout.read().split(), "0"]
        done = max(int(i) for i in last if i.isdigit())
        process.wait()
        file = CacheFile(tmp_path, max_bytes=10**9)
        keys = [f"n{number} {i}" for i in range(done)]
        assert file.read(keys, ["p"]) == [{"p": key.encode() * 9000} for key in keys]
        file.write([item(number)])
        assert there(file, number) == [True]
        file.close()
        db = sqlite3.connect(file.path)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        db.close()
    assert done > 0


FORK = """
import os, sys
from pathlib import Path
from threading import Barrier
from bge_m3_integrations.engine.cache_file import CacheFile, Item
file = CacheFile(Path(sys.argv[1]), max_bytes=10**9)
file.write([Item("before", "p", b"1")])
child = os.fork()
if child == 0:
    file.write([Item("child", "p", b"2")])
    assert file.read(["before"], ["p"]) == [{"p": b"1"}]
    file.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
file.write([Item("parent", "p", b"3")])
print([*file.text_keys("p")])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_opens_its_own_connection(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "['before', 'child', 'parent']"


def test_text_keys_come_in_order_by_prefix_page_after_page(tmp_path: Path) -> None:
    file = CacheFile(tmp_path, max_bytes=10**9)
    names = [f"{space}:{i:04}" for space in ("a", "b%", "b_", "é") for i in range(1100)]
    file.write([Item(name, "bytes", b"") for name in names] + [Item(b"digest", "dense", b"")])
    assert [*file.text_keys("bytes")] == sorted(names)
    assert [*file.text_keys("bytes", prefix="b%")] == [n for n in names if n.startswith("b%")]
    assert [*file.text_keys("bytes", prefix="c")] == []
