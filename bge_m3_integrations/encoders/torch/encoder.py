"""The encoder over a torch model: tokens in, packed numpy out, one forward pass per text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property

import torch

from bge_m3_integrations._internal.forks import between_forks, frees_properties
from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    TokenBatch,
    TokenVectors,
    as_modes,
)
from bge_m3_integrations.core.validation import check_int, check_texts
from bge_m3_integrations.encoders.batching import TokenBudget
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.pipeline import Piece, RunOptions, run_stages
from bge_m3_integrations.encoders.torch import fingerprint
from bge_m3_integrations.encoders.torch.config import usable_positions
from bge_m3_integrations.encoders.torch.device_ops import Device, device_of
from bge_m3_integrations.encoders.torch.devices import default_budget, is_out_of_memory
from bge_m3_integrations.encoders.torch.encode_job import Limits, Stretch, Stretches, Work
from bge_m3_integrations.encoders.torch.maxsim import maxsim
from bge_m3_integrations.encoders.torch.output import Results
from bge_m3_integrations.encoders.torch.source import Source
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds
from bge_m3_integrations.errors import InputError


@frees_properties
class TorchEncoder:
    """Implements `encoders.base.Encoder` over any source of a torch model.

    Args:
        source: The model, loaded when first needed.
        config: Its instructions, length limit and token budget are taken; an instruction of None
            is the prompt that comes with the checkpoint, if there is one.
    """

    def __init__(self, source: Source, config: ModelConfig) -> None:
        self.source = source
        self._config = config
        if config.token_budget is not None:
            self._budget = TokenBudget(config.token_budget)
        self._devices: dict[torch.device, Device] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.loaded_as or ('not loaded',))})"

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that the model has heads for."""
        return self.source.modes

    def check_modes(self, modes: Modes) -> None:
        """See `encoders.base.ChecksModes`."""
        self.source.check_modes(as_modes(modes))

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
        asked = self._config.max_length
        return self.model_max_length if asked is None else self._checked_length(asked)

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

    @property
    def query_instruction(self) -> str:
        """The prefix of every query; a cache on disk keeps queries by it."""
        return self._instructions["query"]

    @cached_property
    def _instructions(self) -> dict[Kind, str]:
        query, document = self._config.query_instruction, self._config.document_instruction
        return {
            "query": self.source.prompt("query") if query is None else query,
            "document": self.source.prompt("document") if document is None else document,
        }

    @property
    def precision(self) -> str:
        """The precision of its numbers, such as "bfloat16"; a cache on disk keeps them by it."""
        return self.source.precision

    @property
    def loaded_as(self) -> tuple[str, str] | None:
        """See `encoders.base.TellsLoaded`."""
        return self.source.loaded_as

    @cached_property
    def fingerprint(self) -> str:
        """See `Encoder.fingerprint`; reads every weight file once."""
        return self._identity(
            fingerprint.tokenizer_digest(self.source.tokenizer),
            fingerprint.architecture_digest(self.source.config),
        )

    @cached_property
    def former_fingerprints(self) -> frozenset[str]:
        """See `encoders.base.HasFormerFingerprints`."""
        mine = self.source.tokenizer
        tokenizers = {fingerprint.tokenizer_digest(t) for t in (mine, *self.source.rebuilt())}
        return frozenset(
            self._identity(tokenizer, architecture)
            for tokenizer in tokenizers
            for architecture in fingerprint.architecture_digests(self.source.config)
        )

    def _identity(self, tokenizer: str, architecture: str) -> str:
        return fingerprint.combine(
            tokenizer,
            architecture,
            self.source.weights_digest,
            self.source.pooling,
            self._instructions["document"],
        )

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """See `Encoder.tokenize`."""
        stretches = self.stretches(texts, kind=kind, max_length=max_length)
        with between_forks:
            return self.source.tokenizer.split(texts, **stretches.limits)

    def maxsim(self, queries: TokenVectors, documents: TokenVectors) -> FloatArray:
        """See `encoders.base.OffersMaxsim`."""
        with between_forks, self._device.alone():
            return maxsim(queries, documents, device=self.source.device)

    def id_to_token(self, ids: Sequence[int]) -> list[str]:
        """See `Encoder.id_to_token`."""
        return self.source.tokenizer.words(ids)

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`."""
        modes = modes if isinstance(modes, frozenset) else as_modes(modes)
        if not modes <= self.source.modes:
            self.source.check_modes(modes)
        stretches = self.stretches(texts, kind=kind, max_length=max_length)
        if not len(texts):
            return EmbeddingBatch.empty(modes, dim=self.dim, colbert_dim=self.colbert_dim)
        work = self._work(stretches.tokenized, len(texts), modes)
        run_stages(work, stretches.pieces(), self._options(work.device))
        return work.results.batch()

    def encode_tokens(self, tokens: PackedIds, *, modes: Modes) -> EmbeddingBatch:
        """Encode texts that `stretches` has tokenized.

        Args:
            tokens: At least one text, special tokens included.
            modes: The modes to compute.

        Returns:
            One row per text, in order.

        Raises:
            EncodingError: See `Encoder.encode`.
        """
        work: Work[PackedIds] = self._work(
            lambda held: Stretch(0, held), len(tokens), as_modes(modes)
        )
        run_stages(work, [tokens], self._options(work.device))
        return work.results.batch()

    def stretches(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> Stretches:
        """Texts in stretches, to be tokenized one by one; arguments as those of `encode`."""
        check_texts(texts)
        limit = self.max_length if max_length is None else self._checked_length(max_length)
        limits = Limits(instruction=self._instructions[kind], max_length=limit)
        return Stretches(self.source.tokenizer, texts, limits)

    def _work(
        self, prepare: Callable[[Piece], Stretch], count: int, modes: frozenset[Mode]
    ) -> Work[Piece]:
        source = self.source
        width = int(source.config.hidden_size)
        results = Results(count, modes, dim=width, colbert_dim=source.colbert_dim)
        return Work(source, self._device, modes, results, prepare)

    def _options(self, device: Device) -> RunOptions:
        return RunOptions(
            self._budget,
            self.source.modules.backbone.padded,
            device.overlap,
            is_out_of_memory,
            device.make_room,
        )

    @property
    def _device(self) -> Device:
        # a wrapped model may move, so this is asked for each time; its streams are kept
        where = self.source.device
        if self._devices.get(where) is None:
            self._devices[where] = device_of(where)
        return self._devices[where]

    @cached_property
    def _budget(self) -> TokenBudget:
        return TokenBudget(default_budget(self.source.device))

    def _checked_length(self, value: int) -> int:
        special = len(self.source.tokenizer.prefix) + len(self.source.tokenizer.suffix)
        length = check_int("max_length", value, least=0)
        if not special <= length <= self.model_max_length:
            raise InputError(
                f"max_length={length} is not between {special} (the special tokens) and "
                f"{self.model_max_length} (what this model takes)"
            )
        return length
