"""Finding the files of a BGE-M3 checkpoint: in a folder, in the hub's cache, or on the hub."""

from __future__ import annotations

import difflib
import errno
import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bge_m3_integrations.errors import CheckpointError, InputError

REFERENCE_CHECKPOINT = "BAAI/bge-m3"

_CONFIG = "config.json"
_POOLING = "1_Pooling/config.json"
_COLBERT_HEAD = "colbert_linear.pt"
_SPARSE_HEAD = "sparse_linear.pt"
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
    "modules.json",
    _POOLING,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
_LFS_POINTER = b"version https://git-lfs"

# A failed request is an HTTPError of whichever client huggingface_hub is built on (requests,
# httpx or httpx2, by its version); naming it through the subclass imports none of them.
_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
_HUB_FAILURES = (OSError, RuntimeError, HFValidationError, _TRANSPORT_ERROR)


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """Where the parts of one checkpoint lie on this machine.

    Attributes:
        folder: Holds every file below, and `config.json`.
        weights: The backbone's tensors: one file, or all shards of one set (without the index).
        colbert_head: `colbert_linear.pt`.
        sparse_head: `sparse_linear.pt`.
        tokenizer: `tokenizer.json`, or the vocabulary that a tokenizer can be built from.
        pooling_config: `1_Pooling/config.json`, or None.
        name: The hub id, or the folder's name.
        revision: The commit that was resolved on the hub; None for a folder.
    """

    folder: Path
    weights: tuple[Path, ...]
    colbert_head: Path
    sparse_head: Path
    tokenizer: Path
    pooling_config: Path | None
    name: str
    revision: str | None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where files are looked for, and what to do if they are not there."""

    label: str
    fix: str


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository on the hub, and where its files are kept."""

    id: str
    revision: str | None
    cache_dir: Path

    def __str__(self) -> str:
        return f"{self.id}@{self.revision or constants.DEFAULT_REVISION}"


@dataclass(frozen=True, slots=True)
class _Choice:
    """The names to read: `entry` is a weights file, or the index of its shards."""

    entry: str
    tokenizer: str
    small: tuple[str, ...]


def resolve_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
) -> CheckpointFiles:
    """Find a checkpoint's files, downloading what is needed and nothing else.

    Args:
        model: A folder, used as it is, or a hub id `owner/name`.
        revision: Branch, tag or commit on the hub; not for a folder.
        cache_dir: Where downloads are kept; None is huggingface_hub's own cache.
        token: An access token; None is the one that is logged in, False sends none.
        offline: Read the cache only. The variable `HF_HUB_OFFLINE` does the same.
        trust_remote_code: Also download the repository's own Python files.

    Returns:
        The files, all of them present.

    Raises:
        InputError: An argument cannot be meant: an empty name, a revision of a folder.
        CheckpointError: Nothing is there, a part is missing or damaged, or the hub refuses.
    """
    _check_arguments(model, token)
    folder = _expanded(model)
    if folder.is_dir():
        return _from_folder(folder, revision)
    _check_hub_id(model, folder)
    cache = _expanded(cache_dir or constants.HF_HUB_CACHE)
    repository = _Repository(str(model), revision, cache)
    api = HfApi(token=token, library_name="bge-m3-integrations")
    if offline or constants.HF_HUB_OFFLINE:
        return _from_cache(repository, api)
    return _from_hub(repository, api, trust_remote_code=trust_remote_code)


def _check_arguments(model: str | Path, token: str | bool | None) -> None:
    if not str(model).strip():
        raise InputError(
            f'model is empty; pass a folder or a hub id such as "{REFERENCE_CHECKPOINT}"'
        )
    # The HTTP client's own complaint about such a header quotes the token.
    if isinstance(token, str) and not (token and token.isascii() and token.isprintable()):
        raise InputError("token= is empty or holds a line break or other unprintable characters")


def _expanded(path: str | Path) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # the home of a user who does not exist
        return Path(path)


def _check_hub_id(model: str | Path, folder: Path) -> None:
    if folder.exists():
        raise CheckpointError(f"{folder} is a file; pass the folder that holds {_CONFIG}")
    name = str(model)
    looks_like_a_path = (
        isinstance(model, Path)
        or folder.is_absolute()
        or name.startswith(("./", "../", "~"))
        or "\\" in name
        or name.count("/") != 1
    )
    if looks_like_a_path:
        raise CheckpointError(
            f"no folder {name!r} (the working directory is {Path.cwd()}), "
            f"and it is no hub id of the form owner/name.{_suggestion(name)}"
        )


