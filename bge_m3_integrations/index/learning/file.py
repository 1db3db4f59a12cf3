"""Learned weights beside their index: one file, replaced in one step, without pickle."""

from __future__ import annotations

import json
import math
import os
import secrets
import threading
import zipfile
import zlib
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from bge_m3_integrations._internal.file_state import file_state
from bge_m3_integrations.core.idf import IdfTable
from bge_m3_integrations.core.learned import LearnedSum, LearnedWeights
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.weighting import LEARNED, LEARNED_FILE, MeasuredOn
from bge_m3_integrations.errors import InputError, StoreError

_FORMAT: Final = 1
_DAMAGE = (EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error, InputError)
_IDF = ("token_ids", "counts", "script")


class LearnedFile:
    """The learned weights in the folder of an index, read again when their file changes.

    Args:
        folder: The index's.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEARNED_FILE
        self._lock = threading.Lock()
        self._seen: tuple[object, LearnedWeights | None] = (None, None)

    def now(self) -> LearnedWeights | None:
        """The weights as the file has them now.

        Returns:
            The weights; None where none were learned.

        Raises:
            StoreError: The file is damaged, of a later version, or cannot be read.
        """
        state = file_state(self.path)
        if state == self._seen[0]:
            return self._seen[1]
        with self._lock:
            if state != self._seen[0]:
                self._seen = (state, None if state is None else load_learned(self.path))
            return self._seen[1]

    def replace(self, learned: LearnedWeights) -> None:
        """Write the file; it is the old one or the new one, whatever crashes.

        Args:
            learned: The weights.

        Raises:
            StoreError: It cannot be written; it is as before.
        """
        new = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.new")
        try:
            with new.open("wb") as file:
                np.savez_compressed(file, **_arrays(learned))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            raise StoreError(
                f"learned weights were not kept in {self.path.parent}: {error.strerror or error}; "
                "learn_weights(save=False) keeps them in memory"
            ) from error
        finally:
            with suppress(OSError):
                new.unlink(missing_ok=True)


def _arrays(learned: LearnedWeights) -> dict[str, Any]:
    """The contents of the file: arrays, and all else as JSON in one of them."""
    fusion = learned.fusion
    if not isinstance(fusion, LearnedSum):
        raise InputError(f"these weights were not learned: {learned!r}")
    idf = fusion.idf
    about = {
        "format": _FORMAT,
        "weights": asdict(learned.weights),
        "power": fusion.power,
        "imputation": fusion.imputation,
        "measured_on": asdict(learned.measured_on),
        "idf": None if idf is None else {"documents": idf.documents, "scripts": list(idf.scripts)},
        **{name: getattr(learned, name) for name in ("documents", "queries", "records", "seed")},
        "gains": dict(learned.gains),
        "scale": learned.scale,
        "date": learned.date,
    }
    arrays = {} if idf is None else {name: getattr(idf, name) for name in _IDF}
    arrays |= {n: getattr(learned, n) for n in ("curve", "null") if getattr(learned, n) is not None}
    return {"about": np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays}


def load_learned(path: Path) -> LearnedWeights:
    """Read a file of learned weights.

    Args:
        path: Of the file.

    Returns:
        The weights.

    Raises:
        StoreError: The file is damaged, of a later version, or cannot be read.
    """
    try:
        with np.load(path, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        about = json.loads(arrays.pop("about").tobytes())
        if about["format"] != _FORMAT:
            raise StoreError(
                f"{path} is of format {about['format']}, and this version reads {_FORMAT}; learn "
                "again, or update the package"
            )
        return _learned(about, arrays)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be read: {error.strerror or error}; make it readable, or remove it and "
            "learn again"
        ) from error
    except _DAMAGE as error:
        raise StoreError(
            f"{path} is damaged ({type(error).__name__}: {error}); learn again, or remove the file"
        ) from error


def _learned(about: dict[str, Any], arrays: dict[str, Any]) -> LearnedWeights:
    table = about["idf"]
    idf = None
    if table is not None:
        columns = {name: arrays[name] for name in _IDF}
        idf = IdfTable(
            documents=int(table["documents"]), scripts=tuple(table["scripts"]), **columns
        )
        _check_idf(idf)
    power, guess = float(about["power"]), about["imputation"]
    if not (math.isfinite(power) and power >= 0):
        raise ValueError(f"the power is {power}")
    if guess is not None and not (len(guess) == 3 and all(map(math.isfinite, guess))):
        raise ValueError(f"the imputation is {guess}")
    return LearnedWeights(
        LEARNED,
        Weights(**about["weights"]),
        LearnedSum(idf, power, None if guess is None else tuple(guess)),
        MeasuredOn(**about["measured_on"]),
        documents=about["documents"],
        queries=about["queries"],
        records=about["records"],
        seed=about["seed"],
        gains=about["gains"],
        scale=tuple(about["scale"]),
        curve=arrays.get("curve"),
        null=arrays.get("null"),
        date=about["date"],
    )


def _check_idf(idf: IdfTable) -> None:
    """Refuse columns that do not belong together, which a search would stumble over."""
    columns = [getattr(idf, name) for name in _IDF]
    if any(c.ndim != 1 or c.dtype.kind != "i" or len(c) != len(columns[0]) for c in columns):
        raise ValueError("the columns of the idf are not alike")
    if (np.diff(idf.token_ids) <= 0).any() or (idf.counts < 0).any():
        raise ValueError("the idf has unsorted tokens or negative counts")
    if len(idf.script) and not -1 <= idf.script.min() <= idf.script.max() < len(idf.scripts):
        raise ValueError("the idf has a script without a name")
