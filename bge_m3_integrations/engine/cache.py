"""Embeddings on disk, shared by all processes that open the folder."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.core.codec import packed, unpacked
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes, ordered_modes
from bge_m3_integrations.core.validation import as_path, check_int
from bge_m3_integrations.engine.cache_file import CacheFile, Item
from bge_m3_integrations.engine.cache_sql import damaged
from bge_m3_integrations.errors import InputError

CACHE_BYTES = 4 * 1024**3


class CacheWarning(UserWarning):
    """An embedding could not be kept on disk; the message says why. Results are not affected."""


@dataclass(frozen=True, slots=True)
class CacheKey:
    """All that decides an embedding, the text aside.

    Attributes:
        fingerprint: The encoder's.
        precision: How it computes, such as "bfloat16", which no fingerprint covers.
        kind: Query or document.
        instruction: What is put before a query; the fingerprint covers that of documents.
        limit: Most tokens of the text.
    """

    fingerprint: str
    precision: str
    kind: Kind
    instruction: str
    limit: int

    def digests(self, texts: Sequence[str]) -> list[bytes]:
        """Return a sha256 for each text."""
        start = hashlib.sha256()
        fields = (self.fingerprint, self.precision, self.kind, self.instruction, str(self.limit))
        for field in fields:
            encoded = _utf8(field)
            start.update(len(encoded).to_bytes(8, "big") + encoded)
        keys = []
        for text in texts:
            digest = start.copy()
            digest.update(_utf8(text))
            keys.append(digest.digest())
        return keys


@public_class
class EmbeddingCache:
    """A cache of embeddings in a folder, bounded in bytes; drops the least recently used.

    What comes back is equal bit by bit. Threads and processes may share a folder on a local disk;
    a killed process leaves a sound file. Texts are not kept, only digests of them. Nothing is
    opened before it is needed, connections are never taken into another process, and a pickle
    holds only the arguments.

    Args:
        path: A folder of its own; made if it is missing.
        max_bytes: Most bytes of values. The file comes in pages of 64 KiB, so it is 5 to 30 %
            larger, with a log of 64 MiB or one write beside it, and it does not shrink.

    Raises:
        InputError: An argument is of no use.
    """

    def __init__(self, path: str | Path, *, max_bytes: int = CACHE_BYTES) -> None:
        self.path: Path = as_path(path, name="the folder of a cache").absolute()
        self.max_bytes: int = check_int("max_bytes", max_bytes)
        self.file: CacheFile = CacheFile(self.path, max_bytes=self.max_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.path, self.max_bytes)

    def __repr__(self) -> str:
        return f"EmbeddingCache({str(self.path)!r}, max_bytes={self.max_bytes})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def held(self) -> int:
        """Bytes of values kept now, with 128 bytes for each value's key and place."""
        return self.file.held

    def get_many(
        self,
        keys: Sequence[bytes],
        *,
        modes: Modes,
        spoilt: Callable[[int], object] = lambda _: None,
    ) -> list[EmbeddingBatch | None]:
        """Look embeddings up in one transaction.

        Args:
            keys: As `CacheKey.digests` makes them.
            modes: The modes that are needed.
            spoilt: Called with the number of values whose checksum is wrong, where there are any.

        Returns:
            For each key a batch of one text with these modes, or None where one is missing or
            damaged.

        Raises:
            StoreError: The file is damaged, of another format, or cannot be opened.
        """
        wanted = ordered_modes(modes)
        return [
            self._row(values) if len(values) == len(wanted) else None
            for values in self.file.read(keys, wanted, spoilt=spoilt)
        ]

    def put_many(self, keys: Sequence[bytes], batch: EmbeddingBatch) -> None:
        """Keep embeddings in one transaction; modes kept before and not in the batch stay.

        Args:
            keys: One per text of the batch.
            batch: Any modes.

        Raises:
            StoreError: As for `get_many`, or the disk is full.
        """
        if len(keys) != len(batch):
            raise InputError(f"{len(keys)} keys for a batch of {len(batch)} texts")
        self.file.write(
            Item(key, mode, value)
            for i, key in enumerate(keys)
            for mode, value in packed(batch, i).items()
        )

    def close(self) -> None:
        """Close this process's connections; the next use opens new ones."""
        self.file.close()

    def _row(self, values: dict[str, bytes]) -> EmbeddingBatch:
        try:
            return unpacked(values)
        except (struct.error, TypeError, ValueError) as error:
            raise damaged(self.file.path, f"a value cannot be read: {error}") from error


def as_cache(cache: str | Path | EmbeddingCache) -> EmbeddingCache:
    """The cache itself, or one in the folder of that name."""
    return cache if isinstance(cache, EmbeddingCache) else EmbeddingCache(cache)


def _rebuilt(path: Path, max_bytes: int) -> EmbeddingCache:
    return EmbeddingCache(path, max_bytes=max_bytes)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # a cleaning encoder mends lone surrogates


__all__ = ["CACHE_BYTES", "CacheWarning", "EmbeddingCache"]
__dir__ = public_names(__name__)
