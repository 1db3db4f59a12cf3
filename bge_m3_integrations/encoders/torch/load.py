"""From a checkpoint's files to a model in memory: lazily, once per process, one copy of weights."""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, get_args

import torch

from bge_m3_integrations.encoders.torch import fingerprint, int8
from bge_m3_integrations.encoders.torch.devices import DtypeName, pick_device, pick_dtype
from bge_m3_integrations.encoders.torch.digests import FileState, remembered
from bge_m3_integrations.encoders.torch.files import CONFIG, CheckpointFiles, read_json
from bge_m3_integrations.encoders.torch.generic import PaddedBackbone
from bge_m3_integrations.encoders.torch.heads import POOLINGS, Pooling
from bge_m3_integrations.encoders.torch.hub import resolve_checkpoint
from bge_m3_integrations.encoders.torch.int8 import can_int8
from bge_m3_integrations.encoders.torch.layers import (
    PackedBackbone,
    Weights,
    expected_shapes,
    is_packable,
)
from bge_m3_integrations.encoders.torch.linear import PlainLinear
from bge_m3_integrations.encoders.torch.modules import Backbone, M3Modules
from bge_m3_integrations.encoders.torch.native.attention import takes
from bge_m3_integrations.encoders.torch.native.binding import why_not
from bge_m3_integrations.encoders.torch.native.parts import NativeFloat, NativeInt8, native_parts
from bge_m3_integrations.encoders.torch.parts import InInt8, Owned, Parts
from bge_m3_integrations.encoders.torch.tensors import MappedTensors, release_freed_memory
from bge_m3_integrations.encoders.torch.tokenizer import TextTokenizer, load_tokenizer
from bge_m3_integrations.errors import CheckpointError, InputError, PoolingWarning

if TYPE_CHECKING:
    from torch import nn

DTYPES = (*get_args(DtypeName), "int8")

# Backbones whose positions count from the padding id, so that it and all ids below are lost.
_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm"}
    | {"xlm-roberta", "xlm-roberta-xl", "xmod"}
)
# Stands in every checkpoint of a packable backbone, behind the prefix that all its tensors share.
_ANCHOR = "embeddings.word_embeddings.weight"
# What sentence-transformers' pooling config says, in the form before and since its version 5.
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last_token",
}


class Source(Protocol):
    """Where an encoder's model comes from; everything is read when first asked for."""

    @property
    def config(self) -> Any:
        """The backbone's transformers config."""
        ...

    @property
    def colbert_dim(self) -> int:
        """Width of a token vector."""
        ...

    @property
    def pooling(self) -> Pooling:
        """How the dense vector is made."""
        ...

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer."""
        ...

    @property
    def modules(self) -> M3Modules:
        """The model, in memory."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def precision(self) -> str:
        """What decides its numbers, such as "bfloat16" or "int8/4/127/bfloat16/compiled"."""
        ...

    @property
    def weights_digest(self) -> str:
        """Digest of backbone and heads."""
        ...

    @property
    def loaded_as(self) -> tuple[str, str] | None:
        """Device and dtype of a model that is in memory; nothing is read for it."""
        ...


