"""Retrieval tasks made with the dictionary and WordNet: across languages and in other words."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from scripts.train_demo.bilingual import Bilingual
from scripts.train_demo.data import ARTICLE
from scripts.train_demo.pieces import Words
from scripts.train_demo.seeds import ASKING_EN, ASKING_ZH
from scripts.train_demo.synth import Vocabulary
from scripts.train_demo.thesaurus import Thesaurus

Example = tuple[Words, Words, str]

SHORT = frozenset({"cross_pair", "cross_word", "define"})
BLOCK = 5
"""Messages that count as one page; parts of it are not told apart."""
AREA = 12
"""Neighbouring blocks: messages about related things."""


@dataclass
class Crossing:
    """Changes texts of the training split and makes up pairs.

    Attributes:
        bilingual: The Chinese dictionary.
        thesaurus: WordNet.
        vocabulary: The teacher's words.
        docs: The words of all paragraphs by key.
        asked: The words of all questions with the key of their paragraph, by language.
        parallel: English and Chinese sentences that translate each other.
        messages: How many at the end of `parallel` are messages of programs, in their order.
    """

    bilingual: Bilingual
    thesaurus: Thesaurus
    vocabulary: Vocabulary
    docs: dict[str, Words]
    asked: dict[str, list[tuple[Words, str]]]
    parallel: list[tuple[Words, Words]]
    messages: int

    def __post_init__(self) -> None:
        """Finds the translations inside parallel texts once."""
        self.dropped = frozenset(self.vocabulary.function)
        self.entries = [
            (head, gloss.split())
            for head, gloss in self.bilingual.to_english.items()
            if len(head) > 1 and gloss.count(" ") < 4
        ]
        self.entries.sort(key=lambda entry: -self.bilingual.use[entry[0]])
        self.links = [self._aligned(left, right) for left, right in self.parallel]
        self.linked = [i for i, found in enumerate(self.links) if found]
        self.texts = self.thesaurus.texts()
        self.twins: dict[str, dict[str, str]] = {}
        self.by_article: dict[int, list[tuple[Words, Words, str]]] = {}
        for (words, key), (chinese, _) in zip(self.asked["en"], self.asked["zh"], strict=True):
            if key not in self.twins:
                self.twins[key] = self._aligned(self.docs[key], self.docs["zh" + key[2:]])
            row = (words, chinese, key)
            self.by_article.setdefault(int(key[3:]) // ARTICLE, []).append(row)

    def _aligned(self, english: Words, chinese: Words) -> dict[str, str]:
        content = [word for word in english if self.vocabulary.is_content(word)]
        return self.bilingual.aligned(content, " ".join(chinese))

    def exchange(
        self, links: dict[str, str], english: list[Words], chinese: list[Words], rng: random.Random
    ) -> tuple[list[Words], list[Words]]:
        """Puts other words that translate each other in the place of some that do.

        Args:
            links: Chinese words by English words.
            english: English texts that belong together.
            chinese: Chinese texts that belong to them.
            rng: The source of chance.

        Returns:
            The changed texts.
        """
        share = rng.choice([0.0, 0.5, 0.9])
        there: dict[str, str] = {}
        back: dict[str, str] = {}
        for word, head in links.items():
            if head not in back and rng.random() < share:
                there[word], back[head] = self.bilingual.other_pair(head, rng)
        if not back:
            return english, chinese
        known = re.compile("|".join(sorted(back, key=len, reverse=True)))
        changed = [[there.get(word, word) for word in text] for text in english]
        swapped = [
            [known.sub(lambda found: back[found.group()], word) for word in text]
            for text in chinese
        ]
        return changed, swapped

    def translated(self, words: Words, rng: random.Random) -> Words:
        """Translates an English text word by word, all of it or a part.

        Args:
            words: The text.
            rng: The source of chance.

        Returns:
            The mixed text.
        """
        share = rng.choice([0.5, 0.9, 1.0])
        return self.bilingual.translate(words, rng, share, self.dropped)

    def pair(self, rng: random.Random) -> tuple[Words, Words]:
        """Makes up a text in both languages.

        Args:
            rng: The source of chance.

        Returns:
            An English text and a Chinese one: parallel sentences with other words, or a made-up or
            real English text and its translation word by word.
        """
        kind = rng.random()
        if kind < 0.5:
            return self.linked_pair(rng)
        text = rng.choice(self.texts) if kind < 0.75 else self.vocabulary.text(rng, self.texts)
        return text, self.bilingual.translate(text, rng, 1.0, self.dropped)

    def linked_pair(self, rng: random.Random) -> tuple[Words, Words]:
        """Draws parallel sentences and exchanges words in them.

        Args:
            rng: The source of chance.

        Returns:
            An English and a Chinese text.
        """
        number = rng.choice(self.linked)
        left, right = self.parallel[number]
        english, chinese = self.exchange(self.links[number], [left], [right], rng)
        return english[0], chinese[0]

    def word_pair(self, rng: random.Random) -> tuple[Words, Words]:
        """Draws one to three entries of the dictionary.

        Args:
            rng: The source of chance.

        Returns:
            Their glosses and their headwords.
        """
        size = rng.choice([1, 1, 1, 2, 3])
        rows = [self.entries[int(len(self.entries) * rng.random() ** 2.0)] for _ in range(size)]
        heads = [head for head, _ in rows]
        glosses = [word for _, gloss in rows for word in gloss]
        return glosses, heads if rng.random() < 0.5 else ["".join(heads)]

    def part(self, rng: random.Random, areas: list[int]) -> Example:
        """Draws a message and a page of it and its neighbours.

        Mostly the page is in the other language; otherwise the query is the message in other words.

        Args:
            rng: The source of chance.
            areas: The first blocks of the areas to take messages from; all messages if empty.

        Returns:
            The words of the query, the words of the page, and a key of the messages around it.
        """
        blocks = self.messages // BLOCK
        block = (
            rng.choice(areas) + rng.randrange(AREA) if areas else rng.randrange(blocks)
        ) % blocks
        first = len(self.parallel) - self.messages + block * BLOCK
        number = rng.randrange(first, first + BLOCK)
        page = self.parallel[
            rng.randint(first, number) : rng.randint(number, first + BLOCK - 1) + 1
        ]
        left, right = self.parallel[number]
        english, chinese = self.exchange(
            self.links[number],
            [left, [word for text, _ in page for word in text]],
            [right, [word for _, text in page for word in text]],
            rng,
        )
        kind = rng.random()
        if kind < 0.35:
            return self.asking(english[0], rng, ASKING_EN), chinese[1], str(block)
        if kind < 0.7:
            return self.asking(chinese[0], rng, ASKING_ZH), english[1], str(block)
        if kind < 0.85:
            words = self.thesaurus.reword(english[0], rng, 0.7)
            return self.asking(words, rng, ASKING_EN), english[1], str(block)
        words = self.bilingual.reword(chinese[0], rng, 0.8)
        return self.asking(words, rng, ASKING_ZH), chinese[1], str(block)

    def asking(self, words: Words, rng: random.Random, ways: list[str]) -> Words:
        """Says a message as a question or loses some of its words, as questions do.

        Args:
            words: The message.
            rng: The source of chance.
            ways: Questions with a place for the message.

        Returns:
            The message itself, a part of it or a question.
        """
        if rng.random() < 0.4:
            split = [self.bilingual.parts(word) for word in words]
            kept = ["".join(part for part in parts if rng.random() < 0.7) for parts in split]
            words = [word for word in kept if word] or words
        if rng.random() < 0.4:
            words = rng.choice(ways).format(" ".join(words).strip(".。 ")).split()
        return words

    def example(self, task: str, rng: random.Random, articles: list[int]) -> Example:
        """Draws one example.

        Args:
            task: The task.
            rng: The source of chance.
            articles: XQuAD articles or, for `cross_part`, areas to draw from; all if empty.

        Returns:
            The words of the query, the words of the document, and the document's key.
        """
        if task in SHORT:
            return self._short(task, rng)
        if task == "cross_part":
            return self.part(rng, articles)
        if task == "qa_reword":
            query, key = rng.choice(self.asked["en"])
            query, doc = self.vocabulary.substitute([query, self.docs[key]], rng, 0.4)
            return self.thesaurus.reword(query, rng, rng.choice([0.5, 0.9])), doc, key
        return self._question(task, rng, articles)

    def some(self, task: str, count: int, rng: random.Random) -> list[int]:
        """Draws articles of XQuAD or, for `cross_part`, areas of messages.

        Args:
            task: The task.
            count: How many.
            rng: The source of chance.

        Returns:
            Their numbers, or the numbers of the areas' first blocks.
        """
        if task == "cross_part":
            return [rng.randrange(self.messages // BLOCK) for _ in range(count)]
        return rng.sample(list(self.by_article), min(count, len(self.by_article)))

    def _question(self, task: str, rng: random.Random, articles: list[int]) -> Example:
        """Draws a question of XQuAD across the languages."""
        pool = self.by_article[rng.choice(articles or list(self.by_article))]
        asked, chinese, key = rng.choice(pool)
        doc, other = self.docs[key], self.docs["zh" + key[2:]]
        if task == "cross_switch":
            asked, doc = self.vocabulary.substitute([asked, doc], rng, rng.choice([0.5, 0.9]))
            if rng.random() < 0.6:
                return self.translated(asked, rng), doc, key
            return asked, self.translated(doc, rng), key
        english, zh = self.exchange(self.twins[key], [asked, doc], [chinese, other], rng)
        kind = rng.random()
        if kind < 0.4:
            return english[0], zh[1], key
        if kind < 0.8:
            return zh[0], english[1], key
        return (english[0], english[1], key) if kind < 0.9 else (zh[0], zh[1], key)

    def _short(self, task: str, rng: random.Random) -> Example:
        """Draws a pair of short texts that mean the same."""
        if task == "define":
            meaning = rng.choice(self.thesaurus.meanings)
            word = rng.choice(meaning.words)
            right = meaning.definition
            if meaning.examples and rng.random() < 0.4:
                right = rng.choice(meaning.examples)
                word = self.thesaurus.reword(right, rng, 0.7)
            elif len(meaning.words) > 1 and rng.random() < 0.4:
                right = next(other for other in meaning.words if other != word)
            return word, right, " ".join(right)
        left, right = self.pair(rng) if task == "cross_pair" else self.word_pair(rng)
        return left, right, " ".join(right)
