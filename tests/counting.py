"""Counts forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from bge_m3_integrations.encoders.torch.layers import PackedBackbone
from bge_m3_integrations.encoders.torch.packing import Pack


@contextmanager
def counted_packs() -> Iterator[list[Pack]]:
    """The packs that packed backbones run meanwhile."""
    packs: list[Pack] = []
    hidden = PackedBackbone.hidden

    def noted(self: PackedBackbone, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        packs.append(pack)
        return hidden(self, pack, wide=wide)

    with mock.patch.object(PackedBackbone, "hidden", noted):
        yield packs
