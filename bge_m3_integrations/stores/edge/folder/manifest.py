"""The manifest of an index folder: `manifest.json`, replaced as a whole or not at all."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from bge_m3_integrations.core.embeddings import Mode, as_modes, ordered_modes
from bge_m3_integrations.core.filters import OPERATORS
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.base import Capabilities
from bge_m3_integrations.stores.edge.folder.files import read_file, read_object, replace_file
from bge_m3_integrations.stores.validation import COLBERT_KINDS

NAME = "manifest.json"
FORMAT = 1
REENCODE = "reencode"
"""The kind that keeps no token vectors: candidates are encoded again when they are scored."""
KIND = "bge-m3-integrations index"
SHARD = re.compile(r"shard-(\d{4,})(\.([0-9a-f]{8}\.)?new)?")
"""Names of shards' folders, of finished ones and of others."""

_GUARDED = ("modes", "dim", "colbert_dim", "colbert", "pooling", "filter_fields")
_GUARDED_ENCODER = ("document_instruction", "query_instruction", "clean")


@dataclass(frozen=True, slots=True)
class EncoderInfo:
    """The encoder that made an index's numbers.

    Attributes:
        fingerprint: See `Encoder.fingerprint`; empty where it is not known yet.
        model: Folder or hub id, by which it can be loaded again.
        revision: Of the hub id.
        dtype: Of its computations.
        max_length: Of documents, in tokens; None is the model's own.
        pooling: How the dense vector is made, as the engine was told.
        document_instruction: Put in front of every document; None is the checkpoint's own prompt.
        query_instruction: Put in front of every query; another engine may have another.
        clean: Whether texts were mended before they were encoded.
        name: The name of an encoder that is not loaded by `model`.
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
    """The contents of an index.

    Attributes:
        modes: In the package's order.
        dim: Width of dense vectors; None without the mode.
        colbert_dim: Width of token vectors; None without the mode.
        colbert: How token vectors are kept, or `REENCODE`; None without the mode.
        pooling: How many neighboring token vectors share one that is kept.
        filter_fields: Metadata paths that the engine filters by; None is all.
        generation: The number of the index's shard folder; 0 before there is one.
        encoder: The maker of the numbers, where that is known.
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
    def capabilities(self) -> Capabilities:
        """The abilities of a store over such a folder."""
        modes = self.kept
        kind = self.colbert if "colbert" in modes else None
        return Capabilities(modes, modes, modes, OPERATORS, durable=True, colbert_kind=kind)

    @property
    def guard(self) -> int:
        """A checksum of what the numbers and filters of the index depend on."""
        return _guard(asdict(self))

    def next(self) -> Manifest:
        """The same index with its next shard."""
        return replace(self, generation=self.generation + 1)

    def write(self, folder: Path) -> None:
        """Replace the folder's manifest; a crash leaves the old one or the new one."""
        replace_file(folder / NAME, json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read the folder's manifest; None where there is none.

        It raises `StoreError` where the file is not ours, or of a later version of this package.
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


def _instead(name: str) -> str:
    if name != "colbert":
        return ""
    return f" is not one of {list(COLBERT_KINDS)}; a newer version may have written it, or else"


def guard_of(folder: Path) -> int | None:
    """Return the `Manifest.guard` of the manifest in a folder; None where none can be read.

    What only names the model, and what is compared with the engine anyway, may be edited by hand.
    """
    with suppress(KeyError, TypeError, AttributeError):
        return _guard(read_object(folder / NAME))
    return None


def _guard(held: Mapping[str, Any]) -> int:
    said = {name: held[name] for name in _GUARDED}
    encoder = held["encoder"] or {}
    said["encoder"] = {name: encoder.get(name) for name in _GUARDED_ENCODER}
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def shard_name(generation: int) -> str:
    """Return the name of the folder of a shard."""
    return f"shard-{generation:04}"
