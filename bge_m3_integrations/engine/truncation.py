"""Texts that were longer than the limit: one warning for each public call, at the caller's line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import numpy as np

from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind
from bge_m3_integrations.errors import TruncationWarning

_NAMED = 5
"""So many ids or positions are told."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """The length limit of a call.

    Attributes:
        tokens: Most tokens of a text.
        most: Most that the model takes.
    """

    tokens: int
    most: int


@dataclass(slots=True)
class _Told:
    """Texts that a caller knows by id.

    Attributes:
        total: How many were encoded.
        ids: The first ones that were cut.
        cut: How many were.
        dropped: Tokens.
    """

    total: int = 0
    ids: list[str] = field(default_factory=list)
    cut: int = 0
    dropped: int = 0


class Cuts:
    """The texts that one public call cut, told when it ends; calls inside it tell nothing.

    Args:
        texts: The caller's texts of each kind, by whose positions cut ones are named.
    """

    def __init__(self, texts: Mapping[Kind, Sequence[str]] | None = None) -> None:
        self._texts = texts or {}
        self._dropped: dict[tuple[Kind, int], int] = {}
        self._encoded: dict[Kind, int] = {}
        self._limits: dict[Kind, Limit] = {}
        self._told = _Told()
        self._outer: Cuts | None = None
        self._token: Token[Cuts | None] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        outer = _CURRENT.get()
        self._outer = outer
        if outer is None:
            self._token = _CURRENT.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._token is None:
            return
        _CURRENT.reset(self._token)
        if not self._dropped:
            return
        if error is None:
            self._tell()
        else:  # the one that the caller is to see, also where warnings are errors
            with suppress(TruncationWarning):
                self._tell()

    def note(
        self, texts: Sequence[str], kind: Kind, batch: EmbeddingBatch, limit: Limit | None
    ) -> None:
        """Note texts that were encoded, perhaps for a call outside; no limit where none was cut."""
        told = self._outer or self
        with told._lock:
            told._encoded[kind] = told._encoded.get(kind, 0) + len(texts)
            if limit is not None:
                told._limits[kind] = limit
                for i in np.flatnonzero(batch.truncated):
                    told._dropped[kind, hash(texts[int(i)])] = int(batch.truncated[i])

    def note_ids(self, ids: Sequence[str], batch: EmbeddingBatch) -> None:
        """Note the ids of documents that were noted."""
        told = self._outer or self
        with told._lock:
            cut = np.flatnonzero(batch.truncated)
            held = told._told
            held.total += len(ids)
            held.cut += len(cut)
            held.dropped += int(batch.truncated.sum())
            held.ids += [ids[int(i)] for i in cut[: _NAMED - len(held.ids)]]

    def _tell(self) -> None:
        message = self._message()
        _LOG.info("%s", message)
        warn_user(message, TruncationWarning)

    def _message(self) -> str:
        kinds = list(self._limits)
        parts = " ".join(self._sentence(kind) for kind in kinds)
        limits = [self._limits[kind] for kind in kinds]
        room = [limit.most for limit in limits if limit.tokens < limit.most]
        more = f", or raise max_length: this model takes {min(room):,} tokens" if room else ""
        return f"{parts} Split long texts into chunks{more}"

    def _sentence(self, kind: Kind) -> str:
        cut, total, dropped, named = self._counted(kind)
        noun, were = ("text" if total == 1 else "texts"), ("was" if cut == 1 else "were")
        tokens = "1 token was" if dropped == 1 else f"{dropped:,} tokens were"
        return (
            f"{cut:,} of {total:,} {noun} ({kind}) {were} longer than "
            f"{self._limits[kind].tokens} tokens{named}; {tokens} dropped."
        )

    def _counted(self, kind: Kind) -> tuple[int, int, int, str]:
        """Count cut texts, all texts and dropped tokens, and name the cut texts."""
        told = self._told
        if kind == "document" and told.cut:
            return (
                told.cut,
                told.total,
                told.dropped,
                _named("id", list(map(repr, told.ids)), told.cut),
            )
        texts = self._texts.get(kind)
        if texts is None:
            dropped = [n for (of, _), n in self._dropped.items() if of == kind]
            return len(dropped), self._encoded[kind], sum(dropped), ""
        found = [(i, self._dropped.get((kind, hash(text)))) for i, text in enumerate(texts)]
        cut = [(i, n) for i, n in found if n is not None]
        named = _named("position", [str(i) for i, _ in cut[:_NAMED]], len(cut))
        return len(cut), len(texts), sum(n for _, n in cut), named


_CURRENT: ContextVar[Cuts | None] = ContextVar("bge_m3_cuts", default=None)


def _named(noun: str, names: Sequence[str], count: int) -> str:
    plural = "" if count == 1 else "s"
    more = f" and {count - len(names):,} more" if count > len(names) else ""
    if not more and len(names) > 1:
        return f" ({noun}{plural} {', '.join(names[:-1])} and {names[-1]})"
    return f" ({noun}{plural} {', '.join(names)}{more})"
