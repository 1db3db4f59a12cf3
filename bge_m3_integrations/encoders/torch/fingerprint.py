"""Identity of a model's numbers: equal fingerprints give equal document embeddings.

Made of what changes numbers (tokenizer, architecture, tensors, pooling, document instruction) and
of nothing else: the same weights under another name, in another file format, on another device or
computed in another dtype are the same model. Tensors are hashed as float32, so a float16 file and
its float32 copy agree; weights that were rounded when loaded do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from bge_m3_integrations.encoders.torch.tensors import MappedTensors

if TYPE_CHECKING:
    from bge_m3_integrations.encoders.torch.tokenizer import TextTokenizer

_ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "max_position_embeddings",
    "type_vocab_size",
    "vocab_size",
    "pad_token_id",
    "position_embedding_type",
    "layer_norm_type",
    "norm_eps",
    "hidden_activation",
    "rope_theta",
    "rope_parameters",
    "rope_scaling",
    "layer_types",
    "local_attention",
    "global_attn_every_n_layers",
)
_POSITIONS = "position_embedding_type"
_FULL = "full_attention"
# Backbones whose positions transformers 4 calls absolute, and 5 not at all.
_ABSOLUTE = ("albert", "bert", "camembert", "electra", "roberta", "xlm-roberta", "xlm-roberta-xl")
# Tensors that a checkpoint may carry and that no embedding depends on.
_UNUSED = ("pooler.", "lm_head.", "cls.predictions", "cls.seq_relationship", "position_ids")
_CHUNK = 4 * 1024 * 1024

NamedTensors: TypeAlias = Iterable[tuple[str, torch.Tensor]]


def tokenizer_digest(tokenizer: TextTokenizer) -> str:
    """Digest of everything that turns text into ids, and of the ids without lexical weight."""
    parts = json.loads(tokenizer.core.to_str())
    del parts["truncation"], parts["padding"]
    special = (tokenizer.prefix, tokenizer.suffix, sorted(tokenizer.unweighted.tolist()))
    return _sha256([json.dumps(parts, sort_keys=True).encode(), repr(special).encode()])


def weights_digest(backbone: NamedTensors, *heads: NamedTensors) -> str:
    """Digest of the tensors that embeddings depend on, with their names.

    Args:
        backbone: Names and tensors, in any order; a prefix that all share does not count, because
            a task model's file has one and the bare backbone's has none.
        *heads: Those of the ColBERT head, then of the sparse one.

    Returns:
        A sha256 in hex.
    """
    used = ((name, t) for name, t in backbone if not any(part in name for part in _UNUSED))
    digests = {name: _tensor_digest(t) for name, t in used}
    body = [f"{name} {digest}" for name, digest in sorted(_without_prefix(digests).items())]
    rest = [f"{name} {_tensor_digest(t)}" for head in heads for name, t in sorted(head)]
    return combine(*body, *rest)


def _without_prefix(digests: dict[str, str]) -> dict[str, str]:
    firsts = {name.partition(".")[0] for name in digests}
    if len(firsts) > 1:
        return digests
    return {name.partition(".")[2]: digest for name, digest in digests.items()}


def architecture_digest(config: Any) -> str:
    """Digest of the config fields that change numbers, the same under all transformers versions."""
    return _fields_digest(_canonical(config))


def architecture_digests(config: Any) -> frozenset[str]:
    """The architecture's digest, and those that earlier versions made of the same config.

    They hashed the fields as the installed transformers had them: 4.57 fills in a
    `position_embedding_type` that 5 does not know, and names rotary positions otherwise.
    """
    now = _canonical(config)
    variants = [now, _fields(config), _named_as_in_4(now)]
    absent = [{**fields, _POSITIONS: None} for fields in variants]
    return frozenset(_fields_digest(fields) for fields in (*variants, *absent))


def _fields(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name, None) for name in _ARCHITECTURE}


def _fields_digest(fields: Mapping[str, Any]) -> str:
    return _sha256([json.dumps(fields, sort_keys=True, default=str).encode()])


def _canonical(config: Any) -> dict[str, Any]:
    """The fields with a default in place of an absent one, in the words of transformers 5."""
    fields = _fields(config)
    if fields["model_type"] in _ABSOLUTE and fields[_POSITIONS] is None:
        fields[_POSITIONS] = "absolute"
    theta = fields["rope_theta"]
    if theta is None or fields["rope_parameters"] is not None:
        return fields
    rope: dict[str, Any] = {**(fields["rope_scaling"] or {"rope_type": "default"})}
    rope["rope_theta"] = theta
    if fields["model_type"] == "modernbert":
        near = {**rope, "rope_theta": getattr(config, "local_rope_theta", theta)}
        rope = {_FULL: rope, "sliding_attention": near}
        every = fields["global_attn_every_n_layers"] or 1
        fields["layer_types"] = [
            "sliding_attention" if i % every else _FULL for i in range(config.num_hidden_layers)
        ]
        fields["global_attn_every_n_layers"] = None
    return {**fields, "rope_theta": None, "rope_parameters": rope, "rope_scaling": rope}


def _named_as_in_4(fields: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions in the words of transformers 4, where there are any."""
    rope = fields["rope_parameters"]
    if not rope:
        return fields
    old = {**fields, "rope_parameters": None, "rope_scaling": None}
    old["rope_theta"] = rope.get(_FULL, rope).get("rope_theta")
    if fields["model_type"] == "modernbert":
        full = [i for i, kind in enumerate(fields["layer_types"]) if kind == _FULL]
        old["global_attn_every_n_layers"] = full[1] if len(full) > 1 else 1
        old["layer_types"] = None
    return old


def combine(*parts: str) -> str:
    """One fingerprint of several parts, whose order counts."""
    return _sha256(f"{len(part)}:{part}".encode() for part in parts)


def file_tensors(paths: Iterable[Path]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of weight files, read lazily through memory maps.

    Args:
        paths: Safetensors files, or torch files that hold a plain state dict.

    Yields:
        Names and tensors on the CPU.
    """
    for path in paths:
        tensors = MappedTensors([path])
        for name, tensor in tensors.items():
            yield name, tensor
            tensors.release(name)


def _tensor_digest(tensor: torch.Tensor) -> str:
    flat = tensor.detach().reshape(-1)
    starts = range(0, len(flat), _CHUNK)
    chunks = (flat[i : i + _CHUNK].cpu().float().numpy().tobytes() for i in starts)
    return _sha256([repr(tuple(tensor.shape)).encode()], chunks)


def _sha256(*groups: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for group in groups:
        for part in group:
            digest.update(part)
    return digest.hexdigest()
