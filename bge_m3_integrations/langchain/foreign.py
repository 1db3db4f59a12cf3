"""Any LangChain `Embeddings` as an encoder: dense vectors of a model that is not BGE-M3."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from langchain_core.embeddings import Embeddings

from bge_m3_integrations.core.embeddings import (
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    Modes,
    TokenBatch,
    as_modes,
    ordered_modes,
)
from bge_m3_integrations.core.validation import check_texts
from bge_m3_integrations.encoders.wrapper import EncoderWrapper
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import EncodingError, InputError

_UNKNOWN_LENGTH: Final = 2**31 - 1


class EmbeddingsEncoder:
    """An encoder of the one mode that LangChain's `Embeddings` has.

    Vectors are brought to norm 1, so that their dot product is the cosine, and the width is that
    of the first ones: no text is embedded only to learn it. What `Embeddings` does not tell is 0
    in the results: how many tokens a text has, and how many were dropped.

    Args:
        embeddings: Embeds documents a batch at a time, and queries one by one.
        embedding_id: Names the model, so that an index in a folder refuses another one; None is
            the class and what the embeddings state as their model. Where they state nothing, two
            models of one class and width are not told apart.

    Attributes:
        embeddings: What was given.
        model: What the embeddings call their model, else their class.
        name: The id, or what stands for it.
    """

    modes: frozenset[Mode] = frozenset({"dense"})
    colbert_dim = 0
    vocab_size = 0
    pad_token_id = 0
    max_length = _UNKNOWN_LENGTH

    def __init__(self, embeddings: Embeddings, *, embedding_id: str | None = None) -> None:
        kind, stated = type(embeddings), _stated(embeddings)
        self.embeddings = embeddings
        self.model = stated or kind.__name__
        usual = " ".join([f"{kind.__module__}.{kind.__qualname__}", *([stated] if stated else [])])
        self.name = usual if embedding_id is None else embedding_id
        self._dim: int | None = None
        self._ahead: dict[str, FloatArray] = {}
        self._lock = threading.Lock()

    @property
    def dim(self) -> int:
        """Width of a vector; `InputError` before the first one."""
        if self._dim is None:
            raise InputError(
                f"the width of {self._kind} is known after its first vector; add a document first"
            )
        return self._dim

    @property
    def fingerprint(self) -> str:
        """A sha256 over the name and the width."""
        return fingerprint_of(self.name, self.dim)

    def expect(self, dim: int) -> None:
        """Say what the width must be, as an index that is there has it.

        Args:
            dim: Width of its vectors.

        Raises:
            InputError: Vectors of another width came already.
        """
        with self._lock:
            if self._dim not in {None, dim}:
                raise InputError(f"an index of {dim} numbers a vector, but {self._dim} came before")
            self._dim = dim

    def embed_ahead(self, texts: Sequence[str]) -> None:
        """Embed documents that `encode` will be asked for; it takes these vectors then.

        Args:
            texts: The next documents.

        Raises:
            EncodingError: See `encode`.
        """
        distinct = list(dict.fromkeys(texts))
        try:
            rows = self._documents(distinct)
        except EncodingError as error:
            position = list(texts).index(distinct[error.position])
            raise EncodingError(error.reason, position) from error
        with self._lock:
            self._ahead = dict(zip(distinct, rows, strict=True))

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        """See `Encoder.encode`.

        Args:
            texts: Any number of texts; none calls nothing.
            kind: Documents go in one call, queries one by one.
            modes: Dense.
            max_length: Cannot be set here.

        Returns:
            One row per text.

        Raises:
            InputError: Another mode or a limit is asked for, a text is no string, or the
                embeddings have coroutines alone or give no list.
            EncodingError: A vector is zero, not finite, or of another width than the first.
        """
        if missing := as_modes(modes) - self.modes:
            raise InputError(
                f"{self._kind} gives dense vectors only, not "
                f"{ordered_modes(missing)}; BGEM3 gives all three"
            )
        if max_length not in {None, self.max_length}:
            raise InputError(
                f"max_length={max_length} cannot be handed to {self._kind}; set it there"
            )
        check_texts(texts)
        rows = self._queries(texts) if kind == "query" else self._documents(texts)
        none = np.zeros(len(texts), np.int64)
        dense = np.array(rows, np.float32).reshape(len(texts), self._dim or 0)
        return EmbeddingBatch(dense, None, None, none, none)

    async def aencode_query(self, text: str) -> EmbeddingBatch:
        """One query by the embeddings' own coroutine, which for many is a request of its own.

        Args:
            text: The query.

        Returns:
            A batch of one.

        Raises:
            InputError: The text is no string.
            EncodingError: See `encode`.
        """
        check_texts([text])
        rows = self._units({0: await self.embeddings.aembed_query(text)})
        none = np.zeros(1, np.int64)
        return EmbeddingBatch(np.array(rows), None, None, none, none)

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind, max_length: int | None = None
    ) -> TokenBatch:
        """Refused: `Embeddings` shows no tokens."""
        raise InputError(self._no_tokens())

    def id_to_token(self, ids: Sequence[int]) -> list[str]:
        """Refused: `Embeddings` shows no tokens."""
        raise InputError(self._no_tokens())

    def _queries(self, texts: Sequence[str]) -> list[FloatArray]:
        try:
            rows = {i: self.embeddings.embed_query(text) for i, text in enumerate(texts)}
        except NotImplementedError as error:
            raise self._only_awaited("embed_query") from error
        return self._units(rows)

    def _documents(self, texts: Sequence[str]) -> list[FloatArray]:
        with self._lock:
            held = {text: self._ahead.pop(text) for text in set(texts) if text in self._ahead}
        places = [i for i, text in enumerate(texts) if text not in held]
        fresh = self._embedded([texts[i] for i in places]) if places else []
        if len(fresh) != len(places):
            raise InputError(f"{self._kind} gave {len(fresh)} vectors for {len(places)} documents")
        made = dict(zip(places, self._units(dict(zip(places, fresh, strict=True))), strict=True))
        return [made[i] if i in made else held[text] for i, text in enumerate(texts)]

    def _embedded(self, texts: list[str]) -> list[Sequence[float]]:
        try:
            given: object = self.embeddings.embed_documents(texts)
        except NotImplementedError as error:
            raise self._only_awaited("embed_documents") from error
        if not isinstance(given, Iterable):
            raise InputError(
                f"{self._kind}.embed_documents gave {given!r}; it must give a list of vectors"
            )
        return list(given)

    def _units(self, rows: Mapping[int, Sequence[float]]) -> list[FloatArray]:
        """The vectors of the texts at some positions, at norm 1 and of one width."""
        made = [self._unit(row, position) for position, row in rows.items()]
        widths = {position: len(row) for position, row in zip(rows, made, strict=True)}
        with self._lock:
            dim = self._dim or next(iter(widths.values()), None)
            wrong = next((position for position, n in widths.items() if n != dim), None)
            if wrong is None:
                self._dim = dim
        if wrong is not None:
            raise EncodingError(
                f"got a vector of {widths[wrong]} numbers from {self._kind}, but those before have "
                f"{dim}; an index takes the vectors of one model",
                wrong,
            )
        return made

    def _unit(self, row: Sequence[float], position: int) -> FloatArray:
        vector = unit(row)
        if vector is None:
            raise EncodingError(
                f"got a vector from {self._kind} that is zero, not finite or no list of numbers, "
                "so it has no direction to compare",
                position,
            )
        return vector

    @property
    def _kind(self) -> str:
        return type(self.embeddings).__name__

    def _only_awaited(self, method: str) -> InputError:
        # documents too: their coroutine would run in the loop that its client knows, far from here
        return InputError(
            f"{self._kind} does not implement {method}: documents are added, and queries asked "
            f"without await, by its plain methods. Wrap it in an Embeddings whose {method}(x) "
            f"returns asyncio.run(inner.a{method}(x)); searches that are awaited need only "
            "aembed_query"
        )

    def _no_tokens(self) -> str:
        return (
            f"{self._kind} is a LangChain Embeddings, which gives vectors and "
            "shows no tokens; use BGEM3 for those"
        )


def fingerprint_of(name: str, dim: int) -> str:
    """The fingerprint of foreign vectors by their `EmbeddingsEncoder.name` and width."""
    return hashlib.sha256(f"langchain embeddings {name} {dim}".encode()).hexdigest()


def unit(vector: Sequence[float]) -> FloatArray | None:
    """A vector at norm 1.

    Args:
        vector: `(dim,)` numbers.

    Returns:
        `(dim,) float32`, or None where there is no such vector.
    """
    try:
        row: Any = np.asarray(vector, np.float64)  # squares of large float32 would overflow
    except (TypeError, ValueError):
        return None
    norm = np.linalg.norm(row) if row.ndim == 1 else 0.0
    if not 0 < norm < np.inf:
        return None
    return np.asarray(row / norm, np.float32)


def encoder_of(engine: BGEM3) -> EmbeddingsEncoder | None:
    """The foreign encoder of an engine; None for an engine of BGE-M3."""
    if not engine.over_encoder:
        return None
    encoder: object = engine.encoder
    while isinstance(encoder, EncoderWrapper):
        encoder = encoder.encoder
    return encoder if isinstance(encoder, EmbeddingsEncoder) else None


def called(engine: BGEM3) -> tuple[str, str]:
    """The class that embeds and its model, as traces name them."""
    foreign = encoder_of(engine)
    if foreign is None:
        return type(engine).__name__, engine.name
    return type(foreign.embeddings).__name__, foreign.model


def _stated(embeddings: Embeddings) -> str | None:
    """What embeddings call their model, each kind in an attribute of its own."""
    named = (getattr(embeddings, name, None) for name in ("model", "model_name", "model_id"))
    return next((name for name in named if isinstance(name, str) and name), None)
