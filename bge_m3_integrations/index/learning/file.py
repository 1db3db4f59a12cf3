"""Learned weights beside their index: one file, replaced in one step, without pickle."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from bge_m3_integrations.core.idf import IdfTable
from bge_m3_integrations.core.learned import LearnedSum, LearnedWeights
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.weighting import LEARNED, LEARNED_FILE, MeasuredOn
from bge_m3_integrations.errors import InputError, StoreError

_FORMAT: Final = 1
_DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, InputError)
_IDF = ("token_ids", "counts", "script")


def save_learned(learned: LearnedWeights, folder: Path) -> None:
    """Write learned weights into an index's folder.

    Args:
        learned: The weights.
        folder: Of the index.

    Raises:
        StoreError: The folder cannot be written to.
    """
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
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{LEARNED_FILE}.", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez_compressed(file, about=text, **arrays)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(folder / LEARNED_FILE)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"learned weights were not kept in {folder}: {error.strerror or error}; "
            "learn_weights(save=False) keeps them in memory"
        ) from error


def load_learned(folder: Path) -> LearnedWeights | None:
    """Read the learned weights of an index's folder.

    Args:
        folder: Of the index.

    Returns:
        The weights; None where none were learned.

    Raises:
        StoreError: The file is damaged or of a later version.
    """
    path = folder / LEARNED_FILE
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
    except FileNotFoundError:
        return None
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
    guess = about["imputation"]
    return LearnedWeights(
        LEARNED,
        Weights(**about["weights"]),
        LearnedSum(idf, float(about["power"]), None if guess is None else tuple(guess)),
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
