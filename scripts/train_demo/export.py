"""Writes a student as a checkpoint in BGE-M3's format."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaTokenizer

from scripts.train_demo.model import Student

EMBEDDINGS = "encoder.embeddings.word_embeddings.weight"
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {
        "idx": 2,
        "name": "2",
        "path": "2_Normalize",
        "type": "sentence_transformers.models.Normalize",
    },
]


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def save(student: Student, tokenizer: XLMRobertaTokenizer, out: Path) -> None:
    """Writes all files but the model card.

    Args:
        student: The student.
        tokenizer: Its tokenizer.
        out: The folder.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = student.config.to_dict()
    config.update(
        architectures=["XLMRobertaModel"],
        model_type="xlm-roberta",
        dtype="float16",
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
    )
    _write(out / "config.json", config)
    tensors = {
        name: value.detach().half().contiguous()
        for name, value in student.encoder.state_dict().items()
        if not name.endswith(("position_ids", "token_type_ids"))
    }
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    for name in ("colbert_linear", "sparse_linear"):
        head = getattr(student, name)
        state = {key: value.detach().half().clone() for key, value in head.state_dict().items()}
        torch.save(state, out / f"{name}.pt")
    tokenizer.save_pretrained(out)
    compact = json.loads((out / "tokenizer.json").read_text(encoding="utf-8"))
    compact["model"]["vocab"] = [[piece, round(s, 3)] for piece, s in compact["model"]["vocab"]]
    text = json.dumps(compact, ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    names = ("bos", "cls", "eos", "mask", "pad", "sep", "unk")
    special = {f"{name}_token": getattr(tokenizer, f"{name}_token") for name in names}
    _write(out / "special_tokens_map.json", special)
    pooling = {
        "word_embedding_dimension": student.config.hidden_size,
        "pooling_mode_cls_token": True,
    }
    pooling |= {f"pooling_mode_{name}": False for name in ("mean_tokens", "max_tokens")}
    _write(out / "1_Pooling" / "config.json", pooling)
    _write(out / "modules.json", MODULES)
    _write(out / "sentence_bert_config.json", {"max_seq_length": 512, "do_lower_case": False})


def load(folder: Path, tokenizer: XLMRobertaTokenizer) -> dict[str, torch.Tensor]:
    """Reads the weights of a checkpoint that `save` wrote.

    Args:
        folder: The folder.
        tokenizer: The tokenizer that the weights are wanted for.

    Returns:
        The student's state.

    Raises:
        ValueError: If the checkpoint numbers its pieces in another way. Two preparations may do
            so: the Unigram training is not quite deterministic for the rarest characters.
    """
    if _pieces(folder) != tokenizer.convert_ids_to_tokens(range(len(tokenizer))):
        raise ValueError(f"{folder} was trained with other prepared data: its pieces differ")
    return _state(folder)


@torch.no_grad()
def adopt(student: Student, tokenizer: XLMRobertaTokenizer, folder: Path) -> int:
    """Gives a student the weights of a checkpoint whose pieces may differ.

    Args:
        student: The student; pieces that the checkpoint lacks keep their embeddings.
        tokenizer: Its tokenizer.
        folder: The checkpoint.

    Returns:
        How many pieces the checkpoint knew.
    """
    state = _state(folder)
    place = {piece: row for row, piece in enumerate(_pieces(folder))}
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    rows = student.encoder.embeddings.word_embeddings.weight.clone()
    known = [row for row, piece in enumerate(pieces) if piece in place]
    rows[known] = state[EMBEDDINGS][[place[pieces[row]] for row in known]]
    state[EMBEDDINGS] = rows
    student.load_state_dict(state)
    return len(known)


def _pieces(folder: Path) -> list[str]:
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    return [piece for piece, _ in model["vocab"]]


def _state(folder: Path) -> dict[str, torch.Tensor]:
    state = {
        f"encoder.{name}": value.float()
        for name, value in load_file(folder / "model.safetensors").items()
    }
    for head in ("colbert_linear", "sparse_linear"):
        part = torch.load(folder / f"{head}.pt", weights_only=True)
        state |= {f"{head}.{name}": value.float() for name, value in part.items()}
    return state
