"""The engine: texts to embeddings, texts to scores, candidates to rankings."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Mode,
    TokenVectors,
)
from bge_m3_integrations.core.explanation import Difference, Explanation, difference_of
from bge_m3_integrations.core.fusion import Candidates, WeightedSum
from bge_m3_integrations.core.scores import Components, Ranked, Scores, Weights
from bge_m3_integrations.core.validation import check_int, check_texts
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike
from bge_m3_integrations.encoders.base import (
    OffersMaxsim,
)
from bge_m3_integrations.encoders.wrapper import innermost
from bge_m3_integrations.engine.similarity import similarity
from bge_m3_integrations.engine.stretches import (
    DistinctTexts,
    by_query,
    hstack_scores,
    unzip,
    vstack_scores,
)
from bge_m3_integrations.engine.truncation import Cuts
from bge_m3_integrations.errors import InputError

if TYPE_CHECKING:
    pass

from bge_m3_integrations.engine.encoding import EncodingModel
from bge_m3_integrations.engine.explain import Without, explain


@public_class
class BGEM3(EncodingModel):
    """BGE-M3 as one object: encode, score and rerank with all three representations.

    Nothing is loaded or downloaded before it is needed; engines over one checkpoint, device and
    dtype share the weights. Thread-safe.

    Args:
        model: A folder or a hub id of a checkpoint in BGE-M3's format, or an `Encoder`.
        device: "auto" (CUDA, else MPS, else CPU) or a torch device, also as "cuda:1". Several, such
            as ["cuda:0", "cuda:1"], are a worker process each, which `close` ends.
        dtype: "auto" (bfloat16 or float16 where the hardware computes it, else float32),
            "float32", "bfloat16", "float16", also as a torch dtype, or "int8": 8-bit weights, on
            CPUs, faster and smaller at the cost that `docs/precision.md` states.
        pooling: "auto" (the checkpoint's own, else cls), "cls", "mean" or "last_token".
        query_instruction: Put in front of every query; BGE-M3 needs none. None is the prompt that
            sentence-transformers' files beside the weights give, if they do; "" is none.
        document_instruction: Put in front of every document; None likewise.
        max_length: Default limit in tokens per text; None is all that the model takes.
        token_budget: Most padded tokens of one forward pass; None chooses by device.
        memo_bytes: Most bytes of embeddings remembered for adapters that share this engine.
        spill_bytes: Most bytes of a temporary file for documents that do not fit there before all
            adapters have read them; with 0 they are encoded twice. Not used with `cache`, which
            does the same and more.
        batch_window_ms: Milliseconds that a call may wait for others to join its batch; 0
            joins only calls that wait already. A single call never waits.
        cache: Where embeddings are kept on disk: a folder or an `EmbeddingCache`; None keeps none.
        clean: Repair texts before encoding (extra "clean"); see `clean_text`.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where downloads are kept.
        token: Access token for the hub.
        offline: Use downloaded files only.
        trust_remote_code: Allow code that comes with the checkpoint to run.

    Raises:
        InputError: A loading option was given together with an encoder.
    """

    @overload
    def similarity(  # type: ignore[overload-overlap]
        self, a: str, b: str, *, mode: Mode = ..., max_length: int | None = ...
    ) -> float: ...
    @overload
    def similarity(
        self,
        a: str | Sequence[str],
        b: str | Sequence[str],
        *,
        mode: Mode = ...,
        max_length: int | None = ...,
    ) -> FloatArray: ...
    def similarity(
        self,
        a: str | Sequence[str],
        b: str | Sequence[str],
        *,
        mode: Mode = "dense",
        max_length: int | None = None,
    ) -> float | FloatArray:
        """Compare texts with texts, by the cosine of their dense vectors; it is symmetric.

        Both sides are encoded as documents. A text has dense and ColBERT similarity 1 with itself.
        To rank documents for a query, use `score` or `rerank`: they weigh all three scores.

        Args:
            a: A text, or `n` texts.
            b: A text, or `m` texts.
            mode: "dense"; "colbert", the mean of the ColBERT scores in both directions; or
                "sparse", the lexical score, which is no cosine: 0 and up, without a limit.
            max_length: Most tokens per text.

        Returns:
            A float for two texts, else `(n, m) float32`; a single text counts as a list of one.

        Raises:
            InputError: A text is no encodable string, or the model lacks the mode.
        """
        left, right = ([side] if isinstance(side, str) else self._checked(side) for side in (a, b))
        with Cuts():
            found = similarity(self, left, right, mode, max_length)
        return float(found[0, 0]) if isinstance(a, str) and isinstance(b, str) else found

    def maxsim(self, queries: TokenVectors, documents: TokenVectors) -> FloatArray:
        """Compute ColBERT scores by the encoder's kernel if it has one, else by `scoring.maxsim`.

        Args:
            queries: Token vectors of `q` texts, each of at least one vector.
            documents: Token vectors of `n` texts, each of at least one vector.

        Returns:
            `(q, n) float32` in [-1, 1].

        Raises:
            InputError: The widths differ, or a text has no vector.
        """
        encoder: object = innermost(self.encoder)  # those in front do not change token vectors
        kernel = encoder.maxsim if isinstance(encoder, OffersMaxsim) else scoring.maxsim
        return kernel(queries, documents)

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        *,
        weights: WeightsLike | None = None,
        max_length: int | None = None,
    ) -> Scores:
        """Score every query against every document; each text is encoded once.

        Token vectors of at most 262,144 characters of each side are held at a time: with ColBERT
        and longer lists on both sides, documents are encoded again for each stretch of queries.

        Args:
            queries: `q` texts.
            documents: `n` texts.
            weights: Weights in any form of `Weights.parse`; modes of weight 0 are not computed.
                None is the default preset, restricted to the model's modes.
            max_length: Most tokens per text.

        Returns:
            Arrays of shape `(q, n)`.
        """
        chosen = self.weights(weights)
        how: Any = {"modes": chosen.modes, "max_length": max_length}
        small = "colbert" not in chosen.modes
        encode = partial(self.encode_queries, **how)
        queries, documents = self._checked(queries), self._checked(documents)
        left = DistinctTexts(queries, encode, at_once=small)
        right = DistinctTexts(documents, partial(self.encode_documents, **how))
        rows = []
        with Cuts({"query": queries, "document": documents}):
            for _, some in left.batches():
                parts = [self._components(some, b, chosen) for _, b in right.batches() if len(b)]
                rows.append(hstack_scores(parts, some, chosen))
        table = vstack_scores(rows).take(left.places).take(np.s_[:, right.places])
        return scoring.hybrid(table, chosen)

    def score_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        weights: WeightsLike | None = None,
        max_length: int | None = None,
    ) -> Scores:
        """Score pairs of query and document; each distinct text is encoded once.

        With ColBERT and more than 262,144 characters of queries, a document is encoded once for
        each such stretch of queries that it is paired with.

        Args:
            pairs: `n` tuples of query and document.
            weights: See `score`.
            max_length: Most tokens per text.

        Returns:
            Arrays of shape `(n,)`.

        Raises:
            InputError: An item is not a pair of strings.
        """
        chosen = self.weights(weights)
        queries, documents = unzip(pairs, surrogates=self._clean)
        how: Any = {"modes": chosen.modes, "max_length": max_length}
        small = "colbert" not in chosen.modes
        left = DistinctTexts(queries, partial(self.encode_queries, **how), at_once=small)
        with Cuts({"query": queries, "document": documents}):
            out = self._pair_scores(left, documents, chosen, how)
        return scoring.hybrid(Components(**out), chosen)

    def _pair_scores(
        self, left: DistinctTexts, documents: Sequence[str], chosen: Weights, how: Any
    ) -> dict[Mode, FloatArray]:
        out = {mode: np.zeros(len(documents), np.float32) for mode in chosen.modes}
        for piece, query_batch in left.batches():
            of_these = left.inside(piece)
            right = DistinctTexts(
                [documents[i] for i in of_these],
                partial(self.encode_documents, **how),
                numbers=of_these,
            )
            for stretch, batch in right.batches():
                for i, rows in by_query(left.places[of_these], right.inside(stretch)):
                    some = batch.take(right.places[rows] - stretch.start)
                    part = self._components(query_batch.take([i - piece.start]), some, chosen)
                    for mode, scores in part.items():
                        out[mode][of_these[rows]] = scores[0]
        return out

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        limit: int | None = None,
        weights: WeightsLike | None = None,
        max_length: int | None = None,
    ) -> list[Ranked]:
        """Order documents by their hybrid score; the query is encoded once.

        Args:
            query: One text.
            documents: `n` texts.
            limit: Most results; None is all.
            weights: See `score`.
            max_length: Most tokens per text.

        Returns:
            Best first, ties by position.

        Raises:
            InputError: `query` is no string, or `limit` is below 1.
        """
        if not isinstance(query, str):
            raise InputError(f"query must be str, not {type(query).__name__}")
        profile = self.weighting(weights, query=query)
        chosen = self.weights(profile)
        scores = self.score([query], documents, weights=chosen, max_length=max_length)
        return ranking(Candidates((), scores.components.take(0), 0.0), profile, limit=limit)

    def explain(
        self,
        query: str,
        document: str,
        *,
        weights: WeightsLike | None = None,
        without: Without | None = None,
        max_length: int | None = None,
    ) -> Explanation:
        """Explain the score of a document: parts that sum to it, each with its place in the text.

        The lexical and the ColBERT score are sums over words. The dense score has no parts: on
        request, `without` tells how it would change if a word were not there.

        Args:
            query: The query; encoded once.
            document: The document's text; encoded once.
            weights: How much each mode counts; see `score`.
            without: "query" or "document": leave out each of its first 64 words in turn, for one
                forward pass each.
            max_length: Most tokens per text.

        Returns:
            The explanation; `print` it, show it in a notebook, or `save_html`.

        Raises:
            InputError: A text is no encodable string, or the weights rank by places.
        """
        check_texts([query, document], surrogates=self._clean)
        profile = self.weighting(weights, query)
        return explain(self, query, document, profile, without=without, max_length=max_length)

    def explain_difference(
        self, query: str, a: str, b: str, *, weights: WeightsLike | None = None
    ) -> Difference:
        """Explain why one document beats another: the largest differences first.

        Args:
            query: The query.
            a: Text of a document.
            b: Text of another document.
            weights: How much each mode counts; see `score`.

        Returns:
            Parts that sum to the difference of the scores.
        """
        first, second = (self.explain(query, text, weights=weights) for text in (a, b))
        return difference_of(first, second)

    def _components(
        self, queries: EmbeddingBatch, documents: EmbeddingBatch, weights: Weights
    ) -> Components:
        return scoring.components(queries, documents, weights.modes, maxsim=self.maxsim)


def ranking(
    candidates: Candidates, profile: WeightProfile, *, limit: int | None = None
) -> list[Ranked]:
    """Order one query's documents by their weighted scores.

    Args:
        candidates: The scored documents.
        profile: The weights, and the fusion if it is not the raw weighted mean.
        limit: Most results; None is all.

    Returns:
        Best first, ties by position.

    Raises:
        InputError: `limit` is below 1.
    """
    if limit is not None:
        limit = check_int("limit", limit)
    fusion, weights = profile.fusion or WeightedSum(), profile.weights
    parts, lexical = candidates.components, candidates.lexical
    values = candidates.values(fusion, weights)
    hybrid = scoring.hybrid(parts, weights).hybrid
    order = np.argsort(-values, kind="stable")[:limit]
    return [
        Ranked(
            i,
            float(values[i]),
            parts.as_dict(i),
            weights=weights,
            hybrid=float(hybrid[i]),
            fusion=fusion.name,
            weighting=profile.name,
            lexical=None if lexical is None else float(lexical[i]),
        )
        for i in order.tolist()
    ]
