"""A checkpoint's tensors as a backbone and heads, checked before anything is computed with them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bge_m3_integrations.encoders.torch.files import CheckpointFiles
from bge_m3_integrations.encoders.torch.layers import Weights, expected_shapes
from bge_m3_integrations.encoders.torch.linear import PlainLinear
from bge_m3_integrations.encoders.torch.tensor_checks import (
    check_floats,
    check_known,
    check_layers,
    check_numbers,
)
from bge_m3_integrations.encoders.torch.tensors import MappedTensors
from bge_m3_integrations.errors import CheckpointError

# Stands in every checkpoint of a packable backbone, behind the prefix that all its tensors share.
_ANCHOR = "embeddings.word_embeddings.weight"


def backbone_weights(files: CheckpointFiles, config: Any) -> Weights:
    """The mapped tensors of a packed backbone.

    Args:
        files: The checkpoint.
        config: Its config.

    Returns:
        Tensors that are all there, of the right shape, floating, and not all zero; and no others
        that an embedding depends on.

    Raises:
        CheckpointError: They are not.
    """
    tensors = _mapped(files)
    prefix = next((n.removesuffix(_ANCHOR) for n in tensors if n.endswith(_ANCHOR)), "")
    check_layers(tensors, config.num_hidden_layers, files.folder)
    shapes = expected_shapes(config)
    names = {name: prefix + name for name in shapes}
    others = set(tensors).difference(names.values())
    check_known((name.removeprefix(prefix) for name in others), files.folder)
    missing = [name for name in names.values() if name not in tensors]
    misshapen = [
        f"{names[name]} {tuple(tensors[names[name]].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if names[name] in tensors and tensors[names[name]].shape != shape
    ]
    _check_fit(files, missing, misshapen)
    used = {name: tensors[name] for name in names.values()}
    check_floats(used, files.folder)
    check_numbers(used, files.folder)
    for name in used:
        tensors.release(name)
    return Weights(tensors, names, tensors.release)


def _mapped(files: CheckpointFiles) -> MappedTensors:
    try:
        return MappedTensors(files.weights)
    except Exception as error:
        raise CheckpointError(_unreadable(files, error)) from error


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


def load_module(files: CheckpointFiles, dtype: torch.dtype, *, trust: bool) -> Any:
    """A backbone of any other kind, as transformers makes it; see `backbone_weights`."""
    from transformers import AutoConfig, AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    config = AutoConfig.from_pretrained(
        str(files.folder), local_files_only=True, trust_remote_code=trust
    )
    held = {n: t for n, t in _mapped(files).items() if n.endswith((".weight", ".bias"))}
    check_floats(held, files.folder)
    check_numbers(held, files.folder)
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
    check_known(report.get("unexpected_keys") or (), files.folder, packed=False)
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


def head_width(path: Path) -> int:
    """The width of a head's output per token, from its shape; no tensor is read."""
    return len(_head_state(path, "meta")["weight"])


def load_head(path: Path, *, hidden: int, out: int | None) -> PlainLinear:
    """Read a head.

    Args:
        path: A saved linear layer.
        hidden: Width of the backbone.
        out: How many numbers it gives for each token; None is any.

    Returns:
        The layer, on the CPU, as it was saved.

    Raises:
        CheckpointError: It is none, of another shape, not floating, not finite, or all zero.
    """
    state = _head_state(path, "cpu")
    shape = tuple(state["weight"].shape)
    wanted = (shape[0] if out is None else out, hidden)
    if shape != wanted or tuple(state["bias"].shape) != wanted[:1]:
        raise CheckpointError(
            f"{path} holds a head of shape {shape} with a bias of {tuple(state['bias'].shape)}, "
            f"but this backbone is {hidden} wide and needs {wanted}; the head belongs to another "
            "checkpoint"
        )
    check_floats(state, path)
    check_numbers(state, path)
    if not bool(state["weight"].isfinite().all()):
        raise CheckpointError(f"weight in {path} holds numbers that are not finite; save it again")
    return PlainLinear((state["weight"],), (state["bias"],))


def _head_state(path: Path, device: str) -> dict[str, torch.Tensor]:
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if extra := sorted(set(state) - {"weight", "bias"}):
            raise ValueError(f"it also holds {extra[:5]}")
        found = {"weight": state["weight"].detach(), "bias": state["bias"].detach()}
        if found["weight"].dim() != 2 or not len(found["weight"]):
            raise ValueError(f"its weight has the shape {tuple(found['weight'].shape)}")
    except Exception as error:
        raise CheckpointError(
            f"{path} is no saved linear layer (a torch file with weight and bias): {error}"
        ) from error
    return found
