"""The encoder over a torch model: tokens in, packed numpy out, one forward pass per text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from bge_m3_integrations.checks import whole
from bge_m3_integrations.encoders.batching import TokenBudget, run_in_batches
from bge_m3_integrations.encoders.torch import fingerprint
from bge_m3_integrations.encoders.torch.devices import default_budget, is_out_of_memory
from bge_m3_integrations.encoders.torch.heads import lexical_rows
from bge_m3_integrations.encoders.torch.load import CheckpointSource, Source, usable_positions
from bge_m3_integrations.encoders.torch.maxsim import maxsim
from bge_m3_integrations.encoders.torch.modules import BatchOutput, run_pack
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds
from bge_m3_integrations.errors import EncodingError, InputError
from bge_m3_integrations.types import (
    ALL_MODES,
    EmbeddingBatch,
    FloatArray,
    IntArray,
    Kind,
    Mode,
    Modes,
    SparseRows,
    TokenBatch,
    TokenVectors,
    as_modes,
    offsets_of,
)


class TorchEncoder:
    """Implements `encoders.base.Encoder` over any source of a torch model.

    Args:
        source: The model, loaded when first needed.
        query_instruction: Put in front of every query.
        document_instruction: Put in front of every document.
        max_length: Default length limit in tokens; None is all that the model takes.
        token_budget: Most tokens of one batch; None chooses by device.
    """

    def __init__(
        self,
        source: Source,
        *,
        query_instruction: str = "",
        document_instruction: str = "",
        max_length: int | None = None,
        token_budget: int | None = None,
    ) -> None:
        self.source = source
        self._instructions: dict[Kind, str] = {
            "query": query_instruction,
            "document": document_instruction,
        }
        self._max_length = max_length
        self._budget = None if token_budget is None else TokenBudget(token_budget)

    @property
    def modes(self) -> frozenset[Mode]:
        """All three."""
        return ALL_MODES

    @property
    def dim(self) -> int:
        """Width of a dense vector."""
        return int(self.source.config.hidden_size)

    @property
    def colbert_dim(self) -> int:
        """Width of a token vector."""
        return self.source.colbert_dim

    @cached_property
    def max_length(self) -> int:
        """The default limit: what was asked for, else all that model and tokenizer take."""
        model = self.model_max_length
        if self._max_length is None:
            return model
        return self._checked_length(self._max_length)

    @cached_property
    def model_max_length(self) -> int:
        """Most tokens that the model has positions for."""
        limits = [usable_positions(self.source.config), self.source.tokenizer.length_limit]
        return min((limit for limit in limits if limit is not None), default=8192)

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.source.tokenizer.vocab_size

    @property
    def pad_token_id(self) -> int:
        """The id that fills a batch."""
        return self.source.tokenizer.pad_token_id

    @cached_property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`; reads every weight file once."""
        return fingerprint.combine(
            fingerprint.tokenizer_digest(self.source.tokenizer),
            fingerprint.architecture_digest(self.source.config),
            self.source.weights_digest,
            self.source.pooling,
            self._instructions["document"],
        )

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """See `Encoder.tokenize`."""
        return self.source.tokenizer.split(texts, **self._limits(kind, max_length))

    def maxsim(self, queries: TokenVectors, documents: TokenVectors) -> FloatArray:
        """See `encoders.base.OffersMaxsim`."""
        return maxsim(queries, documents, device=self.source.device)

    def id_to_token(self, ids: Sequence[int]) -> list[str]:
        """See `Encoder.id_to_token`."""
        return self.source.tokenizer.words(ids)

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        modes = as_modes(modes)
        tokens = self.source.tokenizer.pack(texts, **self._limits(kind, max_length))
        if not len(tokens):
            return EmbeddingBatch.empty(modes, dim=self.dim, colbert_dim=self.colbert_dim)
        work = _Work(self, tokens, modes)
        run_in_batches(
            tokens.lengths,
            self._own_budget(),
            work.run,
            padded=self.source.modules.backbone.padded,
            is_out_of_memory=is_out_of_memory,
        )
        return work.result()

    def run(self, tokens: PackedIds, rows: IntArray, modes: Modes) -> BatchOutput:
        """One forward pass over some texts; a text with non-finite numbers is tried in float32.

        Args:
            tokens: Tokenised texts.
            rows: Positions of the texts to run together.
            modes: What to compute.

        Returns:
            Finite numbers.

        Raises:
            EncodingError: A text's numbers are not finite in float32 arithmetic either.
        """
        lengths = tokens.lengths[rows]
        output = self._forward(tokens, rows, modes)
        bad = np.flatnonzero(~output.finite(lengths))
        if not len(bad):
            return output
        again = self._forward(tokens, rows, modes, wide=True)
        still = rows[~again.finite(lengths)]
        if len(still):
            raise EncodingError(
                "gives numbers that are not finite, in float32 too; the checkpoint's weights are "
                "damaged or overflow on this text",
                int(still[0]),
            )
        return _merged(output, again, bad, lengths)

    def _forward(
        self, tokens: PackedIds, rows: IntArray, modes: Modes, *, wide: bool = False
    ) -> BatchOutput:
        pack = Pack.of([tokens.row(int(i)) for i in rows])
        return run_pack(self.source.modules, pack, modes, pooling=self.source.pooling, wide=wide)

    def _limits(self, kind: Kind, max_length: int | None) -> _Limits:
        limit = self.max_length if max_length is None else self._checked_length(max_length)
        return _Limits(instruction=self._instructions[kind], max_length=limit)

    def _own_budget(self) -> TokenBudget:
        if self._budget is None:
            self._budget = TokenBudget(default_budget(self.source.device))
        return self._budget

    def _checked_length(self, value: int) -> int:
        special = len(self.source.tokenizer.prefix) + len(self.source.tokenizer.suffix)
        length = whole("max_length", value, least=0)
        if not special <= length <= self.model_max_length:
            raise InputError(
                f"max_length={length} is not between {special} (the special tokens) and "
                f"{self.model_max_length} (what this model takes)"
            )
        return length


