"""Explaining a score: which words of a query and a document made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, FloatArray, Kind, Mode
from bge_m3_integrations.core.explanation import (
    Alignment,
    ExplainedText,
    Explanation,
    LexicalMatch,
    WithoutWord,
)
from bge_m3_integrations.core.fusion import ScaledSum, WeightedSum
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.scores import Components
from bge_m3_integrations.core.scripts import script_of
from bge_m3_integrations.core.weighting import WeightProfile
from bge_m3_integrations.core.words import Word, words_of
from bge_m3_integrations.errors import InputError

if TYPE_CHECKING:
    from bge_m3_integrations.engine.engine import BGEM3

MOST_WITHOUT: Final = 64
"""Words that are left out in turn: each costs a forward pass."""
Without = Literal["query", "document"]
Factors = Callable[[Any], FloatArray]


@dataclass(frozen=True, slots=True, eq=False)
class _Side:
    """One text with its tokens and its embedding.

    Attributes:
        shown: For people.
        ids: `(t,)` token ids.
        rows: `(t,)` rows of token vectors, -1 for none.
        embedding: Of this text alone.
    """

    shown: ExplainedText
    ids: Any
    rows: Any
    embedding: EmbeddingBatch


def explain(
    engine: BGEM3,
    query: str,
    document: str,
    profile: WeightProfile,
    *,
    without: Without | None = None,
    max_length: int | None = None,
) -> Explanation:
    """Explain a score; see `BGEM3.explain`.

    Args:
        engine: Encodes both texts: one forward pass each.
        query: The query.
        document: The document's text.
        profile: Weights and fusion.
        without: Whose words are left out in turn, for the dense score.
        max_length: Most tokens per text.

    Returns:
        The explanation.

    Raises:
        InputError: The fusion ranks by places, which no document has alone, or needs an index.
    """
    fusion = _explicable(profile)
    modes = profile.weights.modes
    left = _side(engine, query, "query", modes, max_length)
    right = _side(engine, document, "document", modes, max_length)
    parts = scoring.components(left.embedding, right.embedding, modes, maxsim=engine.maxsim)
    scores: dict[Mode, float] = {mode: float(array[0, 0]) for mode, array in parts.items()}
    matches, value = _lexical(engine, left, right, fusion) if "sparse" in modes else ([], None)
    estimate = _estimate(left, right, fusion, parts.take(0)) if "sparse" in modes else None
    if estimate is not None:  # the words that are in both do not make it
        matches, value = [], estimate
    alignments, similarity = _alignments(left, right) if "colbert" in modes else ([], None)
    weights = profile.weights
    values: dict[Mode, float] = dict(scores)
    if value is not None:
        values["sparse"] = value
    total = sum(weights.of(mode) for mode in modes)
    return Explanation(
        left.shown,
        right.shown,
        sum(weights.of(mode) * values[mode] for mode in values) / total,
        scores,
        weights,
        profile.name,
        fusion.name,
        matches,
        value,
        alignments,
        _without(engine, left, right, without, max_length),
        similarity,
        estimate is not None,
    )


def _explicable(profile: WeightProfile) -> WeightedSum | ScaledSum | LearnedSum:
    fusion = profile.fusion or WeightedSum()
    if not isinstance(fusion, WeightedSum | ScaledSum | LearnedSum):
        raise InputError(
            f"{fusion.name} ranks by the places of all candidates, so one document has no score of "
            "its own to explain; explain by weighted_sum, or by the profile's weights alone"
        )
    if isinstance(fusion, LearnedSum) and fusion.idf is None and "sparse" in profile.weights.modes:
        raise InputError(
            f"the weight profile {profile.name!r} needs the word frequencies of the index that "
            "learned it; explain with that index, or by the profile's weights alone"
        )
    return fusion


def _side(
    engine: Any, text: str, kind: Kind, modes: frozenset[Mode], max_length: int | None
) -> _Side:
    encode = engine.encode_queries if kind == "query" else engine.encode_documents
    embedding = encode([text], modes=modes, max_length=max_length)
    shown = engine.text_of_spans(text)
    tokens = engine.tokenize([text], kind=kind, max_length=max_length)
    spans = _mended_spans(engine, shown, tokens, kind, max_length)
    explained = ExplainedText(shown, text, words_of(shown, spans), int(tokens.truncated[0]))
    return _Side(explained, tokens.ids, tokens.colbert_rows, embedding)


def _mended_spans(
    engine: Any, text: str, tokens: Any, kind: Kind, max_length: int | None
) -> list[tuple[int, int]]:
    """The spans of tokens, where deleted control characters may have shifted them.

    Some tokenizers delete control characters and count the places behind them wrongly. Without
    these characters the tokens are the same and their places right; they are mapped back here.
    """
    spans = [(int(start), int(end)) for start, end in tokens.spans]
    kept = [i for i, c in enumerate(text) if c in "\t\n\r" or not _is_control(c)]
    if len(kept) == len(text):
        return spans
    plain = engine.tokenize(["".join(text[i] for i in kept)], kind=kind, max_length=max_length)
    if not np.array_equal(plain.ids, tokens.ids):
        return spans
    return [
        (kept[start], kept[end - 1] + 1) if 0 <= start < end else (-1, -1)
        for start, end in plain.spans.tolist()
    ]


def _is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def _lexical(
    engine: Any, left: _Side, right: _Side, fusion: WeightedSum | ScaledSum | LearnedSum
) -> tuple[list[LexicalMatch], float]:
    """The matches, and the lexical value that they sum to."""
    ids, raw = left.embedding.sparse.row(0)
    weights = raw.astype(np.float64)
    if isinstance(fusion, LearnedSum):
        weights = fusion.reweighted(left.embedding.only({"sparse"})).sparse.row(0)[1]
    elif isinstance(fusion, ScaledSum) and float(raw.sum()) > 0:
        weights = weights / float(raw.sum())
    asked = dict(zip(ids.tolist(), weights.tolist(), strict=True))
    held = right.embedding.sparse.as_dict(0)
    shared = asked.keys() & held.keys()
    of_document: dict[int, list[Word]] = {}
    for word, token in _tokens(right):
        of_document.setdefault(token, []).append(word)
    by_word: dict[Word, list[int]] = {}
    seen: set[int] = set()
    for word, token in _tokens(left):
        # the weight of a token is one, however often it comes: its first word stands for it
        if token in shared and token not in seen:
            seen.add(token)
            by_word.setdefault(word, []).append(token)
    matches = [
        LexicalMatch(
            word,
            _distinct(one for token in tokens for one in of_document.get(token, [])),
            engine.encoder.id_to_token(tokens),
            [asked[token] for token in tokens],
            [held[token] for token in tokens],
            sum(asked[token] * held[token] for token in tokens),
        )
        for word, tokens in by_word.items()
    ]
    matches.sort(key=lambda match: -match.value)
    return matches, sum(match.value for match in matches)


def _estimate(
    left: _Side, right: _Side, fusion: WeightedSum | ScaledSum | LearnedSum, parts: Components
) -> float | None:
    """The lexical value of a document of another script than the query; None for all others."""
    if not isinstance(fusion, LearnedSum) or fusion.imputation is None or fusion.idf is None:
        return None
    own = fusion.idf.script_of(*left.embedding.sparse.row(0))
    if own is None or script_of(right.shown.given) in (None, own):
        return None
    return float(fusion.imputed(np.zeros(1, np.float32), parts, np.ones(1, bool))[0])


def _alignments(left: _Side, right: _Side) -> tuple[list[Alignment], FloatArray]:
    """One alignment per query word, and the best cosine of each pair of words."""
    queries = np.asarray(left.embedding.colbert.row(0), np.float32)
    documents = np.asarray(right.embedding.colbert.row(0), np.float32)
    table = queries @ documents.T
    best, nearest = table.max(axis=1), table.argmax(axis=1)
    owner = {
        int(right.rows[token]): word
        for word in right.shown.words
        for token in word.tokens
        if right.rows[token] >= 0
    }
    out, rows_of = [], [_rows(left, word) for word in left.shown.words]
    for word, rows in zip(left.shown.words, rows_of, strict=True):
        if rows:
            places = _distinct(owner[int(nearest[row])] for row in rows)
            cosines = [float(best[row]) for row in rows]
            value = sum(cosines) / len(queries)
            out.append(Alignment(word, places, sum(cosines) / len(cosines), value))
    columns = [_rows(right, word) for word in right.shown.words]
    similarity = np.full((len(rows_of), len(columns)), np.nan, np.float32)
    for i, rows in enumerate(rows_of):
        for j, held in enumerate(columns):
            if rows and held:
                similarity[i, j] = table[np.ix_(rows, held)].max()
    return out, similarity


def _without(
    engine: Any, left: _Side, right: _Side, side: Without | None, max_length: int | None
) -> list[WithoutWord]:
    """The dense score with one word left out, for each word: one forward pass each."""
    if side is None:
        return []
    if side not in ("query", "document"):
        raise InputError(f'without must be "query" or "document", not {side!r}')
    if left.embedding.dense is None:
        raise InputError("without is about the dense score, which these weights do not count")
    changed, other = (left, right) if side == "query" else (right, left)
    text = changed.shown.text
    words = [word for word in changed.shown.words if word.start >= 0][:MOST_WITHOUT]
    texts = [f"{text[: word.start]}{text[word.end :]}" for word in words]
    encode = engine.encode_queries if side == "query" else engine.encode_documents
    rest = encode(texts, modes={"dense"}, max_length=max_length).dense
    usual = float(changed.embedding.dense[0] @ other.embedding.dense[0])
    values = (rest @ other.embedding.dense[0]).tolist()
    found = [WithoutWord(word, value - usual) for word, value in zip(words, values, strict=True)]
    return sorted(found, key=lambda one: one.change)


def _tokens(side: _Side) -> list[tuple[Word, int]]:
    return [(word, int(side.ids[token])) for word in side.shown.words for token in word.tokens]


def _rows(side: _Side, word: Word) -> list[int]:
    return [int(side.rows[token]) for token in word.tokens if side.rows[token] >= 0]


def _distinct(words: Any) -> Sequence[Word]:
    return list(dict.fromkeys(words))
