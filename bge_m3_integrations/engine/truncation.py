"""Texts that were longer than the limit: one warning for each public call, at the caller's line."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from dataclasses import dataclass
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
        self._ids: list[tuple[str, int]] = []
        self._identified = 0
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
        told, dropped = self._outer or self, batch.truncated
        with told._lock:
            told._identified += len(ids)
            told._ids += [(ids[int(i)], int(dropped[i])) for i in np.flatnonzero(dropped)]

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
        total, name, cut = self._cut(kind)
        dropped = sum(n for _, n in cut)
        noun, were = ("text" if total == 1 else "texts"), ("was" if len(cut) == 1 else "were")
        tokens = "1 token was" if dropped == 1 else f"{dropped:,} tokens were"
        return (
            f"{len(cut):,} of {total:,} {noun} ({kind}) {were} longer than "
            f"{self._limits[kind].tokens} tokens{_named(name, cut)}; {tokens} dropped."
        )

    def _cut(self, kind: Kind) -> tuple[int, str, list[tuple[object, int]]]:
        """Count the texts; list cut ones by id or position, if it is known, with their tokens."""
        texts = self._texts.get(kind)
        if kind == "document" and self._ids:
            return self._identified, "id", [(repr(key), n) for key, n in self._ids]
        if texts is None:
            dropped = [n for (of, _), n in self._dropped.items() if of == kind]
            return self._encoded[kind], "", [("", n) for n in dropped]
        found = [(i, self._dropped.get((kind, hash(text)), 0)) for i, text in enumerate(texts)]
        return len(texts), "position", [(i, n) for i, n in found if n]


_CURRENT: ContextVar[Cuts | None] = ContextVar("bge_m3_cuts", default=None)


def _named(noun: str, cut: Sequence[tuple[object, int]]) -> str:
    if not noun:
        return ""
    names = [str(name) for name, _ in cut[:_NAMED]]
    plural = "" if len(cut) == 1 else "s"
    if len(cut) > len(names):
        names[-1] += f" and {len(cut) - len(names):,} more"
    elif len(names) > 1:
        names[-2:] = [f"{names[-2]} and {names[-1]}"]
    return f" ({noun}{plural} {', '.join(names)})"
