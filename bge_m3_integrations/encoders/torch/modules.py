"""The parts of a loaded model, and one pack's way through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bge_m3_integrations.encoders.torch.heads import Pooling, normalised, pool
from bge_m3_integrations.encoders.torch.linear import Linear
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.types import FloatArray, IntArray, Modes


class Backbone(Protocol):
    """Token ids to states."""

    @property
    def padded(self) -> bool:
        """Whether a pack costs its longest text times its texts, not its tokens."""
        ...

    def hidden(self, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        """`(t, width)`, the last layer's states; `wide` computes in float32."""
        ...


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class M3Modules:
    """A backbone with BGE-M3's two heads, on one device.

    Attributes:
        backbone: The encoder.
        colbert: Hidden width to `colbert_dim`.
        sparse: Hidden width to 1.
    """

    backbone: Backbone
    colbert: Linear
    sparse: Linear


@dataclass(frozen=True, slots=True)
class BatchOutput:
    """One pack's numbers on the CPU; a mode that was not asked for is None.

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
def run_pack(
    modules: M3Modules, pack: Pack, modes: Modes, *, pooling: Pooling, wide: bool = False
) -> BatchOutput:
    """One forward pass, with only the heads that are asked for.

    Args:
        modules: The model.
        pack: The texts.
        modes: What to compute.
        pooling: How the dense vector is made.
        wide: Compute in float32 on half-precision weights, layer by layer.

    Returns:
        The outputs.
    """
    hidden = modules.backbone.hidden(pack, wide=wide)
    dense = normalised(pool(hidden, pack, pooling)) if "dense" in modes else None
    sparse = modules.sparse(hidden)[:, 0].relu() if "sparse" in modes else None
    colbert = _colbert(modules, hidden, pack) if "colbert" in modes else None
    return BatchOutput(_numpy(dense), _numpy(sparse), _numpy(colbert))


def _colbert(modules: M3Modules, hidden: torch.Tensor, pack: Pack) -> torch.Tensor:
    return normalised(modules.colbert(hidden[pack.after_first().to(hidden.device)]))


def _numpy(values: torch.Tensor | None) -> FloatArray | None:
    return None if values is None else np.asarray(values.float().cpu().numpy(), np.float32)
