"""An encoder over a `FlagEmbedding.BGEM3FlagModel` that the user already holds.

It runs its own forward over the model's modules, never `.encode()`, which computes the first batch
twice. The modules are used where they are, in the dtype they have, and nothing of them changes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from bge_m3_integrations._internal.forks import frees_properties
from bge_m3_integrations.core.embeddings import Modes
from bge_m3_integrations.encoders.config import ModelConfig
from bge_m3_integrations.encoders.torch import fingerprint
from bge_m3_integrations.encoders.torch.config import usable_positions
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.encoders.torch.heads import POOLINGS, Pooling
from bge_m3_integrations.encoders.torch.layer_ops import SharedOps
from bge_m3_integrations.encoders.torch.layers import (
    PackedBackbone,
    Weights,
    expected_shapes,
    is_packable,
)
from bge_m3_integrations.encoders.torch.linear import PlainLinear
from bge_m3_integrations.encoders.torch.modules import Backbone, M3Modules
from bge_m3_integrations.encoders.torch.padded import PaddedBackbone
from bge_m3_integrations.encoders.torch.source import Source
from bge_m3_integrations.encoders.torch.tensor_checks import FLOATS
from bge_m3_integrations.encoders.torch.tokenizer import TextTokenizer, wrap_tokenizer
from bge_m3_integrations.encoders.torch.tokenizer_file import check_fits
from bge_m3_integrations.errors import InputError


@frees_properties
class FlagSource(Source):
    """The modules of a `BGEM3FlagModel`, with all three heads.

    Args:
        flag_model: The model. Its own `.encode()` may move or cast the modules later; each call
            here looks at where they are now.
    """

    def __init__(self, flag_model: Any) -> None:
        inner: Any = getattr(flag_model, "model", None)
        if not all(hasattr(inner, name) for name in ("model", "colbert_linear", "sparse_linear")):
            raise InputError(
                "expected a FlagEmbedding.BGEM3FlagModel with .model.model, .model.colbert_linear "
                f"and .model.sparse_linear, not {type(flag_model).__name__}"
            )
        if inner.model.training:
            raise InputError("the model is in training mode (dropout is on); call .model.eval()")
        self._flag = flag_model
        self._parts: tuple[Any, Any, Any] = (inner.model, inner.colbert_linear, inner.sparse_linear)

    @property
    def config(self) -> Any:
        """The backbone's transformers config."""
        return self._parts[0].config

    @property
    def colbert_dim(self) -> int:
        """Width of a token vector."""
        return int(self._parts[1].out_features)

    @cached_property
    def pooling(self) -> Pooling:
        """The pooling that the model was made with."""
        name = self._flag.model.sentence_pooling_method
        if name not in POOLINGS:
            raise InputError(f"pooling {name!r} of this model is not one of {list(POOLINGS)}")
        return POOLINGS[POOLINGS.index(name)]

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """A copy of the tokenizer's Rust core."""
        name = type(self._flag.tokenizer).__name__
        wrapped = wrap_tokenizer(self._flag.tokenizer, source=name)
        check_fits(wrapped, int(self.config.vocab_size), source=name)
        return wrapped

    def check_modes(self, modes: Modes) -> None:
        """Nothing is lacking."""

    @property
    def modules(self) -> M3Modules:
        """The modules themselves: packed over their tensors where they are a plain encoder."""
        module, colbert, sparse = self._parts
        heads = [PlainLinear((head.weight,), (head.bias,)) for head in (colbert, sparse)]
        backbone: Backbone
        if is_packable(module.config) and _is_plain(module):
            weights = Weights.in_memory(dict(module.named_parameters()))
            backbone = PackedBackbone(
                weights, module.config, dtype=module.dtype, device=module.device, parts=SharedOps()
            )
        else:
            pad, positions = self.tokenizer.pad_token_id, usable_positions(module.config)
            backbone = PaddedBackbone(module, pad_token_id=pad, positions=positions)
        return M3Modules(backbone, colbert=heads[0], sparse=heads[1])

    @property
    def device(self) -> torch.device:
        """Where the modules are now."""
        found: torch.device = self._parts[2].weight.device
        return found

    @property
    def precision(self) -> str:
        """The dtype of the modules now."""
        return str(self._parts[2].weight.dtype).removeprefix("torch.")

    @property
    def loaded_as(self) -> tuple[str, str]:
        """See `Source.loaded_as`."""
        return str(self.device), self.precision

    @cached_property
    def weights_digest(self) -> str:
        """Digest of the tensors in memory; rounded weights differ from the file's."""
        return fingerprint.weights_digest(*(part.state_dict().items() for part in self._parts))


def _is_plain(module: Any) -> bool:
    """Whether the tensors are all there is: no class of the user's own, hook or adapter."""
    kind = type(module)
    known = kind.__module__.startswith("transformers.") and kind.__name__ in _PLAIN_MODELS
    parts = list(module.modules())
    untouched = all(not m._forward_hooks and not m._forward_pre_hooks for m in parts)
    # a quantized layer is a Linear of another class, whose weights are no numbers by themselves
    plain = all(type(m) is torch.nn.Linear for m in parts if isinstance(m, torch.nn.Linear))
    held = {name: t for name, t in module.named_parameters() if "pooler" not in name}
    floating = all(t.dtype in FLOATS for t in held.values())
    shapes = {name: tuple(t.shape) for name, t in held.items()}
    return known and untouched and plain and floating and shapes == expected_shapes(module.config)


class FlagEncoder(TorchEncoder):
    """A `BGEM3FlagModel` as an encoder.

    Args:
        flag_model: The model.
        query_instruction: Put in front of every query; None takes the model's own.
        document_instruction: Put in front of every document; None takes the model's own.
        max_length: Default length limit in tokens; None is all that the model takes.
        token_budget: Most tokens of one batch; None chooses by device.

    Raises:
        InputError: It is no such model, it is in training mode, or its own instruction is
            formatted in a way that is no prefix.
    """

    def __init__(
        self,
        flag_model: Any,
        *,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        max_length: int | None = None,
        token_budget: int | None = None,
    ) -> None:
        source = FlagSource(flag_model)
        if query_instruction is None:
            query_instruction = _prefix(
                flag_model.query_instruction_for_retrieval, flag_model.query_instruction_format
            )
        if document_instruction is None:
            extra = getattr(flag_model, "kwargs", {})
            document_instruction = _prefix(
                extra.get("passage_instruction_for_retrieval"),
                extra.get("passage_instruction_format", "{}{}"),
            )
        config = ModelConfig(
            query_instruction=query_instruction,
            document_instruction=document_instruction,
            max_length=max_length,
            token_budget=token_budget,
        )
        super().__init__(source, config)


def _prefix(instruction: str | None, form: str) -> str:
    """The text that FlagEmbedding's format puts in front of another."""
    if instruction is None:
        return ""
    # FlagEmbedding reads a typed backslash-n in the format as a line break
    whole = form.replace("\\n", "\n").format(instruction, _TEXT)
    prefix, found, rest = whole.partition(_TEXT)
    if not found or rest:
        raise InputError(f"the instruction format {form!r} is no prefix; give the instruction here")
    return prefix


_TEXT = "\0"
_PLAIN_MODELS = ("BertModel", "CamembertModel", "RobertaModel", "XLMRobertaModel")
