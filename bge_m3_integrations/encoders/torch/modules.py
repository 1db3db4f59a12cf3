"""The parts of a loaded model, and one pack's way through them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import FloatArray, IntArray, Modes
from bge_m3_integrations.encoders.torch.file_changes import WatchedFiles
from bge_m3_integrations.encoders.torch.heads import Pooling, normalized, pool
from bge_m3_integrations.encoders.torch.linear import PlainLinear
from bge_m3_integrations.encoders.torch.packing import Pack, moved

T = TypeVar("T")
U = TypeVar("U")


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
        colbert: Hidden width to `colbert_dim`; None where the checkpoint has no such head.
        sparse: Hidden width to 1; None likewise.
        watched: The files that it reads as long as it is used; None where there are none.
    """

    backbone: Backbone
    colbert: PlainLinear | None
    sparse: PlainLinear | None
    watched: WatchedFiles | None = None


@dataclass(frozen=True, slots=True)
class Output(Generic[T]):
    """One pack's numbers in float32, on the device or on the host; None in modes not asked for.

    Attributes:
        dense: `(b, h)`, unit rows.
        sparse: `(t,)`, relu outputs of all tokens, end to end.
        colbert: `(t - b, colbert_dim)`, unit rows of all tokens but each text's first.
        dense_sums: `(b,)`, sums of rows: not finite where a row is not, or has no length.
        colbert_sums: `(t - b,)`, the same.
    """

    dense: T | None
    sparse: T | None
    colbert: T | None
    dense_sums: T | None
    colbert_sums: T | None

    def map(self, change: Callable[[T], U]) -> Output[U]:
        """The same with everything changed."""
        changed = []
        for x in (self.dense, self.sparse, self.colbert, self.dense_sums, self.colbert_sums):
            changed.append(None if x is None else change(x))
        return Output(*changed)

    def finite(self: BatchOutput, lengths: IntArray) -> NDArray[np.bool_]:
        """`(b,)`: which texts have only finite numbers."""
        texts = np.arange(len(lengths))
        good = np.ones(len(lengths), bool)
        if self.dense_sums is not None:
            good &= np.isfinite(self.dense_sums)
        if self.sparse is not None:
            good[np.repeat(texts, lengths)[~np.isfinite(self.sparse)]] = False
        if self.colbert_sums is not None:
            good[np.repeat(texts, lengths - 1)[~np.isfinite(self.colbert_sums)]] = False
        return good


PackOutput: TypeAlias = Output[torch.Tensor]
BatchOutput: TypeAlias = Output[FloatArray]


@torch.inference_mode()
def run_pack(
    modules: M3Modules, pack: Pack, modes: Modes, *, pooling: Pooling, wide: bool = False
) -> PackOutput:
    """One forward pass, with only the heads that are asked for.

    Args:
        modules: The model.
        pack: The texts.
        modes: What to compute, of the modes that the model has heads for.
        pooling: How the dense vector is made.
        wide: Compute in float32 on half-precision weights, layer by layer.

    Returns:
        The outputs, on the device; it may still be computing them.
    """
    hidden = modules.backbone.hidden(pack, wide=wide)
    dense = normalized(pool(hidden, pack, pooling)) if "dense" in modes else None
    sparse = colbert = None
    if "sparse" in modes and modules.sparse is not None:
        sparse = modules.sparse(hidden)[:, 0].relu().float()
    if "colbert" in modes and modules.colbert is not None:
        colbert = _colbert(modules.colbert, hidden, pack, wide=wide)
    # unit rows hold no infinity, so a sum is NaN exactly where a row holds one or had the length 0;
    # and it is made where the rows are, not by a second walk over them on the host
    sums = None if dense is None else dense.sum(dim=-1)
    return Output(dense, sparse, colbert, sums, None if colbert is None else colbert.sum(dim=-1))


def _colbert(head: PlainLinear, hidden: torch.Tensor, pack: Pack, *, wide: bool) -> torch.Tensor:
    rows = hidden[moved(pack.after_first(), hidden.device)]
    return normalized(head(rows if wide else rows.to(head.weights[0].dtype)))
