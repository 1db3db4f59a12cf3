"""The files of a BGE-M3 checkpoint: which are needed, and whether they are all there and sound."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bge_m3_integrations.core.embeddings import Mode
from bge_m3_integrations.errors import CheckpointError

REFERENCE_CHECKPOINT = "BAAI/bge-m3"

CONFIG = "config.json"
MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
TRANSFORMER = "sentence_bert_config.json"
_POOLING = "1_Pooling/config.json"
HEADS: Mapping[Mode, str] = {"sparse": "sparse_linear.pt", "colbert": "colbert_linear.pt"}
_INDEX_SUFFIX = ".index.json"
# In order of preference: the first that is there is the one that is read.
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_TOKENIZERS = (
    "tokenizer.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
)
_OPTIONAL = (
    MODULES,
    PROMPTS,
    TRANSFORMER,
    _POOLING,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
# Beside whole weights: an adapter that is still to be added to them.
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# The configs of quantized weights that do not stand in config.json.
_QUANTIZED = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
_LFS_POINTER = b"version https://git-lfs"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """Where the parts of one checkpoint lie on this machine.

    Attributes:
        folder: Holds every file below, and `config.json`.
        weights: The backbone's tensors: one file, or all shards of one set (without the index).
        heads: Those that are there, by mode; the checkpoint gives no other modes but dense.
        tokenizer: `tokenizer.json`, or the vocabulary that a tokenizer can be built from.
        pooling_config: `1_Pooling/config.json`, or None.
        name: The hub id, or the folder's name.
        revision: The commit that was resolved on the hub; None for a folder.
    """

    folder: Path
    weights: tuple[Path, ...]
    heads: Mapping[Mode, Path]
    tokenizer: Path
    pooling_config: Path | None
    name: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where files are looked for, and what to do if they are not there."""

    label: str
    fix: str


@dataclass(frozen=True, slots=True)
class Choice:
    """The names to read: `entry` is a weights file, or the index of its shards."""

    entry: str
    tokenizer: str
    small: tuple[str, ...]


def read_folder(folder: Path, place: Place, *, name: str, revision: str | None) -> CheckpointFiles:
    """Check that a folder holds a whole checkpoint, and say where its parts are.

    Args:
        folder: Where to look.
        place: How to call the folder in an error, and the fix to offer.
        name: The checkpoint's name.
        revision: The commit that it is of, or None.

    Returns:
        The files; no tensor was read.

    Raises:
        CheckpointError: Something is missing, empty, a dangling link or a Git LFS pointer, or
            there is an adapter that the weights do not hold yet.
    """
    names = _names(folder)
    choice = choose(names, place)
    for file in choice.small:
        check_content(folder / file)
    read_json(folder / CONFIG)
    weights = weight_names(folder, choice.entry, names)
    for file in weights:
        check_content(folder / file)
    return CheckpointFiles(
        folder=folder,
        weights=tuple(folder / file for file in weights),
        heads={mode: folder / name for mode, name in HEADS.items() if name in names},
        tokenizer=folder / choice.tokenizer,
        pooling_config=folder / _POOLING if _POOLING in names else None,
        name=name,
        revision=revision,
    )


def _names(folder: Path) -> list[str]:
    """File names as a repository lists them; broken links are in, folders end in a slash."""
    try:
        names = [path.name + "/" * path.is_dir() for path in folder.iterdir()]
    except OSError as error:
        raise CheckpointError(f"cannot list {folder}: {error.strerror}") from error
    return names + [_POOLING] * os.path.lexists(folder / _POOLING)


def choose(names: Collection[str], place: Place) -> Choice:
    """Pick the needed files from the names that are there, or name all missing ones."""
    _check_whole(names, place)
    entry = _first(_WEIGHTS, names)
    tokenizer = _first(_TOKENIZERS, names)
    missing = list(_missing(names, entry, tokenizer))
    if missing or entry is None or tokenizer is None:
        raise CheckpointError(
            f"{place.label} is no complete checkpoint; it lacks: {'; '.join(missing)}. "
            f"It has: {_listing(names)}. {place.fix}"
        )
    vocabulary = ("tokenizer.json",) if "tokenizer.json" in names else (*_TOKENIZERS, "merges.txt")
    wanted = (CONFIG, *HEADS.values(), *_OPTIONAL, *vocabulary)
    index = (entry,) if entry.endswith(_INDEX_SUFFIX) else ()
    return Choice(entry, tokenizer, (*(name for name in wanted if name in names), *index))


def _check_whole(names: Collection[str], place: Place) -> None:
    """Refuse weights that an adapter or a list of scales beside them is to change."""
    if adapter := _first(_ADAPTERS, names):
        raise CheckpointError(
            f"{place.label} holds an adapter ({adapter}), which the weights beside it do not "
            "contain; without it the numbers would be those of the base model. Merge first: load "
            "the base with transformers, then peft.PeftModel.from_pretrained(base, folder)"
            ".merge_and_unload().save_pretrained(merged), copy tokenizer and heads there, and pass "
            "that folder"
        )
    if quantized := _first(_QUANTIZED, names):
        raise CheckpointError(
            f"{place.label} holds quantized weights ({quantized}), which are not read; pass the "
            'checkpoint that they were made from, with dtype="int8" for 8 bits on a CPU'
        )


def _missing(names: Collection[str], entry: str | None, tokenizer: str | None) -> list[str]:
    parts = {
        f"{CONFIG}, the architecture": CONFIG in names,
        f"weights, one of {', '.join(_WEIGHTS)} (ONNX, Flax and TensorFlow are not read)": entry,
        f"a tokenizer, one of {', '.join(_TOKENIZERS)}": tokenizer,
    }
    return [part for part, found in parts.items() if not found]


def _first(candidates: Sequence[str], names: Collection[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _listing(names: Collection[str], *, limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(sorted(names)[:limit]) or "nothing") + more


def weight_names(folder: Path, entry: str, names: Collection[str]) -> list[str]:
    """The weights file, or the shards that its index names."""
    if not entry.endswith(_INDEX_SUFFIX):
        return [entry]
    weight_map = read_json(folder / entry).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / entry} has no weight_map; download it again")
    shards = sorted({str(shard) for shard in weight_map.values()})
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise CheckpointError(
            f"{folder / entry} lists {len(shards)} shards, of which these are missing: "
            f"{_listing(missing)}; put them beside it, or download the checkpoint again"
        )
    return shards


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a `CheckpointError` that says what is there instead."""
    value = read_value(path)
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a JSON {type(value).__name__}, not an object; download it again"
        )
    return value


def read_value(path: Path) -> Any:
    """Any JSON value from a file, or a `CheckpointError` that says what is there instead."""
    check_content(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error


def check_content(path: Path) -> None:
    """Refuse what is no readable file with content; never waits, as opening a pipe would.

    Args:
        path: Of a file that is to be read.

    Raises:
        CheckpointError: It is missing, empty, no file, unreadable or a Git LFS pointer.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = _KINDS.get(stat.S_IFMT(mode), "no file")
            raise CheckpointError(
                f"{path} is {kind} where a file should be; copy or download the file itself"
            )
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is a link to a file that is not there; copy or download the file itself"
            if path.is_symlink()
            else f"{path} is not there; copy or download it"
        ) from error
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if head == _LFS_POINTER:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file; run `git lfs pull` in its folder, "
            "or download the checkpoint again"
        )
    if not head:
        raise CheckpointError(f"{path} is empty; copy or download it again")
