"""Words and piece ids."""

from __future__ import annotations

from transformers import XLMRobertaTokenizer

Words = list[str]


class Pieces:
    """Words and piece ids, the same as the tokenizer's own but with a cache."""

    def __init__(self, tokenizer: XLMRobertaTokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def words(self, text: str) -> Words:
        """Normalises a text and cuts it at spaces.

        Args:
            text: Any text.

        Returns:
            Its words.
        """
        plain: str = self._tokenizer.backend_tokenizer.normalizer.normalize_str(text)
        return plain.split()

    def ids(self, word: str) -> list[int]:
        """Cuts one word into pieces.

        Args:
            word: A word without spaces.

        Returns:
            Its piece ids.
        """
        if word not in self._cache:
            self._cache[word] = self._tokenizer.encode(word, add_special_tokens=False)
        return self._cache[word]

    def text(self, words: Words, limit: int = 510) -> list[int]:
        """Cuts a text into pieces.

        Args:
            words: Its words.
            limit: How many pieces at most.

        Returns:
            Its piece ids with `<s>` and `</s>`.
        """
        return [0, *[piece for word in words for piece in self.ids(word)][:limit], 2]
