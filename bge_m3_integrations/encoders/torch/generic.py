"""Any other backbone that transformers knows: its own forward, over padded texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bge_m3_integrations.encoders.torch.packing import Pack


class PaddedBackbone:
    """A transformers encoder as a backbone over packs.

    Args:
        module: Ids and mask to `last_hidden_state`, in inference mode.
        pad_token_id: Fills the batch; masked everywhere.
    """

    def __init__(self, module: nn.Module, *, pad_token_id: int) -> None:
        self.module = module
        self._pad = pad_token_id

    @property
    def padded(self) -> bool:
        """Texts of one pack are computed at the length of the longest."""
        return True

    def hidden(self, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        """Run the encoder.

        Args:
            pack: The texts.
            wide: Compute in float32 on half-precision weights, layer by layer.

        Returns:
            `(t, width)`, the last layer's states, without padding.
        """
        lengths = torch.from_numpy(pack.lengths)
        real = torch.arange(int(lengths.max())) < lengths[:, None]
        ids = torch.full(real.shape, self._pad)
        ids[real] = pack.ids
        device = next(self.module.parameters()).device
        ids, real = ids.to(device), real.to(device)
        with Float32Arithmetic() if wide else nullcontext():
            output: torch.Tensor = self.module(
                input_ids=ids, attention_mask=real.long()
            ).last_hidden_state
        return output[real]


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
