"""Finding a checkpoint: in a folder, in the hub's cache, or on the hub, with errors that help."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
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

from bge_m3_integrations._version import __version__
from bge_m3_integrations.encoders.torch.files import (
    CONFIG,
    HEADS,
    REFERENCE_CHECKPOINT,
    CheckpointFiles,
    Place,
    choose,
    read_folder,
    weight_names,
)
from bge_m3_integrations.encoders.torch.sentence_transformers import module_configs
from bge_m3_integrations.errors import CheckpointError, InputError

# A failed request is an HTTPError of whichever client huggingface_hub is built on (requests,
# httpx or httpx2, by its version); naming it through the subclass imports none of them.
_TRANSPORT_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
_HUB_FAILURES = (OSError, RuntimeError, HFValidationError, _TRANSPORT_ERROR)


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository on the hub, and where its files are kept."""

    id: str
    revision: str | None
    cache_dir: Path

    def __str__(self) -> str:
        return f"{self.id}@{self.revision or constants.DEFAULT_REVISION}"


def resolve_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    offline: bool = False,
    trust_remote_code: bool = False,
) -> CheckpointFiles:
    """Find a checkpoint's files, downloading the needed ones and nothing else.

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
    api = HfApi(token=token, library_name="bge-m3-integrations", library_version=__version__)
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
        raise CheckpointError(f"{folder} is a file; pass the folder that holds {CONFIG}")
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
    place = Place(f"the folder {folder}", "Copy the missing files into it, or pass a hub id.")
    return read_folder(folder, place, name=folder.resolve().name, revision=None)


def _from_cache(repository: _Repository, api: HfApi) -> CheckpointFiles:
    # config.json stands for the snapshot: which other names to ask for is not known offline.
    try:
        folder = _snapshot(repository, api, names=[CONFIG], offline=True)
    except _HUB_FAILURES as error:
        raise CheckpointError(
            f"{repository} is not in the cache {repository.cache_dir}, and offline mode is on; "
            "run once online (offline=False and HF_HUB_OFFLINE unset), set cache_dir= to where it "
            "was downloaded, or pass a local folder"
        ) from error
    place = Place(
        f"the cached copy of {repository} in {folder}", "Run once online to fetch the rest."
    )
    files = read_folder(folder, place, name=repository.id, revision=folder.name)
    if repository.id == REFERENCE_CHECKPOINT and len(files.heads) < len(HEADS):
        lacking = [name for mode, name in HEADS.items() if mode not in files.heads]
        raise CheckpointError(f"{place.label} lacks: {', '.join(lacking)}. {place.fix}")
    return files


def _from_hub(repository: _Repository, api: HfApi, *, trust_remote_code: bool) -> CheckpointFiles:
    try:
        folder = _download(repository, api, trust_remote_code=trust_remote_code)
    except CheckpointError:
        raise
    except _HUB_FAILURES as error:
        raise CheckpointError(_explanation(error, repository, api)) from error
    place = Place(f"the download of {repository} in {folder}", "Delete it and download again.")
    return read_folder(folder, place, name=repository.id, revision=folder.name)


def _download(repository: _Repository, api: HfApi, *, trust_remote_code: bool) -> Path:
    info = api.model_info(repository.id, revision=repository.revision)
    names = [sibling.rfilename for sibling in info.siblings or ()]
    place = Place(str(repository), f"Pass another checkpoint, such as {REFERENCE_CHECKPOINT}.")
    choice = choose(names, place)
    code = [name for name in names if name.endswith(".py") and "/" not in name]
    small = [*choice.small, *(code if trust_remote_code else ())]
    # The weights come last, so a download that broke off never looks complete when offline.
    folder = _snapshot(repository, api, names=small)
    weights = weight_names(folder, choice.entry, names)
    parts = [name for name in module_configs(folder) if name in names]
    commit = _Repository(repository.id, folder.name, repository.cache_dir)
    if extra := sorted({*parts} - {*choice.small}):
        _snapshot(commit, api, names=extra)
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
    """The file system's reason, or None if the error came from elsewhere."""
    # The native downloader reports a full disk as a RuntimeError that quotes the system's words.
    if _DISK_FULL in str(error):
        return _DISK_FULL
    if isinstance(error, (ConnectionError, TimeoutError)) or not isinstance(error, OSError):
        return None
    return os.strerror(error.errno) if error.errno else None
