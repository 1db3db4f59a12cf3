"""The student: a pruned copy of the teacher with BGE-M3's three heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import XLMRobertaConfig, XLMRobertaModel, XLMRobertaTokenizer

from scripts.train_demo.teacher import Teacher

HIDDEN = 384
LAYERS = (0, 2, 5)
FFN = 640
SPECIAL_IDS = 4


@dataclass
class Output:
    """What the student says about a batch.

    Attributes:
        dense: Unit vectors.
        sparse: A weight of at least 0 for each position.
        colbert: Unit vectors for all positions but the first.
        hidden: The last hidden states.
        ids: The token ids.
        mask: The attention mask.
    """

    dense: Tensor
    sparse: Tensor
    colbert: Tensor
    hidden: Tensor
    ids: Tensor
    mask: Tensor


class Student(nn.Module):
    """XLM-R encoder with a dense (CLS), a sparse and a ColBERT head."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.config = XLMRobertaConfig(
            vocab_size=vocab_size,
            hidden_size=HIDDEN,
            num_hidden_layers=len(LAYERS),
            num_attention_heads=12,
            intermediate_size=FFN,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-12,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=2,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.encoder = XLMRobertaModel(self.config)
        self.colbert_linear = nn.Linear(HIDDEN, HIDDEN)
        self.sparse_linear = nn.Linear(HIDDEN, 1)
        nn.init.eye_(self.colbert_linear.weight)
        nn.init.zeros_(self.colbert_linear.bias)
        nn.init.zeros_(self.sparse_linear.weight)
        nn.init.constant_(self.sparse_linear.bias, 0.2)

    def forward(self, ids: Tensor, mask: Tensor) -> Output:
        """Encodes a padded batch.

        Args:
            ids: Token ids.
            mask: 1 for tokens, 0 for padding.

        Returns:
            The three representations.
        """
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
            colbert = self.colbert_linear(hidden[:, 1:])
        hidden = hidden.float()
        sparse = torch.relu(self.sparse_linear(hidden)).squeeze(-1)
        colbert = normalize(colbert.float(), dim=-1) * mask[:, 1:].unsqueeze(-1)
        sparse = sparse * (ids >= SPECIAL_IDS)
        return Output(normalize(hidden[:, 0], dim=-1), sparse, colbert, hidden, ids, mask)

    def sparse_vectors(self, output: Output) -> Tensor:
        """Spreads sparse weights over the vocabulary.

        Args:
            output: The output for a batch.

        Returns:
            One row for each text: the largest weight of each token id.
        """
        rows = output.sparse.new_zeros((len(output.ids), self.config.vocab_size))
        return rows.scatter_reduce(1, output.ids, output.sparse, "amax", include_self=True)


@torch.no_grad()
def keep_neurons(teacher: Teacher, texts: list[list[str]]) -> list[Tensor]:
    """Finds the feed-forward neurons that matter in the layers that the student keeps.

    Args:
        teacher: The teacher.
        texts: Words of some texts.

    Returns:
        For each kept layer the indices of its neurons.
    """
    sums: dict[int, Tensor] = {}
    hooks = []
    for number in LAYERS:
        layer = teacher.model.encoder.layer[number]

        def note(_: nn.Module, __: object, value: Tensor, number: int = number) -> None:
            size = value.float().abs().flatten(0, 1).sum(0)
            sums[number] = sums.get(number, torch.zeros_like(size)) + size

        hooks.append(layer.intermediate.register_forward_hook(note))
    teacher.encode(texts)
    for hook in hooks:
        hook.remove()
    kept = []
    for number in LAYERS:
        norms = teacher.model.encoder.layer[number].output.dense.weight.norm(dim=0)
        kept.append((sums[number] * norms).topk(FFN).indices.sort().values)
    return kept


@torch.no_grad()
def initialise(
    student: Student,
    teacher: Teacher,
    tokenizer: XLMRobertaTokenizer,
    neurons: list[Tensor],
    to_english: dict[int, dict[str, float]],
) -> None:
    """Copies the teacher into the student.

    Args:
        student: The student.
        teacher: The teacher.
        tokenizer: The student's tokenizer.
        neurons: The feed-forward neurons to keep in each layer.
        to_english: English words with weights for Chinese pieces.
    """
    source, target = teacher.model.embeddings, student.encoder.embeddings
    table = source.word_embeddings.weight
    index = {piece: i for i, piece in enumerate(teacher.vocab)}
    mean, deviation = table.mean(0), table.std(0)
    rows = torch.randn(len(tokenizer), HIDDEN) * deviation * 0.7 + mean
    for piece, row in tokenizer.get_vocab().items():
        name = piece[1:] if piece.startswith("▁") and len(piece) > 1 else f"##{piece}"
        name = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]", "<mask>": "[MASK]"}.get(
            piece, name if name in index else name.removeprefix("##")
        )
        if name in index:
            rows[row] = table[index[name]]
        elif piece.startswith("▁") and piece[1:].isascii():
            rows[row] = table[teacher.pieces(piece[1:])].mean(0)
    for row, words in to_english.items():
        weights = {index[word]: weight for word, weight in words.items() if word in index}
        if weights:
            share = torch.tensor(list(weights.values()))
            blend = (share / share.sum()) @ table[list(weights)]
            rows[row] = 0.85 * blend + 0.15 * rows[row]
    rows[1] = 0
    target.word_embeddings.weight.copy_(rows)
    target.position_embeddings.weight[2:].copy_(source.position_embeddings.weight)
    target.token_type_embeddings.weight.copy_(source.token_type_embeddings.weight[:1])
    target.LayerNorm.load_state_dict(source.LayerNorm.state_dict())
    for number, keep, layer in zip(LAYERS, neurons, student.encoder.encoder.layer, strict=True):
        state = teacher.model.encoder.layer[number].state_dict()
        for name in ("intermediate.dense.weight", "intermediate.dense.bias"):
            state[name] = state[name][keep]
        state["output.dense.weight"] = state["output.dense.weight"][:, keep]
        layer.load_state_dict(state)
