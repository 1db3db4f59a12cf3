"""A cache on disk as LangChain's byte store, for its `CacheBackedEmbeddings`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from langchain_core.stores import BaseStore

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.validation import check_text
from bge_m3_integrations.engine.cache import EmbeddingCache, as_cache
from bge_m3_integrations.engine.cache_file import Item
from bge_m3_integrations.errors import InputError

_PART = "bytes"


@public_class
class BGEM3ByteStore(BaseStore[str, bytes]):
    """Bytes by text key in an `EmbeddingCache`: one file, one bound, least recently used out.

    For `CacheBackedEmbeddings` take the fingerprint of `BGEM3Embeddings` as the namespace, and
    `key_encoder="sha256"`. An engine with a cache of its own needs no store: it keeps all three
    modes, as bytes instead of JSON. The async methods run in a thread.

    Args:
        cache: A folder, or a cache that an engine uses too.
    """

    def __init__(self, cache: str | Path | EmbeddingCache) -> None:
        self.cache: EmbeddingCache = as_cache(cache)

    def __repr__(self) -> str:
        return called(self, lambda: [repr(self.cache)])

    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of keys; None for a key that is not there."""
        return [found.get(_PART) for found in self.cache.file.read(_texts(keys), [_PART])]

    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Keep values in one transaction; the last one of a key counts."""
        _texts([key for key, _ in key_value_pairs])
        for key, value in key_value_pairs:
            if not isinstance(value, bytes):
                raise InputError(f"the value of {key!r} must be bytes, not {type(value).__name__}")
        self.cache.file.write([Item(key, _PART, value) for key, value in key_value_pairs])

    def mdelete(self, keys: Sequence[str]) -> None:
        """Forget keys; those that are not there are passed over."""
        self.cache.file.remove(_texts(keys), _PART)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """The keys that begin with a prefix, in order; None is all keys."""
        return self.cache.file.text_keys(_PART, prefix=prefix or "")


def _texts(keys: Sequence[str]) -> Sequence[str]:
    for key in keys:
        check_text(key, name="a key")
    return keys


__all__ = ["BGEM3ByteStore"]
__dir__ = public_names(__name__)
