"""sentence-transformers on its three backends: dense vectors only."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._peers.base import Encoded, Model, Peer, Setting
from benchmarks._shape import Shape
from benchmarks._workloads import calibration

_PACKAGES = ("sentence-transformers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class SentenceTransformers:
    """A model of any backend, at a batch size."""

    model: Any
    batch_size: int

    def encode(self, texts: list[str], *, query: bool) -> Any:
        """Dense vectors."""
        return self.model.encode(texts, batch_size=self.batch_size, show_progress_bar=False)

    def read(self, raw: Any) -> Encoded:
        """They are an array already."""
        return Encoded(np.asarray(raw, np.float32))


def _model(folder: Path, backend: str, **model_kwargs: Any) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(
        str(folder), device="cpu", backend=backend, model_kwargs=model_kwargs
    )


def _load_torch(setting: Setting, *, dtype: str, batch_size: int) -> Model:
    import torch

    model = _model(setting.checkpoint, "torch", dtype=getattr(torch, dtype))
    return SentenceTransformers(model, batch_size)


def _load_onnx(setting: Setting, *, file: str) -> Model:
    folder = _exported(setting, "onnx")
    model = _model(folder, "onnx", file_name=f"onnx/{file}", provider="CPUExecutionProvider")
    return SentenceTransformers(model, 1)


def _load_openvino(setting: Setting, *, file: str, precision: str) -> Model:
    folder = _exported(setting, "openvino")
    hints = {"INFERENCE_PRECISION_HINT": precision}
    model = _model(folder, "openvino", file_name=f"openvino/{file}", ov_config=hints)
    return SentenceTransformers(model, 1)


def _exported(setting: Setting, backend: str) -> Path:
    return setting.cache / f"st-{backend}-{setting.checkpoint.name}"


def _export(setting: Setting, *, backend: str, then: Callable[[Any, Setting], None]) -> None:
    """Write a backend's format once, and what is derived from it."""
    folder = _exported(setting, backend)
    if not (folder / backend).exists():
        model = _model(setting.checkpoint, backend, export=True)
        with _whole(folder) as partial_folder:
            model.save_pretrained(str(partial_folder))
    then(folder, setting)


class _whole:  # noqa: N801 (a context manager, used like a function)
    """A folder that takes its name when it is complete."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.partial = folder, folder.with_suffix(".part")

    def __enter__(self) -> Path:
        shutil.rmtree(self.partial, ignore_errors=True)
        return self.partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.folder)
            self.partial.rename(self.folder)


def _nothing(folder: Path, setting: Setting) -> None:
    """The export is all that is needed."""


def _quantize_onnx(folder: Path, setting: Setting) -> None:
    """sentence-transformers' own dynamic int8."""
    from sentence_transformers import export_dynamic_quantized_onnx_model

    if not (folder / "onnx" / "model_qint8_avx512_vnni.onnx").exists():
        model = _model(folder, "onnx", file_name="onnx/model.onnx", provider="CPUExecutionProvider")
        export_dynamic_quantized_onnx_model(model, "avx512_vnni", str(folder))


def _quantize_openvino(folder: Path, setting: Setting) -> None:
    """Static int8 as sentence-transformers does it, calibrated on our texts: its own need a hub."""
    import nncf
    import openvino
    from transformers import AutoTokenizer

    target = folder / "openvino" / "openvino_model_qint8_quantized.xml"
    if target.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = calibration().texts(Shape.of(setting.checkpoint))
    inputs = [dict(tokenizer(text, return_tensors="np")) for text in texts]
    core = openvino.Core()
    model = core.read_model(folder / "openvino" / "openvino_model.xml")
    names = {name for value in model.inputs for name in value.names}
    data = nncf.Dataset([{k: v for k, v in row.items() if k in names} for row in inputs])
    small = nncf.quantize(
        model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts)
    )
    openvino.save_model(small, target)


_TORCH = tuple(
    Peer(
        f"st-{short}-b{batch_size}",
        heads=1,
        modules=("sentence_transformers",),
        distributions=_PACKAGES,
        load=partial(_load_torch, dtype=dtype, batch_size=batch_size),
        secondary=batch_size > 1,
    )
    for short, dtype in (("fp32", "float32"), ("bf16", "bfloat16"))
    for batch_size in (1, 8)
)
_ONNX = tuple(
    Peer(
        f"onnx-{short}",
        heads=1,
        modules=("sentence_transformers", "optimum", "onnxruntime"),
        distributions=(*_PACKAGES, "optimum-onnx", "onnxruntime"),
        load=partial(_load_onnx, file=file),
        prepare=partial(_export, backend="onnx", then=then),
        limited=False,
    )
    for short, file, then in (
        ("fp32", "model.onnx", _nothing),
        ("int8", "model_qint8_avx512_vnni.onnx", _quantize_onnx),
    )
)
_OPENVINO = tuple(
    Peer(
        f"openvino-{short}",
        heads=1,
        modules=("sentence_transformers", "optimum", "openvino", "nncf"),
        distributions=(*_PACKAGES, "optimum-intel", "openvino", "nncf"),
        load=partial(_load_openvino, file=file, precision=precision),
        prepare=partial(_export, backend="openvino", then=then),
    )
    for short, file, precision, then in (
        ("fp32", "openvino_model.xml", "f32", _nothing),
        ("bf16", "openvino_model.xml", "bf16", _nothing),
        ("int8", "openvino_model_qint8_quantized.xml", "bf16", _quantize_openvino),
    )
)
ST = (*_TORCH, *_ONNX, *_OPENVINO)
