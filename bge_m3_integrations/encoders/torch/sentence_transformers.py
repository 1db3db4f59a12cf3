"""Sentence-transformers' files beside a checkpoint: pooling, prompts and modules of its own.

Whatever changes a dense vector there is followed, or refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bge_m3_integrations.core.embeddings import Kind
from bge_m3_integrations.encoders.torch.files import (
    CONFIG,
    MODULES,
    PROMPTS,
    TRANSFORMER,
    CheckpointFiles,
    read_json,
    read_value,
)
from bge_m3_integrations.encoders.torch.heads import POOLINGS, Pooling
from bge_m3_integrations.errors import CheckpointError

# The pooling config's words, in the form before and since version 5 of sentence-transformers.
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last_token",
    "cls": "cls",
    "mean": "mean",
    "lasttoken": "last_token",
}
# Modules that the engine computes, or that change nothing in a unit vector at inference.
_KNOWN = ("Transformer", "Pooling", "Normalize", "Dropout")
# Where `encode_query` and `encode_document` look for their prompt; the first that is there counts.
_PROMPT_NAMES: Mapping[Kind, tuple[str, ...]] = {
    "query": ("query",),
    "document": ("document", "passage", "corpus"),
}


@dataclass(frozen=True, slots=True)
class _Module:
    """One entry of `modules.json`: the class's last name, and its folder ("" is the checkpoint)."""

    kind: str
    path: str


def module_configs(folder: Path) -> list[str]:
    """The config files that `modules.json` names; nothing where it is absent or no such list."""
    try:
        modules = _modules(folder)
    except CheckpointError:
        return []  # told when the model is loaded
    return [f"{module.path}/{CONFIG}" for module in modules if module.path]


def check_modules(files: CheckpointFiles) -> None:
    """Refuse modules that would change dense vectors and are not computed here.

    Args:
        files: The checkpoint.

    Raises:
        CheckpointError: There is such a module; the message names it.
    """
    for module in _modules(files.folder):
        if module.kind not in _KNOWN:
            raise CheckpointError(
                f"{files.folder / MODULES} has a module {module.kind} in {module.path or '.'!r}, "
                f"which is not computed here (these are: {', '.join(_KNOWN)}); without it dense "
                "vectors would differ from the authors'. Use sentence-transformers for this model"
            )
        if module.kind == "Transformer" and module.path:
            raise CheckpointError(
                f"{files.folder / MODULES} keeps the transformer in {module.path!r}, beside the "
                f"one in {files.folder}; pass {files.folder / module.path} if that is the model"
            )


def stated_pooling(files: CheckpointFiles, *, strict: bool) -> Pooling | None:
    """The pooling that the checkpoint states.

    Args:
        files: The checkpoint.
        strict: Refuse what this package cannot do.

    Returns:
        The pooling, or None where nothing is said.

    Raises:
        CheckpointError: The pooling is unknown, or its config is missing.
    """
    path = _pooling_config(files)
    if path is None or not path.exists():
        if path is None or not strict:
            return None
        raise CheckpointError(
            f"{files.folder / MODULES} names {path}, which is not there: copy it, or pass pooling= "
            f"to choose one of {list(POOLINGS)}"
        )
    config = read_json(path)
    stated = {flag for flag, on in config.items() if on is True and flag.startswith("pooling_mode")}
    stated |= {str(config["pooling_mode"])} if "pooling_mode" in config else set()
    found = _POOLINGS.get(next(iter(stated))) if len(stated) == 1 else None
    if strict and found is None:
        raise CheckpointError(
            f"{path} asks for the pooling {sorted(stated)}, which is not one of {list(POOLINGS)}; "
            "pass pooling= to choose one of these"
        )
    if strict and found == "mean" and config.get("include_prompt") is False and _prompted(files):
        raise CheckpointError(
            f"{path} leaves the prompt out of the mean (include_prompt is false), which is not "
            "computed here; pass pooling= to choose another one"
        )
    return found


def prompt_of(files: CheckpointFiles, kind: Kind) -> str:
    """The text that sentence-transformers puts in front of queries or documents of this model.

    Args:
        files: The checkpoint.
        kind: Whether they are queries or documents.

    Returns:
        The prompt; empty where there is none.

    Raises:
        CheckpointError: The file with the prompts is malformed.
    """
    prompts, default = _prompts(files)
    own = [prompts[name] for name in _PROMPT_NAMES[kind] if name in prompts]
    # a prompt that is there and empty says that there is none
    return next(filter(None, own), "" if own else default)


def lowers_texts(files: CheckpointFiles) -> bool:
    """Whether texts are to be in lower case before they are split into tokens."""
    path = files.folder / TRANSFORMER
    return path.exists() and read_json(path).get("do_lower_case") is True


def _prompts(files: CheckpointFiles) -> tuple[dict[str, str], str]:
    """The prompts by name, and the one for texts whose kind has none."""
    path = files.folder / PROMPTS
    if not path.exists():
        return {}, ""
    config = read_json(path)
    prompts, default = config.get("prompts") or {}, config.get("default_prompt_name")
    if (
        not isinstance(prompts, dict)
        or not all(isinstance(prompt, str | None) for prompt in prompts.values())
        or (default is not None and (not isinstance(default, str) or default not in prompts))
    ):
        raise CheckpointError(
            f"{path} has prompts {json.dumps(prompts)[:200]} and the default {default!r}; they "
            "must be texts by name, and the default one of these names. Mend the file, or remove it"
        )
    held = {name: prompt or "" for name, prompt in prompts.items()}
    return held, held.get(default, "")


def _prompted(files: CheckpointFiles) -> bool:
    return any(prompt_of(files, kind) for kind in _PROMPT_NAMES)


def _pooling_config(files: CheckpointFiles) -> Path | None:
    folders = [m.path for m in _modules(files.folder) if m.kind == "Pooling"]
    if len(folders) > 1:
        raise CheckpointError(
            f"{files.folder / MODULES} names {len(folders)} pooling modules, {folders}; one is "
            "computed here"
        )
    return files.folder / folders[0] / CONFIG if folders else files.pooling_config


def _modules(folder: Path) -> list[_Module]:
    path = folder / MODULES
    if not path.exists():
        return []
    listed = read_value(path)
    try:
        return [_module(entry) for entry in listed]
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no list of modules, each with a type and a path inside the folder "
            f"({error}); download it again"
        ) from error


def _module(entry: Any) -> _Module:
    path = str(entry.get("path") or "").strip("/")
    if ".." in Path(path).parts or Path(entry.get("path") or "").is_absolute():
        raise ValueError(f"{entry['path']!r} leads out of it")
    return _Module(str(entry["type"]).rpartition(".")[2], path)
