"""The random checkpoint as an ONNX file of the form that BAAI/bge-m3 publishes.

Plain matrix products with an additive mask, scores divided by the root of the width, opset 11: the
pattern that ONNX Runtime's optimizer knows. transformers writes attention in another way today.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks._shape import Shape


class _Layer(nn.Module):
    """A post-norm transformer layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.width = shape.heads, shape.hidden // shape.heads
        self.query, self.key, self.value, self.mixed = (
            nn.Linear(shape.hidden, shape.hidden) for _ in range(4)
        )
        self.attention_norm, self.norm = (nn.LayerNorm(shape.hidden, 1e-5) for _ in range(2))
        self.wide, self.narrow = (
            nn.Linear(shape.hidden, shape.ffn),
            nn.Linear(shape.ffn, shape.hidden),
        )

    def split(self, states: Tensor) -> Tensor:
        size = (*states.size()[:-1], self.heads, self.width)
        return states.view(size).permute(0, 2, 1, 3)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        query = self.split(self.query(states))
        key, value = self.split(self.key(states)), self.split(self.value(states))
        scores = query @ key.transpose(-1, -2) / math.sqrt(self.width) + mask
        context = (scores.softmax(dim=-1) @ value).permute(0, 2, 1, 3).contiguous()
        context = context.view((*context.size()[:-2], self.heads * self.width))
        states = self.attention_norm(self.mixed(context) + states)
        wide = nn.functional.gelu(self.wide(states))
        return self.norm(self.narrow(wide) + states)


class Encoder(nn.Module):
    """XLM-R without its pooler."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocabulary, shape.hidden)
        self.positions = nn.Embedding(shape.positions, shape.hidden)
        self.kinds = nn.Embedding(1, shape.hidden)
        self.norm = nn.LayerNorm(shape.hidden, 1e-5)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        real = input_ids.ne(1).int()
        places = (torch.cumsum(real, dim=1).type_as(real) * real).long() + 1
        kinds = self.kinds(torch.zeros_like(input_ids))
        states = self.norm(self.words(input_ids) + kinds + self.positions(places))
        mask = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * -10000.0
        for layer in self.layers:
            states = layer(states, mask)
        return states


_NAMES = {
    "word_embeddings": "words",
    "position_embeddings": "positions",
    "token_type_embeddings": "kinds",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "mixed",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norm",
    "embeddings.LayerNorm": "norm",
}


def renamed(name: str) -> str:
    """A transformers tensor's name in this file's modules."""
    name = name.replace("encoder.layer.", "layers.")
    for theirs, mine in _NAMES.items():
        name = name.replace(theirs, mine)
    return name.removeprefix("embeddings.")


def export(checkpoint: Path, folder: Path) -> None:
    """Write model.onnx and its weights, all in model.onnx_data."""
    import onnx

    model = Encoder(Shape.of(checkpoint)).eval()
    tensors = load_file(checkpoint / "model.safetensors")
    kept = {renamed(k): v.float() for k, v in tensors.items() if not k.startswith("pooler")}
    model.load_state_dict(kept)
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        model,
        (ids, ids.ne(1).long()),
        str(scratch / "model.onnx"),
        input_names=["input_ids", "attention_mask"],
        output_names=["token_embeddings"],
        dynamic_axes=dict.fromkeys(("input_ids", "attention_mask", "token_embeddings"), axes),
        opset_version=11,
        dynamo=False,
    )
    graph = onnx.load(scratch / "model.onnx")
    onnx.save_model(
        graph,
        folder / "model.onnx",
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="model.onnx_data",
        size_threshold=1024,
    )
    for path in scratch.iterdir():
        path.unlink()
    scratch.rmdir()
