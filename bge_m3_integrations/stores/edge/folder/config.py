"""The options by which an index is begun, or compared with one that is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bge_m3_integrations.core.embeddings import Mode, Modes, as_modes, ordered_modes
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.stores.edge.folder.manifest import REENCODE, EncoderInfo, Manifest
from bge_m3_integrations.stores.validation import COLBERT_KINDS, as_fields

_TURBO8_FROM = 1024
"""Width of token vectors from which one byte per number is exact enough to be the default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderConfig:
    """The options of an index in a folder; None stands for "as it is", and for a default if new.

    Attributes:
        modes: The modes to keep; by default those of which a width is given, and sparse.
        dim: Width of dense vectors; a new index with the mode needs it.
        colbert_dim: Width of token vectors; a new index with the mode needs it.
        colbert: How token vectors are kept: "turbo8" (1 byte per number, error of a score about
            3e-5 at a width of 1,024, and there the default), "float16" (the default of narrower
            ones), "float32", or "reencode": not at all, then scores encode candidates again.
        pooling: How many token vectors share one that is kept; the caller pools, and this is
            written down. Default 1.
        filter_fields: Metadata paths that filters are to be fast on; by default all. Filters on
            other paths work and read every record.
        encoder: The maker of the numbers; compared with the one of those of an old index.
        allow_dtype_mismatch: Let int8 numbers meet float ones.
    """

    modes: Modes | None = None
    dim: int | None = None
    colbert_dim: int | None = None
    colbert: str | None = None
    pooling: int | None = None
    filter_fields: Sequence[str] | None = None
    encoder: EncoderInfo | None = None
    allow_dtype_mismatch: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "filter_fields", as_fields(self.filter_fields))

    def check(self, held: Manifest, folder: Path) -> None:
        """Raise `StoreError` where an index that is there contradicts it, naming both sides."""
        if self.encoder is not None and held.encoder is not None:
            self._check_encoder(self.encoder, held.encoder, folder)
        for name, mine, its in self._pairs(held):
            if mine is not None and its is not None and mine != its:
                fields = name == "filter_fields"
                remedy = "call its set_filter_fields" if fields else "build another index"
                raise StoreError(
                    f"the index in {folder} has {name} {its!r}, but {mine!r} is asked for; leave "
                    f"{name} out to open it as it is, or {remedy}"
                )

    def _pairs(self, held: Manifest) -> list[tuple[str, Any, Any]]:
        modes = None if self.modes is None else tuple(ordered_modes(self.modes))
        fields = held.filter_fields
        return [
            ("modes", modes, held.modes),
            ("dim", self.dim, held.dim),
            ("colbert_dim", self.colbert_dim, held.colbert_dim),
            ("colbert", self.colbert, held.colbert or "none"),
            ("pooling", self.pooling, held.pooling),
            ("filter_fields", self.filter_fields, "all" if fields is None else fields),
        ]

    def _check_encoder(self, mine: EncoderInfo, its: EncoderInfo, folder: Path) -> None:
        if mine.fingerprint and mine.fingerprint != its.fingerprint:
            raise StoreError(
                f"the index in {folder} was made by {_described(its)}, but {_described(mine)} is "
                "to search it: their numbers cannot be compared; open it with its own model, or "
                "build another index"
            )
        if (mine.dtype == "int8") != (its.dtype == "int8") and not self.allow_dtype_mismatch:
            raise StoreError(
                f"the index in {folder} was made in {its.dtype}, but {mine.dtype} is to search it: "
                "8 bits move every score; load the model in the same dtype, or pass "
                "allow_dtype_mismatch=True"
            )
        if mine.max_length != its.max_length:
            raise StoreError(
                f"documents of the index in {folder} were cut at "
                f"{its.max_length or 'the full length'} tokens, but the engine cuts at "
                f"{mine.max_length or 'the full length'}; set the same max_length"
            )

    def new_manifest(self) -> Manifest:
        """Make the manifest of a new index; `InputError` if a width is missing or a value wrong."""
        colbert = _usual(self.colbert_dim) if self.colbert is None else self.colbert
        if colbert not in COLBERT_KINDS:
            raise InputError(f"colbert={colbert!r} is not one of {list(COLBERT_KINDS)}")
        widths: dict[Mode, int | None] = {"dense": self.dim, "colbert": self.colbert_dim}
        given = frozenset(mode for mode, width in widths.items() if width is not None)
        modes = as_modes(given | {"sparse"} if self.modes is None else self.modes)
        kept = modes - {"colbert"} if colbert == REENCODE else modes
        if missing := [mode for mode in widths if mode in kept and widths[mode] is None]:
            raise InputError(
                f"a new index by {ordered_modes(modes)} needs the width of {missing}: dim= and "
                "colbert_dim=, as the encoder has them"
            )
        return Manifest(
            modes=tuple(ordered_modes(modes)),
            dim=self.dim if "dense" in kept else None,
            colbert_dim=self.colbert_dim if "colbert" in kept else None,
            colbert=colbert if "colbert" in modes else None,
            pooling=1 if self.pooling is None else check_int("pooling", self.pooling),
            filter_fields=as_fields(self.filter_fields),
            encoder=self.encoder,
        )


def _usual(width: int | None) -> str:
    """The cheapest kind whose scores are within 0.0003 of float32's: see `docs/storage.md`."""
    return "turbo8" if width is None or width >= _TURBO8_FROM else "float16"


def _described(encoder: EncoderInfo) -> str:
    name = encoder.model or encoder.name or "a model"
    return f"{name} (fingerprint {encoder.fingerprint[:12]})"
