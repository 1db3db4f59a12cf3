"""Explanations of a score: parts that sum to it, each with its place in the user's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bge_m3_integrations.core.embeddings import MODES, FloatArray, Mode
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.words import Word


@dataclass(frozen=True, slots=True)
class ExplainedText:
    """A text as the model saw it.

    Attributes:
        text: What spans are of: the user's text, or the cleaned one where `clean` is on.
        given: What the user gave.
        words: All words, in order.
        truncated: Tokens that were cut off at the length limit: no score knows of them.
    """

    text: str
    given: str
    words: Sequence[Word] = field(repr=False)
    truncated: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The text as plain Python."""
        return {"text": self.text, "given": self.given, "truncated": self.truncated}


@dataclass(frozen=True, slots=True)
class LexicalMatch:
    """A query word that the document has too, or a part of it.

    Attributes:
        query: The word of the query.
        document: The words of the document that hold the shared tokens, in order.
        tokens: The shared tokens, as the tokenizer writes them.
        query_weights: Weight of each token in the query.
        document_weights: Weight of each token in the document.
        value: The sum of their products: its part of the lexical score.
    """

    query: Word
    document: Sequence[Word]
    tokens: Sequence[str]
    query_weights: Sequence[float]
    document_weights: Sequence[float]
    value: float

    def to_dict(self) -> dict[str, Any]:
        """The match as plain Python."""
        return {
            "query": _place(self.query),
            "document": [_place(word) for word in self.document],
            "tokens": list(self.tokens),
            "query_weights": list(self.query_weights),
            "document_weights": list(self.document_weights),
            "value": self.value,
        }


@dataclass(frozen=True, slots=True)
class Alignment:
    """A query word and the document words that its token vectors are closest to.

    Attributes:
        query: The word of the query.
        document: The words of the best token of each of its tokens, without repetition.
        cosine: The mean of its tokens' best cosines.
        value: Its part of the ColBERT score: the sum of these cosines, divided by the number of
            the query's token vectors.
    """

    query: Word
    document: Sequence[Word]
    cosine: float
    value: float

    def to_dict(self) -> dict[str, Any]:
        """The alignment as plain Python."""
        return {
            "query": _place(self.query),
            "document": [_place(word) for word in self.document],
            "cosine": self.cosine,
            "value": self.value,
        }


@dataclass(frozen=True, slots=True)
class WithoutWord:
    """The dense score if a word were not there.

    Attributes:
        word: Of the query or of the document.
        change: The dense score without it minus the one with it. Changes do not sum to anything:
            a dense vector has no parts.
    """

    word: Word
    change: float


@dataclass(frozen=True, slots=True, eq=False)
class Explanation:
    """Why a document has its score for a query; `print` and Jupyter show it.

    Attributes:
        query: As the model saw it.
        document: As the model saw it.
        score: The weighted mean of the parts.
        scores: The component scores, by mode.
        weights: The weights used.
        weighting: The name of the weights; None for numbers.
        fusion: The rule: by "scaled_sum" and "learned_sum" the lexical part is divided by the sum
            of the query's weights.
        lexical: Matches, largest part first; they sum to `lexical_value`. None where that is
            estimated.
        lexical_value: The lexical part: the sparse score, or what the fusion makes of it.
        alignments: One per query word, in order; they sum to the ColBERT score.
        without: The changes of the dense score without a word, if they were asked for.
        similarity: `(query words, document words)`, the best cosine of their tokens; for the map.
        estimated: Whether `lexical_value` is what learned weights estimate from the other scores,
            since the document is of another script than the query.
    """

    query: ExplainedText
    document: ExplainedText
    score: float
    scores: Mapping[Mode, float]
    weights: Weights
    weighting: str | None
    fusion: str
    lexical: Sequence[LexicalMatch]
    lexical_value: float | None
    alignments: Sequence[Alignment]
    without: Sequence[WithoutWord] = ()
    similarity: FloatArray | None = field(default=None, repr=False)
    estimated: bool = False

    @property
    def parts(self) -> dict[Mode, float]:
        """The part of the score of each mode: its weight's share times its value."""
        total = sum(self.weights.of(mode) for mode in self.scores)
        values = dict(self.scores)
        if self.lexical_value is not None and "sparse" in values:
            values["sparse"] = self.lexical_value
        return {mode: self.weights.of(mode) / total * values[mode] for mode in values}

    @property
    def lexical_note(self) -> str:
        """The reason of a lexical value without matches, for people."""
        if self.estimated:
            return "estimated from the other scores, since the document is in another script"
        return "none: the texts share no token, so the lexical score is 0"

    def word_parts(self) -> dict[str, dict[Mode, float]]:
        """The part of the score of each query word, by lexical match and by alignment.

        Returns:
            Values by the word's text and place, as "word@start"; they sum to the lexical part of
            `parts`, unless that is estimated, and to the ColBERT part.
        """
        total = sum(self.weights.of(mode) for mode in self.scores)
        out: dict[str, dict[Mode, float]] = {}
        pieces: list[tuple[Mode, Sequence[LexicalMatch] | Sequence[Alignment]]] = [
            ("sparse", self.lexical),
            ("colbert", self.alignments),
        ]
        for mode, rows in pieces:
            if mode in self.scores:
                for row in rows:
                    share = self.weights.of(mode) / total * row.value
                    held = out.setdefault(f"{row.query.text}@{row.query.start}", {})
                    held[mode] = held.get(mode, 0.0) + share
        return out

    def to_dict(self) -> dict[str, Any]:
        """The explanation as plain Python, which `json.dumps` takes."""
        return {
            "query": self.query.to_dict(),
            "document": self.document.to_dict(),
            "score": self.score,
            "scores": {str(mode): value for mode, value in self.scores.items()},
            "parts": {str(mode): value for mode, value in self.parts.items()},
            "weights": {mode: self.weights.of(mode) for mode in MODES},
            "weighting": self.weighting,
            "fusion": self.fusion,
            "lexical_value": self.lexical_value,
            "estimated": self.estimated,
            "lexical": [match.to_dict() for match in self.lexical],
            "alignments": [alignment.to_dict() for alignment in self.alignments],
            "without": [{**_place(one.word), "change": one.change} for one in self.without],
        }

    def __str__(self) -> str:
        lines = [f"score {self.score:.4f}  ({self.fusion}, weights {self.weighting or 'given'})"]
        names = {"dense": "whole meaning", "sparse": "same words", "colbert": "close words"}
        for mode, part in self.parts.items():
            value = self.lexical_value if mode == "sparse" else self.scores[mode]
            lines.append(f"  {mode:8} {names[mode]:14} {value or 0.0:7.4f}  adds {part:.4f}")
        if self.estimated:
            lines.append(f"same words: {self.lexical_note}")
        if self.lexical:
            lines.append("same words:")
            lines += [
                f"  {m.query.text} = {_names(m.document)}  {m.value:.4f}" for m in self.lexical
            ]
        if self.alignments:
            lines.append("close words:")
            lines += [
                f"  {a.query.text} ~ {_names(a.document)}  cosine {a.cosine:.3f}, adds "
                f"{a.value:.4f}"
                for a in self.alignments
            ]
        lines += [f"  without {w.word.text!r}: dense {w.change:+.4f}" for w in self.without]
        for name, one in (("query", self.query), ("document", self.document)):
            if one.truncated:
                lines.append(f"{one.truncated} tokens of the {name} were cut off and not seen")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from bge_m3_integrations.core.explanation_html import fragment

        return fragment(self)

    def save_html(self, path: Any) -> None:
        """Write one HTML file: highlights, alignments and their map.

        Args:
            path: The file.
        """
        from pathlib import Path

        from bge_m3_integrations.core.explanation_html import whole_page

        Path(path).expanduser().write_text(whole_page(self), "utf-8")


