"""The common parts of the serializable adapters: an engine, and the fields to rebuild it."""

# no postponed annotations: pydantic reads them
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from llama_index.core.schema import BaseComponent
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from bge_m3_integrations._internal.pydantic_fields import refuse_fields
from bge_m3_integrations.core.weighting import WeightsLike, as_weights
from bge_m3_integrations.encoders.config import DEFAULT_MODEL
from bge_m3_integrations.encoders.placement import as_devices, as_dtype
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.index.arguments import EngineLike, engine_of

_MODEL = ("model", "model_name")
"""The adapters' names for the checkpoint."""


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


PathText = Annotated[str, BeforeValidator(_as_text)]
"""A name or a folder, kept as text so that it can be written as JSON."""
Dtype = Annotated[str, BeforeValidator(as_dtype)]
Devices = Annotated[str | tuple[str, ...], BeforeValidator(as_devices)]
"""One device or several; JSON brings a tuple back as a list."""
ParsedWeights = Annotated[
    WeightsLike | None,
    PlainValidator(as_weights),
    Field(
        frozen=True,
        description="A preset's name, three numbers or a mapping; None is the default preset.",
    ),
]


class EngineOptions(BaseComponent):
    """Fields from which an engine is made; a given engine fills them in.

    Every option that changes an embedding is a field, so LlamaIndex's pipeline cache sees it. An
    engine over a checkpoint's name or folder is described by its options, and no file is read to
    tell. An engine over an encoder object has no such description: `to_dict` then holds its
    fingerprint, pickling raises, and `from_dict` needs `engine=`. A pickle holds the engine with
    all its options, and adapters of one pickle go on sharing it. The hub token is no field and is
    never written; a rebuilt engine takes the machine's own.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    device: Devices = Field(default="auto", frozen=True, description="See `BGEM3`.")
    dtype: Dtype = Field(default="auto", frozen=True, description="See `BGEM3`.")
    pooling: str = Field(default="auto", frozen=True, description="See `BGEM3`.")
    max_length: int | None = Field(
        default=None, frozen=True, description="Most tokens per text; None is the model's limit."
    )
    query_instruction: str | None = Field(
        default=None, frozen=True, description="Put before each query; None is the model's own."
    )
    document_instruction: str | None = Field(
        default=None, frozen=True, description="Put before documents; None is the model's own."
    )
    revision: str | None = Field(default=None, frozen=True, description="Of the hub repository.")
    cache_dir: PathText | None = Field(default=None, frozen=True, description="Where downloads go.")
    offline: bool = Field(default=False, frozen=True, description="Use downloaded files only.")
    trust_remote_code: bool = Field(default=False, frozen=True, description="See `BGEM3`.")
    clean: bool = Field(default=False, frozen=True, description="Repair texts before encoding.")
    engine_fingerprint: str | None = Field(
        default=None,
        frozen=True,
        description="Of an engine over an encoder object; filled in when serialized.",
    )

    _engine: BGEM3 = PrivateAttr()

    def __init__(self, engine: EngineLike | None, fields: dict[str, Any]) -> None:
        held = None if engine is None else engine_of(engine)
        model = next(name for name in _MODEL if name in type(self).model_fields)
        super().__init__(**_described(held, fields, model=model))
        if held is None:
            options = {option: getattr(self, option) for option in _FIELDS}
            held = BGEM3(getattr(self, model), **options)
        self._engine = held

    @property
    def engine(self) -> BGEM3:
        """The engine that encodes; adapters that share it share forward passes."""
        return self._engine

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        yield None, getattr(self, "_engine", None)
        yield from own_choices(self, hidden={*EngineOptions.model_fields, *_MODEL})

    @model_serializer(mode="wrap")
    def custom_model_dump(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """The fields; of an engine over an encoder object, the fingerprint too."""
        data = super().custom_model_dump(handler, info)
        if self._engine.over_encoder:
            data["engine_fingerprint"] = self._engine.fingerprint
        return data

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy over the same engine; an update of the engine's own options makes another one."""
        if not update:
            return super().model_copy(deep=deep)
        given = {name: getattr(self, name) for name in self.model_fields_set}
        same = self._engine.over_encoder or not update.keys() & {*_FIELDS, *_MODEL}
        engine = {"engine": self._engine} if same else {}
        return type(self)(**{**engine, **given, **update})

    def __getstate__(self) -> dict[str, Any]:
        if self._engine.over_encoder:
            raise InputError(
                f"{self.class_name()} over an encoder object ({self._engine.name}) cannot be "
                "pickled; make it from a model name or folder, or run without worker processes"
            )
        # of a copy: the base class deletes what cannot be pickled from the object itself
        return BaseComponent.__getstate__(self.model_copy())

    def __setstate__(self, state: dict[str, Any]) -> None:
        # the base class would make another engine, of the fields alone
        engine = {"engine": state["__pydantic_private__"]["_engine"]}
        type(self).__init__(self, **engine, **state["__dict__"])


_FIELDS = EngineOptions.model_fields.keys() - {"engine_fingerprint"}


class EmbeddingOptions(EngineOptions):
    """The fields of an embedding, dense or sparse."""

    model_name: PathText = Field(
        default=DEFAULT_MODEL, frozen=True, description="Hub id or folder of the checkpoint."
    )
    embed_batch_size: int = Field(
        default=32, gt=0, le=2048, description="Texts per call; the engine packs them by length."
    )

    def __init__(self, engine: EngineLike | None, fields: dict[str, Any]) -> None:
        refuse_fields(type(self), fields, more=["engine"])
        super().__init__(engine, fields)

    def to_payload(self) -> dict[str, Any]:
        """Describe the model for events and traces, without secrets."""
        about: dict[str, Any] = super().to_payload()  # type: ignore[misc]  # LlamaIndex's class
        return {**about, **{n: getattr(self, n) for n in ("device", "dtype", "max_length")}}


def own_choices(held: BaseComponent, *, hidden: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The fields of a component that are not as they are by default, for its `repr`."""
    for name, field in type(held).model_fields.items():
        value = getattr(held, name, None)
        if name not in {*hidden, "callback_manager"} and value != field.default:
            yield name, value


def _described(engine: BGEM3 | None, given: dict[str, Any], *, model: str) -> dict[str, Any]:
    """The fields that a caller wrote, with those that describe the engine that came with them."""
    fingerprint = given.get("engine_fingerprint")
    if engine is None:
        if fingerprint is not None:
            raise InputError(
                f"this was made over an encoder object with fingerprint {fingerprint}, which "
                "cannot be rebuilt from fields; give it: from_dict(data, engine=BGEM3(encoder))"
            )
        return given
    options = {name: _as_text(value) for name, value in engine.options.items() if name in _FIELDS}
    if engine.over_encoder:
        options["max_length"] = engine.encoder.max_length
    held = {model: engine.name, **options}
    for name, value in held.items():
        if name in given and _comparable(name, given[name]) != _comparable(name, value):
            raise InputError(
                f"{name}={given[name]!r} contradicts the given engine's {value!r}; set it there: "
                f"BGEM3({name if name in _FIELDS else 'model'}=...)"
            )
    if fingerprint is not None and not engine.has_fingerprint(fingerprint):
        raise InputError(
            f"engine_fingerprint {fingerprint} is not the given engine's {engine.fingerprint}"
        )
    return {**given, **held}


def _comparable(name: str, value: Any) -> Any:
    if name == "device":
        return as_devices(value)
    if name.endswith("_instruction"):
        return value or ""  # both are none, unless the checkpoint has a prompt
    return as_dtype(value) if name == "dtype" else _as_text(value)
