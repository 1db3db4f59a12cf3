"""What an index folder says about itself: `manifest.json`, replaced as a whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from bge_m3_integrations.core.embeddings import Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.validation import COLBERT_KINDS

NAME = "manifest.json"
FORMAT = 1
REENCODE = "reencode"
"""The kind that keeps no token vectors: candidates are encoded again when they are scored."""
KIND = "bge-m3-integrations index"

_GUARDED = ("modes", "dim", "colbert_dim", "colbert", "pooling", "filter_fields")
_GUARDED_NOTES = ("document_instruction", "query_instruction", "clean")


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """Which encoder made an index's numbers.

    Attributes:
        fingerprint: See `Encoder.fingerprint`; empty where it is not known yet.
        model: Folder or hub id, by which it can be loaded again.
        revision: Of the hub id.
        dtype: What it computed in.
        max_length: Of documents, in tokens; None is the model's own.
        pooling: How the dense vector is made, as the engine was told.
        document_instruction: Put in front of every document; None is the checkpoint's own prompt.
        query_instruction: Put in front of every query; another engine may have another.
        clean: Whether texts were mended before they were encoded.
        name: What an encoder that is not loaded by `model` is called.
    """

    fingerprint: str
    model: str | None = None
    revision: str | None = None
    dtype: str | None = None
    max_length: int | None = None
    pooling: str | None = None
    document_instruction: str | None = ""
    query_instruction: str | None = ""
    clean: bool = False
    name: str | None = None

    def _wrong(self) -> str | None:
        """The name of a value that no manifest of ours has."""
        kinds = {"max_length": int, "clean": bool}
        for name, value in asdict(self).items():
            left_out = value is None and name not in {"fingerprint", "clean"}
            if not left_out and not isinstance(value, kinds.get(name, str)):
                return name
        return None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an index holds.

    Attributes:
        modes: In the package's order.
        dim: Width of dense vectors; None without the mode.
        colbert_dim: Width of token vectors; None without the mode.
        colbert: How token vectors are kept, or `REENCODE`; None without the mode.
        pooling: How many neighbouring token vectors share one that is kept.
        filter_fields: Metadata paths that the engine filters by; None is all.
        generation: Which shard folder is the index's; 0 before there is one.
        encoder: What made the numbers, where that is known.
        format: Version of this file and of what lies beside it.
        kind: Tells the folder from others.
    """

    modes: tuple[Mode, ...]
    dim: int | None
    colbert_dim: int | None
    colbert: str | None
    pooling: int = 1
    filter_fields: tuple[str, ...] | None = None
    generation: int = 0
    encoder: EncoderInfo | None = None
    format: int = FORMAT
    kind: str = KIND

    @property
    def shard(self) -> str:
        """The name of the shard's folder."""
        return shard_name(self.generation)

    @property
    def kept(self) -> frozenset[Mode]:
        """The modes whose numbers are in the shard."""
        return frozenset(self.modes) - ({"colbert"} if self.colbert == REENCODE else set())

    @property
    def fields(self) -> frozenset[str] | None:
        """The metadata paths that the engine filters by."""
        return None if self.filter_fields is None else frozenset(self.filter_fields)

    @property
    def widths(self) -> dict[Mode, int]:
        """The width of a vector, for each mode that has one."""
        held: dict[Mode, int | None] = {"dense": self.dim, "colbert": self.colbert_dim}
        return {mode: width for mode, width in held.items() if width is not None}

    @property
    def guard(self) -> int:
        """A checksum of what the numbers and filters of the index depend on."""
        return _guard(asdict(self))

    def next(self) -> Manifest:
        """The same index with its next shard."""
        return replace(self, generation=self.generation + 1)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest; a crash leaves the old one or the new one.

        Args:
            folder: An index's folder.

        Raises:
            StoreError: It cannot be written; the old one is there.
        """
        replace_file(folder / NAME, json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The folder's manifest; None where there is none.

        Args:
            folder: An index's folder.

        Returns:
            The manifest.

        Raises:
            StoreError: The file is not ours, or of a later version of this package.
        """
        try:
            held = json.loads(read_file(folder / NAME))
        except FileNotFoundError:
            return None
        except NotADirectoryError as error:
            raise StoreError(f"{folder} is a file; an index needs a folder") from error
        except OSError as error:
            raise StoreError(f"{folder / NAME} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{folder / NAME} is no manifest of ours: {error}") from error
        return cls._parsed(held, folder)

    @classmethod
    def _parsed(cls, held: Any, folder: Path) -> Self:
        if not isinstance(held, dict) or held.get("kind") != KIND:
            raise StoreError(f"{folder / NAME} is no manifest of ours; choose another folder")
        if held.get("format") != FORMAT:
            raise StoreError(
                f"the index in {folder} has format {held.get('format')}, this version reads "
                f"{FORMAT}; use the version of bge-m3-integrations that wrote it, or rebuild it"
            )
        try:
            note = held["encoder"]
            fields_of = held["filter_fields"]
            read = cls(
                **{
                    **held,
                    "modes": tuple(ordered_modes(as_modes(held["modes"]))),
                    "filter_fields": None if fields_of is None else tuple(sorted(fields_of)),
                    "encoder": None if note is None else EncoderInfo(**note),
                }
            )
            if not isinstance(fields_of, list | None):
                raise TypeError(f"filter_fields={fields_of!r} is no list")
            if wrong := read._wrong():
                raise ValueError(f"{wrong}={getattr(read, wrong)!r}{_instead(wrong)}")
            if read.encoder is not None and (wrong := read.encoder._wrong()):
                raise ValueError(f"encoder: {wrong}={getattr(read.encoder, wrong)!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{folder / NAME} is damaged: {error}; restore a backup") from error
        return read

    def _wrong(self) -> str | None:
        """The name of a value that no manifest of ours has."""
        sound = {
            "generation": _is_count(self.generation, 0),
            "pooling": _is_count(self.pooling, 1),
            "dim": _is_count(self.dim, 1) or "dense" not in self.kept,
            "colbert_dim": _is_count(self.colbert_dim, 1) or "colbert" not in self.kept,
            "colbert": self.colbert in COLBERT_KINDS or "colbert" not in self.modes,
            "filter_fields": all(isinstance(field, str) for field in self.filter_fields or ()),
        }
        return next((name for name in sound if not sound[name]), None)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller expects of an index; None stands for "as it is", and for a default if new.

    Attributes: See `Manifest`.
    """

    modes: Modes | None = None
    dim: int | None = None
    colbert_dim: int | None = None
    colbert: str | None = None
    pooling: int | None = None
    filter_fields: tuple[str, ...] | None = None
    encoder: EncoderInfo | None = None
    allow_dtype_mismatch: bool = False

    def check(self, held: Manifest, folder: Path) -> None:
        """Compare with an index that is there.

        Args:
            held: What it holds.
            folder: Where.

        Raises:
            StoreError: The two contradict each other; the message names both sides.
        """
        if self.encoder is not None and held.encoder is not None:
            _check_encoder(
                self.encoder, held.encoder, folder, allow_dtype_mismatch=self.allow_dtype_mismatch
            )
        for name, mine, its in self._pairs(held):
            if mine is not None and its is not None and mine != its:
                fields = name == "filter_fields"
                remedy = "call its set_filter_fields" if fields else "build another index"
                raise StoreError(
                    f"the index in {folder} has {name} {its!r}, but {mine!r} is asked for; leave "
                    f"{name} out to open it as it is, or {remedy}"
                )

    def _pairs(self, held: Manifest) -> list[tuple[str, Any, Any]]:
        wanted = None if self.modes is None else tuple(ordered_modes(self.modes))
        fields = held.filter_fields
        return [
            ("modes", wanted, held.modes),
            ("dim", self.dim, held.dim),
            ("colbert_dim", self.colbert_dim, held.colbert_dim),
            ("colbert", self.colbert, held.colbert or "none"),
            ("pooling", self.pooling, held.pooling),
            ("filter_fields", self.filter_fields, "all" if fields is None else fields),
        ]


def _instead(name: str) -> str:
    if name != "colbert":
        return ""
    return f" is not one of {list(COLBERT_KINDS)}; a newer version may have written it, or else"


def guard_of(folder: Path) -> int | None:
    """The `Manifest.guard` of the manifest in a folder; None where none can be read.

    What only names the model, and what is compared with the engine anyway, may be edited by hand.

    Args:
        folder: An index's folder.

    Returns:
        The checksum.
    """
    try:
        held = json.loads(read_file(folder / NAME))
        return _guard(held)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _guard(held: Mapping[str, Any]) -> int:
    said = {name: held[name] for name in _GUARDED}
    note = held["encoder"] or {}
    said["encoder"] = {name: note.get(name) for name in _GUARDED_NOTES}
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def shard_name(generation: int) -> str:
    """The folder of a shard."""
    return f"shard-{generation:04}"


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_file(path: Path) -> str:
    """Read a small file, which somebody may have edited by hand.

    Args:
        path: The file.

    Returns:
        Its text.

    Raises:
        OSError: It cannot be read, or is a pipe or a device, whose end would be waited for.
        ValueError: It is no text.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "it is no file but a pipe or a device", str(path))
    return path.read_text(encoding="utf-8-sig")