class CheckpointSource:
    """A checkpoint in BGE-M3's format, in a folder or on a hub.

    Args:
        model: A local folder, or a hub id such as "BAAI/bge-m3".
        device: "auto" or a torch device.
        dtype: "auto", "float32", "bfloat16", "float16", or "int8" (CPUs only).
        pooling: "auto" reads the checkpoint's pooling config (cls where there is none).
        trust_remote_code: Whether code that comes with the checkpoint may run.
        **hub: The hub options of `resolve_checkpoint`: revision, cache_dir, token, offline.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str,
        dtype: str,
        pooling: str,
        trust_remote_code: bool,
        **hub: Any,
    ) -> None:
        if dtype not in DTYPES:
            raise InputError(f"dtype={dtype!r} is not one of {list(DTYPES)}")
        if pooling not in ("auto", *POOLINGS):
            raise InputError(f"pooling={pooling!r} is not one of {['auto', *POOLINGS]}")
        self._model = model
        self._device = device
        self._dtype = dtype
        self._pooling = pooling
        self.trust_remote_code = trust_remote_code
        self._hub = hub
        self._lock = threading.RLock()

    @property
    def files(self) -> CheckpointFiles:
        """The checkpoint's files, downloaded if they must be."""
        with self._lock:
            return self._files

    @cached_property
    def _files(self) -> CheckpointFiles:
        return resolve_checkpoint(
            self._model, trust_remote_code=self.trust_remote_code, **self._hub
        )

    @cached_property
    def device(self) -> torch.device:
        """Where it computes."""
        return pick_device(self._device)

    @cached_property
    def dtype(self) -> torch.dtype:
        """What it computes in; with 8-bit weights, what the states between them are in."""
        return pick_dtype("auto" if self.is_int8 else self._dtype, self.device)

    @cached_property
    def is_int8(self) -> bool:
        """Whether the weights are kept and multiplied in 8 bits."""
        if self._dtype != "int8":
            return False
        if self.device.type != "cpu" or not can_int8() or not is_packable(self.config):
            raise InputError(
                "dtype='int8' needs a CPU whose 8-bit products torch computes exactly, and a BERT, "
                f"RoBERTa or XLM-R backbone; here: {self.device}, {self.config.model_type}. "
                "Use dtype='auto'"
            )
        return True

    @property
    def precision(self) -> str:
        """What decides its numbers: a float type, or all that 8 bits are computed by here."""
        name = str(self.dtype).removeprefix("torch.")
        if not self.is_int8:
            return name
        by = "compiled" if isinstance(self.parts, NativeInt8) else "torch"
        return f"int8/{int8.ARITHMETIC}/{int8.weight_levels()}/{name}/{by}"

    @property
    def states(self) -> torch.dtype:
        """What a packed backbone's products take: levels are found in all the states' bits."""
        return torch.float32 if self.is_int8 else self.dtype

    @property
    def parts(self) -> Parts:
        """What a packed backbone's layers are computed with: compiled kernels where they run."""
        if self.device.type == "cpu":
            native = native_parts(self.config, dtype=self.dtype, int8=self.is_int8)
            if native is not None:
                return native
        return InInt8(self.dtype) if self.is_int8 else Owned(self.dtype, self.device)

    @property
    def computed_by(self) -> str:
        """What computes the backbone, in words."""
        if not is_packable(self.config):
            return f"transformers' modules on {self.device.type}"
        if isinstance(self.parts, (NativeFloat, NativeInt8)):
            head_width = self.config.hidden_size // self.config.num_attention_heads
            return "compiled kernels" + (
                "" if takes(head_width, self.dtype) else ", attention by torch"
            )
        if self.device.type != "cpu":
            return f"torch on {self.device.type}"
        return f"torch: {why_not() or 'no kernels for this dtype or these widths'}"

    @cached_property
    def config(self) -> Any:
        """The backbone's transformers config."""
        from transformers import AutoConfig

        folder = self.files.folder
        try:
            return AutoConfig.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=self.trust_remote_code
            )
        except Exception as error:
            raise CheckpointError(f"config.json in {folder} cannot be read: {error}") from error

    @cached_property
    def colbert_dim(self) -> int:
        """Width of a token vector, from the head's shape; no tensor is read."""
        return int(_head_state(self.files.colbert_head, "meta")["weight"].shape[0])

    @cached_property
    def pooling(self) -> Pooling:
        """How the dense vector is made; warns where an explicit choice contradicts the files."""
        auto = self._pooling == "auto"
        stated = _stated_pooling(self.files.pooling_config, strict=auto)
        if auto:
            return stated or "cls"
        chosen = POOLINGS[POOLINGS.index(self._pooling)]
        if stated not in (None, chosen):
            warnings.warn(
                f"pooling={chosen!r} was asked for, but {self.files.name} says {stated!r} in "
                "1_Pooling/config.json; dense vectors will differ from the authors'",
                PoolingWarning,
                stacklevel=2,
            )
        return chosen

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer."""
        with self._lock:
            return self._tokenizer

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        loaded = load_tokenizer(self.files.folder, trust_remote_code=self.trust_remote_code)
        release_freed_memory()  # what a large vocabulary was built from weighs as much as itself
        return loaded

    @property
    def modules(self) -> M3Modules:
        """The model; sources of one checkpoint, device and dtype share it."""
        with self._lock:
            return self._modules

    @property
    def loaded_as(self) -> tuple[str, str] | None:
        """See `Source.loaded_as`."""
        if "_modules" not in vars(self):  # where a cached property keeps it
            return None
        dtype = "int8" if self.is_int8 else str(self.dtype).removeprefix("torch.")
        return str(self.device), dtype

    @cached_property
    def _modules(self) -> M3Modules:
        kind = "int8" if self.is_int8 else str(self.dtype)
        key = (_state(self.files), str(self.device), kind, self.trust_remote_code)
        with _LOADING:
            modules = _LOADED.get(key)
            if modules is None:
                modules = _load(self)
                _LOADED[key] = modules
            return modules

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the files' tensors; computed once per state of the files."""
        files = self.files
        return remembered(
            _state(files),
            lambda: fingerprint.weights_digest(
                backbone=fingerprint.file_tensors(files.weights),
                colbert=fingerprint.file_tensors([files.colbert_head]),
                sparse=fingerprint.file_tensors([files.sparse_head]),
            ),
        )


_LOADING = threading.RLock()
_LOADED: weakref.WeakValueDictionary[tuple[FileState, str, str, bool], M3Modules] = (
    weakref.WeakValueDictionary()
)


