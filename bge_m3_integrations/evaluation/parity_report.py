"""The report of a comparison with FlagEmbedding: the checks, the machine and the versions."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bge_m3_integrations._version import __version__
from bge_m3_integrations.core.validation import as_path
from bge_m3_integrations.errors import InputError

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "FlagEmbedding",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared.
        difference: The largest absolute difference.
        tolerance: The largest that passes.
        passed: Whether it passed; NaN never does.
    """

    name: str
    difference: float
    tolerance: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware of a run.

    Attributes:
        cpu: The processor's name.
        cores: Logical cores.
        device: The torch device.
        dtype: The dtype the model computed in.
        computed_by: "compiled kernels", or "torch" and why.
    """

    cpu: str
    cores: int
    device: str
    dtype: str
    computed_by: str


@dataclass(frozen=True, slots=True)
class Report:
    """All that `bge-m3 verify` finds out.

    Attributes:
        model: What the user called it.
        fingerprint: Identity of the model's numbers.
        files: sha256 of each file that was read, by name.
        versions: Installed version by package; "not installed" where it is not.
        python: The interpreter and the platform.
        hardware: What it ran on.
        date: When, in UTC.
        checks: The comparisons.
        notes: What was not compared, and why.
    """

    model: str
    fingerprint: str
    files: Mapping[str, str]
    versions: Mapping[str, str]
    python: str
    hardware: Hardware
    date: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether something was compared and every comparison passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)

    def lines(self) -> list[str]:
        """The report for a reader."""
        marks = {True: "pass", False: "FAIL"}
        return [
            f"model        {self.model}",
            f"fingerprint  {self.fingerprint}",
            f"hardware     {self.hardware.cpu}, {self.hardware.cores} cores; "
            f"{self.hardware.device}, {self.hardware.dtype}",
            f"computed by  {self.hardware.computed_by}",
            *(
                f"{marks[c.passed]}  {c.name}: largest difference {c.difference:.1e} "
                f"(allowed {c.tolerance:.0e})"
                for c in self.checks
            ),
            *(f"note  {note}" for note in self.notes),
            f"{marks[self.passed]}: {sum(check.passed for check in self.checks)} of "
            f"{len(self.checks)} checks",
        ]


def write_report(report: Report, path: str | Path) -> None:
    """Write a report as JSON, with the verdict.

    Args:
        report: What to write.
        path: The file; its folder is made where it is missing.

    Raises:
        InputError: The file cannot be written.
    """
    path = as_path(path, name="out")
    text = json.dumps({"passed": report.passed, **asdict(report)}, indent=2, ensure_ascii=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from error


def file_digests(paths: Sequence[Path]) -> dict[str, str]:
    """The sha256 of each file, in hex, by file name."""
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def package_versions(names: Sequence[str]) -> dict[str, str]:
    """This package's version, and the installed versions of distributions."""
    return {"bge-m3-integrations": __version__, **{name: installed_version(name) for name in names}}


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def installed_version(name: str) -> str:
    """Return the version of a distribution, or "not installed"."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
