"""From a checkpoint's files to a model in memory: lazily, once per process, one copy of weights."""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from bge_m3_integrations._internal.forks import between_forks, frees_properties, new_rlock
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.embeddings import Kind, Mode, Modes, ordered_modes
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.torch import fingerprint, int8
from bge_m3_integrations.encoders.torch.config import read_config, usable_positions
from bge_m3_integrations.encoders.torch.devices import pick_device, pick_dtype
from bge_m3_integrations.encoders.torch.digests import FileState, remembered
from bge_m3_integrations.encoders.torch.file_changes import WatchedFiles
from bge_m3_integrations.encoders.torch.files import CONFIG, HEADS, CheckpointFiles
from bge_m3_integrations.encoders.torch.heads import POOLINGS, Pooling
from bge_m3_integrations.encoders.torch.hub import resolve_checkpoint
from bge_m3_integrations.encoders.torch.layer_ops import CopiedOps, Int8Ops, LayerOps
from bge_m3_integrations.encoders.torch.layers import PackedBackbone, is_packable
from bge_m3_integrations.encoders.torch.modules import Backbone, M3Modules
from bge_m3_integrations.encoders.torch.native.attention import takes
from bge_m3_integrations.encoders.torch.native.binding import unavailable_reason
from bge_m3_integrations.encoders.torch.native.layer_ops import (
    NativeFloat,
    NativeInt8,
    native_ops,
)
from bge_m3_integrations.encoders.torch.padded import PaddedBackbone
from bge_m3_integrations.encoders.torch.sentence_transformers import (
    check_modules,
    lowers_texts,
    prompt_of,
    stated_pooling,
)
from bge_m3_integrations.encoders.torch.tensors import release_freed_memory
from bge_m3_integrations.encoders.torch.tokenizer import TextTokenizer
from bge_m3_integrations.encoders.torch.tokenizer_file import (
    check_fits,
    former_tokenizers,
    load_tokenizer,
)
from bge_m3_integrations.encoders.torch.weights import (
    backbone_weights,
    head_width,
    load_head,
    load_module,
)
from bge_m3_integrations.errors import InputError, MissingHeadError, PoolingWarning


