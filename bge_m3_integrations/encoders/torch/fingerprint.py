"""Identity of a model's numbers: equal fingerprints give equal document embeddings.

Made of what changes numbers (tokenizer, architecture, tensors, pooling, document instruction) and
of nothing else: the same weights under another name, in another file format, on another device or
computed in another dtype are the same model. Tensors are hashed as float32, so a float16 file and
its float32 copy agree; weights that were rounded when loaded do not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

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
)
# Tensors that a checkpoint may carry and that no embedding depends on.
_UNUSED = ("pooler.", "lm_head.", "cls.predictions", "cls.seq_relationship", "position_ids")
_PROBE = "What is BGE M3? BGE-M3 ist ein Modell: 稠密向量、稀疏权重。 \tﬁ é ١٢٣ 🙂 <mask>"
_CHUNK = 4 * 1024 * 1024


def tokenizer_digest(tokenizer: TextTokenizer) -> str:
    """Digest of the vocabulary with its scores, the special ids, and what a probe becomes."""
    model = json.loads(tokenizer.core.to_str())["model"]
    parts = [
        json.dumps(model, sort_keys=True),
        repr((tokenizer.prefix, tokenizer.suffix, sorted(tokenizer.unweighted.tolist()))),
        repr(tokenizer.core.encode(_PROBE).ids),
    ]
    return _sha256(part.encode() for part in parts)


def weights_digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """Digest of the tensors that embeddings depend on, whatever their order and prefix.

    Args:
        tensors: Names and tensors; names only decide what is left out, because formats differ in
            their prefixes.

    Returns:
        A sha256 in hex.
    """
    used = [t for name, t in tensors if not any(part in name for part in _UNUSED)]
    return _sha256(digest.encode() for digest in sorted(map(_tensor_digest, used)))


def architecture_digest(config: Any) -> str:
    """Digest of the config fields that change numbers."""
    fields = {name: getattr(config, name, None) for name in _ARCHITECTURE}
    return _sha256([json.dumps(fields, sort_keys=True, default=str).encode()])


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
    from safetensors import safe_open

    for path in paths:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118 (a safetensors reader is no mapping)
                    yield name, reader.get_tensor(name)
        else:
            yield from torch.load(path, map_location="cpu", weights_only=True, mmap=True).items()


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