class _Limits(TypedDict):
    instruction: str
    max_length: int


class _Work:
    """The results of one encode call, filled batch by batch in any order."""

    def __init__(self, encoder: TorchEncoder, tokens: PackedIds, modes: frozenset[Mode]) -> None:
        self._encoder, self._tokens, self._modes = encoder, tokens, modes
        count = len(tokens)
        self._offsets = offsets_of(tokens.lengths - 1)  # no vector for cls
        self._dense = np.empty((count, encoder.dim), np.float32) if "dense" in modes else None
        self._sparse: list[tuple[IntArray, SparseRows]] = []
        shape = (int(self._offsets[-1]), encoder.colbert_dim)
        self._vectors = np.empty(shape, np.float32) if "colbert" in modes else None

    def run(self, rows: IntArray) -> None:
        output = self._encoder.run(self._tokens, rows, self._modes)
        if self._dense is not None and output.dense is not None:
            self._dense[rows] = output.dense
        if output.sparse is not None:
            self._sparse.append((rows, self._lexical(output.sparse, rows)))
        if self._vectors is not None and output.colbert is not None:
            self._vectors[_places(self._offsets, rows)] = output.colbert

    def result(self) -> EmbeddingBatch:
        colbert = None if self._vectors is None else TokenVectors(self._vectors, self._offsets)
        return EmbeddingBatch(
            self._dense,
            self._ordered_sparse() if "sparse" in self._modes else None,
            colbert,
            self._tokens.lengths,
            self._tokens.truncated,
        )

    def _lexical(self, weights: FloatArray, rows: IntArray) -> SparseRows:
        ids = np.concatenate([self._tokens.row(int(i)) for i in rows])
        unweighted = self._encoder.source.tokenizer.unweighted
        return lexical_rows(weights, ids, self._tokens.lengths[rows], unweighted)

    def _ordered_sparse(self) -> SparseRows:
        order = np.argsort(np.concatenate([rows for rows, _ in self._sparse]))
        return SparseRows.concat([part for _, part in self._sparse]).take(order)


def _places(offsets: IntArray, rows: IntArray) -> IntArray:
    """Where the packed values of some texts stand among those of all."""
    counts = offsets[rows + 1] - offsets[rows]
    own = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    places: IntArray = np.repeat(offsets[rows], counts) + own
    return places


def _merged(
    output: BatchOutput, again: BatchOutput, bad: IntArray, lengths: IntArray
) -> BatchOutput:
    """The first output with the texts at `bad` taken from the second."""
    texts = np.arange(len(lengths))
    tokens = np.repeat(texts, lengths)
    vectors = np.repeat(texts, lengths - 1)
    for owner, old, new in (
        (texts, output.dense, again.dense),
        (tokens, output.sparse, again.sparse),
        (vectors, output.colbert, again.colbert),
    ):
        if old is not None and new is not None:
            take = np.isin(owner, bad)
            old[take] = new[take]
    return output


def checkpoint_encoder(
    model: str | Path,
    *,
    query_instruction: str = "",
    document_instruction: str = "",
    max_length: int | None = None,
    token_budget: int | None = None,
    **loading: Any,
) -> TorchEncoder:
    """An encoder over a checkpoint; nothing is read yet.

    Args:
        model: A folder or a hub id.
        query_instruction: See `TorchEncoder`.
        document_instruction: See `TorchEncoder`.
        max_length: See `TorchEncoder`.
        token_budget: See `TorchEncoder`.
        **loading: Options of `CheckpointSource`.

    Returns:
        The encoder.
    """
    return TorchEncoder(
        CheckpointSource(model, **loading),
        query_instruction=query_instruction,
        document_instruction=document_instruction,
        max_length=max_length,
        token_budget=token_budget,
    )
