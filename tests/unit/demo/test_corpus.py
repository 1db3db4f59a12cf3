"""The demo corpus: its size, its judgements, and the rule that makes a paraphrase one."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import snowballstemmer

DEMO = Path(__file__).resolve().parents[3] / "bge_m3_integrations" / "demo"
LANGUAGES = ("en", "zh")
GROUP_MINIMUMS = {"plain": 24, "keyword": 12, "cross": 12, "paraphrase": 12}

# Function words only: nothing that could be the topic of a question.
_STOP_WORDS = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself
she her hers herself it its itself they them their theirs themselves what which who whom whose
this that these those am is are was were be been being have has had having do does did doing
a an the and but if or because as until while of at by for with about against between into
through during before after above below to from up down in out on off over under again further
then once here there when where why how all any both each few more most other some such no nor
not only own same so than too very can will just should now d ll m o re s t ve y ain aren couldn
didn doesn don hadn hasn haven isn ma mightn mustn needn shan shouldn wasn weren won wouldn
could would may might must shall cannot also whether whenever
"""
ENGLISH_STOP_WORDS = frozenset(_STOP_WORDS.split())

# Removed from a Chinese question before its bigrams are taken, longest first.
CHINESE_FUNCTION_WORDS = (
    "怎么办",
    "怎么样",
    "为什么",
    "的时候",
    "是不是",
    "能不能",
    "会不会",
    "有没有",
    "要不要",
    "怎么",
    "什么",
    "如何",
    "哪些",
    "哪个",
    "可以",
    "我们",
    "应该",
    "是否",
    "一个",
    "这样",
    "那么",
    "多少",
    "之后",
    "以后",
    "之前",
    "总是",
)

_HAN_RUN = re.compile(r"[\u3400-\u9fff]+")
_LATIN_TOKEN = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Question:
    """One line of `questions.jsonl`."""

    id: str
    lang: str
    group: str
    text: str
    relevant: dict[str, int]


@cache
def documents() -> dict[str, str]:
    """Every document of the handbook by id ("en/<slug>"), title line included."""
    return {
        f"{language}/{path.stem}": path.read_text(encoding="utf-8")
        for language in LANGUAGES
        for path in sorted((DEMO / "handbook" / language).glob("*.md"))
    }


@cache
def questions() -> tuple[Question, ...]:
    """Every question, in the order of the file."""
    lines = (DEMO / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Question(**json.loads(line)) for line in lines)


def in_group(group: str) -> list[Question]:
    """The questions of one group."""
    return [question for question in questions() if question.group == group]


def latin_terms(text: str) -> set[str]:
    """Stems of the lower-cased letter or digit tokens that are not English function words."""
    words = set(_LATIN_TOKEN.findall(text.lower())) - ENGLISH_STOP_WORDS
    return set(snowballstemmer.stemmer("english").stemWords(sorted(words)))


def han_bigrams(text: str) -> set[str]:
    """All pairs of neighbouring Han characters; punctuation and Latin letters separate."""
    runs = _HAN_RUN.findall(text)
    return {run[i : i + 2] for run in runs for i in range(len(run) - 1)}


def without_function_words(text: str) -> str:
    """The Chinese question with a space where a function word stood."""
    for word in sorted(CHINESE_FUNCTION_WORDS, key=len, reverse=True):
        text = text.replace(word, " ")
    return text


def content_terms(question: str) -> set[str]:
    """What a question may not share with a document that it paraphrases."""
    return latin_terms(question) | han_bigrams(without_function_words(question))


def shared_terms(question: str, document: str) -> set[str]:
    """Content terms of the question that the document contains too; empty for a paraphrase."""
    return content_terms(question) & (latin_terms(document) | han_bigrams(document))


def body_length(document_id: str) -> int:
    """Words of an English body, Han characters of a Chinese one."""
    body = documents()[document_id].split("\n", 2)[2]
    if document_id.startswith("en/"):
        return len(body.split())
    return sum(len(run) for run in _HAN_RUN.findall(body))


def test_the_handbook_has_enough_documents_in_both_languages() -> None:
    """Counts are kept small enough for a fast demo and large enough to make search a task."""
    counts = Counter(document_id.split("/")[0] for document_id in documents())
    assert sum(counts.values()) >= 80
    assert counts["en"] >= 56
    assert counts["zh"] >= 34


def test_every_document_is_one_title_and_one_paragraph_of_prose() -> None:
    """The loader relies on this form: title, blank line, body, newline."""
    form = re.compile(r"# \S[^\n]*\n\n[^\n#*\-][^\n]*\n")
    assert [name for name, text in documents().items() if not form.fullmatch(text)] == []


def test_no_document_is_too_short_or_too_long() -> None:
    """50 to 110 English words, 90 to 200 Chinese characters."""
    bounds = {"en": (50, 110), "zh": (90, 200)}
    wrong = {
        name: body_length(name)
        for name in documents()
        if not bounds[name[:2]][0] <= body_length(name) <= bounds[name[:2]][1]
    }
    assert wrong == {}


def test_slugs_are_ascii_and_unique_over_both_languages() -> None:
    """A slug alone names a document."""
    slugs = [name.split("/")[1] for name in documents()]
    assert [slug for slug in slugs if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug)] == []
    assert len(slugs) == len(set(slugs))


