"""An index under LlamaIndex's `StorageContext`: a small file that says which folder holds it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from bge_m3_integrations.core.validation import as_path
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.config import for_reading
from bge_m3_integrations.index.index import HybridIndex

FORMAT = 1
_KIND = "bge-m3-integrations vector store"
# SimpleVectorStore turns the "numbers" into floats, and its error shows the sentence
_TRAP = {
    "bge_m3": [
        "this is a BGEM3VectorStore; open it with BGEM3VectorStore.from_persist_dir(...) and pass "
        "it as StorageContext.from_defaults(vector_store=...)"
    ]
}


@dataclass(frozen=True, slots=True)
class Pointer:
    """The contents of the file.

    Attributes:
        folder: The index's.
        options: The vector store's fields.
    """

    folder: Path
    options: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Replace the file; a crash leaves the old one or the new one.

        An index's folder inside the file's own folder is written down relative to it.
        """
        from bge_m3_integrations.stores.edge.folder.files import sync_folder

        here, folder = path.resolve().parent, self.folder.resolve()
        place = folder.relative_to(here) if folder.is_relative_to(here) else folder
        data = {"kind": _KIND, "format": FORMAT, "index": place.as_posix()}
        data |= {"options": dict(self.options), "embedding_dict": _TRAP}
        new = path.with_name(f"{path.name}.new")
        with new.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)

    @classmethod
    def read(cls, path: Path) -> Pointer:
        """Read the file; `StoreError` where it is missing, damaged or not of this version."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"no vector store can be read from {path}: {error}") from error
        if not isinstance(data, dict) or data.get("kind") != _KIND:
            raise StoreError(
                f"{path} was not written by a BGEM3VectorStore; load it with the class that wrote "
                "it"
            )
        if (found := data.get("format", FORMAT)) != FORMAT:
            raise StoreError(
                f"{path} has format {found}, and this version reads {FORMAT}; install "
                "the version of bge-m3-integrations that wrote it"
            )
        kinds = {"format": int, "index": str, "options": dict}
        wrong = [name for name, kind in kinds.items() if type(data.get(name)) is not kind]
        wrong += ["index"] if data.get("index") == "" else []
        if wrong:
            raise StoreError(
                f"{path} is damaged: {', '.join(map(repr, wrong))} is missing in it or of another "
                "type; write it again with persist(), from the folder of the index"
            )
        return cls(path.resolve().parent / data["index"], data["options"])


def kept_in_folder(index: HybridIndex, path: Path) -> Path:
    """The folder that holds an index, flushed to disk, for the file `path` to name it.

    An index in memory is copied to a new folder beside the file, its numbers as they are.
    """
    if index.path is not None:
        index.flush()
        return index.path
    names = (f"{path.stem}-{n:04}" for n in count(1))
    folder = next(new for name in names if not (new := path.with_name(name)).exists())
    index.copy_to(folder)
    return folder


def opened(path: Path, engine: BGEM3 | None) -> tuple[HybridIndex, Mapping[str, Any]]:
    """The index that a file names, which the caller closes, and the vector store's fields."""
    pointer = Pointer.read(path)
    if not pointer.folder.is_dir():
        raise StoreError(f"{path} names the index in {pointer.folder}, which is not there")
    read_only = for_reading(pointer.folder).read_only
    index = HybridIndex.open(pointer.folder, engine, create=False, read_only=read_only)
    return index, pointer.options


def local(path: str | Path, fs: object) -> Path:
    """The path; `InputError` where `fs`, of fsspec or None, is not this machine's file system."""
    protocol = getattr(fs, "protocol", "file")
    names = {protocol} if isinstance(protocol, str) else set(protocol)
    if fs is not None and "file" not in names:
        raise InputError(
            f"an index in a folder needs a local disk, not {sorted(names)}; persist it locally and "
            "copy the folder"
        )
    return as_path(path, name="persist_path")
