"""Weight profiles in a TOML file, which people write by hand and programs write too."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from bge_m3_integrations.core.fusion import FUSIONS, Fusion, ReciprocalRank
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.scores import PRESETS, Weights
from bge_m3_integrations.core.weighting import LEARNED, MeasuredOn, WeightProfile
from bge_m3_integrations.errors import InputError

_FUSIONS: Mapping[str, Callable[[], Fusion]] = {**FUSIONS, LearnedSum().name: LearnedSum}
_KEYS = ("weights", "fusion", "k", "measured_on", "allow_mismatch")
_TEXTS = tuple(field.name for field in fields(MeasuredOn))


def read_profiles(path: str | Path) -> dict[str, WeightProfile]:
    """Read every profile of a file.

    Args:
        path: A TOML file with a table for each profile.

    Returns:
        The profiles by name.

    Raises:
        InputError: The file cannot be read, is no TOML, or a table is no profile; the message has
            the file, the line and the fix.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text("utf-8-sig")
        tables = tomllib.loads(text)
    except OSError as error:
        raise InputError(f"no weight profiles in {path}: {error.strerror or error}") from error
    except ValueError as error:  # no UTF-8, or no TOML, which names line and column
        raise InputError(f"{path} is no TOML file of weight profiles: {error}") from error
    return {name: _profile(name, table, path, text) for name, table in tables.items()}


def save_profile(profile: WeightProfile, path: str | Path) -> None:
    """Write a profile into a file, in place of one of the same name; the rest stays as it is.

    Comments and the order of other profiles are kept. The file is replaced in one step, so readers
    see the old or the new one.

    Args:
        profile: One with a name, and a fusion of `core.fusion` or none.
        path: A TOML file, which need not exist; its folder must.

    Raises:
        InputError: The profile has no name or a preset's, its fusion has no form in a file, or the
            file that is there is broken.
    """
    import tomlkit

    path, name = Path(path).expanduser(), profile.name or ""
    table = _table(profile)
    _check_name(name, f"a profile for {path}")
    text = ""
    if path.exists():
        read_profiles(path)
        text = path.read_text("utf-8-sig")
    document = tomlkit.parse(text)
    weights = tomlkit.inline_table()
    weights.update(table["weights"])
    document[name] = {**table, "weights": weights}
    with _replacing(path) as temporary:
        temporary.write_text(tomlkit.dumps(document), "utf-8")


def _table(profile: WeightProfile) -> dict[str, Any]:
    fusion = profile.fusion
    if fusion is not None and type(fusion) not in _FUSIONS.values():
        raise InputError(
            f"a profile in a file has one of the fusions {sorted(_FUSIONS)}, not {fusion!r}"
        )
    table: dict[str, Any] = {"weights": asdict(profile.weights)}
    if fusion is not None:
        table["fusion"] = fusion.name
    if isinstance(fusion, ReciprocalRank):
        table["k"] = fusion.k
    if profile.allow_mismatch:
        table["allow_mismatch"] = True
    measured = {k: v for k, v in asdict(profile.measured_on).items() if v is not None}
    return {**table, "measured_on": measured} if measured else table


def _profile(name: str, table: Any, path: Path, text: str) -> WeightProfile:
    where = f"{path}, line {_line(text, name)}: profile {name!r}"
    _check_name(name, where)
    if not isinstance(table, dict) or "weights" not in table:
        raise InputError(
            f"{where} needs weights, such as weights = {{ dense = 0.4, sparse = 0.2, colbert = "
            "0.4 }"
        )
    if unknown := sorted(table.keys() - set(_KEYS)):
        raise InputError(f"{where} has the unknown keys {unknown}; there are {list(_KEYS)}")
    try:
        weights = Weights.parse(table["weights"])
        fusion = _fusion(table.get("fusion"), table.get("k"))
        measured = _measured_on(table.get("measured_on", {}))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    allow = table.get("allow_mismatch", False)
    if not isinstance(allow, bool):
        raise InputError(f"{where}: allow_mismatch must be true or false, not {allow!r}")
    return WeightProfile(name, weights, fusion, measured, allow)


def _fusion(name: Any, k: Any) -> Fusion | None:
    if k is not None and name != ReciprocalRank().name:
        raise InputError(f"k={k!r} is for the fusion {ReciprocalRank().name!r}, not for {name!r}")
    if name is None:
        return None
    if name not in _FUSIONS:
        raise InputError(f"unknown fusion {name!r}; there are {sorted(_FUSIONS)}")
    if k is None:
        return _FUSIONS[name]()
    if isinstance(k, bool) or not isinstance(k, int | float):
        raise InputError(f"k must be a number above 0, not {k!r}")
    return ReciprocalRank(float(k))


def _measured_on(table: Any) -> MeasuredOn:
    if not isinstance(table, dict) or not table.keys() <= set(_TEXTS):
        raise InputError(f"measured_on must be a table of {list(_TEXTS)}, not {table!r}")
    for key, value in table.items():
        if not isinstance(value, str):
            raise InputError(f"{key} of measured_on must be a text, not {value!r}")
    return MeasuredOn(**table)


def _check_name(name: str, where: str) -> None:
    if name in PRESETS or name == LEARNED:
        raise InputError(f"{where}: {name!r} is a name of the package; choose another one")
    if not name.strip() or ":" in name:
        raise InputError(f"{where}: a name must have letters and no colon, not {name!r}")


def _line(text: str, name: str) -> int:
    """The line of a table's header or first key, counted from 1; 1 where it is not found."""
    found = re.search(rf"^\s*\[?\s*[\"']?{re.escape(name)}[\"']?\s*[\].=]", text, re.MULTILINE)
    return 1 if found is None else text.count("\n", 0, found.end()) + 1


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file in the same folder, which takes the path's place when the block ends."""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(path.stat().st_mode & 0o777 if path.exists() else 0o644)
        os.fsync(handle)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)
