"""Any other backbone that transformers knows: its own forward, over padded texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bge_m3_integrations.encoders.torch.packing import Pack, rounded

# Padded texts are rounded up to a multiple of this many tokens at least.
_STEP = 8


class PaddedBackbone:
    """A transformers encoder as a backbone over packs.

    Args:
        module: Ids and mask to `last_hidden_state`, in inference mode.
        pad_token_id: Fills the batch; masked everywhere.
        positions: Most tokens of a text; None is no limit.

    Attributes:
        padded: Texts of one pack are computed at the length of the longest.
    """

    padded = True

    def __init__(
        self, module: nn.Module, *, pad_token_id: int, positions: int | None = None
    ) -> None:
        self.module = module
        self._pad = pad_token_id
        self._positions = positions

    def hidden(self, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        """Run the encoder.

        Args:
            pack: The texts.
            wide: Compute in float32 on half-precision weights, layer by layer.

        Returns:
            `(t, width)`, the last layer's states, without padding.
        """
        device = next(self.module.parameters()).device
        lengths = torch.from_numpy(pack.lengths)
        texts, width = len(lengths), int(lengths.max())
        if device.type == "cpu":
            texts, width = self._rounded(texts, width)
        real = torch.zeros(texts, width, dtype=torch.bool)
        real[: len(lengths)] = torch.arange(width) < lengths[:, None]
        ids = torch.full(real.shape, self._pad)
        ids[real] = pack.ids
        seen = real.clone()
        seen[len(lengths) :, 0] = True  # a text of nothing but padding has no softmax
        ids, real, seen = ids.to(device), real.to(device), seen.to(device)
        with Float32Arithmetic() if wide else nullcontext():
            output: torch.Tensor = self.module(
                input_ids=ids, attention_mask=seen.long()
            ).last_hidden_state
        return output[real]

    def _rounded(self, texts: int, longest: int) -> tuple[int, int]:
        """Few numbers of texts, and of tokens of each: see `rounded`."""
        width = rounded(longest, least=_STEP)
        if self._positions is not None:
            width = max(longest, min(width, self._positions))
        # few texts more each cost a share of a batch: two sizes between a power of two and the next
        step = max(1, (1 << texts.bit_length()) // 4)
        return -(-texts // step) * step, width


class Float32Arithmetic(TorchFunctionMode):
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
