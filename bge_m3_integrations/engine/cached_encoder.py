"""An encoder in front of a cache on disk: a text that is there costs no forward."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Mode, Modes, as_modes
from bge_m3_integrations.core.validation import check_int, check_texts, chunks
from bge_m3_integrations.encoders.base import Encoder
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.engine.cache import CacheKey, CacheWarning, EmbeddingCache
from bge_m3_integrations.engine.cache_sql import NoRoomError
from bge_m3_integrations.engine.request import EncodeRequest
from bge_m3_integrations.engine.stats import CountingEncoder, StatsCounter
from bge_m3_integrations.engine.stretches import in_order
from bge_m3_integrations.errors import StoreError

_LOG = logging.getLogger(__name__)


class CachedEncoder(CountingEncoder):
    """An encoder that looks texts up on disk, and keeps there those that it had to encode.

    Queries are kept only of an encoder with an attribute `query_instruction`: the fingerprint does
    not cover it, and a forward costs less than a wrong hit. An attribute `precision` keeps the
    numbers of float32, bfloat16 and int8 apart.

    Args:
        encoder: Does the work; a text that lacks one wanted mode goes through it for all of them.
        cache: Where embeddings are kept.
        counts: Counts of forwards, hits and failures; share them with the memo in front.
    """

    def __init__(
        self, encoder: Encoder, cache: EmbeddingCache, *, counts: StatsCounter | None = None
    ) -> None:
        super().__init__(encoder, counts=counts)
        self.cache = cache

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        check_texts(texts, surrogates=True)  # lone surrogates are for the encoder to judge
        limit = (
            self.max_length if max_length is None else check_int("max_length", max_length, least=0)
        )
        request = EncodeRequest(kind, as_modes(modes), limit)
        distinct = list(dict.fromkeys(texts))
        key = self._key(kind, limit)
        found = {} if key is None else self._found(distinct, key, request.modes)
        missing = [text for text in distinct if text not in found]
        parts = list(found.values())
        for piece in chunks(missing):  # each kept before the next: a run that is cut loses one
            parts.append(self._run(missing[piece], request, among=texts))
            if key is not None:
                self._keep(key.digests(missing[piece]), parts[-1])
        return in_order(texts, [*found, *missing], parts or [self._run([], request, among=texts)])

    def _key(self, kind: Kind, limit: int) -> CacheKey | None:
        """Return the key, or None where it could not tell this encoder's queries apart."""
        instruction = _attribute(self, "query_instruction") if kind == "query" else ""
        if instruction is None:
            return None
        precision = _attribute(self, "precision") or ""
        return CacheKey(self.fingerprint, precision, kind, instruction, limit)

    def _found(
        self, texts: list[str], key: CacheKey, modes: frozenset[Mode]
    ) -> dict[str, EmbeddingBatch]:
        try:
            rows = self.cache.get_many(key.digests(texts), modes=modes, spoilt=self._count_spoilt)
        except NoRoomError as error:
            self._tell("computed anew", error)
            return {}
        found = {text: row for text, row in zip(texts, rows, strict=True) if row is not None}
        self._counts.add(cache_hits=len(found))
        return found

    def _count_spoilt(self, values: int) -> None:
        if not self.stats.cache_damaged:
            _LOG.warning(
                "%d values in the cache %s are damaged and computed again (said once; "
                "stats.cache_damaged counts): its disk may be failing",
                values,
                self.cache.file.path,
            )
        self._counts.add(cache_damaged=values)

    def _keep(self, keys: list[bytes], batch: EmbeddingBatch) -> None:
        try:
            self.cache.put_many(keys, batch)
        except StoreError as error:  # a full disk must not cost the caller what was computed
            self._tell("returned but not kept", error)

    def _tell(self, outcome: str, error: StoreError) -> None:
        """Count a call that the cache was of no use to, and say so the first time."""
        if not self.stats.cache_failures:
            warn_user(
                f"embeddings are {outcome}: {error} (said once; stats.cache_failures counts)",
                CacheWarning,
            )
        self._counts.add(cache_failures=1)


def _attribute(encoder: object, name: str) -> str | None:
    """Return a text attribute of the encoder, or of the first one behind it that has it."""
    value = getattr(encoder, name, None)
    while value is None and isinstance(encoder, EncoderWrapper):
        encoder = encoder.encoder
        value = getattr(encoder, name, None)
    return value if isinstance(value, str) else None
