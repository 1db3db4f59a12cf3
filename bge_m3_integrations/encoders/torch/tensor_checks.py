"""Checks of a checkpoint's tensors: all there, all known, floating, and not all zero.

Weights that are quantized, of an unmerged adapter or of a deeper model have the names and shapes of
plain ones here and there, and would give numbers without meaning.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from bge_m3_integrations.errors import CheckpointError

FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""The dtypes whose numbers are the weights themselves, without a scale."""

# Tensors that no embedding depends on: indices that old versions of transformers saved, what lies
# behind the last layer, and the heads of other tasks.
_BENIGN = re.compile(
    r"(^|\.)embeddings\.(position_ids|token_type_ids)$"
    r"|(^|\.)pooler\.(dense\.)?(weight|bias)$"
    r"|^(lm_head|cls|classifier|qa_outputs|score|mlm_head|generator)\."
    r"|^(colbert_linear|sparse_linear)\.(weight|bias)$"
    r"|^(logit_scale|temperature)$"
)
# More of the kind, of backbones that transformers computes.
_BENIGN_ELSEWHERE = re.compile(r"^(head|decoder|vocab_\w+|\w*predictions)\.")
_ADVICE: tuple[tuple[str, str], ...] = (
    (
        r"\.(lora_|base_layer\.|modules_to_save|original_module\.)|(^|[._])adapters?([._]|$)",
        "They are of an adapter. Merge first: load it with peft, call merge_and_unload() and save",
    ),
    (
        r"\.(SCB|absmax|quant_map|nested_absmax|quant_state|weight_format|weight_scale|"
        r"weight_scale_inv|input_scale|weight_scale_2|weight_zero_point|weight_packed|weight_shape|"
        r"qweight|qzeros|scales|g_idx)([._]|$)",
        "The weights are quantized. Pass the checkpoint that they were made from, with "
        "dtype='int8' for 8 bits on a CPU; or load this one with transformers, call .dequantize() "
        "and save it",
    ),
)
_ROWS = 64
_LAYER = re.compile(r"(?:^|\.)encoder\.layer\.(\d+)\.")


def check_layers(names: Iterable[str], layers: int, folder: Path) -> None:
    """Check that the weights are of as many layers as the config says, before these are listed.

    Args:
        names: Of all tensors.
        layers: `num_hidden_layers` of the config.
        folder: The checkpoint.

    Raises:
        CheckpointError: There are more or fewer; the message has both numbers.
    """
    found = {int(match[1]) for name in names if (match := _LAYER.search(name))}
    held = max(found, default=-1) + 1
    if held != layers:
        raise CheckpointError(
            f"the weights in {folder} are of {held} layers, but config.json has num_hidden_layers "
            f"{layers}; take the config.json that they were saved with"
        )


def check_known(names: Iterable[str], folder: Path, *, packed: bool = True) -> None:
    """Refuse tensors that would be left out, unless no embedding depends on them.

    Args:
        names: The tensors that the backbone does not read.
        folder: The checkpoint.
        packed: Whether the backbone is of BERT's family.

    Raises:
        CheckpointError: There are such; the message names some, and says what they are.
    """
    benign = (_BENIGN,) if packed else (_BENIGN, _BENIGN_ELSEWHERE)
    foreign = sorted(name for name in names if not any(known.search(name) for known in benign))
    if not foreign:
        return
    advice = next(
        (text for pattern, text in _ADVICE if any(re.search(pattern, name) for name in foreign)),
        "Take the config.json that they were saved with; if no embedding depends on them, save the "
        "weights without them",
    )
    raise CheckpointError(
        f"the weights in {folder} hold {len(foreign)} tensors that config.json does not name: "
        f"{foreign[:5]}; without them the numbers would be another model's. {advice}"
    )


def check_floats(tensors: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Refuse tensors whose numbers are no weights by themselves.

    Args:
        tensors: Those that a model reads.
        folder: The checkpoint.

    Raises:
        CheckpointError: One is of whole numbers, or of floats that belong with a scale.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{name} in {folder} is of {_called(tensor.dtype)}, not one of "
                f"{sorted(map(_called, FLOATS))}. {_ADVICE[1][1]}"
            )


def check_numbers(tensors: Mapping[str, torch.Tensor], where: Path) -> None:
    """Refuse tensors of zeros alone, and vectors that are not finite.

    Matrices are looked at where it costs nothing: in full only if some of their rows are zero. A
    number in them that is not finite is found by the first text.

    Args:
        tensors: Floating tensors that a model reads.
        where: The file or folder that they are from.

    Raises:
        CheckpointError: One is all zero or not finite; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.dim() < 2 and not bool(tensor.isfinite().all()):
            raise CheckpointError(
                f"{name} in {where} holds numbers that are not finite; download or save it again"
            )
        is_weight = name.endswith("weight") and "token_type" not in name
        # row by row: each that is looked at brings 64 KiB of the mapped file into memory
        some = (tensor[i] for i in range(0, len(tensor), max(1, len(tensor) // _ROWS)))
        if is_weight and not any(bool(row.any()) for row in some) and not bool(tensor.any()):
            raise CheckpointError(
                f"{name} in {where} is all zeros, as after a download or a training that broke "
                "off; download or save it again"
            )


def _called(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