@dataclass(frozen=True, slots=True)
class DifferencePart:
    """One reason why a document beats another.

    Attributes:
        mode: Which score.
        word: The query word; None for the dense score and an estimated lexical one, which have no
            parts.
        a: What it adds to the score of the first document.
        b: What it adds to the score of the second document.
    """

    mode: Mode
    word: str | None
    a: float
    b: float

    @property
    def difference(self) -> float:
        """`a - b`: above 0 speaks for the first document."""
        return self.a - self.b


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Why one document beats another for a query.

    Attributes:
        a: The first document's explanation.
        b: The second document's explanation.
        parts: Largest difference first; they sum to the difference of the scores.
    """

    a: Explanation
    b: Explanation
    parts: Sequence[DifferencePart]

    def to_dict(self) -> dict[str, Any]:
        """The difference as plain Python, which `json.dumps` takes."""
        rows = [
            {"mode": p.mode, "word": p.word, "a": p.a, "b": p.b, "difference": p.difference}
            for p in self.parts
        ]
        return {"a": self.a.score, "b": self.b.score, "parts": rows}

    def __str__(self) -> str:
        gap = self.a.score - self.b.score
        lines = [f"{self.a.score:.4f} against {self.b.score:.4f}: {gap:+.4f}, which is made of"]
        for part in self.parts:
            what = part.word or ("whole meaning" if part.mode == "dense" else "(estimated)")
            lines.append(
                f"  {part.difference:+.4f}  {part.mode:8} {what}  ({part.a:.4f} - {part.b:.4f})"
            )
        return "\n".join(lines)


def difference_of(a: Explanation, b: Explanation) -> Difference:
    """Set two explanations of one query against each other."""
    parts: list[DifferencePart] = []
    if "dense" in a.parts:
        parts.append(DifferencePart("dense", None, a.parts["dense"], b.parts["dense"]))
    guesses = [one.parts["sparse"] if one.estimated else 0.0 for one in (a, b)]
    if any(guesses):
        parts.append(DifferencePart("sparse", None, *guesses))
    left, right = a.word_parts(), b.word_parts()
    for word in dict.fromkeys([*left, *right]):
        for mode in MODES:
            one, two = left.get(word, {}).get(mode, 0.0), right.get(word, {}).get(mode, 0.0)
            if one or two:
                parts.append(DifferencePart(mode, word.rpartition("@")[0], one, two))
    parts.sort(key=lambda part: -abs(part.difference))
    return Difference(a, b, parts)


def _place(word: Word) -> dict[str, Any]:
    return {"text": word.text, "start": word.start, "end": word.end}


def _names(words: Sequence[Word]) -> str:
    return ", ".join(dict.fromkeys(word.text for word in words))
