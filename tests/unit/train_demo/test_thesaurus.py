from __future__ import annotations

import random
from pathlib import Path

import pytest

from scripts.train_demo.thesaurus import Thesaurus
from scripts.train_demo.wordnet import Sense, senses

NOUNS = """\
  1 a line of the licence
00000010 06 n 01 machine 0 000 | any mechanical device; "the machine broke down"
00000020 06 n 02 printer 0 Press 0 001 @ 00000010 n 0000 | a machine (any) that prints
00000030 18 n 01 gutenberg 0 001 @i 00000010 n 0000 | German printer
00000040 18 n 01 printer 1 000 | someone who prints
"""
INDEX = """\
machine%1:06:00:: 00000010 1 5
printer%1:06:00:: 00000020 1 2
press%1:06:00:: 00000020 1 0
gutenberg%1:18:00:: 00000030 1 0
printer%1:18:00:: 00000040 4 1
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    for part in ("verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("", encoding="utf-8")
    (tmp_path / "data.noun").write_text(NOUNS, encoding="utf-8")
    (tmp_path / "index.sense").write_text(INDEX, encoding="utf-8")
    return tmp_path


def test_names_and_rare_meanings_are_left_out(wordnet: Path) -> None:
    assert senses(wordnet) == [
        Sense(("machine",), "any mechanical device", ("the machine broke down",), ()),
        Sense(("printer",), "a machine  that prints", (), ("machine",)),
    ]


def thesaurus() -> Thesaurus:
    same = Sense(("begin", "start"), "take the first step", ("we begin at nine sharp today",), ())
    narrow = Sense(("rose",), "a flower", (), ("flower",))
    unknown = Sense(("xylem",), "a tissue", (), ())
    return Thesaurus([same, narrow, unknown], {"begin": 0, "start": 1, "rose": 2})


def test_only_meanings_of_known_words_stay() -> None:
    known = thesaurus()
    assert [meaning.words[0] for meaning in known.meanings] == [["begin"], ["rose"]]
    assert known.knows("start")
    assert not known.knows("xylem")


def test_a_word_is_said_as_synonym_or_definition() -> None:
    rng = random.Random(0)
    said = {" ".join(thesaurus().other("begin", rng)) for _ in range(60)}
    assert said == {"start", "take the first step", "begin"}


def test_a_word_without_synonym_is_said_as_wider_term_or_definition() -> None:
    rng = random.Random(0)
    said = {" ".join(thesaurus().other("rose", rng)) for _ in range(60)}
    assert said == {"flower", "a flower"}


def test_unknown_words_stay() -> None:
    assert thesaurus().reword(["the", "xylem"], random.Random(0), 1.0) == ["the", "xylem"]


def test_texts_are_long_enough_to_be_sentences() -> None:
    assert thesaurus().texts() == [["we", "begin", "at", "nine", "sharp", "today"]]
