"""Batches for the distillation of the teacher."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scripts.train_demo.pieces import Words
from scripts.train_demo.synth import Vocabulary
from scripts.train_demo.tasks import Tasks
from scripts.train_demo.teacher import Targets, Teacher

ENTRIES = 40_000
LARGEST_BATCH = 256
SWITCHED = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.9, 1.0, 1.0)
"""Shares of Chinese words, each as likely as the others."""


@dataclass
class Batch:
    """One batch.

    Attributes:
        rows: Token ids of each text.
        owners: For each token the row of its word in `states`, or -1.
        vectors: The teacher's vector for each text.
        states: The teacher's word states.
    """

    rows: list[list[int]]
    owners: list[list[int]]
    vectors: Tensor
    states: Tensor


class Distillation:
    """Texts with the teacher's answers, and Chinese texts that share an English one's answer."""

    def __init__(
        self,
        teacher: Teacher,
        vocabulary: Vocabulary,
        tasks: Tasks,
        count: int,
        seed: int,
    ) -> None:
        rng = random.Random(seed)
        texts: list[Words] = [left for left, _ in tasks.parallel]
        twins = [right for _, right in tasks.parallel]
        for key, doc in tasks.docs.items():
            if key.startswith("en-"):
                texts.append(doc)
                twins.append(tasks.docs["zh" + key[2:]])
        made = [tasks.crossing.linked_pair(rng) for _ in range(count // 5)]
        entries = tasks.crossing.entries[:ENTRIES]
        texts += [*(left for left, _ in made), *(gloss for _, gloss in entries)]
        twins += [*(right for _, right in made), *([head] for head, _ in entries)]
        real = [part for parts in tasks.english for part in parts]
        texts += real
        base = [*real, *(text for text, _ in tasks.asked["en"]), *tasks.simple]
        texts += [[word] for word in vocabulary.words]
        texts += rng.sample(tasks.crossing.texts, min(count, len(tasks.crossing.texts)))
        texts += [vocabulary.text(rng, base) for _ in range(count)]
        for _ in range(count // 100):
            parts = vocabulary.substitute(rng.choice(tasks.english), rng, rng.choice([0.5, 0.9]))
            texts.append([word for part in parts for word in part])
        # A text may bring repeated words only; nothing is too short.
        self.targets: Targets = teacher.encode([text for text in texts if text])
        self._pieces = tasks.pieces
        lengths = [len(tasks.pieces.text(text)) for text in self.targets.texts]
        chinese = [len(tasks.pieces.text(text)) for text in twins]
        # A twin that is much longer is a slip of the sentence alignment.
        self.twins = {i: twin for i, twin in enumerate(twins) if chinese[i] < 2 * lengths[i] + 6}
        for i in self.twins:
            lengths[i] = max(lengths[i], chinese[i])
        self._lengths = np.asarray(lengths)
        self._with_twin = list(self.twins)
        last = len(tasks.parallel)
        self._messages = range(last - tasks.crossing.messages, last)
        self._crossing = tasks.crossing

    def batch(self, rng: random.Random, tokens: int, bilingual: float) -> Batch:
        """Draws texts of about equal length.

        Args:
            rng: The source of chance.
            tokens: About how many tokens.
            bilingual: Which share of the texts that have a Chinese twin uses it.

        Returns:
            The batch.
        """
        picked = [rng.randrange(len(self._lengths)) for _ in range(512)]
        picked += rng.choices(self._with_twin, k=int(256 * bilingual))
        picked += rng.choices(self._messages, k=128)
        picked.sort(key=lambda i: self._lengths[i])
        start = rng.randrange(len(picked) - 8)
        size = min(max(8, int(tokens / self._lengths[picked[start]])), LARGEST_BATCH)
        while (
            size > 4 and size * self._lengths[picked[min(start + size, len(picked)) - 1]] > tokens
        ):
            size -= 4
        picked = picked[start : start + size]
        rows, owners, slices, base = [], [], [], 0
        for i in picked:
            text = self.targets.texts[i]
            states = self.targets.states[self.targets.offsets[i] : self.targets.offsets[i + 1]]
            if i in self.twins and rng.random() < bilingual:
                row = self._pieces.text(self.twins[i], 300)
                # The pieces of a Chinese word share the state of its one English word.
                inner = base if len(text) == 1 else -1
                owner = [-1, *[inner] * (len(row) - 2), -1]
            else:
                inner = base
                row, owner = self._english(text, base, rng.choice(SWITCHED), rng)
            if inner >= 0:
                slices.append(states)
                base += len(states)
            rows.append(row)
            owners.append(owner)
        states = np.concatenate(slices) if slices else np.zeros((1, 384), dtype=np.float16)
        vectors = torch.from_numpy(self.targets.vectors[picked].astype(np.float32))
        return Batch(rows, owners, vectors, torch.from_numpy(states.astype(np.float32)))

    def _english(
        self, words: Words, base: int, share: float, rng: random.Random
    ) -> tuple[list[int], list[int]]:
        """Cuts an English text, with a share of its words in Chinese, into pieces."""
        row, owner, joined = [0], [-1], False
        for unit in self._crossing.bilingual.units(words, rng, share):
            if share == 1 and unit.text in self._crossing.dropped and rng.random() < 0.7:
                continue
            ids = self._pieces.ids(unit.text)
            if unit.changed and joined:
                ids = ids[1:]  # no space inside Chinese
            joined = unit.changed
            row += ids
            owner += [base + unit.stop - 1] * len(ids)
        return [*row[:511], 2], [*owner[:511], -1]
