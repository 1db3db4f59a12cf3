"""Words of a text from its tokens: what scores of tokens are summed by, so that people can read."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from bge_m3_integrations.core.scripts import is_spaceless

SPECIAL = "[special]"
"""The name of tokens that are no part of the text: marks and an instruction."""


@dataclass(frozen=True, slots=True)
class Word:
    """A part of a text that people read as one.

    Attributes:
        text: `full_text[start:end]`; "[special]" for tokens that are no part of the text.
        start: First character; -1 for tokens that are no part of the text.
        end: Behind the last character; -1 likewise.
        tokens: The positions of its tokens among the text's tokens.
    """

    text: str
    start: int
    end: int
    tokens: tuple[int, ...]


def words_of(text: str, spans: Sequence[tuple[int, int]]) -> list[Word]:
    """Group tokens into words, by their places in the text.

    Pieces of one word belong together; so do tokens that share a character, such as the two digits
    of "½" and the lone word mark before a word. In scripts without spaces each piece is a word.

    Args:
        text: The text that the spans are of.
        spans: Start and end of each token; (-1, -1) for one that is no part of the text.

    Returns:
        Words in the order of their first token; every token is in one of them.
    """
    groups: list[tuple[int, int, list[int]]] = []
    special: list[int] = []
    for token, (start, end) in enumerate(spans):
        if start < 0 or end <= start:
            special.append(token)
        elif groups and _joined(text, groups[-1], start):
            first, last, held = groups[-1]
            groups[-1] = min(first, start), max(last, end), [*held, token]
        else:
            groups.append((start, end, [token]))
    words = [Word(text[start:end], start, end, tuple(held)) for start, end, held in groups]
    return [*words, Word(SPECIAL, -1, -1, tuple(special))] if special else words


def _joined(text: str, group: tuple[int, int, list[int]], start: int) -> bool:
    """Whether a token goes on with the word before it."""
    _, end, _ = group
    if start < end:
        return True
    if start > end:
        return False
    before, after = text[start - 1], text[start]
    if _is_mark(after):
        return True
    if is_spaceless(before) or is_spaceless(after):
        return False
    return (before.isalnum() or _is_mark(before)) and after.isalnum()


def _is_mark(character: str) -> bool:
    """Whether a character is a mark on the letter before it, such as an accent."""
    return unicodedata.category(character).startswith("M")
