"""A random checkpoint in BGE-M3's exact shape: its speed is the real one's, its quality nobody's.

    python -m benchmarks._checkpoint CACHE

writes it once (2.3 GB in float32), from a seed, without any download.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._shape import BGE_M3, Shape
from benchmarks._tokenizer import write_tokenizer

if TYPE_CHECKING:
    import torch

INIT_STD = 0.02
"""Of XLM-R's own initialisation."""


def checkpoint(
    cache: Path, *, shape: Shape = BGE_M3, dtype: str = "float32", seed: int = 0
) -> Path:
    """The checkpoint's folder in a cache folder; written when it is not there yet.

    Args:
        cache: Any folder; made if needed.
        shape: The encoder's sizes.
        dtype: Of the stored backbone, "float32" or "float16". Heads are float16, as BGE-M3's are.
        seed: Of the weights.

    Returns:
        A folder that every encoder here loads.
    """
    folder = cache / f"bge-m3-random-{shape.layers}x{shape.hidden}-{dtype}-seed{seed}"
    if not folder.exists():
        partial = folder.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _write(partial, shape, dtype, seed)
        partial.rename(folder)
    return folder


def _write(folder: Path, shape: Shape, dtype: str, seed: int) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(seed)
    kept = getattr(torch, dtype)
    tensors = {
        name: _tensor(name, size, generator).to(kept) for name, size in backbone_sizes(shape)
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name, rows in (("colbert_linear", shape.hidden), ("sparse_linear", 1)):
        weight = torch.empty(rows, shape.hidden).normal_(std=INIT_STD, generator=generator)
        head = {"weight": weight.half(), "bias": torch.zeros(rows).half()}
        torch.save(head, folder / f"{name}.pt")
    write_tokenizer(folder, shape)
    _write_configs(folder, shape, dtype)


def backbone_sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and sizes of the backbone's tensors, as transformers saves them."""
    wide = (shape.hidden, shape.hidden)
    yield "embeddings.word_embeddings.weight", (shape.vocabulary, shape.hidden)
    yield "embeddings.position_embeddings.weight", (shape.positions, shape.hidden)
    yield "embeddings.token_type_embeddings.weight", (1, shape.hidden)
    yield from _norm("embeddings.LayerNorm", shape)
    for i in range(shape.layers):
        layer = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            yield from _linear(f"{layer}.attention.{part}", wide)
        yield from _norm(f"{layer}.attention.output.LayerNorm", shape)
        yield from _linear(f"{layer}.intermediate.dense", (shape.ffn, shape.hidden))
        yield from _linear(f"{layer}.output.dense", (shape.hidden, shape.ffn))
        yield from _norm(f"{layer}.output.LayerNorm", shape)
    yield from _linear("pooler.dense", wide)  # unused, but BGE-M3's file holds it


def _linear(name: str, size: tuple[int, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", size
    yield f"{name}.bias", size[:1]


def _norm(name: str, shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (shape.hidden,)
    yield f"{name}.bias", (shape.hidden,)


def _tensor(name: str, size: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    import torch

    if name.endswith("LayerNorm.weight"):
        return torch.ones(size)
    return torch.empty(size).normal_(std=INIT_STD, generator=generator)


def _write_configs(folder: Path, shape: Shape, dtype: str) -> None:
    config = {
        "architectures": ["XLMRobertaModel"],
        "model_type": "xlm-roberta",
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": shape.hidden,
        "initializer_range": INIT_STD,
        "intermediate_size": shape.ffn,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": shape.positions,
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "position_embedding_type": "absolute",
        "torch_dtype": dtype,
        "type_vocab_size": 1,
        "vocab_size": shape.vocabulary,
    }
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(
            (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
        )
    ]
    pooling = {"word_embedding_dimension": shape.hidden, "pooling_mode_cls_token": True}
    pooling["pooling_mode_mean_tokens"] = False
    (folder / "1_Pooling").mkdir()
    for name, value in (
        ("config.json", config),
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": shape.positions - 2}),
    ):
        (folder / name).write_text(json.dumps(value, indent=2), encoding="utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(checkpoint(arguments.cache, dtype=arguments.dtype, seed=arguments.seed))


if __name__ == "__main__":
    _main()
