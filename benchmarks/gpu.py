"""One GPU: ours and FlagEmbedding in float16, in one process, interleaved, all three heads.

    python -m benchmarks.gpu --cache CACHE --tflops 989 --json gpu.json

`--tflops` is the device's dense half-precision limit, from its data sheet (an H100 SXM: 989). Both
times are from texts to arrays on the host: tokenising and copies count.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import _table
from benchmarks._checkpoint import checkpoint
from benchmarks._machine import machine
from benchmarks._parity import Parity, compare
from benchmarks._peers.base import Encoded
from benchmarks._peers.flag import flag_output
from benchmarks._shape import BGE_M3, TINY, Shape
from benchmarks._workloads import Workload, workload

LENGTHS = (32, 128, 512, 2048, 8192)
_OURS, _FLAG = "ours", "FlagEmbedding"


@dataclass(frozen=True, slots=True)
class Timing:
    """An encoder's repetitions on texts of one length.

    Args:
        encoder: Which one.
        length: Tokens of each text.
        speeds: Tokens per second, one for each repetition; empty where it failed.
        share: Of the device's limit, of the median; None where no limit was given.
        failure: Why there are no speeds.
    """

    encoder: str
    length: int
    speeds: tuple[float, ...]
    share: float | None = None
    failure: str = ""


Encode = Callable[[list[str], int], Any]
"""Texts, and the tokens of each, to whatever the encoder gives."""


def flops(shape: Shape, length: int) -> float:
    """Floating point operations of one token in a text of some length, all three heads.

    Two for each weight that it meets, and two products of attention with every token of the text.
    """
    layer = 4 * shape.hidden**2 + 2 * shape.hidden * shape.ffn
    attention = 2 * length * shape.hidden
    return 2.0 * (shape.layers * (layer + attention) + shape.hidden**2 + shape.hidden)


def texts_of(length: int, *, tokens: int, shape: Shape) -> list[str]:
    """Different texts of one length, of so many tokens in all."""
    count = max(1, tokens // length)
    return Workload(f"{length}", (length,) * count, seed=length).texts(shape)


def _ours(folder: Path, given: argparse.Namespace) -> Encode:
    from bge_m3_integrations import BGEM3

    engine = BGEM3(folder, device=given.device, dtype=given.dtype, token_budget=given.token_budget)
    return lambda texts, length: engine.encode_documents(texts)


def _flag(folder: Path, given: argparse.Namespace, *, half: bool = True) -> Encode:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(folder), use_fp16=half, devices=given.device)

    def encode(texts: list[str], length: int) -> Any:
        return model.encode(
            texts,
            batch_size=max(1, given.flag_tokens // length),
            max_length=8192,
            return_dense=True,
            return_sparse=True,
            return_colbert_vecs=True,
        )

    return encode


def measure(
    encoders: dict[str, Encode], lengths: Sequence[int], *, given: argparse.Namespace, shape: Shape
) -> list[Timing]:
    """All encoders on all lengths, in turns: what drifts meets both."""
    found = []
    for length in lengths:
        texts = texts_of(length, tokens=given.tokens, shape=shape)
        held = {name: Timing(name, length, ()) for name in encoders}
        for repetition in range(given.repeats + 1):
            for name, encode in encoders.items():
                held[name] = _repeated(held[name], encode, texts, warm_up=repetition == 0)
        found += [_with_share(timing, shape, given.tflops) for timing in held.values()]
        for timing in found[-len(encoders) :]:
            print(f"{timing.encoder} {length}: {timing.speeds} {timing.failure}", flush=True)
    return found


def _repeated(timing: Timing, encode: Encode, texts: list[str], *, warm_up: bool) -> Timing:
    if timing.failure:
        return timing
    gc.collect()
    start = time.perf_counter()
    try:
        encode(texts, timing.length)
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return replace(timing, speeds=(), failure=f"{type(error).__name__}: {lines[0]}")
    speed = len(texts) * timing.length / (time.perf_counter() - start)
    return timing if warm_up else replace(timing, speeds=(*timing.speeds, speed))


def _with_share(timing: Timing, shape: Shape, tflops: float | None) -> Timing:
    if not timing.speeds or not tflops:
        return timing
    done = median(timing.speeds) * flops(shape, timing.length)
    return replace(timing, share=done / (tflops * 1e12))


def parities(encoders: dict[str, Encode], reference: Encode, shape: Shape) -> dict[str, Parity]:
    """Each encoder's differences to FlagEmbedding in float32, on the mixed texts."""
    texts = workload("mixed").texts(shape)
    expected = _encoded(reference(texts, 512))
    return {name: compare(expected, _encoded(run(texts, 512))) for name, run in encoders.items()}