def _suggestion(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), [REFERENCE_CHECKPOINT.lower()])
    return (
        f' Did you mean "{REFERENCE_CHECKPOINT}"?' if near and name != REFERENCE_CHECKPOINT else ""
    )


def _from_folder(folder: Path, revision: str | None) -> CheckpointFiles:
    if revision is not None:
        raise InputError(
            f"revision={revision!r} selects a version on the hub, but {folder} is a local folder; "
            "leave revision= out, or pass the hub id"
        )
    place = _Place(f"the folder {folder}", "Copy the missing files into it, or pass a hub id.")
    return _read_folder(folder, place, name=folder.resolve().name, revision=None)


def _from_cache(repository: _Repository, api: HfApi) -> CheckpointFiles:
    # config.json stands for the snapshot: which other names to ask for is not known offline.
    try:
        folder = _snapshot(repository, api, names=[_CONFIG], offline=True)
    except _HUB_FAILURES as error:
        raise CheckpointError(
            f"{repository} is not in the cache {repository.cache_dir}, and offline mode is on; "
            "run once online (offline=False and HF_HUB_OFFLINE unset), set cache_dir= to where it "
            "was downloaded, or pass a local folder"
        ) from error
    place = _Place(
        f"the cached copy of {repository} in {folder}", "Run once online to fetch the rest."
    )
    return _read_folder(folder, place, name=repository.id, revision=folder.name)


def _from_hub(repository: _Repository, api: HfApi, *, trust_remote_code: bool) -> CheckpointFiles:
    try:
        folder = _download(repository, api, trust_remote_code=trust_remote_code)
    except CheckpointError:
        raise
    except _HUB_FAILURES as error:
        raise CheckpointError(_explanation(error, repository, api)) from error
    place = _Place(f"the download of {repository} in {folder}", "Delete it and download again.")
    return _read_folder(folder, place, name=repository.id, revision=folder.name)


def _download(repository: _Repository, api: HfApi, *, trust_remote_code: bool) -> Path:
    info = api.model_info(repository.id, revision=repository.revision)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    place = _Place(str(repository), f"Pass another checkpoint, such as {REFERENCE_CHECKPOINT}.")
    choice = _choose(names, place)
    code = [name for name in names if name.endswith(".py") and "/" not in name]
    small = [*choice.small, *(code if trust_remote_code else ())]
    # The weights come last, so a download that broke off never looks complete when offline.
    folder = _snapshot(repository, api, names=small)
    weights = _weight_names(folder, choice.entry, names)
    commit = _Repository(repository.id, folder.name, repository.cache_dir)
    return _snapshot(commit, api, names=weights)


def _snapshot(
    repository: _Repository, api: HfApi, *, names: Sequence[str], offline: bool = False
) -> Path:
    folder = api.snapshot_download(
        repository.id,
        revision=repository.revision,
        cache_dir=repository.cache_dir,
        allow_patterns=list(names),
        local_files_only=offline,
    )
    return Path(str(folder))


def _read_folder(
    folder: Path, place: _Place, *, name: str, revision: str | None
) -> CheckpointFiles:
    names = _names(folder)
    choice = _choose(names, place)
    for file in choice.small:
        _check_content(folder / file)
    _read_json(folder / _CONFIG)
    weights = _weight_names(folder, choice.entry, names)
    for file in weights:
        _check_content(folder / file)
    return CheckpointFiles(
        folder=folder,
        weights=tuple(folder / file for file in weights),
        colbert_head=folder / _COLBERT_HEAD,
        sparse_head=folder / _SPARSE_HEAD,
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


def _choose(names: Collection[str], place: _Place) -> _Choice:
    """Pick what is needed from the names that are there, or say all that is missing."""
    entry = _first(_WEIGHTS, names)
    tokenizer = _first(_TOKENIZERS, names)
    missing = list(_missing(names, entry, tokenizer))
    if missing or entry is None or tokenizer is None:
        raise CheckpointError(
            f"{place.label} is no complete BGE-M3 checkpoint; it lacks: {'; '.join(missing)}. "
            f"It has: {_listing(names)}. {place.fix}"
        )
    vocabulary = ("tokenizer.json",) if "tokenizer.json" in names else (*_TOKENIZERS, "merges.txt")
    wanted = (_CONFIG, _COLBERT_HEAD, _SPARSE_HEAD, *_OPTIONAL, *vocabulary)
    index = (entry,) if entry.endswith(_INDEX_SUFFIX) else ()
    return _Choice(entry, tokenizer, (*(name for name in wanted if name in names), *index))


def _missing(names: Collection[str], entry: str | None, tokenizer: str | None) -> list[str]:
    heads = [head for head in (_COLBERT_HEAD, _SPARSE_HEAD) if head not in names]
    parts = {
        f"{_CONFIG}, the architecture": _CONFIG in names,
        f"weights, one of {', '.join(_WEIGHTS)} (ONNX, Flax and TensorFlow are not read)": entry,
        f"a tokenizer, one of {', '.join(_TOKENIZERS)}": tokenizer,
        f"{' and '.join(heads)} (both {_COLBERT_HEAD} and {_SPARSE_HEAD} are needed: without the "
        "trained heads sparse and ColBERT numbers would be random; "
        f"{REFERENCE_CHECKPOINT} and what FlagEmbedding fine-tunes from it have them)": not heads,
    }
    return [part for part, found in parts.items() if not found]


def _first(candidates: Sequence[str], names: Collection[str]) -> str | None:
    return next((name for name in candidates if name in names), None)


def _listing(names: Collection[str], *, limit: int = 20) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(sorted(names)[:limit]) or "nothing") + more


