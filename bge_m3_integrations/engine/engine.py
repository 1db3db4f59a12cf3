"""The engine: texts to embeddings, texts to scores, candidates to rankings."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack, overload, runtime_checkable

import numpy as np

from bge_m3_integrations._internal.forks import between_forks, new_lock
from bge_m3_integrations._internal.keywords import NoMore, checks_itself, public_class, refuse
from bge_m3_integrations._internal.progress import ProgressLike, encoding
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    TokenBatch,
    TokenVectors,
    ordered_modes,
)
from bge_m3_integrations.core.scores import Components, Ranked, Scores, Weights, WeightsLike
from bge_m3_integrations.core.validation import check_text, check_texts, listed, whole
from bge_m3_integrations.encoders.base import (
    ChecksModes,
    Encoder,
    HasFormerFingerprints,
    OffersMaxsim,
    TellsLoaded,
)
from bge_m3_integrations.encoders.placement import TorchDevice, TorchDtype, as_devices, as_dtype
from bge_m3_integrations.encoders.wrapper import EncoderWrapper, innermost
from bge_m3_integrations.engine.batcher import Batcher
from bge_m3_integrations.engine.cache import EmbeddingCache, as_cache
from bge_m3_integrations.engine.cached_encoder import CachedEncoder
from bge_m3_integrations.engine.memo import MemoEncoder
from bge_m3_integrations.engine.request import EncodeRequest, check_kind
from bge_m3_integrations.engine.similarity import similarity
from bge_m3_integrations.engine.stats import DeclaredModes, Stats, StatsCounter
from bge_m3_integrations.engine.stretches import (
    DistinctTexts,
    by_query,
    hstack_scores,
    unzip,
    vstack_scores,
)
from bge_m3_integrations.engine.token_counts import own_token_count, own_token_ids, token_counts
from bge_m3_integrations.engine.truncation import Cuts, Limit
from bge_m3_integrations.errors import InputError, MissingHeadWarning

if TYPE_CHECKING:
    from typing import Self

DEFAULT_MODEL = "BAAI/bge-m3"
MEMO_BYTES = 64 * 1024 * 1024
SPILL_BYTES = 4 * 1024**3
BATCH_WINDOW_MS = 2.0
_WARMING = "What is BGE-M3?"
_MAIN = threading.main_thread()


@dataclass(frozen=True, slots=True)
class _Loading:
    """How a checkpoint is loaded; the defaults of `BGEM3`."""

    device: str | tuple[str, ...] = "auto"
    dtype: str = "auto"
    pooling: str = "auto"
    query_instruction: str | None = None
    document_instruction: str | None = None
    max_length: int | None = None
    token_budget: int | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = field(default=None, repr=False)
    offline: bool = False
    trust_remote_code: bool = False

    def shown(self) -> Iterator[str]:
        """Device and dtype as they were asked for: "auto" is decided when the model is loaded."""
        device = self.device if isinstance(self.device, str) else " + ".join(self.device)
        yield "device auto" if device == "auto" else device
        yield "dtype auto" if self.dtype == "auto" else self.dtype
        yield "not loaded"


@public_class
class BGEM3:
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

    def __init__(
        self,
        model: str | Path | Encoder = DEFAULT_MODEL,
        *,
        device: str | TorchDevice | Sequence[str | TorchDevice] = "auto",
        dtype: str | TorchDtype = "auto",
        pooling: str = "auto",
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        max_length: int | None = None,
        token_budget: int | None = None,
        memo_bytes: int = MEMO_BYTES,
        spill_bytes: int = SPILL_BYTES,
        batch_window_ms: float = BATCH_WINDOW_MS,
        cache: str | Path | EmbeddingCache | None = None,
        clean: bool = False,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        offline: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        self._model = model
        self._loading = _Loading(
            as_devices(device),
            as_dtype(dtype),
            pooling,
            query_instruction,
            document_instruction,
            max_length,
            token_budget,
            revision,
            cache_dir,
            token,
            offline,
            trust_remote_code,
        )
        # the class is asked, not the object: its properties may read files
        if self.over_encoder and not hasattr(type(model), "encode"):
            raise InputError(
                f"model must be a folder, a hub id or an encoder, not {type(model).__name__} "
                f"{model!r}"
            )
        if self.over_encoder and self._loading != _Loading():
            raise InputError(
                f"an encoder ({type(model).__name__}) brings its own options; give them to it, "
                "and BGEM3 only memo_bytes, spill_bytes, batch_window_ms, cache and clean"
            )
        self._memo_bytes = whole("memo_bytes", memo_bytes, least=0)
        self._spill_bytes = whole("spill_bytes", spill_bytes, least=0)
        self._batcher = Batcher(batch_window_ms=batch_window_ms)
        self._cache = None if cache is None else as_cache(cache)
        self._clean = clean
        self._needs = DeclaredModes()
        self._encoder: MemoEncoder | None = None
        self._modes: frozenset[Mode] | None = None
        self._warned_of_heads = False
        self._lock = new_lock()

    @classmethod
    def from_flag(
        cls,
        flag_model: Any,
        *,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        max_length: int | None = None,
        token_budget: int | None = None,
    ) -> Self:
        """Make an engine over a `FlagEmbedding.BGEM3FlagModel` that is already in memory.

        Args:
            flag_model: Its modules are used as they are: no second copy, no change.
            query_instruction: Put in front of every query; None takes the model's own.
            document_instruction: Put in front of every document; None takes the model's own.
            max_length: Default limit in tokens per text; None is all that the model takes.
            token_budget: Most padded tokens of one forward pass; None chooses by device.

        Returns:
            An engine with the model's dtype and device.
        """
        from bge_m3_integrations.encoders.flag import FlagEncoder

        encoder = FlagEncoder(
            flag_model,
            query_instruction=query_instruction,
            document_instruction=document_instruction,
            max_length=max_length,
            token_budget=token_budget,
        )
        return cls(encoder)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self  # one thread-safe service: frameworks copy the objects that hold it

    def __reduce__(self) -> tuple[Any, ...]:
        if self.over_encoder:
            raise InputError(
                f"an engine over an encoder object ({self.name}) cannot be pickled; make it from "
                "a model name or folder"
            )
        ours: dict[str, Any] = {
            "memo_bytes": self._memo_bytes,
            "spill_bytes": self._spill_bytes,
            "batch_window_ms": self._batcher.batch_window_ms,
            "cache": self._cache,
        }
        return _rebuilt, (self._model, {**self.options, **ours})

    def __repr__(self) -> str:
        return called(self, self._parts)

    def _parts(self) -> Iterator[str]:
        encoder: object = self._encoder  # no lock: whoever loads a model holds it
        while isinstance(encoder, EncoderWrapper) and not isinstance(encoder, TellsLoaded):
            encoder = encoder.encoder
        if self.over_encoder:
            yield f"over {type(self._model).__name__}"
            encoder = encoder or self._model
        else:
            yield repr(str(self._model))
        loaded = encoder.loaded_as if isinstance(encoder, TellsLoaded) else None
        if loaded is not None:
            yield from loaded
        elif not self.over_encoder:
            yield from self._loading.shown()

    @property
    def encoder(self) -> MemoEncoder:
        """The encoder, behind the memo that adapters share."""
        with self._lock:
            if self._encoder is None:
                with between_forks.locked():
                    self._encoder = self._shared()
            return self._encoder

    @property
    def modes(self) -> frozenset[Mode]:
        """The modes that the model has."""
        if self._modes is None:
            self._modes = self.encoder.modes
        return self._modes

    @property
    def default_modes(self) -> frozenset[Mode]:
        """The modes that defaults use: all that the model has. Warns once if it lacks a head."""
        encoder: object = innermost(self.encoder)
        missing = ALL_MODES - self.modes
        if missing and isinstance(encoder, ChecksModes) and not self._warned_of_heads:
            self._warned_of_heads = True
            warn_user(
                f"{self.name} has no head for {' and '.join(ordered_modes(missing))}, so indexes "
                f"and scores take {ordered_modes(self.modes)} alone; "
                "pass modes= or weights= to choose them yourself",
                MissingHeadWarning,
            )
        return self.modes

    @property
    def name(self) -> str:
        """The model's name as the user gave it; of an encoder object its `name`, else its class."""
        if not self.over_encoder:
            return str(self._model)
        named: object = getattr(self._model, "name", None)
        return named if isinstance(named, str) else type(self._model).__name__

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of embeddings and loading, by the constructor's names, without the token.

        Together with `name` they make an equal engine, except over an encoder object.
        """
        options = {**asdict(self._loading), "clean": self._clean}
        del options["token"]
        return options

    @property
    def over_encoder(self) -> bool:
        """Whether this engine was made over an encoder object, which no options describe."""
        return not isinstance(self._model, str | Path)

    @property
    def fingerprint(self) -> str:
        """The identity of the model's numbers; see `Encoder.fingerprint`."""
        return self.encoder.fingerprint

    @checks_itself
    def check_heads(self, modes: Modes) -> None:
        """Refuse modes whose head the checkpoint lacks; other encoders are not checked.

        Args:
            modes: What is to be computed.

        Raises:
            MissingHeadError: A head is missing; the message names its file.
        """
        encoder: object = innermost(self.encoder)
        if isinstance(encoder, ChecksModes):
            encoder.check_modes(modes)

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Check whether a fingerprint is this model's, also of an earlier version of the package.

        Args:
            fingerprint: As an index or another engine has it.

        Returns:
            True where the numbers can be compared.
        """
        encoder: object = self.encoder
        if fingerprint == self.fingerprint:
            return True
        former = encoder.former_fingerprints if isinstance(encoder, HasFormerFingerprints) else ()
        return fingerprint in former

    @property
    def stats(self) -> Stats:
        """Counts of texts, forwards, memo hits and truncations so far."""
        return self.encoder.stats

    def load(self) -> Self:
        """Load the model now and run one short text through it, so that no later call waits for it.

        Otherwise the first text loads it. Threads may call it at once; counts, memo and cache are
        left as they are.

        Returns:
            The engine: `engine = BGEM3(...).load()`.
        """
        encoder: Encoder = self.encoder
        while isinstance(encoder, MemoEncoder | CachedEncoder):
            encoder = encoder.encoder
        encoder.encode([_WARMING], kind="query", modes=self.modes)
        return self

    def declare(self, role: str, *, query: Modes = (), document: Modes = ()) -> None:
        """Register the modes that an adapter will ask for, so that adapters share forward passes.

        Args:
            role: Who asks, such as "langchain.retriever"; see `stats.DeclaredModes`.
            query: Modes that it needs of queries.
            document: Modes that it needs of documents.
        """
        self._needs.declare(role, query=query, document=document)

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "document",
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        progress: ProgressLike = None,
    ) -> EmbeddingBatch:
        """Encode texts of one kind.

        The kinds differ only in the instruction that is put in front (`query_instruction`,
        `document_instruction`). BGE-M3 needs none, so both give the same numbers by default.

        Args:
            texts: See `encode_queries`.
            kind: "document" for texts that are searched, "query" for those that search.
            modes: See `encode_queries`.
            max_length: See `encode_queries`.
            progress: See `encode_queries`.

        Returns:
            One row per text, in order.

        Raises:
            InputError: A text is no encodable string, or an argument is out of range.
        """
        return self._encode(texts, kind, modes, max_length, progress)

    async def aencode(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "document",
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
    ) -> EmbeddingBatch:
        """See `encode`, and `aencode_queries`."""
        return await self._aencode(texts, kind, modes, max_length)

    @checks_itself
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        progress: ProgressLike = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """Encode queries, in one batch with those of other waiting threads and coroutines.

        Args:
            texts: Any number of strings, also none, also empty ones.
            modes: What to compute; a mode that is not asked for costs nothing.
            max_length: Most tokens per text, special tokens included.
            progress: None shows a bar in a terminal and in a notebook once the work has taken two
                seconds, none where stderr is piped; True shows one in any case, False none. A
                function is called with the number done and the total, after each pass.
            **unknown: None: a keyword that comes here is an error, which names the right one.

        Returns:
            One row per text, in order.

        Raises:
            InputError: A text is no encodable string, or an argument is out of range.
        """
        if unknown:
            refuse(unknown, self.encode_queries)
        return self._encode(texts, "query", modes, max_length, progress)

    @checks_itself
    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        progress: ProgressLike = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """Encode documents; see `encode_queries`."""
        if unknown:
            refuse(unknown, self.encode_documents)
        return self._encode(texts, "document", modes, max_length, progress)

    @checks_itself
    async def aencode_queries(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """See `encode_queries`; a coroutine cancelled before its batch starts is not encoded."""
        if unknown:
            refuse(unknown, self.aencode_queries)
        return await self._aencode(texts, "query", modes, max_length)

    @checks_itself
    async def aencode_documents(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """See `aencode_queries`."""
        if unknown:
            refuse(unknown, self.aencode_documents)
        return await self._aencode(texts, "document", modes, max_length)

    def submit(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "query",
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
    ) -> Future[EmbeddingBatch]:
        """Queue texts to be encoded with others in one batch; returns at once, before loading too.

        Args:
            texts: Any number of strings.
            kind: Whether they are queries or documents.
            modes: What to compute. A mode that the model lacks is the future's error.
            max_length: Most tokens per text, special tokens included.

        Returns:
            A future of one row per text; it can be cancelled until its batch starts. Nothing warns
            of texts that were cut: `truncated` of the result counts them, and so does `stats`.

        Raises:
            InputError: A text is no encodable string, or an argument is malformed.
        """
        request = EncodeRequest.checked(kind, modes, max_length)
        return self._batcher.submit(self._checked(texts), request, self._run)

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind = "document", max_length: int | None = None
    ) -> TokenBatch:
        """Tokenize texts as encoding does, with the place of each token in its text."""
        return self.encoder.tokenize(texts, kind=kind, max_length=max_length)

    @overload  # a str is a sequence of str too: the first signature that fits counts
    def count_tokens(  # type: ignore[overload-overlap]
        self, texts: str, *, kind: Kind = ...
    ) -> int: ...
    @overload
    def count_tokens(self, texts: Sequence[str], *, kind: Kind = ...) -> list[int]: ...
    def count_tokens(
        self, texts: str | Sequence[str], *, kind: Kind = "document"
    ) -> int | list[int]:
        """Count the tokens of one text or of several; the weights are not loaded.

        The two special tokens, and an instruction, are counted: a text fits if this is at most
        `max_length`. Nothing is cut off. For splitters see `length_function`.

        Args:
            texts: A text, or any number of texts.
            kind: Chooses the instruction.

        Returns:
            A number for a text, a list of numbers for a list.

        Raises:
            InputError: A text is no encodable string.
        """
        check_kind(kind)
        many = self._checked([texts] if isinstance(texts, str) else texts)
        counts = token_counts(self.encoder, many, kind=kind)
        return counts[0] if isinstance(texts, str) else counts

    def length_function(self, text: str) -> int:
        """Count a text's own tokens, without the two special ones, for a text splitter.

        `RecursiveCharacterTextSplitter(length_function=engine.length_function, chunk_size=510)`
        makes chunks of at most 512 tokens. LlamaIndex: `SentenceSplitter(tokenizer=...)` takes
        `engine.token_ids`.

        Args:
            text: Of any length.

        Returns:
            The number of tokens; the weights are not loaded.

        Raises:
            InputError: It is no encodable string.
        """
        check_text(text, name="text", surrogates=self._clean)
        return own_token_count(self.encoder, text)

    def token_ids(self, text: str) -> list[int]:
        """List the ids of a text's own tokens, without special ones; nothing is cut off.

        Args:
            text: Of any length.

        Returns:
            Token ids, in order; the weights are not loaded.

        Raises:
            InputError: It is no encodable string.
        """
        check_text(text, name="text", surrogates=self._clean)
        # behind the cleaning, which would move the ends of a part of a text
        return own_token_ids(innermost(self.encoder), self._mended(text))

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
        scores = self.score([query], documents, weights=weights, max_length=max_length)
        return ranking(scores, limit=limit)

    def weights(self, value: WeightsLike | None) -> Weights:
        """Read weights; None is the default preset, restricted to the model's modes.

        Args:
            value: Weights in any form of `Weights.parse`, or None.

        Returns:
            Weights whose modes the model has.

        Raises:
            InputError: The weights are malformed, or need a mode that the model lacks.
        """
        if value is None:
            return Weights().restricted(self.default_modes)
        chosen = Weights.parse(value)
        if missing := chosen.modes - self.modes:
            self._require(chosen.modes)
            raise InputError(
                f"weights {chosen} need {sorted(missing)}, but {self.name} has only "
                f"{sorted(self.modes)}"
            )
        return chosen

    def close(self) -> None:
        """End idle threads, and the worker processes of several devices; encoding starts new ones.

        One device has no processes. They also end when the engine is dropped, and with the
        interpreter.
        """
        self._batcher.close()
        with self._lock:
            encoder: object = self._encoder
        while isinstance(encoder, EncoderWrapper):
            if isinstance(encoder, _Closes):
                encoder.close()
            encoder = encoder.encoder

    def _shared(self) -> MemoEncoder:
        encoder, bound = self._build(), self._memo_bytes
        if self._cache is None:
            return MemoEncoder(encoder, self._needs, max_bytes=bound, spill_bytes=self._spill_bytes)
        counts = StatsCounter()  # of both: what the memo asks for is no forward if it is on disk
        cached = CachedEncoder(encoder, self._cache, counts=counts)
        return MemoEncoder(cached, self._needs, max_bytes=bound, counts=counts)

    def _build(self) -> Encoder:
        encoder = self._model
        if isinstance(encoder, str | Path):
            from bge_m3_integrations.encoders.torch.multi_device import encoder_on

            encoder = encoder_on(encoder, **asdict(self._loading))
        if self._clean:
            from bge_m3_integrations.engine.cleaning import CleaningEncoder

            encoder = CleaningEncoder(encoder)
        return encoder

    def _components(
        self, queries: EmbeddingBatch, documents: EmbeddingBatch, weights: Weights
    ) -> Components:
        return scoring.components(queries, documents, weights.modes, maxsim=self.maxsim)

    def _encode(
        self,
        texts: Sequence[str],
        kind: Kind,
        modes: Modes,
        max_length: int | None,
        progress: ProgressLike,
    ) -> EmbeddingBatch:
        request = EncodeRequest.checked(kind, modes, max_length)
        checked = listed(texts, "texts")
        check_texts(checked, surrogates=self._clean)
        with Cuts({kind: checked}) as cuts, encoding(progress, len(checked)):
            if threading.current_thread() is _MAIN:
                batch = self._run(checked, request)
            else:
                batch = self._batcher.encode(checked, request, self._run)
            cuts.note(checked, kind, batch, self._limit(request) if batch.truncated.any() else None)
        return batch

    async def _aencode(
        self, texts: Sequence[str], kind: Kind, modes: Modes, max_length: int | None
    ) -> EmbeddingBatch:
        # the event loop does nothing slow: also the model's configuration is read by the worker
        request = EncodeRequest.checked(kind, modes, max_length)
        checked = self._checked(texts)
        with Cuts({kind: checked}) as cuts:
            future = self._batcher.submit(checked, request, self._run)
            batch = await asyncio.wrap_future(future)
            cuts.note(checked, kind, batch, self._limit(request) if batch.truncated.any() else None)
        return batch

    def _run(self, texts: Sequence[str], request: EncodeRequest) -> EmbeddingBatch:
        if self._modes is None or not request.modes <= self._modes:
            self._require(request.modes)
        encoder = self._encoder or self.encoder
        return encoder.encode(
            texts, kind=request.kind, modes=request.modes, max_length=request.max_length
        )

    def _checked(self, texts: Sequence[str]) -> Sequence[str]:
        texts = listed(texts, "texts")
        check_texts(texts, surrogates=self._clean)
        return texts

    def _mended(self, text: str) -> str:
        """The text that spans of tokens belong to."""
        if not self._clean:
            return text
        from bge_m3_integrations.engine.cleaning import clean_text

        return clean_text(text)

    def _require(self, modes: frozenset[Mode]) -> None:
        self.check_heads(modes)
        if missing := modes - self.modes:
            raise InputError(f"{self.name} has no {sorted(missing)}; it has {sorted(self.modes)}")

    def _limit(self, request: EncodeRequest) -> Limit:
        usual = self.encoder.max_length
        most = getattr(innermost(self.encoder), "model_max_length", usual)
        return Limit(request.max_length or usual, most)


@runtime_checkable
class _Closes(Protocol):
    def close(self) -> None: ...


def _rebuilt(model: str | Path, options: Mapping[str, Any]) -> BGEM3:
    """The engine that was pickled; a hub token is not among the options."""
    return BGEM3(model, **options)


def ranking(scores: Scores, *, limit: int | None = None) -> list[Ranked]:
    """Order one query's documents by hybrid score.

    Args:
        scores: Of shape `(1, n)`.
        limit: Most results; None is all.

    Returns:
        Best first, ties by position.

    Raises:
        InputError: `limit` is below 1.
    """
    if limit is not None:
        limit = whole("limit", limit)
    row = scores.hybrid[0]
    order = np.argsort(-row, kind="stable")[:limit]
    parts = scores.components.take(0)
    return [Ranked(int(i), float(row[i]), parts.as_dict(int(i))) for i in order]