def _encoded(raw: Any) -> Encoded:
    if isinstance(raw, dict):
        return flag_output(raw)
    rows = range(len(raw))
    vectors = [np.asarray(raw.colbert.row(i)) for i in rows]
    return Encoded(raw.dense, [raw.sparse.as_dict(i) for i in rows], vectors)


def table(timings: Sequence[Timing]) -> list[list[str]]:
    """One row per length."""
    rows = [["tokens a text", "ours tok/s", "FlagEmbedding tok/s", "ratio", "ours of limit"]]
    for length in dict.fromkeys(timing.length for timing in timings):
        ours, flag = (
            next(t for t in timings if (t.encoder, t.length) == (name, length))
            for name in (_OURS, _FLAG)
        )
        both = ours.speeds and flag.speeds
        ratio = f"{median(ours.speeds) / median(flag.speeds):.2f}" if both else "-"
        share = "-" if ours.share is None else f"{ours.share:.0%}"
        rows.append([str(length), _cell(ours), _cell(flag), ratio, share])
    return rows


def _cell(timing: Timing) -> str:
    return str(_table.Spread(timing.speeds)) if timing.speeds else timing.failure


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    given = _parser().parse_args(arguments)
    shape = TINY if given.tiny else BGE_M3
    folder = checkpoint(given.cache, shape=shape)
    encoders = {_OURS: _ours(folder, given), _FLAG: _flag(folder, given)}
    timings = measure(encoders, given.lengths, given=given, shape=shape)
    differences = parities(encoders, _flag(folder, given, half=False), shape)
    facts = {**machine(), **_gpu(given.device)}
    for name, fact in facts.items():
        print(f"- {name}: {fact}")
    print("\n" + (_table.markdown if given.markdown else _table.plain)(table(timings)) + "\n")
    for name, parity in differences.items():
        print(f"{name} beside FlagEmbedding in float32: {parity}")
    if given.json:
        result = {
            "machine": facts,
            "arguments": {name: str(value) for name, value in vars(given).items()},
            "timings": [asdict(timing) for timing in timings],
            "parity": {name: asdict(parity) for name, parity in differences.items()},
        }
        given.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


def _gpu(device: str) -> dict[str, str]:
    import torch

    facts = {"torch": torch.__version__}
    if device.startswith("cuda"):
        held = torch.cuda.get_device_properties(device)
        facts["gpu"] = f"{held.name}, {held.total_memory >> 20} MiB, sm_{held.major}{held.minor}"
        facts["cuda"] = str(torch.version.cuda)
    return facts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cache", type=Path, default=Path(".bench"), help="where the checkpoint is kept: 2.3 GB")
    add("--device", default="cuda:0")
    add("--dtype", default="float16", choices=["float16", "bfloat16", "float32"], help="of ours")
    add("--tflops", type=float, help="the device's limit in that dtype; none: no share of it")
    add("--lengths", type=int, nargs="*", default=list(LENGTHS))
    add("--tokens", type=int, default=1 << 18, help="in all, for each length")
    add("--repeats", type=int, default=5)
    add("--token-budget", type=int, help="of our passes; our default by default")
    add("--flag-tokens", type=int, default=1 << 16, help="of FlagEmbedding's batches")
    add("--tiny", action="store_true", help="a tiny checkpoint: tries the script only")
    add("--json", type=Path, help="where results go")
    add("--markdown", action="store_true")
    return parser


if __name__ == "__main__":
    main()
