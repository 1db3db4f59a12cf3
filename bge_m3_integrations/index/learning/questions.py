"""Pseudo-queries: a sentence or the title of a document, taken out of it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bge_m3_integrations.core.records import Record
from bge_m3_integrations.core.scripts import script_of

QuestionKind = Literal["sentence", "title"]
KINDS: Final[tuple[QuestionKind, ...]] = ("sentence", "title")
TITLE: Final = "title"
"""The metadata key of a title that its text, or what stands before its content, has in it."""
_STOPS = re.compile(r"(?<=[.!?;؟।])\s+|(?<=[。！？；])|\n+")
_LEAST_UNITS = 3
_LONG, _PIECE, _SHORT, _DIVISIBLE = 45, 15, 4, 12
"""Words: of a sentence that is cut, of its pieces, of one that joins the one before, of a text
without stops that is cut in three."""
_HAN_WORD = 1.7
"""Characters of a word in scripts without spaces."""


@dataclass(frozen=True, slots=True)
class Question:
    """A part of a document as a query, and the document without it.

    Attributes:
        record_id: The document.
        kind: What the part was.
        text: The part.
        rest: The document's text without it.
        script: Of the part; None is not known.
    """

    record_id: str
    kind: QuestionKind
    text: str
    rest: str
    script: str | None

    def is_in(self, text: str) -> bool:
        """Whether a text holds this sentence too, or begins with this title."""
        own, other = " ".join(self.text.split()), " ".join(text.split())
        return other.startswith(own) if self.kind == "title" else own in other


def questions_of(records: Iterable[Record], *, documents: int, seed: int) -> list[Question]:
    """Take a sentence, and the title where there is one, out of each document.

    Args:
        records: Documents, those that can be split are used.
        documents: Most documents.
        seed: Of the choice of sentences.

    Returns:
        One or two questions per document.
    """
    out: list[Question] = []
    used = 0
    for record in records:
        if found := _questions(record, seed):
            out += found
            used += 1
        if used >= documents:
            break
    return out


def _questions(record: Record, seed: int) -> list[Question]:
    """A sentence of the record, and its title; none where it cannot be split."""
    text = record.text
    body = record.content if record.content and record.content in text else text
    start = text.index(body)  # LlamaIndex puts metadata before it: nobody asks for a file's path
    head, tail = text[:start], text[start + len(body) :]
    parts = units(body)
    if len(parts) < _LEAST_UNITS:
        return []
    # by the id and not by the order, so that a document gives the same question in any sample
    chosen = random.Random(f"{seed}:{record.id}").randrange(len(parts))
    rest = head + _joined([*parts[:chosen], *parts[chosen + 1 :]], body) + tail
    if parts[chosen] in rest:  # a sentence that comes twice would find itself
        return []
    out = [_question(record, "sentence", parts[chosen], rest)]
    title = record.metadata.get(TITLE)
    if isinstance(title, str) and title.strip():
        at = text.find(title, 0, len(head) + len(title))
        rest = (text[:at] + text[at + len(title) :]).strip()
        if at >= 0 and rest:
            out.append(_question(record, "title", title, rest))
    return out


def units(text: str) -> list[str]:
    """Split a text into sentences; long ones and texts without stops into pieces.

    Args:
        text: Any.

    Returns:
        Parts in order, none empty.
    """
    out: list[str] = []
    for sentence in filter(None, map(str.strip, _STOPS.split(text))):
        size = _size(sentence)
        pieces = max(1, round(size / _PIECE)) if size > _LONG else 1
        for piece in _cut(sentence, pieces):
            if out and _size(piece) < _SHORT:
                out[-1] = _joined([out[-1], piece], piece)
            else:
                out.append(piece)
    if len(out) < _LEAST_UNITS and _size(text) >= _DIVISIBLE:
        return _cut(text.strip(), _LEAST_UNITS)
    return out


def _question(record: Record, kind: QuestionKind, text: str, rest: str) -> Question:
    return Question(record.id, kind, text, rest, script_of(text))


def _spaceless(text: str) -> bool:
    return script_of(text) in ("han", "thai")


def _size(text: str) -> float:
    return len(text) / _HAN_WORD if _spaceless(text) else float(len(text.split()))


def _joined(parts: Sequence[str], like: str) -> str:
    return ("" if _spaceless(like) else " ").join(parts)


def _cut(text: str, pieces: int) -> list[str]:
    words = list(text) if _spaceless(text) else text.split()
    each = -(-len(words) // pieces)
    if pieces == 1 or not each:
        return [text]
    return [_joined(words[i : i + each], text) for i in range(0, len(words), each)]
