"""The calibration of an index: whether it fits a search, and where a folder keeps it."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from bge_m3_integrations._internal.file_state import file_state
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.calibration import Calibration
from bge_m3_integrations.core.fusion import Fusion
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.thresholds import Percentile, Probability, Threshold
from bge_m3_integrations.core.weighting import CALIBRATION_FILE
from bge_m3_integrations.errors import CalibrationWarning, InputError, StoreError
from bge_m3_integrations.stores.edge.folder.read_only import read_only_error

if TYPE_CHECKING:
    from bge_m3_integrations.engine.engine import BGEM3
    from bge_m3_integrations.stores.base import OffersBackup, Store

_MAKE: Final = (
    "make one with bge_m3_integrations.evaluation.calibrate(index, dataset), or the command "
    "`bge-m3 calibrate`, by the weights and the fusion that you search by"
)


def fitting(
    held: Calibration | None, weights: Weights, fusion: Fusion, threshold: Threshold | None
) -> Calibration | None:
    """The calibration of an index, if it is one of a search's values.

    Args:
        held: The index's.
        weights: Those of the search.
        fusion: That of the search.
        threshold: The search's.

    Returns:
        The calibration; None where there is none, or it was measured by other weights or another
        fusion.

    Raises:
        InputError: The threshold needs one.
    """
    fits = held is not None and held.measured.is_of_search(weights, fusion)
    if isinstance(threshold, Probability | Percentile):
        _check(held, threshold, f"{weights} with {fusion.name}", fits=fits)
    return held if fits else None


def _check(held: Calibration | None, threshold: Threshold, search: str, *, fits: bool) -> None:
    if held is None:
        raise InputError(f"{threshold} needs a calibration, which this index lacks; {_MAKE}")
    about = held.measured
    if not fits:
        raise InputError(
            f"{threshold} needs a calibration of this search, by {search}; the index has one by "
            f"{about.weights} with {about.fusion}; search by these, or {_MAKE}"
        )
    if isinstance(threshold, Probability) and held.relevance is None:
        raise InputError(
            f"{threshold} needs a calibration with judgements, and that of this index was made "
            f"without: Percentile(99) works, or {_MAKE}"
        )
    pairs = held.unrelated.pairs
    if isinstance(threshold, Percentile) and threshold.value > 100 * pairs / (pairs + 1):
        raise InputError(
            f"{threshold} is above all that {pairs:,} unrelated pairs can tell; the greatest is "
            f"Percentile({math.floor(1e5 * pairs / (pairs + 1)) / 1e3:g})"
        )


def index_key(engine: BGEM3, store: Store, storage: str | None) -> dict[str, Any]:
    """The part of an index that its values depend on, as `Measured.strangeness` compares it.

    Args:
        engine: The index's; for an index in memory its fingerprint is computed, which reads every
            weight file once.
        store: The index's.
        storage: How it keeps token vectors; None is as they are.

    Returns:
        `fingerprint`, `storage` and `query_instruction`.
    """
    # a store in a folder has a manifest, also one in another process
    manifest = getattr(store, "manifest", None)
    noted = None if manifest is None or manifest.encoder is None else manifest.encoder.fingerprint
    return {
        "fingerprint": noted or engine.fingerprint,
        "storage": storage or "float32",
        "query_instruction": engine.options["query_instruction"] or "",
    }


def check_own(
    calibration: Calibration | None, index: Callable[[], Mapping[str, Any]], store: Store
) -> None:
    """Refuse what cannot become the calibration of an index.

    Args:
        calibration: None removes the index's.
        index: Gives its `index_key`.
        store: Its store.

    Raises:
        InputError: It is none, or was measured on another index.
        StoreError: The index is read only.
    """
    if getattr(store, "read_only", False):
        raise read_only_error(cast("OffersBackup", store).path)
    if calibration is None:
        return
    if not isinstance(calibration, Calibration):
        raise InputError(f"a Calibration is needed, not {calibration!r}; {_MAKE}")
    if (problem := calibration.measured.strangeness(index())) is not None:
        raise InputError(f"the calibration is not one of this index: {problem}; {_MAKE}")


class CalibrationFile:
    """The calibration in the folder of an index, read again when its file changes.

    Args:
        folder: The index's.
        index: Gives what `Measured.strangeness` compares; called when there is a file.
    """

    def __init__(self, folder: Path, index: Callable[[], Mapping[str, Any]]) -> None:
        self._path, self._index = folder / CALIBRATION_FILE, index
        self._lock = threading.Lock()
        self._seen: tuple[object, Calibration | None] = (None, None)

    def now(self) -> Calibration | None:
        """The calibration; None where there is no file, or one of no use, which is warned of once.

        A search takes it once, so no list of hits mixes two.
        """
        state = file_state(self._path)
        if state == self._seen[0]:
            return self._seen[1]
        with self._lock:
            if state != self._seen[0]:
                self._seen = (state, self._read() if state is not None else None)
            return self._seen[1]

    def replace(self, calibration: Calibration | None) -> None:
        """Write or remove the file.

        Args:
            calibration: None removes it.

        Raises:
            StoreError: It cannot be changed; it is as before.
        """
        try:
            if calibration is None:
                self._path.unlink(missing_ok=True)
            else:
                calibration.save(self._path)
        except (OSError, InputError) as error:
            raise StoreError(
                f"the calibration in {self._path} cannot be changed: {error}"
            ) from error

    def _read(self) -> Calibration | None:
        try:
            held = Calibration.load(self._path)
            problem = held.measured.strangeness(self._index())
        except InputError as error:
            problem = str(error)
        if problem is None:
            return held
        warn_user(
            f"the calibration in {self._path} is not used: {problem}; calibrate anew",
            CalibrationWarning,
        )
        return None
