from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch, Kind, Modes
from bge_m3_integrations.core.validation import ENCODED_CHARACTERS
from bge_m3_integrations.engine.cache import CacheWarning, EmbeddingCache
from bge_m3_integrations.engine.cached_encoder import CachedEncoder
from bge_m3_integrations.engine.cleaning import CleaningEncoder
from bge_m3_integrations.engine.memo import MemoEncoder
from bge_m3_integrations.engine.stats import DeclaredModes, StatsCounter
from bge_m3_integrations.errors import EncodingError, InputError, StoreError
from bge_m3_integrations.testing import FakeEncoder

TEXTS = ["red fox", "lazy dog", "red fox", ""]


def cached(folder: Path, encoder: Any = None) -> tuple[Any, CachedEncoder]:
    fake = FakeEncoder() if encoder is None else encoder
    return fake, CachedEncoder(fake, EmbeddingCache(folder))


def encode(
    encoder: CachedEncoder | MemoEncoder | FakeEncoder,
    texts: Sequence[str],
    modes: Modes = ALL_MODES,
    kind: Kind = "document",
    **options: Any,
) -> EmbeddingBatch:
    return encoder.encode(texts, kind=kind, modes=modes, **options)


def assert_same(batch: EmbeddingBatch, other: EmbeddingBatch) -> None:
    assert batch.modes == other.modes
    for ours, theirs in zip(batch, other, strict=True):
        np.testing.assert_array_equal(ours.dense, theirs.dense)
        np.testing.assert_array_equal(ours.colbert, theirs.colbert)
        assert ours.sparse == theirs.sparse
        assert (ours.tokens, ours.truncated) == (theirs.tokens, theirs.truncated)


def test_a_second_encoder_over_the_folder_needs_no_forward(tmp_path: Path) -> None:
    first, writer = cached(tmp_path)
    expected = encode(FakeEncoder(), TEXTS)
    assert_same(encode(writer, TEXTS), expected)
    second, reader = cached(tmp_path)
    assert_same(encode(reader, TEXTS), expected)
    assert dict(first.forwards) == {"red fox": 1, "lazy dog": 1, "": 1}
    assert not second.forwards
    assert (writer.stats.forwards, writer.stats.cache_hits) == (3, 0)
    assert (reader.stats.forwards, reader.stats.cache_hits) == (0, 3)


def test_hits_and_misses_come_back_in_the_callers_order(tmp_path: Path) -> None:
    fake, encoder = cached(tmp_path)
    encode(encoder, ["b", "d"])
    texts = ["a", "b", "c", "d", "b"]
    assert_same(encode(encoder, texts), encode(FakeEncoder(), texts))
    assert [call.texts for call in fake.calls] == [("b", "d"), ("a", "c")]


def test_a_mode_asked_for_later_costs_one_forward_and_the_earlier_ones_stay(
    tmp_path: Path,
) -> None:
    fake, encoder = cached(tmp_path)
    for modes in ({"dense"}, {"colbert"}, {"dense", "colbert"}, {"dense"}):
        assert_same(encode(encoder, ["a b"], modes), encode(FakeEncoder(), ["a b"], modes))
    assert fake.forwards["a b"] == 2


def test_kinds_lengths_instructions_and_models_are_kept_apart(tmp_path: Path) -> None:
    text = "a b c d"
    for options in ({}, {"query_instruction": "find:"}, {"dim": 8}):
        fake, encoder = cached(tmp_path, FakeEncoder(**options))
        for kind, length in (("query", None), ("query", 4), ("document", None), ("document", 4)):
            asked: dict[str, Any] = {"kind": kind, "max_length": length}
            for _ in range(2):
                assert_same(
                    encode(encoder, [text], **asked),
                    encode(FakeEncoder(**options), [text], **asked),
                )
        # an instruction changes queries only: documents were there
        assert fake.forwards[text] == (2 if "query_instruction" in options else 4)


class _Hidden:
    """Says nothing of an instruction, like an encoder of a user's own."""

    def __init__(self) -> None:
        self._fake = FakeEncoder()

    def __getattr__(self, name: str) -> Any:
        if name == "query_instruction":
            raise AttributeError(name)
        return getattr(self._fake, name)


def test_queries_of_an_encoder_that_names_no_instruction_are_not_kept(tmp_path: Path) -> None:
    hidden = _Hidden()
    _, encoder = cached(tmp_path, hidden)
    for _ in range(2):
        encode(encoder, ["q"], kind="query")
        encode(encoder, ["d"])
    assert hidden.forwards == {"q": 2, "d": 1}


def test_numbers_of_another_precision_are_not_mixed_in(tmp_path: Path) -> None:
    for precision in ("float32", "int8", "int8"):
        fake, encoder = cached(tmp_path)
        fake.precision = precision  # type: ignore[attr-defined]
        encode(encoder, ["a"])
        forwards = fake.forwards["a"]
    assert forwards == 0
    assert encoder.cache.held > 0


def test_what_stands_behind_wrappers_is_asked_for_its_instruction(tmp_path: Path) -> None:
    fake = FakeEncoder(query_instruction="find:")
    _, encoder = cached(tmp_path, CleaningEncoder(fake))
    encode(encoder, ["fox"], kind="query")
    encode(encoder, ["fox"], kind="query")
    assert fake.forwards["fox"] == 1