def test_titles_and_bodies_are_unique() -> None:
    """No document is a copy of another."""
    titles = [text.split("\n", 1)[0] for text in documents().values()]
    bodies = [text.split("\n", 2)[2] for text in documents().values()]
    assert len(set(titles)) == len(titles)
    assert len(set(bodies)) == len(bodies)


def test_each_line_is_a_question_with_ordered_keys_and_a_running_id() -> None:
    """The file stays readable in a diff."""
    lines = (DEMO / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        entry = json.loads(line)
        assert list(entry) == ["id", "lang", "group", "text", "relevant"]
        assert entry["id"] == f"q{number:03d}"
        assert entry["lang"] in LANGUAGES
        assert entry["group"] in GROUP_MINIMUMS


def test_the_language_of_a_question_is_the_one_it_is_labelled_with() -> None:
    """English questions hold no Han character, Chinese ones at least one."""
    wrong = [q.id for q in questions() if bool(_HAN_RUN.search(q.text)) != (q.lang == "zh")]
    assert wrong == []


def test_question_texts_are_unique() -> None:
    """A repeated question would count twice in every mean."""
    texts = [question.text.casefold() for question in questions()]
    assert len(texts) == len(set(texts))


def test_every_judged_document_exists_and_has_grade_one_or_two() -> None:
    """A judgement of a missing document would lower every score in silence."""
    wrong = [
        (question.id, name, grade)
        for question in questions()
        for name, grade in question.relevant.items()
        if name not in documents() or grade not in (1, 2)
    ]
    assert wrong == []


def test_every_question_has_a_full_answer() -> None:
    """At least one document of grade 2."""
    assert [q.id for q in questions() if 2 not in q.relevant.values()] == []


def test_there_are_enough_questions_in_total_and_in_each_group() -> None:
    """Enough that a group has a mean worth reading."""
    counts = Counter(question.group for question in questions())
    assert sum(counts.values()) >= 60
    assert [group for group, least in GROUP_MINIMUMS.items() if counts[group] < least] == []


@pytest.mark.parametrize(
    ("group", "language", "least"),
    [
        ("plain", "en", 12),
        ("plain", "zh", 12),
        ("keyword", "en", 4),
        ("keyword", "zh", 4),
        ("cross", "en", 6),
        ("cross", "zh", 6),
        ("paraphrase", "en", 8),
        ("paraphrase", "zh", 3),
    ],
)
def test_each_group_has_questions_in_both_languages(group: str, language: str, least: int) -> None:
    """No group is carried by one language."""
    assert sum(question.lang == language for question in in_group(group)) >= least


def test_cross_questions_judge_documents_of_the_other_language_only() -> None:
    """Otherwise a same-language document could earn the points."""
    wrong = [
        (question.id, name)
        for question in in_group("cross")
        for name in question.relevant
        if name.startswith(f"{question.lang}/")
    ]
    assert wrong == []


def test_plain_and_paraphrase_questions_are_fully_answered_in_their_own_language() -> None:
    """A grade-2 document in the question's language."""
    wrong = [
        question.id
        for question in (*in_group("plain"), *in_group("paraphrase"))
        if not any(
            grade == 2 and name.startswith(f"{question.lang}/")
            for name, grade in question.relevant.items()
        )
    ]
    assert wrong == []


def test_keyword_questions_are_two_to_five_terms() -> None:
    """What a user types into a search box."""
    assert [q.id for q in in_group("keyword") if not 2 <= len(q.text.split()) <= 5] == []


def test_paraphrases_share_no_content_word_with_any_judged_document() -> None:
    """Term matching alone cannot find these answers."""
    shared = {
        (question.id, name): terms
        for question in in_group("paraphrase")
        for name in question.relevant
        if (terms := shared_terms(question.text, documents()[name]))
    }
    assert shared == {}


def test_paraphrases_say_enough_to_be_checked() -> None:
    """A question of stop words only would pass the rule for nothing."""
    assert [q.id for q in in_group("paraphrase") if len(content_terms(q.text)) < 3] == []


@pytest.mark.parametrize("name", ["en/truncation", "zh/cuobiezi"])
def test_the_checker_refuses_a_question_that_copies_its_document(name: str) -> None:
    """The title alone and the whole text are both caught."""
    text = documents()[name]
    title = text.split("\n", 1)[0]
    assert shared_terms(title, text) == content_terms(title) != set()
    assert shared_terms(text, text) == content_terms(text) != set()


def test_the_checker_sees_through_case_and_inflection() -> None:
    """Stems are compared, not spellings."""
    assert shared_terms("Normalising VECTORS", "A normalised vector.") == {"normalis", "vector"}


def test_the_checker_counts_question_and_function_words_as_nothing() -> None:
    """English and Chinese words without a topic may be shared."""
    assert shared_terms("Why is it that we should?", "That is why it should.") == set()
    assert shared_terms("我们应该怎么可以", "我们应该怎么可以") == set()


def test_the_checker_finds_a_shared_pair_of_han_characters() -> None:
    """One common character is allowed, two neighbours are not."""
    assert shared_terms("向量太大", "大的向量") == {"向量"}
    assert shared_terms("向上", "方向") == set()


def test_the_checker_compares_latin_words_inside_chinese_text() -> None:
    """An identifier gives the answer away in any language."""
    assert shared_terms("为什么 BM25 更好", "bm25 很强") == {"bm25"}
