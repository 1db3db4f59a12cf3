"""BERT's family of encoders over packed tokens: BERT, RoBERTa, XLM-R, CamemBERT.

Devlin et al. 2019; the numbers are those of transformers' modules, without padding, with query,
key and value as one product, and with texts told apart in attention only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import torch
from torch.nn.functional import embedding

from bge_m3_integrations.encoders.torch.attention import Attention, plan
from bge_m3_integrations.encoders.torch.layer_ops import LayerOps, Norm, SharedOps, TorchNorm
from bge_m3_integrations.encoders.torch.linear import Adding, Linear, Role
from bge_m3_integrations.encoders.torch.packing import Pack, moved
from bge_m3_integrations.encoders.torch.tensors import trim_heap

Tensors: TypeAlias = Mapping[str, torch.Tensor]
Some: TypeAlias = Sequence[torch.Tensor]
P = TypeVar("P")

# Whether a family's position table starts behind the padding id.
_FAMILIES = {"bert": False, "roberta": True, "xlm-roberta": True, "camembert": True}
_TABLES = tuple(
    f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")
)
_PAIR = ("weight", "bias")
# Rows read from a mapped table before its pages are given back: each may bring 64 KiB along.
_ROWS = 256
# What lies between the feed-forward part's products at most: 1,024 rows of 4,096 in bfloat16. More
# than 32 MiB would go back to the system after every use, and fetching it again takes as long; few
# sizes of products need few kernels.
_WIDEST_BYTES = 8 << 20


def is_packable(config: Any) -> bool:
    """Whether a backbone of this config is one of the family, computed the plain way."""
    return (
        config.model_type in _FAMILIES
        and config.hidden_act == "gelu"
        and getattr(config, "position_embedding_type", None) in (None, "absolute")
        and not getattr(config, "is_decoder", False)
        and not getattr(config, "auto_map", None)
    )


def expected_shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """The tensors that a packed backbone reads, with their shapes."""
    width, inner = config.hidden_size, config.intermediate_size
    sizes = (config.vocab_size, config.max_position_embeddings, config.type_vocab_size)
    shapes: dict[str, tuple[int, ...]] = {
        table: (size, width) for table, size in zip(_TABLES, sizes, strict=True)
    }
    shapes |= _pair("embeddings.LayerNorm", (width,))
    for i in range(config.num_hidden_layers):
        at = f"encoder.layer.{i}"
        for part in ("query", "key", "value"):
            shapes |= _pair(f"{at}.attention.self.{part}", (width, width))
        shapes |= _pair(f"{at}.attention.output.dense", (width, width))
        shapes |= _pair(f"{at}.attention.output.LayerNorm", (width,))
        shapes |= _pair(f"{at}.intermediate.dense", (inner, width))
        shapes |= _pair(f"{at}.output.dense", (width, inner))
        shapes |= _pair(f"{at}.output.LayerNorm", (width,))
    return shapes


def _pair(name: str, weight: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


@dataclass(frozen=True, slots=True)
class Layer:
    """One transformer layer with normalization behind each half.

    States and normalization are in float32: they cost little, and rounding them after every half
    layer is most of what a half-precision dtype would lose.

    Attributes:
        dtype: The dtype of the products of states.
        rows: How many rows go through what follows attention together.
    """

    qkv: Linear
    mix: Adding
    mix_norm: Norm
    up: Linear
    down: Adding
    down_norm: Norm
    dtype: torch.dtype
    rows: int

    def __call__(self, hidden: torch.Tensor, attend: Attention) -> torch.Tensor:
        """`(t, width) float32` to the same, in place."""
        attended = attend(self.qkv(hidden.to(self.dtype)))
        step = self.rows if hidden.device.type == "cpu" else max(1, len(hidden))
        for rows, mixed in zip(torch.split(hidden, step), torch.split(attended, step), strict=True):
            self.mix.add_to(rows, mixed)
            self.mix_norm.normalize_(rows)
            self.down.add_to(rows, self.up(rows.to(self.dtype)))
            self.down_norm.normalize_(rows)
        return hidden


class Embeddings:
    """Word, position and type vectors, summed and normalized in float32.

    Args:
        weights: The tables' source. On the CPU the tables stay where they are, memory-mapped from
            a checkpoint, and only the rows of the tokens at hand are read.
        config: The backbone's config.
        dtype: The dtype of the tables, off the CPU.
        device: Where the model computes.
    """

    def __init__(
        self, weights: Weights, config: Any, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._weights = weights
        tables = [weights.tensor(name) for name in _TABLES]
        self._tables = tables if device.type == "cpu" else [t.to(device, dtype) for t in tables]
        weight, bias = weights.norm("embeddings.LayerNorm", device)
        self._norm = TorchNorm(weight, bias, config.layer_norm_eps)
        self._pad = config.pad_token_id if _FAMILIES[config.model_type] else None
        self._rows_read = 0

    def __call__(self, pack: Pack) -> torch.Tensor:
        """The first layer's input, `(t, width) float32`."""
        words, positions, types = self._tables
        ids, places = pack.ids, pack.positions(self._pad)
        if words.device.type != "cpu":
            ids, places = moved(ids, words.device), moved(places, words.device)
            total = embedding(ids, words).float()
            total += types[0].float()
            total += embedding(places, positions).float()
        else:
            total = torch.empty(len(ids), words.shape[1], dtype=torch.float32, device="cpu")
            kind = types[0].float()
            for start in range(0, len(ids), _ROWS):
                rows, some = total[start : start + _ROWS], slice(start, start + _ROWS)
                rows.copy_(embedding(ids[some], words))
                rows += kind
                rows += embedding(places[some], positions)
                # a race between threads loses a count and costs a page read again, no number
                self._rows_read += 2 * len(rows)
                if self._rows_read >= _ROWS:
                    self._release()
        self._norm.normalize_(total)
        return total

    def _release(self) -> None:
        self._rows_read = 0
        for name in _TABLES:
            self._weights.release(name)