def _state(files: CheckpointFiles) -> FileState:
    """Path, size and time of what a model is made of: a folder written anew is another model."""
    paths = (*files.weights, files.colbert_head, files.sparse_head, files.folder / CONFIG)
    stats = [(path.resolve(), path.stat()) for path in paths]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def usable_positions(config: Any) -> int | None:
    """Most tokens that a backbone has positions for; None where it has no such limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    offset = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return int(positions) - offset


def _load(source: CheckpointSource) -> M3Modules:
    files, config = source.files, source.config
    dtype, device = source.dtype, source.device
    heads = [
        _load_head(path, hidden=int(config.hidden_size), out=out).to(device, dtype)
        for path, out in ((files.colbert_head, None), (files.sparse_head, 1))
    ]
    backbone: Backbone
    if is_packable(config):
        weights = _backbone_weights(files, config)
        backbone = PackedBackbone(
            weights,
            config,
            dtype=dtype,
            device=device,
            parts=source.parts,
            states=source.states,
        )
    else:
        module = _load_module(files, dtype, trust=source.trust_remote_code).to(device)
        pad, positions = int(config.pad_token_id or 0), usable_positions(config)
        backbone = PaddedBackbone(module, pad_token_id=pad, positions=positions)
    release_freed_memory()
    colbert, sparse = (PlainLinear((head.weight,), (head.bias,)) for head in heads)
    return M3Modules(backbone, colbert, sparse)


def _backbone_weights(files: CheckpointFiles, config: Any) -> Weights:
    """The mapped tensors of a packed backbone, all there and of the right shape."""
    try:
        tensors = MappedTensors(files.weights)
    except Exception as error:
        raise CheckpointError(_unreadable(files, error)) from error
    shapes = expected_shapes(config)
    prefix = next((n.removesuffix(_ANCHOR) for n in tensors if n.endswith(_ANCHOR)), "")
    names = {name: prefix + name for name in shapes}
    missing = [name for name in names.values() if name not in tensors]
    misshapen = [
        f"{names[name]} {tuple(tensors[names[name]].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if names[name] in tensors and tensors[names[name]].shape != shape
    ]
    _check_fit(files, missing, misshapen)
    return Weights(tensors, names, tensors.release)


def _unreadable(files: CheckpointFiles, error: Exception) -> str:
    return (
        f"the weights {[p.name for p in files.weights]} in {files.folder} cannot be loaded: {error}"
    )


def _check_fit(files: CheckpointFiles, missing: list[str], misshapen: list[str]) -> None:
    if missing or misshapen:
        raise CheckpointError(
            f"the weights in {files.folder} do not fit config.json: missing {missing[:5]}, "
            f"misshapen {misshapen[:5]}; without them the numbers would be random. Is this the "
            "checkpoint that the config belongs to?"
        )


def _load_module(files: CheckpointFiles, dtype: torch.dtype, *, trust: bool) -> Any:
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = AutoConfig.from_pretrained(
        str(files.folder), local_files_only=True, trust_remote_code=trust
    )
    known = MODEL_MAPPING.get(type(config), None)
    poolerless = known and "add_pooling_layer" in inspect.signature(known.__init__).parameters
    try:
        with _quiet():
            backbone, report = AutoModel.from_pretrained(
                str(files.folder),
                dtype=dtype,
                local_files_only=True,
                trust_remote_code=trust,
                weights_only=True,
                output_loading_info=True,
                **({"add_pooling_layer": False} if poolerless else {}),
            )
    except Exception as error:
        raise CheckpointError(_unreadable(files, error)) from error
    missing = [name for name in report["missing_keys"] if "pooler" not in name]
    _check_fit(files, missing, [str(key) for key in report.get("mismatched_keys") or ()])
    return backbone.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report of keys, which are judged here.

    Both switches are global: the caller holds the loading lock.
    """
    from transformers.utils import logging

    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def _head_state(path: Path, device: str) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        return {"weight": state["weight"], "bias": state["bias"]}
    except Exception as error:
        raise CheckpointError(
            f"{path} is no saved linear layer (a torch file with weight and bias): {error}"
        ) from error


def _load_head(path: Path, *, hidden: int, out: int | None) -> nn.Linear:
    state = _head_state(path, "cpu")
    shape = tuple(state["weight"].shape)
    wanted = (out if out is not None else shape[0], hidden)
    if shape != wanted or tuple(state["bias"].shape) != wanted[:1]:
        raise CheckpointError(
            f"{path} holds a head of shape {shape}, but this backbone is {hidden} wide and needs "
            f"{wanted}; the head belongs to another checkpoint"
        )
    head = torch.nn.Linear(hidden, wanted[0], device="meta")
    head.load_state_dict(state, assign=True)
    return head.requires_grad_(False)


def _stated_pooling(path: Path | None, *, strict: bool) -> Pooling | None:
    """What the checkpoint says, or None; `strict` refuses what this package cannot do."""
    if path is None:
        return None
    config = read_json(path)
    stated = {flag for flag, on in config.items() if on is True and flag.startswith("pooling_mode")}
    stated |= {str(config["pooling_mode"])} if "pooling_mode" in config else set()
    found = _POOLINGS.get(next(iter(stated))) if len(stated) == 1 else None
    if strict and found is None:
        raise CheckpointError(
            f"{path} asks for the pooling {sorted(stated)}, which is not one of {list(POOLINGS)}; "
            "pass pooling= to choose one of these"
        )
    return found
