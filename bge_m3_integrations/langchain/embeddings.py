"""BGE-M3's dense vectors as LangChain `Embeddings`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar, Unpack

from langchain_core.embeddings import Embeddings
from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.pydantic_fields import CheckedCopies, refuse_fields
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.encoders.placement import as_devices, as_dtype
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index import arguments
from bge_m3_integrations.index.arguments import EngineLike
from bge_m3_integrations.langchain.keywords import EmbeddingsOptions

Row = TypeVar("Row")

_ROLE = "langchain.embeddings"


def _made(given: dict[str, Any]) -> BGEM3:
    """The engine of a model of its own, which loads nothing yet."""
    return BGEM3(**{"model" if name == "model_name" else name: v for name, v in given.items()})


def engine_of(value: Any, *, name: str = "engine") -> BGEM3:
    """The engine that a user gives, by itself or inside an index or adapter of this package.

    Of another model's `Embeddings`, the `InputError` says where they go.
    """
    if isinstance(value, Embeddings) and not isinstance(value, BGEM3Embeddings):
        raise InputError(
            f"{name} must be a BGEM3 or BGEM3Embeddings, for all three of BGE-M3's "
            f"representations, and {type(value).__name__} gives dense vectors alone; keep those in "
            "one of LangChain's own stores, such as langchain_core.vectorstores."
            "InMemoryVectorStore, langchain_qdrant or langchain_chroma"
        )
    return arguments.engine_of(value, name=name)


@public_class
class BGEM3Embeddings(CheckedCopies, Embeddings):
    """Dense vectors for any LangChain class that takes `Embeddings`.

    Give either an engine, to share one model with other adapters, or the options of a model of its
    own, which mean what they mean to `BGEM3`. For `CacheBackedEmbeddings`, take `fingerprint` as
    the namespace: a name can stand for two models. Nothing is loaded before the first text. Texts
    of async calls that wait at the same time are encoded together, and no thread waits for them.
    Texts are encoded as they are.

    Args:
        engine: An engine, or an index or adapter over one.
        **options: The options of a model of its own.

    Attributes:
        model_name: A folder or a hub id; also called `model`.
        device: "auto" or a torch device.
        dtype: "auto", "float32", "bfloat16", "float16" or "int8" (CPUs).
        max_length: Most tokens per text; None is all that the model takes.
        query_instruction: Put in front of every query; None is the checkpoint's own prompt, if it
            has one. BGE-M3 needs none.
        document_instruction: Put in front of every document; None likewise.
        revision: Branch, tag or commit on the hub.
        cache_dir: Where downloads are kept.
        offline: Use downloaded files only.
        engine: The engine that was given, which brings its own options, or the one made of the
            options above.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
        extra="forbid",
        frozen=True,
        populate_by_name=True,
        protected_namespaces=(),
    )

    model_name: str | Path = Field(default=DEFAULT_MODEL, alias="model")
    device: Annotated[str | tuple[str, ...], BeforeValidator(as_devices)] = "auto"
    dtype: Annotated[str, BeforeValidator(as_dtype)] = "auto"
    max_length: int | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    offline: bool = False
    engine: Annotated[SkipJsonSchema[BGEM3], BeforeValidator(engine_of)] = Field(
        default_factory=_made, exclude=True, repr=False
    )

    @checks_itself
    def __init__(
        self, engine: EngineLike | None = None, **options: Unpack[EmbeddingsOptions]
    ) -> None:
        refuse_fields(type(self), options, more=["engine"])
        fields: dict[str, Any] = {**options}
        super().__init__(**fields if engine is None else {"engine": engine, **fields})

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        """Refuse options that an engine that was given would ignore."""
        if "engine" not in self.model_fields_set:
            return self
        if ignored := self.model_fields_set - {"engine"}:
            raise InputError(
                f"an engine brings its own options, but {sorted(ignored)} came with it; "
                "give them to BGEM3, or leave out engine"
            )
        # the options that a user reads here are those that run
        options = {n: v for n, v in self.engine.options.items() if n in type(self).model_fields}
        self.__dict__.update(options, model_name=self.engine.name)
        return self

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield None, self.engine

    @property
    def fingerprint(self) -> str:
        """The identity of the model's numbers: the `namespace` for LangChain's embedding cache."""
        return self.engine.fingerprint

    def model_post_init(self, context: Any, /) -> None:
        """Declare the mode, so that adapters over the same engine share forward passes."""
        del context
        self.engine.declare(_ROLE, query=["dense"], document=["dense"])

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self.model_post_init(None)  # the engine is a new one, which knows of nobody

    def length_function(self, text: str) -> int:
        """Count a text's own tokens, for a text splitter; see `BGEM3.length_function`."""
        return self.engine.length_function(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents.

        Args:
            texts: Any number of texts, also none.

        Returns:
            One vector of norm 1 per text, in order.
        """
        held = _held(texts)
        if not held:
            return []  # and no model is loaded for nothing
        return _rows(self.engine.encode_documents(held, modes=["dense"]))

    def embed_query(self, text: str) -> list[float]:
        """Embed one query, as a vector of norm 1."""
        return _rows(self.engine.encode_queries([text], modes=["dense"]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """See `embed_documents`."""
        held = _held(texts)
        if not held:
            return []
        return _rows(await self.engine.aencode_documents(held, modes=["dense"]))

    async def aembed_query(self, text: str) -> list[float]:
        """See `embed_query`."""
        return _rows(await self.engine.aencode_queries([text], modes=["dense"]))[0]


def _held(texts: Sequence[str]) -> Sequence[str]:
    return texts if isinstance(texts, str) else list(texts)  # the engine refuses a string


def _rows(batch: EmbeddingBatch) -> list[list[float]]:
    """Python floats: caches write them as JSON, which knows no numpy."""
    rows: list[list[float]] = [] if batch.dense is None else batch.dense.tolist()
    return rows


class SparseView(ABC, Generic[Row]):
    """Lexical weights of an engine; a subclass gives them the form of its store.

    Args:
        engine: Shared with the dense embeddings, or these embeddings.

    Attributes:
        engine: The engine.
        role: The name by which the engine knows that lexical weights are needed.
    """

    role: ClassVar[str]

    def __init__(self, engine: BGEM3 | BGEM3Embeddings) -> None:
        self.engine: BGEM3 = engine_of(engine)
        self.engine.declare(self.role, query=["sparse"], document=["sparse"])

    @abstractmethod
    def _rows(self, batch: EmbeddingBatch) -> list[Row]:
        """The weights of each text, as the store takes them."""

    def embed_documents(self, texts: list[str]) -> list[Row]:
        """Lexical weights of documents, in order; no texts load no model."""
        if not texts:
            return []
        return self._rows(self.engine.encode_documents(texts, modes=["sparse"]))

    async def aembed_documents(self, texts: list[str]) -> list[Row]:
        """See `embed_documents`."""
        if not texts:
            return []
        return self._rows(await self.engine.aencode_documents(texts, modes=["sparse"]))

    def __repr__(self) -> str:
        return called(self, lambda: [repr(self.engine)])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.engine,)  # a copy declares its needs again
