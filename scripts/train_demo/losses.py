"""Losses: distillation from the teacher and BGE-M3's joint contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from scripts.train_demo.model import Output, Student

TEMPERATURE = 0.03
MIX = (0.4, 0.2, 0.4)


def sentence_loss(dense: Tensor, target: Tensor) -> Tensor:
    """Pulls sentence vectors to the teacher's, alone and in their similarities.

    Args:
        dense: The student's unit vectors.
        target: The teacher's unit vectors.

    Returns:
        The loss.
    """
    cosine = 1 - (dense * target).sum(-1).mean()
    own = log_softmax(dense @ target.T / 0.05, dim=-1)
    wanted = softmax(target @ target.T / 0.05, dim=-1)
    return 2 * cosine + 0.5 * kl_div(own, wanted, reduction="batchmean")


def word_loss(hidden: Tensor, owner: Tensor, target: Tensor) -> Tensor:
    """Pulls word states to the teacher's.

    Args:
        hidden: The student's hidden states.
        owner: The row in `target` for each position, or -1.
        target: The teacher's word states.

    Returns:
        The loss.
    """
    picked = owner.flatten() >= 0
    rows = owner.flatten()[picked]
    states = hidden.flatten(0, 1)[picked]
    sums = torch.zeros_like(target).index_add(0, rows, states)
    cosine = torch.cosine_similarity(sums, target, dim=-1)
    seen = torch.bincount(rows, minlength=len(target)) > 0
    return (1 - cosine[seen]).mean()


def colbert_scores(query: Output, doc: Output) -> Tensor:
    """Scores all queries with all documents by late interaction.

    Args:
        query: The queries.
        doc: The documents.

    Returns:
        The matrix of scores.
    """
    with torch.autocast("cpu", dtype=torch.bfloat16):
        flat = query.colbert.flatten(0, 1) @ doc.colbert.flatten(0, 1).T
    size = (*query.colbert.shape[:2], *doc.colbert.shape[:2])
    scores = flat.view(size).float()
    scores = scores.masked_fill(doc.mask[None, None, :, 1:] == 0, -1.0)
    best = scores.amax(-1) * query.mask[:, 1:, None]
    return best.sum(1) / query.mask[:, 1:].sum(1, keepdim=True)


def contrastive_loss(
    student: Student, query: Output, doc: Output, same: Tensor, *, both: bool
) -> tuple[Tensor, Tensor]:
    """BGE-M3's loss: each mode, their ensemble, and each mode learning from the ensemble.

    Args:
        student: The student.
        query: The queries.
        doc: Their documents, in the same order.
        same: True where another column is also an answer, so no negative.
        both: Also find the query for the document.

    Returns:
        The loss, and the loss of each mode for the log.
    """
    dense = query.dense @ doc.dense.T
    sparse = student.sparse_vectors(query) @ student.sparse_vectors(doc).T
    colbert = colbert_scores(query, doc)
    ensemble = MIX[0] * dense + MIX[1] * sparse + MIX[2] * colbert
    modes = [dense, sparse, colbert, ensemble]
    labels = torch.arange(len(dense))
    logits = [mode.masked_fill(same, -10.0) / TEMPERATURE for mode in modes]
    if both:
        logits = [torch.cat([part, part.T]) for part in logits]
        labels = labels.repeat(2)
    each = torch.stack([cross_entropy(part, labels) for part in logits])
    judge = softmax(logits[3].detach(), dim=-1)
    distil = torch.stack([-(judge * log_softmax(p, -1)).sum(-1).mean() for p in logits[:3]])
    weights = torch.tensor([1.0, 0.4, 1.0, 2.0])
    total = (each * weights).sum() / 4 + 0.5 * (distil * weights[:3]).sum() / 3
    # Keeps the unbounded sparse score of a match where the fixed weights expect it.
    size = torch.relu(sparse.diagonal() - 0.6).mean()
    return total + size, each.detach()