class Failing(FakeEncoder):
    """Fails for every batch that holds the word "bad"."""

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        if "bad" in texts:
            raise EncodingError("is not finite", list(texts).index("bad"))
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)


def test_an_error_names_the_callers_position(tmp_path: Path) -> None:
    _, encoder = cached(tmp_path, Failing())
    encode(encoder, ["a"])
    with pytest.raises(EncodingError, match="text 4 is not finite"):
        encode(encoder, ["a", "b", "a", "b", "bad"])


def test_a_long_call_is_kept_stretch_by_stretch(tmp_path: Path) -> None:
    long = ["x " * (ENCODED_CHARACTERS // 2 - 10) + str(i) for i in range(2)]
    fake, encoder = cached(tmp_path, Failing())
    with pytest.raises(EncodingError, match="text 2"):
        encode(encoder, [*long, "bad"])
    assert [call.texts for call in fake.calls] == [(long[0],)]
    encode(encoder, long)
    assert fake.forwards[long[0]] == 1


def test_no_texts_give_an_empty_batch_and_bad_ones_an_error(tmp_path: Path) -> None:
    _, encoder = cached(tmp_path)
    assert encode(encoder, [], {"sparse"}).modes == {"sparse"}
    with pytest.raises(InputError, match="not one str"):
        encode(encoder, "bare")
    with pytest.raises(InputError, match="text 1 must be str"):
        encode(encoder, ["a", 5])  # type: ignore[list-item]
    with pytest.raises(InputError, match="text 1 holds the lone surrogate"):
        encode(encoder, ["a", "\ud800"])
    with pytest.raises(InputError, match="max_length"):
        encode(encoder, ["a"], max_length="5")


class Full(EmbeddingCache):
    def put_many(self, keys: Sequence[bytes], batch: EmbeddingBatch) -> None:
        raise StoreError("database or disk is full")


def test_a_full_disk_costs_no_result_and_is_said_once_and_counted(tmp_path: Path) -> None:
    encoder = CachedEncoder(FakeEncoder(), Full(tmp_path))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(3):
            assert_same(encode(encoder, TEXTS), encode(FakeEncoder(), TEXTS))
    assert [w.category for w in said] == [CacheWarning]
    assert "disk is full" in str(said[0].message)
    assert encoder.stats.cache_failures == 3


FULL = """
import resource, sys, warnings
from pathlib import Path
from bge_m3_integrations.engine.cache import EmbeddingCache
from bge_m3_integrations.engine.cached_encoder import CachedEncoder
from bge_m3_integrations.testing import FakeEncoder
encoder = CachedEncoder(FakeEncoder(dim=4096), EmbeddingCache(sys.argv[1]))
encoder.encode(["first"], kind="document", modes=["dense"])
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for i in range(300):
        encoder.encode([f"text {i}"], kind="document", modes=["dense"])
print(*[w.category.__name__ for w in said], encoder.stats.cache_failures > 10)
encoder.encode(["first", "text 0"], kind="document", modes=["dense"])
print(encoder.stats.forwards, encoder.stats.cache_hits)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_that_takes_no_more_leaves_what_was_kept_readable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split("\n") == ["CacheWarning True", "301 2", ""]


def test_a_damaged_file_is_an_error_before_any_forward(tmp_path: Path) -> None:
    fake, encoder = cached(tmp_path)
    encoder.cache.file.path.write_bytes(b"nonsense" * 1000)
    with pytest.raises(StoreError, match="damaged"):
        encode(encoder, ["a"])
    assert not fake.forwards


def behind_a_memo(folder: Path, fake: FakeEncoder, memo_bytes: int = 0) -> MemoEncoder:
    needs, counts = DeclaredModes(), StatsCounter()
    needs.declare("one", query=["dense"], document=["dense"])
    needs.declare("two", query=["sparse"], document=["sparse", "colbert"])
    inner = CachedEncoder(fake, EmbeddingCache(folder), counts=counts)
    return MemoEncoder(inner, needs, max_bytes=memo_bytes, counts=counts)


def test_dense_now_and_the_rest_much_later_is_one_forward_though_the_memo_is_full(
    tmp_path: Path,
) -> None:
    fake = FakeEncoder()
    memo = behind_a_memo(tmp_path, fake)
    texts = [f"text {i}" for i in range(50)]
    encode(memo, texts, {"dense"})
    encode(memo, texts, ALL_MODES)
    assert set(fake.forwards.values()) == {1}
    stats = memo.stats
    assert (stats.texts, stats.forwards, stats.cache_hits) == (100, 50, 50)
    assert stats.memo_hits == 0


def test_truncation_is_counted_where_a_text_is_encoded(tmp_path: Path) -> None:
    memo = behind_a_memo(tmp_path, FakeEncoder(max_length=4))
    for _ in range(2):
        assert encode(memo, ["a b c d e"]).truncated.tolist() == [3]
    assert (memo.stats.truncated_texts, memo.stats.truncated_tokens) == (1, 3)
