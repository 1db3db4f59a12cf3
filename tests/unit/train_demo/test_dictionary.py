from __future__ import annotations

import random

import pytest

from scripts.train_demo import dictionary
from scripts.train_demo.bilingual import Bilingual, Unit, bases

LINES = [
    "# a comment",
    "打印 打印 [da3 yin4] /to print; to seal/CL:次[ci4]/",
    "印表 印表 [yin4 biao3] /to print/",
    "打印機 打印机 [da3 yin4 ji1] /printer (machine)/",
    "北京 北京 [Bei3 jing1] /Beijing, capital of the PRC/",
    "空調 空调 [kong1 tiao2] /air conditioner/variant of 某[mou3]/",
    "慢 慢 [man4] /slow/",
]
GLOSSES = dictionary.entries(LINES)


def two_languages(learned: dict[str, dict[str, float]] | None = None) -> Bilingual:
    rank = {"print": 1, "printer": 2, "slow": 3}
    return Bilingual(GLOSSES, ["打印机很慢", "印表"], learned or {}, rank, frozenset({"the"}))


@pytest.mark.parametrize(
    ("definition", "gloss"),
    [
        ("to monitor (a conversation)", "to monitor"),
        ("To tell sb sth", "to tell somebody something"),
        ("CL:把[ba3]", ""),
        ("surname Wang", ""),
        ("old variant of 补丁[bu3 ding5]", ""),
        ("see also 某[mou3]", ""),
        ("one two three four five six seven eight nine", ""),
        ("café", ""),
        ("(bird species of China)", ""),
    ],
)
def test_a_definition_is_cut_to_a_plain_gloss(definition: str, gloss: str) -> None:
    assert dictionary.clean(definition) == gloss


@pytest.mark.parametrize(
    ("gloss", "key"),
    [("to print", "print"), ("to be slow", "slow"), ("a printer", "printer"), ("tool", "tool")],
)
def test_a_key_has_no_infinitive_and_no_article(gloss: str, key: str) -> None:
    assert dictionary.key(gloss) == key


def test_names_comments_and_variants_are_no_entries() -> None:
    assert GLOSSES == {
        "打印": ("to print", "to seal"),
        "印表": ("to print",),
        "打印机": ("printer",),
        "空调": ("air conditioner",),
        "慢": ("slow",),
    }


def test_productivity_counts_the_headwords_around_a_headword() -> None:
    counts = dictionary.productivity(["打印", "打印机", "复打印", "机"])
    assert counts == {"打印": 2, "打印机": 0, "复打印": 0, "机": 1}


def test_common_words_have_a_frequent_gloss_and_build_others() -> None:
    chosen = dictionary.common(GLOSSES, {"print": 1, "printer": 9000}, 10)
    # 印表 builds no other word; 空调 has no gloss of one known word; 慢 is one character.
    assert [word for word, _ in chosen] == ["打印", "打印机"]
    assert chosen[0][1] > chosen[1][1]


@pytest.mark.parametrize(
    ("word", "base"), [("printers", "printer"), ("copies", "copy"), ("making", "make")]
)
def test_a_base_form_is_among_the_guesses(word: str, base: str) -> None:
    assert bases(word)[0] == word
    assert base in bases(word)


def test_the_longest_word_of_the_dictionary_is_cut_first() -> None:
    assert two_languages().segment("打印机很慢") == ["打印机", "很", "慢"]


def test_a_word_falls_into_parts_at_its_chinese_characters() -> None:
    assert two_languages().parts("usb打印机慢") == ["usb", "打印机", "慢"]


def test_a_phrase_is_translated_before_its_words() -> None:
    units = two_languages().units(["the", "air", "conditioner", "hums"], random.Random(0), 1.0)
    assert units == [
        Unit(0, 1, "the", False),
        Unit(1, 3, "空调", True),
        Unit(3, 4, "hums", False),
    ]


def test_neighbouring_translations_are_one_word() -> None:
    text = two_languages().translate(
        ["slow", "printers", "hum"], random.Random(0), 1.0, frozenset()
    )
    assert text == ["慢打印机", "hum"]


def test_nothing_is_translated_with_share_zero() -> None:
    words = ["slow", "printers"]
    assert two_languages().translate(words, random.Random(0), 0.0, frozenset()) == words


def test_function_words_are_translated_only_as_learned() -> None:
    learned = two_languages({"the": {"该": 0.5}})
    assert two_languages().chinese("the", random.Random(0)) is None
    assert learned.chinese("the", random.Random(0)) == "该"


def test_a_chinese_word_becomes_its_gloss() -> None:
    assert two_languages().gloss(["打印机x"], random.Random(0), 1.0) == ["printer", "x"]


def test_a_chinese_word_becomes_one_with_the_same_gloss() -> None:
    assert two_languages().reword(["请打印"], random.Random(0), 1.0) == ["请印表"]


def test_aligned_words_stand_in_both_texts() -> None:
    found = two_languages().aligned(["printers", "print", "slow"], "这个打印机很慢")
    # 打印 stands in 打印机 as characters; 慢 is too short to be sure of.
    assert found == {"printers": "打印机", "print": "打印"}
