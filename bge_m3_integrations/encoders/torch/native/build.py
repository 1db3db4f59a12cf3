"""Compiles the kernels: while the package is built or installed, or by hand.

    python -m bge_m3_integrations.encoders.torch.native.build

It needs GCC 11 or newer (`CC`, or `cc` on the path) on Linux and x86-64; elsewhere there are no
kernels, and torch computes. `BGE_M3_KERNELS=skip` builds none, `BGE_M3_KERNELS=required` makes it
an error if they cannot be. Only the standard library is used: installing runs this first.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

SOURCES = Path(__file__).parent / "kernels"
LIBRARY = Path(__file__).parent / "kernels.so"
_COMMON = ["-O3", "-std=c11", "-fPIC", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wextra"]
# blocks lie on the stack: a thread with a small one is to stop, not to write elsewhere
_COMMON.append("-fstack-clash-protection")
_BASE = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni", "-mfma"]
# cpu.c asks what the processor has, and so must run on any
_FLAGS = {"cpu": [], "linear_bfloat16": [*_BASE, "-mavx512bf16"]}
_FLAGS["attention_bfloat16"] = _FLAGS["linear_bfloat16"]


class CannotBuildError(Exception):
    """There is no compiler, or it does not compile this, or this system is not meant."""


def digest() -> int:
    """Of all sources and of how they are built; a library of others is not used."""
    found = 0
    for file in [*sorted(SOURCES.glob("*.[ch]")), Path(__file__)]:
        found = zlib.crc32(file.read_bytes(), zlib.crc32(file.name.encode(), found))
    return found & 0x7FFFFFFF


def build() -> Path:
    """Compile and link.

    Returns:
        The library; it stands in its place only once it is whole.

    Raises:
        CannotBuildError: With the reason, the compiler's message included.
    """
    machine = f"{platform.system()} on {platform.machine()}"
    if machine != "Linux on x86_64":
        raise CannotBuildError(f"the kernels are for Linux on x86_64, not {machine}")
    compiler = _compiler()
    if shutil.which(compiler[0]) is None:
        raise CannotBuildError(f"there is no C compiler {compiler[0]}: set CC, or install gcc")
    try:
        with tempfile.TemporaryDirectory(dir=LIBRARY.parent, prefix=".kernels-") as folder:
            _compile(compiler, Path(folder)).replace(LIBRARY)
    except OSError as error:
        raise CannotBuildError(f"{LIBRARY} cannot be written: {error}") from error
    return LIBRARY


def _compiler() -> list[str]:
    given = os.environ.get("CC", "")
    try:
        return shlex.split(given) or ["cc"]  # of nothing but blanks as well
    except ValueError as error:
        raise CannotBuildError(f"CC={given!r} cannot be read: {error}") from error


def _compile(compiler: list[str], folder: Path) -> Path:
    objects = []
    for source in sorted(SOURCES.glob("*.c")):
        objects.append(str(folder / f"{source.stem}.o"))
        flags = [*_COMMON, *_FLAGS.get(source.stem, _BASE), f"-DDIGEST={digest()}"]
        _run([*compiler, *flags, "-c", str(source), "-o", objects[-1]])
    linked = folder / LIBRARY.name
    # without OpenMP's library: the one that torch has loaded is to run the loops
    _run([*compiler, "-shared", "-o", str(linked), *objects, "-lm"])
    return linked


def build_if_wanted() -> str:
    """Build as `BGE_M3_KERNELS` says.

    Returns:
        What came of it, in words.

    Raises:
        CannotBuildError: They are required, and cannot be.
    """
    wanted = os.environ.get("BGE_M3_KERNELS", "auto")
    if wanted not in ("auto", "skip", "required"):
        raise CannotBuildError(f"BGE_M3_KERNELS={wanted!r} is not one of auto, skip, required")
    try:
        if wanted != "skip":
            return f"built {build()}"
        told = "BGE_M3_KERNELS=skip says so"
    except CannotBuildError as error:
        if wanted == "required":
            raise
        told = str(error)
    try:
        LIBRARY.unlink(missing_ok=True)  # an older one would be taken into the wheel
    except OSError as error:
        told += f"; an older {LIBRARY} is there and cannot be removed: {error}"
    return f"no kernels, torch will compute: {told}"


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildError(f"{' '.join(command)} failed: {done.stderr.strip()}")


if __name__ == "__main__":
    sys.stdout.write(build_if_wanted() + "\n")
