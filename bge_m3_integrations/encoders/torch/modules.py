"""The parts of a loaded model, and one batch's way through them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from bge_m3_integrations.encoders.torch.heads import Pooling, normalised, pool
from bge_m3_integrations.types import FloatArray, IntArray, Modes


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class M3Modules:
    """A backbone with BGE-M3's two heads, in inference mode on one device.

    Attributes:
        backbone: A transformers encoder: ids and mask to `last_hidden_state`.
        colbert: Linear layer, hidden width to `colbert_dim`.
        sparse: Linear layer, hidden width to 1.
    """

    backbone: nn.Module
    colbert: nn.Linear
    sparse: nn.Linear

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.sparse.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in."""
        return self.sparse.weight.dtype


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """One batch's numbers on the CPU, without padding; a mode that was not asked for is None.

    Attributes:
        dense: `(b, h) float32`, unit rows.
        sparse: `(t,) float32`, relu outputs of all tokens, end to end.
        colbert: `(t - b, colbert_dim) float32`, unit rows of all tokens but each text's first.
    """

    dense: FloatArray | None
    sparse: FloatArray | None
    colbert: FloatArray | None

    def finite(self, lengths: IntArray) -> NDArray[np.bool_]:
        """`(b,)`: which texts have only finite numbers."""
        good = np.ones(len(lengths), bool)
        tokens = np.repeat(np.arange(len(lengths)), lengths)
        if self.dense is not None:
            good &= np.isfinite(self.dense).all(axis=1)
        if self.sparse is not None:
            good[tokens[~np.isfinite(self.sparse)]] = False
        if self.colbert is not None:
            after_first = np.repeat(np.arange(len(lengths)), lengths - 1)
            good[after_first[~np.isfinite(self.colbert).all(axis=1)]] = False
        return good


@torch.inference_mode()
def run_batch(
    modules: M3Modules,
    rows: Sequence[NDArray[np.int32]],
    modes: Modes,
    *,
    pooling: Pooling,
    pad_token_id: int,
    upcast: bool = False,
) -> BatchOutput:
    """One forward pass over right-padded texts, with only the heads that are asked for.

    Args:
        modules: The model.
        rows: Token ids of each text, special tokens included.
        modes: What to compute.
        pooling: How the dense vector is made.
        pad_token_id: Fills the batch; masked everywhere.
        upcast: Compute in float32 on half-precision weights, layer by layer.

    Returns:
        The outputs without padding.
    """
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad_token_id, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.from_numpy(row.astype(np.int64))
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    ids, real, lengths = (x.to(modules.device) for x in (ids, real, lengths))
    with _Float32Arithmetic() if upcast else nullcontext():
        hidden = modules.backbone(input_ids=ids, attention_mask=real.long()).last_hidden_state
        dense = normalised(pool(hidden, lengths, pooling)) if "dense" in modes else None
        sparse = modules.sparse(hidden[real])[:, 0].relu() if "sparse" in modes else None
        colbert = _colbert(modules, hidden, real) if "colbert" in modes else None
    return BatchOutput(_numpy(dense), _numpy(sparse), _numpy(colbert))


def _colbert(modules: M3Modules, hidden: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return normalised(modules.colbert(hidden[:, 1:][real[:, 1:]]))


def _numpy(values: torch.Tensor | None) -> FloatArray | None:
    return None if values is None else np.asarray(values.float().cpu().numpy(), np.float32)


class _Float32Arithmetic(TorchFunctionMode):
    """Inside, every torch operation sees half-precision tensors as float32.

    Weights are upcast one operation at a time and the copies dropped: the modules stay as they
    are, also for another thread that uses them now. (Casting the modules would change them.)
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is nn.functional.embedding:  # a table lookup: cast the rows, not the table
            return _widened(func(*args, **kwargs))
        return func(
            *(_widened(value) for value in args),
            **{name: _widened(value) for name, value in kwargs.items()},
        )


def _widened(value: Any) -> Any:
    half = isinstance(value, torch.Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return torch.Tensor.to(value, torch.float32) if half else value
