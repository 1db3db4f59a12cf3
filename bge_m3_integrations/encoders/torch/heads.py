"""From hidden states to the three representations.

Formulas: Chen et al. 2024, "BGE M3-Embedding", section 3.2; numbers as FlagEmbedding gives them.
Everything leaves in float32, whatever the model computes in.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from bge_m3_integrations.core.embeddings import FloatArray, IntArray, SparseRows, offsets_of
from bge_m3_integrations.encoders.torch.packing import Pack, moved

Pooling: TypeAlias = Literal["cls", "mean", "last_token"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)


def pool(hidden: torch.Tensor, pack: Pack, pooling: Pooling) -> torch.Tensor:
    """One vector per text.

    Args:
        hidden: `(t, h)`, the tokens' states.
        pack: Which tokens are whose.
        pooling: The first token's state, the mean over the tokens, or the last token's state.

    Returns:
        `(n, h)` float32, not normalized.
    """
    device = hidden.device
    if pooling != "mean":
        places = pack.offsets[:-1] if pooling == "cls" else pack.offsets[1:] - 1
        return hidden[moved(torch.from_numpy(places), device)].float()
    lengths = torch.from_numpy(pack.lengths).to(device)
    owner = torch.arange(len(lengths), device=device).repeat_interleave(lengths)
    total = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
    return total.index_add_(0, owner, hidden.float()) / lengths[:, None]


def normalized(vectors: torch.Tensor) -> torch.Tensor:
    """Rows of L2 norm 1, in float32; float32 rows are changed in place.

    A row of length 0 becomes NaN: it has no direction, and must not pass for a vector.
    """
    rows = vectors.float()
    return rows.div_(rows.norm(dim=-1, keepdim=True))


def lexical_rows(
    weights: FloatArray, ids: NDArray[np.int32], lengths: IntArray, unweighted: NDArray[Any]
) -> SparseRows:
    """Token weights to one weight per token id: the greatest, as BGE-M3 defines it.

    Args:
        weights: `(t,)` relu outputs of `n` texts' tokens, end to end.
        ids: `(t,)` token ids.
        lengths: `(n,)` tokens per text.
        unweighted: Ids that get no weight (cls, eos, pad, unk).

    Returns:
        Lexical weights of the `n` texts.
    """
    row = np.repeat(np.arange(len(lengths)), lengths)
    keep = (weights > 0) & ~np.isin(ids, unweighted)
    row, ids, weights = row[keep], ids[keep], weights[keep]
    # by row, then id, then falling weight: the first of each (row, id) is the greatest
    order = np.lexsort((-weights, ids, row))
    row, ids, weights = row[order], ids[order], weights[order]
    first = np.ones(len(row), bool)
    first[1:] = (row[1:] != row[:-1]) | (ids[1:] != ids[:-1])
    counts = np.bincount(row[first], minlength=len(lengths))
    return SparseRows(offsets_of(counts), ids[first].astype(np.int32), weights[first])