def _weight_names(folder: Path, entry: str, names: Collection[str]) -> list[str]:
    """The weights file, or the shards that its index names."""
    if not entry.endswith(_INDEX_SUFFIX):
        return [entry]
    weight_map = _read_json(folder / entry).get("weight_map")
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


def _read_json(path: Path) -> dict[str, Any]:
    _check_content(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} holds a JSON {type(value).__name__}, not an object; download it again"
        )
    return value


def _check_content(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(len(_LFS_POINTER))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is a link to a file that is not there; copy or download the file itself"
        ) from error
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    if head == _LFS_POINTER:
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file; run `git lfs pull` in its folder, "
            "or download the checkpoint again"
        )
    if not head:
        raise CheckpointError(f"{path} is empty; copy or download it again")


_REFUSALS: tuple[tuple[type[Exception], str], ...] = (
    (
        GatedRepoError,
        "{repo} is gated: ask for access on its page, then pass token=, or pass a local folder",
    ),
    (
        RepositoryNotFoundError,
        "no repository {id!r} at {host}: check the spelling, pass token= if it is private, "
        "or pass a local folder.{suggestion}",
    ),
    (
        RevisionNotFoundError,
        "{id} has no revision {revision!r}: check the branch, tag or commit, "
        "or leave revision= out for the default branch",
    ),
    (
        HFValidationError,
        "{id!r} is neither an existing folder nor a valid hub id (owner/name).{suggestion}",
    ),
    (
        LocalTokenNotFoundError,
        "token=True, but nobody is logged in: run `hf auth login`, or pass the token itself",
    ),
)
_STATUSES = {
    401: "{host} refused the access token for {repo} (401): pass a valid token=, "
    "or token=False for a public repository",
    403: "{host} denies access to {repo} (403): pass a token= that may read it, "
    "or pass a local folder",
    429: "{host} limits the rate of requests (429): wait, pass token=, or pass a local folder",
}
_DISK_FULL = os.strerror(errno.ENOSPC)


def _explanation(error: BaseException, repository: _Repository, api: HfApi) -> str:
    """Say why the hub's files could not be had, and what to do; never quotes the error or token."""
    if isinstance(error, LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return _template(error).format(
        id=repository.id,
        repo=repository,
        revision=repository.revision,
        cache=repository.cache_dir,
        host=urlsplit(api.endpoint).hostname,
        suggestion=_suggestion(repository.id),
        kind=type(error).__name__,
    )


def _template(error: BaseException) -> str:
    for kind, text in _REFUSALS:
        if isinstance(error, kind):
            return text
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        otherwise = f"{{host}} answered {status} for {{repo}}: try again later, "
        return _STATUSES.get(status, otherwise + "or pass a local folder")
    if reason := _disk_reason(error):
        return f"{{repo}} cannot be stored in {{cache}}: {reason}; set cache_dir= to another folder"
    return (
        "cannot reach {host} for {repo} ({kind}): check the connection and proxy, pass a local "
        "folder, or offline=True if it was downloaded before"
    )


def _disk_reason(error: BaseException) -> str | None:
    """What the file system said, or None if the error came from elsewhere."""
    # The native downloader reports a full disk as a RuntimeError that quotes the system's words.
    if _DISK_FULL in str(error):
        return _DISK_FULL
    if isinstance(error, (ConnectionError, TimeoutError)) or not isinstance(error, OSError):
        return None
    return os.strerror(error.errno) if error.errno else None