@frees_properties
class CheckpointSource:
    """A checkpoint in BGE-M3's format, in a folder or on a hub.

    Args:
        model: A local folder, or a hub id such as "BAAI/bge-m3".
        config: How to load it; of several devices the first counts.
    """

    def __init__(self, model: str | Path, config: ModelConfig) -> None:
        self._model, self._config = model, config
        self.trust_remote_code = config.trust_remote_code
        self._lock = new_rlock()

    @cached_property
    def files(self) -> CheckpointFiles:
        """The checkpoint's files, downloaded if they must be."""
        with self._lock:
            return self._files

    @cached_property
    def _files(self) -> CheckpointFiles:
        return resolve_checkpoint(self._model, **self._config.hub)

    @cached_property
    def device(self) -> torch.device:
        """Where it computes."""
        return pick_device(self._config.devices[0])

    @cached_property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in; with 8-bit weights, that of the states between them."""
        return pick_dtype("auto" if self.is_int8 else self._config.dtype_name, self.device)

    @cached_property
    def is_int8(self) -> bool:
        """Whether the weights are kept and multiplied in 8 bits."""
        if self._config.dtype_name != "int8":
            return False
        if self.device.type != "cpu" or not int8.weight_levels() or not is_packable(self.config):
            raise InputError(
                "dtype='int8' needs a CPU whose 8-bit products torch computes exactly, and a BERT, "
                f"RoBERTa or XLM-R backbone; here: {self.device}, {self.config.model_type}. "
                "Use dtype='auto'"
            )
        return True

    @property
    def precision(self) -> str:
        """The choices that decide its numbers: a float type, or all that 8 bits are computed by."""
        name = str(self.dtype).removeprefix("torch.")
        if not self.is_int8:
            return name
        by = "compiled" if isinstance(self.parts, NativeInt8) else "torch"
        return f"int8/{int8.ARITHMETIC}/{int8.weight_levels()}/{name}/{by}"

    @property
    def states(self) -> torch.dtype:
        """The dtype of a packed backbone's products: levels are found in all the states' bits."""
        return torch.float32 if self.is_int8 else self.dtype

    @property
    def parts(self) -> LayerOps:
        """The operations of a packed backbone's layers: compiled kernels where they run."""
        if self.device.type == "cpu":
            native = native_ops(self.config, dtype=self.dtype, int8=self.is_int8)
            if native is not None:
                return native
        return Int8Ops(self.dtype) if self.is_int8 else CopiedOps(self.dtype, self.device)

    @property
    def computed_by(self) -> str:
        """Describe the code that computes the backbone."""
        if not is_packable(self.config):
            return f"transformers' modules on {self.device.type}"
        if isinstance(self.parts, (NativeFloat, NativeInt8)):
            head_width = self.config.hidden_size // self.config.num_attention_heads
            return "compiled kernels" + (
                "" if takes(head_width, self.dtype) else ", attention by torch"
            )
        if self.device.type != "cpu":
            return f"torch on {self.device.type}"
        return f"torch: {unavailable_reason() or 'no kernels for this dtype or these widths'}"

    @cached_property
    def config(self) -> Any:
        """The backbone's transformers config."""
        folder = self.files.folder
        with between_forks.locked():
            return read_config(folder, trust_remote_code=self.trust_remote_code)

    def check_modes(self, modes: Modes) -> None:
        """Refuse modes whose heads are not among the files.

        Args:
            modes: The modes to compute.

        Raises:
            MissingHeadError: One is; the message names the files.
        """
        if missing := ordered_modes(frozenset(modes) - self.modes):
            files, have = self.files, ordered_modes(self.modes)
            names = " and ".join(HEADS[mode] for mode in missing)
            raise MissingHeadError(
                f"{files.name} has no {' and '.join(missing)} head: {names} is not in "
                f"{files.folder}, so this checkpoint was trained without it, or the copy is not "
                f"whole. It gives {' and '.join(have)}: ask for modes={have}, or take a checkpoint "
                "that was trained with all three. A head of another model gives numbers without "
                "meaning"
            )

    def rebuilt(self) -> Iterable[TextTokenizer]:
        """See `Source.rebuilt`."""
        return former_tokenizers(
            self.tokenizer, self.files.folder, trust_remote_code=self.trust_remote_code
        )

    def prompt(self, kind: Kind) -> str:
        """The prompt for queries or documents that comes with the checkpoint; "" is none."""
        return prompt_of(self.files, kind)

    @cached_property
    def modes(self) -> frozenset[Mode]:
        """Dense, and the modes whose heads are among the files."""
        return frozenset(("dense", *self.files.heads))

    @cached_property
    def colbert_dim(self) -> int:
        """Width of a token vector, from the head's shape; no tensor is read. 0 without a head."""
        path = self.files.heads.get("colbert")
        return 0 if path is None else head_width(path)

    @cached_property
    def pooling(self) -> Pooling:
        """The pooling of the dense vector; warns where an explicit choice contradicts the files."""
        auto = self._config.pooling == "auto"
        stated = stated_pooling(self.files, strict=auto)
        if auto:
            return stated or "cls"
        chosen = POOLINGS[POOLINGS.index(self._config.pooling)]
        if stated not in (None, chosen):
            warn_user(
                f"pooling={chosen!r} was asked for, but {self.files.name} says {stated!r} in "
                "its pooling config; dense vectors will differ from the authors'",
                PoolingWarning,
            )
        return chosen

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer."""
        with self._lock:
            return self._tokenizer

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        files, model_type = self.files, str(self.config.model_type)
        with between_forks.locked():
            loaded = load_tokenizer(
                files.folder,
                model_type=model_type,
                trust_remote_code=self.trust_remote_code,
                lower=lowers_texts(files),
            )
        check_fits(loaded, int(self.config.vocab_size), source=str(files.folder))
        release_freed_memory()  # what a large vocabulary was built from weighs as much as itself
        return loaded

    @cached_property
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
        with _LOADING, between_forks.locked():
            modules = _LOADED.get(key)
            if modules is None:
                begun = time.monotonic()
                modules = _load(self)
                seconds = time.monotonic() - begun
                about = (self._model, self.device, kind.removeprefix("torch."), seconds)
                _LOG.info("loaded %s on %s in %s: %.1f seconds", *about)
                _LOADED[key] = modules
            return modules

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the files' tensors; computed once per state of the files."""
        parts = [self.files.weights, *([head] for head in _heads(self.files))]
        return remembered(
            _state(self.files),
            lambda: fingerprint.weights_digest(*map(fingerprint.file_tensors, parts)),
        )


_LOG = logging.getLogger(__name__)
_LOADING = new_rlock()
_LOADED: weakref.WeakValueDictionary[tuple[FileState, str, str, bool], M3Modules] = (
    weakref.WeakValueDictionary()
)


def _state(files: CheckpointFiles) -> FileState:
    """Path, size and time of what a model is made of: a folder written anew is another model."""
    paths = (*files.weights, *_heads(files), files.folder / CONFIG)
    stats = [(path.resolve(), path.stat()) for path in paths]
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


def _heads(files: CheckpointFiles) -> list[Path]:
    """ColBERT's before the sparse one: a fingerprint depends on the order."""
    return [files.heads[mode] for mode in ("colbert", "sparse") if mode in files.heads]


def _load(source: CheckpointSource) -> M3Modules:
    files, config = source.files, source.config
    dtype, device = source.dtype, source.device
    watched = WatchedFiles(files.weights)
    check_modules(files)
    heads = {
        mode: load_head(path, hidden=int(config.hidden_size), out=_HEAD_WIDTHS[mode])
        for mode, path in files.heads.items()
    }
    backbone: Backbone
    if is_packable(config):
        weights = backbone_weights(files, config)
        backbone = PackedBackbone(
            weights,
            config,
            dtype=dtype,
            device=device,
            parts=source.parts,
            states=source.states,
        )
    else:
        module = load_module(files, dtype, trust=source.trust_remote_code).to(device)
        pad, positions = int(config.pad_token_id or 0), usable_positions(config)
        backbone = PaddedBackbone(module, pad_token_id=pad, positions=positions)
    release_freed_memory()
    placed = {mode: head.to(device, dtype) for mode, head in heads.items()}
    return M3Modules(backbone, placed.get("colbert"), placed.get("sparse"), watched)


_HEAD_WIDTHS: Mapping[Mode, int | None] = {"colbert": None, "sparse": 1}