@dataclass(frozen=True, slots=True)
class Weights:
    """A checkpoint's tensors as a backbone asks for them.

    Attributes:
        tensors: Names to tensors.
        names: A backbone's own names to those.
        give_back: Called with a name in `tensors` once its content is no longer needed in memory.
    """

    tensors: Tensors
    names: Mapping[str, str]
    give_back: Callable[[str], None]

    @classmethod
    def in_memory(cls, tensors: Tensors) -> Weights:
        """Tensors that stay where they are."""
        return cls(tensors, {name: name for name in tensors}, lambda name: None)

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor by the backbone's own name."""
        return self.tensors[self.names[name]]

    def release(self, name: str) -> None:
        """Say that a tensor's content is no longer needed in memory."""
        self.give_back(self.names[name])

    def norm(self, name: str, device: torch.device) -> list[torch.Tensor]:
        """A normalization's `(width,) float32` weight and bias on a device."""
        return [self.tensor(f"{name}.{part}").to(device, torch.float32) for part in _PAIR]


class PackedBackbone:
    """An encoder over packs.

    Args:
        weights: The checkpoint's tensors.
        config: The backbone's config; `is_packable`.
        dtype: The dtype to compute in.
        device: Where to compute.
        parts: Makes its layers' operations.
        states: The dtype of the products of states; None is `dtype`.

    Attributes:
        padded: Packs are computed without padding.
    """

    padded = False

    def __init__(
        self,
        weights: Weights,
        config: Any,
        *,
        dtype: torch.dtype,
        device: torch.device,
        parts: LayerOps,
        states: torch.dtype | None = None,
    ) -> None:
        self._weights, self._config, self._dtype, self._device = weights, config, dtype, device
        self._embeddings = Embeddings(weights, config, dtype=dtype, device=device)
        taken = states or dtype
        self._layers = []
        for i in range(config.num_hidden_layers):
            self._layers.append(self._layer(i, parts, taken))
            if not isinstance(parts, SharedOps):
                # what was freed lies between what stays, and the next layer may not fit there
                trim_heap()
        self._parts = parts

    def hidden(self, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        """Run the encoder.

        Args:
            pack: The texts.
            wide: Compute in float32 from the tensors as the checkpoint has them, layer by layer.

        Returns:
            `(t, width) float32`, the last layer's states.
        """
        dtype = torch.float32 if wide else self._dtype
        parts = SharedOps() if wide else self._parts
        hidden = parts.layout(self._embeddings(pack))
        heads = self._config.num_attention_heads
        width = self._config.hidden_size // heads
        attend = plan(pack, heads=heads, head_width=width, device=self._device, dtype=dtype)
        for i, layer in enumerate(self._layers):
            hidden = (self._layer(i, parts, dtype) if wide else layer)(hidden, attend)
        return hidden[: len(pack.ids)]

    def _layer(self, i: int, parts: LayerOps, dtype: torch.dtype) -> Layer:
        at = f"encoder.layer.{i}"

        def product(make: Callable[[Some, Some], P], *names: str) -> P:
            weights, biases = (
                [self._weights.tensor(f"{at}.{name}.{part}") for name in names] for part in _PAIR
            )
            made = make(weights, biases)
            for name in names:
                self._weights.release(f"{at}.{name}.weight")
            return made

        def linear(name: str, role: Role) -> Adding:
            return product(lambda w, b: parts.linear(w[0], b[0], role), name)

        def norm(name: str) -> Norm:
            weight, bias = self._weights.norm(f"{at}.{name}", self._device)
            return parts.norm(weight, bias, self._config.layer_norm_eps)

        return Layer(
            qkv=product(parts.qkv, *(f"attention.self.{x}" for x in ("query", "key", "value"))),
            mix=linear("attention.output.dense", "mix"),
            mix_norm=norm("attention.output.LayerNorm"),
            up=linear("intermediate.dense", "up"),
            down=linear("output.dense", "down"),
            down_norm=norm("output.LayerNorm"),
            dtype=dtype,
            rows=max(1, _WIDEST_BYTES // (self._config.intermediate_size * dtype.itemsize)),
        )
