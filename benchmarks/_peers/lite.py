"""bge-m3-lite and fastembed: ONNX Runtime over our own export of the random checkpoint.

bge-m3-lite builds its two graphs from BGE-M3's published export. `_graph` writes an export of the
same form, and bge-m3-lite's own `fuse` and `quantize` do the rest.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers.base import Encoded, Model, Peer, Setting
from benchmarks._peers.flag import flag_output
from benchmarks._shape import Shape
from benchmarks._workloads import calibration

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")
_HEADS = ("sentencepiece.bpe.model", "sparse_linear.pt", "colbert_linear.pt")


@dataclass(frozen=True, slots=True)
class _Lite:
    embedder: Any
    batch_size: int

    def encode(self, texts: list[str], *, query: bool) -> Any:
        return self.embedder.encode(
            texts, batch_size=self.batch_size, return_sparse=True, return_colbert_vecs=True
        )

    def read(self, raw: Any) -> Encoded:
        return flag_output(raw)


@dataclass(frozen=True, slots=True)
class _FastEmbed:
    model: Any

    def encode(self, texts: list[str], *, query: bool) -> Any:
        return list(self.model.embed(texts, batch_size=1))

    def read(self, raw: Any) -> Encoded:
        return Encoded(np.array(raw, np.float32))


def _folder(setting: Setting) -> Path:
    return setting.cache / f"lite-{setting.checkpoint.name}"


def _export(setting: Setting, *, quantized: bool = False, fused: bool = False) -> None:
    from benchmarks._peers._graph import export

    folder = _folder(setting)
    if not (folder / "model.onnx").exists():
        export(setting.checkpoint, folder)
        for name in (*_TOKENIZER, *_HEADS):
            shutil.copy(setting.checkpoint / name, folder / name)
    if fused and not (folder / "model_fused.onnx").exists():
        from bge_m3_lite.fuse import fuse

        fuse(folder / "model.onnx")
    if quantized and not (folder / "model_int8.onnx").exists():
        from bge_m3_lite.quantize import quantize

        texts = calibration().texts(Shape.of(setting.checkpoint))
        spm = folder / "sentencepiece.bpe.model"
        quantize(
            folder / "model_fused.onnx",
            folder / "model_int8.onnx",
            tokenizer_path=spm,
            calibration_texts=texts,
        )


def _load_lite(setting: Setting, *, file: str, batch_size: int) -> Model:
    from bge_m3_lite import BGEM3Embedder, hub

    # it takes only files of the published model's size and digest; ours are of the same form
    hub.is_complete = lambda path, remote, **_: path.is_file()
    folder = _folder(setting)
    return _Lite(BGEM3Embedder(folder, model_path=folder / file), batch_size)


def _load_fastembed(setting: Setting) -> Model:
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    folder = _folder(setting)
    TextEmbedding.add_custom_model(
        model=setting.checkpoint.name,
        pooling=PoolingType.CLS,
        normalization=True,
        sources=ModelSource(hf=f"local/{setting.checkpoint.name}"),
        dim=Shape.of(setting.checkpoint).hidden,
        model_file="model.onnx",
        output_name="token_embeddings",
    )
    return _FastEmbed(
        TextEmbedding(model_name=setting.checkpoint.name, specific_model_path=str(folder))
    )


LITE = tuple(
    Peer(
        f"lite-{short}-b{batch_size}",
        heads=3,
        modules=("bge_m3_lite", "onnx", "torch"),
        distributions=("bge-m3-lite", "onnxruntime"),
        load=partial(_load_lite, file=file, batch_size=batch_size),
        prepare=partial(_export, fused=True, quantized=short == "int8"),
        limited=False,
    )
    for short, file in (("fp32", "model_fused.onnx"), ("int8", "model_int8.onnx"))
    for batch_size in (12, 1)
)
FASTEMBED = (
    Peer(
        "fastembed-fp32",
        heads=1,
        modules=("fastembed", "onnx", "torch"),
        distributions=("fastembed", "onnxruntime"),
        load=_load_fastembed,
        prepare=_export,
        limited=False,
    ),
)
