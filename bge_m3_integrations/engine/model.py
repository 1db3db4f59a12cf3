"""A model as something held: how it is loaded, what it is, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack, runtime_checkable

from bge_m3_integrations._internal.forks import between_forks, new_lock
from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    Mode,
    Modes,
    ordered_modes,
)
from bge_m3_integrations.core.fusion import WeightedSum
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import MeasuredOn, WeightProfile, WeightsLike
from bge_m3_integrations.encoders.base import (
    ChecksModes,
    Encoder,
    HasFormerFingerprints,
    TellsLoaded,
)
from bge_m3_integrations.encoders.config import DEFAULT_MODEL, ModelConfig, ModelOptions
from bge_m3_integrations.encoders.wrapper import EncoderWrapper, innermost
from bge_m3_integrations.engine.batcher import Batcher
from bge_m3_integrations.engine.cache import EmbeddingCache, as_cache
from bge_m3_integrations.engine.cached_encoder import CachedEncoder
from bge_m3_integrations.engine.memo import MemoEncoder
from bge_m3_integrations.engine.profiles import resolve
from bge_m3_integrations.engine.stats import DeclaredModes, Stats, StatsCounter
from bge_m3_integrations.errors import InputError, MissingHeadWarning

if TYPE_CHECKING:
    from typing import Self

MEMO_BYTES = 64 * 1024 * 1024
SPILL_BYTES = 4 * 1024**3
BATCH_WINDOW_MS = 2.0
_WARMING = "What is BGE-M3?"


@public_class
class ModelHandle:
    """A model that is loaded when it is first needed, behind the memo that adapters share."""

    def __init__(
        self,
        model: str | Path | Encoder = DEFAULT_MODEL,
        *,
        memo_bytes: int = MEMO_BYTES,
        spill_bytes: int = SPILL_BYTES,
        batch_window_ms: float = BATCH_WINDOW_MS,
        cache: str | Path | EmbeddingCache | None = None,
        clean: bool = False,
        **options: Unpack[ModelOptions],
    ) -> None:
        self._model = model
        self._config = ModelConfig(**options)
        if self.over_encoder:
            _check_encoder(model, self._config)
        self._memo_bytes = check_int("memo_bytes", memo_bytes, least=0)
        self._spill_bytes = check_int("spill_bytes", spill_bytes, least=0)
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
        return _rebuilt, (type(self), self._model, {**self.options, **ours})

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
            yield from self._config.shown()

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
        options = {**asdict(self._config), "clean": self._clean}
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
            modes: The modes to compute.

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

    @checks_itself
    def weighting(
        self,
        weights: WeightsLike | None,
        query: str | None = None,
        *,
        folder: Path | None = None,
        learned: Callable[[], WeightProfile] | None = None,
    ) -> WeightProfile:
        """The profile that weights stand for; None is the default preset of the model's modes.

        Args:
            weights: Weights in any form.
            query: The query's text, for a function.
            folder: Of an index, whose own profiles are looked at first.
            learned: Gives the weights that an index has learned.

        Returns:
            A profile whose modes the model has.

        Raises:
            InputError: The weights are malformed, need a mode that the model lacks, or were
                measured on another model.
        """
        if weights is None:
            return WeightProfile("default", Weights().restricted(self.default_modes))
        chosen = resolve(weights, query=query, folder=folder, learned=learned)
        if missing := chosen.weights.modes - self.modes:
            self._require(chosen.weights.modes)
            raise InputError(
                f"weights {chosen.weights} need {sorted(missing)}, but {self.name} has only "
                f"{sorted(self.modes)}"
            )
        chosen.check(self.measured_on)
        return chosen

    def measured_on(self) -> MeasuredOn:
        """The model and instructions of this engine; the first call reads every weight file."""
        options = self.options
        return MeasuredOn(
            fingerprint=self.fingerprint,
            query_instruction=options["query_instruction"] or "",
            document_instruction=options["document_instruction"] or "",
        )

    def weights(self, value: WeightsLike | None, *, query: str | None = None) -> Weights:
        """Read weights of a raw weighted mean; see `weighting`.

        Args:
            value: Weights in any form, or None.
            query: The query's text, for a function.

        Returns:
            Weights whose modes the model has.

        Raises:
            InputError: As `weighting` does; also for a profile with another fusion.
        """
        chosen = self.weighting(value, query=query)
        if not isinstance(chosen.fusion, WeightedSum | None):
            raise InputError(
                f"the weight profile {chosen.name!r} is for {chosen.fusion.name}, and these scores "
                "are raw weighted means; search or rerank with an index, or give its weights alone"
            )
        return chosen.weights

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
            from bge_m3_integrations.encoders.torch.multi_device import checkpoint_encoder

            encoder = checkpoint_encoder(encoder, self._config)
        if self._clean:
            from bge_m3_integrations.engine.cleaning import CleaningEncoder

            encoder = CleaningEncoder(encoder)
        return encoder

    def _require(self, modes: frozenset[Mode]) -> None:
        self.check_heads(modes)
        if missing := modes - self.modes:
            raise InputError(f"{self.name} has no {sorted(missing)}; it has {sorted(self.modes)}")


@runtime_checkable
class _Closes(Protocol):
    def close(self) -> None: ...


def _check_encoder(model: object, config: ModelConfig) -> None:
    # the class is asked, not the object: its properties may read files
    if not hasattr(type(model), "encode"):
        raise InputError(
            f"model must be a folder, a hub id or an encoder, not {type(model).__name__} {model!r}"
        )
    if config != ModelConfig():
        raise InputError(
            f"an encoder ({type(model).__name__}) brings its own options; give them to it, and "
            "BGEM3 only memo_bytes, spill_bytes, batch_window_ms, cache and clean"
        )


def _rebuilt(kind: type[Any], model: str | Path, options: Mapping[str, Any]) -> object:
    """The engine that was pickled; a hub token is not among the options."""
    return kind(model, **options)
