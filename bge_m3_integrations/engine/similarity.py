"""The similarity of texts: one number that does not depend on which text is named first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bge_m3_integrations.core.embeddings import MODES, EmbeddingBatch, FloatArray, Mode
from bge_m3_integrations.core.scoring import components
from bge_m3_integrations.errors import InputError

if TYPE_CHECKING:
    from bge_m3_integrations.engine.engine import BGEM3


def similarity(
    engine: BGEM3, a: Sequence[str], b: Sequence[str], mode: Mode, max_length: int | None
) -> FloatArray:
    """Compare texts with texts; see `BGEM3.similarity`.

    Args:
        engine: Encodes each distinct text once, as a document.
        a: `n` texts.
        b: `m` texts.
        mode: Which numbers are compared.
        max_length: Most tokens per text.

    Returns:
        `(n, m) float32`.

    Raises:
        InputError: There is no such mode, or the engine lacks it.
    """
    if mode not in MODES:
        raise InputError(f"mode must be one of {list(MODES)}, not {mode!r}")
    # encoded in one order and compared in both directions: swapped arguments give the same bits
    texts = sorted({*a, *b})
    number = {text: i for i, text in enumerate(texts)}
    batch = engine.encode_documents(texts, modes=[mode], max_length=max_length)
    left, right = (batch.take([number[text] for text in side]) for side in (a, b))
    there, back = _scores(engine, left, right, mode), _scores(engine, right, left, mode)
    return np.asarray((there + back.T) / 2, np.float32)


def _scores(engine: BGEM3, left: EmbeddingBatch, right: EmbeddingBatch, mode: Mode) -> FloatArray:
    parts = components(left, right, [mode], maxsim=engine.maxsim)
    return np.asarray(getattr(parts, mode), np.float32)
