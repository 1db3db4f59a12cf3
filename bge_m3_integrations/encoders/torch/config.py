"""A backbone's `config.json`, checked before anything is built by it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bge_m3_integrations.encoders.torch.files import CONFIG, read_json
from bge_m3_integrations.encoders.torch.layers import is_packable
from bge_m3_integrations.errors import CheckpointError

# Backbones whose positions count from the padding id, so that it and all ids below are lost.
_OFFSET_POSITIONS = frozenset(
    {"camembert", "data2vec-text", "longformer", "mpnet", "roberta", "roberta-prelayernorm"}
    | {"xlm-roberta", "xlm-roberta-xl", "xmod"}
)
# Sizes, by the names of most configs and of DistilBERT's, and what is no encoder's any more: some
# configs make a list of all layers, and a typing error must not take all memory.
_RANGES: Mapping[str, tuple[int, int]] = {
    "num_hidden_layers": (1, 1_000),
    "n_layers": (1, 1_000),
    "num_attention_heads": (1, 10_000),
    "n_heads": (1, 10_000),
    "hidden_size": (1, 1_000_000),
    "intermediate_size": (1, 10_000_000),
    "vocab_size": (1, 100_000_000),
    "max_position_embeddings": (1, 100_000_000),
    "type_vocab_size": (0, 1_000_000),
}
_LEAST_POSITIONS = 3
_PACKED = (*(name for name in _RANGES if not name.startswith("n_")),)
_QUANTIZED = ("quantization_config", "compression_config")


def read_config(folder: Path, *, trust_remote_code: bool) -> Any:
    """Read a backbone's config.

    Args:
        folder: Holds config.json.
        trust_remote_code: Whether code in the folder may run.

    Returns:
        A transformers config.

    Raises:
        CheckpointError: It is unreadable, asks for the impossible, or for quantized weights.
    """
    from transformers import AutoConfig

    path = folder / CONFIG
    _check_fields(read_json(path), path)
    try:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise CheckpointError(f"config.json in {folder} cannot be read: {error}") from error
    _check_sizes({name: getattr(config, name, None) for name in _RANGES}, path)
    if is_packable(config):
        _check_packable(config, path)
    elif not trust_remote_code:  # whose model may know more of them
        _check_activation(getattr(config, "hidden_act", None), path)
    if (positions := usable_positions(config)) is not None and positions < _LEAST_POSITIONS:
        raise CheckpointError(
            f"{path} has max_position_embeddings {config.max_position_embeddings} and pad_token_id "
            f"{config.pad_token_id}, which leaves {max(0, positions)} positions; a text needs "
            f"{_LEAST_POSITIONS}, two of them for the special tokens. {_FIX}"
        )
    return config


def usable_positions(config: Any) -> int | None:
    """Most tokens that a backbone has positions for; None where it has no such limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return None
    offset = config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0
    return int(positions) - offset


_FIX = "Take the config.json that the weights were saved with"


def _check_fields(fields: Mapping[str, Any], path: Path) -> None:
    """Check the fields before transformers reads the file."""
    if not isinstance(fields.get("model_type"), str):
        raise CheckpointError(
            f"{path} has model_type {fields.get('model_type')!r}; it must be a name such as "
            f"'xlm-roberta'. {_FIX}"
        )
    if name := next((name for name in _QUANTIZED if fields.get(name)), None):
        method = fields[name].get("quant_method") if isinstance(fields[name], dict) else None
        raise CheckpointError(
            f"{path} has a {name} (quant_method {method!r}): quantized weights are not read. Pass "
            "the checkpoint that they were made from, with dtype='int8' for 8 bits on a CPU; or "
            "load this one with transformers, call .dequantize() and save it"
        )
    _check_sizes(fields, path)
    eps = fields.get("layer_norm_eps", 1e-12)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < 1:
        raise CheckpointError(
            f"{path} has layer_norm_eps {_shown(eps)}; it must be a number between 0 and 1. {_FIX}"
        )
    if fields["model_type"] in _OFFSET_POSITIONS and "pad_token_id" in fields:
        _check_padding(fields["pad_token_id"], fields.get("vocab_size"), path)


def _check_sizes(fields: Mapping[str, Any], path: Path) -> None:
    for name, (least, most) in _RANGES.items():
        value = fields.get(name)
        if value is not None and not (_is_whole(value) and least <= value <= most):
            raise CheckpointError(
                f"{path} has {name} {_shown(value)}; it must be a whole number from {least} to "
                f"{most:,}. {_FIX}"
            )


def _check_padding(value: object, vocabulary: object, path: Path) -> None:
    most = vocabulary - 1 if isinstance(vocabulary, int) else math.inf
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise CheckpointError(
            f"{path} has pad_token_id {_shown(value)} and vocab_size {vocabulary!r}; positions are "
            f"counted from the padding id, which must be a token's. {_FIX}"
        )


def _check_packable(config: Any, path: Path) -> None:
    for name in _PACKED:
        if not getattr(config, name, None):
            raise CheckpointError(f"{path} has {name} {getattr(config, name, None)}. {_FIX}")
    if config.hidden_size % config.num_attention_heads:
        raise CheckpointError(
            f"{path} has hidden_size {config.hidden_size} and num_attention_heads "
            f"{config.num_attention_heads}; the first must be a multiple of the second. {_FIX}"
        )


def _check_activation(name: object, path: Path) -> None:
    from transformers.activations import ACT2FN

    if name is not None and not (isinstance(name, str) and name in ACT2FN):
        raise CheckpointError(
            f"{path} has hidden_act {_shown(name)}, which transformers does not know; there are "
            f"{sorted(ACT2FN)}. {_FIX}"
        )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