def replace_file(path: Path, text: str) -> None:
    """Write a file that is the old one or the new one, whatever crashes.

    Args:
        path: The file.
        text: Its new content.

    Raises:
        StoreError: It cannot be written; the old one is there.
    """
    new = path.with_name(f"{path.name}.new")
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise StoreError(f"{path} cannot be written: {error}; it is as before") from error


def _check_encoder(
    mine: EncoderInfo, its: EncoderInfo, folder: Path, *, allow_dtype_mismatch: bool
) -> None:
    if mine.fingerprint and mine.fingerprint != its.fingerprint:
        raise StoreError(
            f"the index in {folder} was made by {_described(its)}, but {_described(mine)} is to "
            "search it: their numbers cannot be compared; open it with its own model, or build "
            "another index"
        )
    if (mine.dtype == "int8") != (its.dtype == "int8") and not allow_dtype_mismatch:
        raise StoreError(
            f"the index in {folder} was made in {its.dtype}, but {mine.dtype} is to search it: "
            "8 bits move every score; load the model in the same dtype, or pass "
            "allow_dtype_mismatch=True"
        )
    if mine.max_length != its.max_length:
        raise StoreError(
            f"documents of the index in {folder} were cut at {its.max_length or 'the full length'} "
            f"tokens, but the engine cuts at {mine.max_length or 'the full length'}; set the same "
            "max_length"
        )


def _described(note: EncoderInfo) -> str:
    return f"{note.model or note.name or 'a model'} (fingerprint {note.fingerprint[:12]})"
