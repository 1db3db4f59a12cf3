from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bge_m3_integrations.encoders.torch.native import binding, build
from bge_m3_integrations.encoders.torch.native.build import CannotBuildError

pytestmark = pytest.mark.anywhere


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of its own, so that the real one stays."""
    monkeypatch.setattr(build, "LIBRARY", tmp_path / "kernels.so")
    monkeypatch.delenv("BGE_M3_KERNELS", raising=False)
    return tmp_path


@pytest.mark.usefixtures("needs_compiler")
def test_what_is_built_loads_on_torchs_threads_and_says_what_it_is_of(copy: Path) -> None:
    """Needs no AVX-512: nothing is computed."""
    assert build.build_if_wanted() == f"built {copy / 'kernels.so'}"
    assert list(copy.iterdir()) == [copy / "kernels.so"]
    lines = (
        "import ctypes, torch, pathlib\n"
        f"found = ctypes.CDLL({str(copy / 'kernels.so')!r})\n"
        f"assert found.digest() == {build.digest()}\n"
        "assert found.supported() >= 0\n"
        "maps = pathlib.Path('/proc/self/maps').read_text().split()\n"
        "assert len({word for word in maps if 'omp' in word.rpartition('/')[2]}) == 1\n"
    )
    subprocess.run([sys.executable, "-c", lines], check=True)


def test_another_system_has_none_and_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert "not Darwin on arm64" in build.build_if_wanted()
    assert not list(copy.iterdir())


def test_without_a_compiler_there_are_none_and_an_older_one_goes(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setenv("CC", "no-such-compiler -m64")
    (copy / "kernels.so").write_text("older")
    assert "no C compiler" in build.build_if_wanted()
    assert not list(copy.iterdir())
    monkeypatch.setenv("BGE_M3_KERNELS", "required")
    with pytest.raises(CannotBuildError, match="no C compiler"):
        build.build_if_wanted()


@pytest.mark.usefixtures("needs_compiler")
def test_a_compiler_may_have_arguments(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -m64")
    assert build.build_if_wanted().startswith("built")


@pytest.mark.usefixtures("needs_compiler")
@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
def test_a_blank_compiler_is_the_default_one(
    blank: str, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", blank)
    assert build.build_if_wanted().startswith("built")


def test_a_compiler_that_cannot_be_read_is_named(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setenv("CC", 'gcc "-m64')
    assert "CC='gcc \"-m64' cannot be read" in build.build_if_wanted()
    assert not list(copy.iterdir())


@pytest.mark.usefixtures("needs_compiler")
def test_what_the_compiler_refuses_is_told_in_its_words_and_leaves_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = copy / "kernels"
    sources.mkdir()
    (sources / "cpu.c").write_text("int supported(void) { return no_such_name; }")
    monkeypatch.setattr(build, "SOURCES", sources)
    with pytest.raises(CannotBuildError, match="no_such_name"):
        build.build()
    assert list(copy.iterdir()) == [sources]


@pytest.mark.usefixtures("needs_compiler")
def test_where_nothing_can_be_written_installing_goes_on(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    told = build.build_if_wanted()
    assert "cannot be written" in told
    assert "cannot be removed" in told


def test_skip_builds_none_and_another_word_is_an_error(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BGE_M3_KERNELS", "skip")
    assert "skip" in build.build_if_wanted()
    assert not list(copy.iterdir())
    monkeypatch.setenv("BGE_M3_KERNELS", "yes")
    with pytest.raises(CannotBuildError, match="'yes' is not one of auto, skip, required"):
        build.build_if_wanted()


def test_the_digest_follows_every_file_and_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SOURCES", tmp_path)
    found = set()
    for name, text in (("a.c", "1"), ("a.c", "2"), ("b.h", "2"), ("b.h", "3")):
        (tmp_path / name).write_text(text)
        found.add(build.digest())
    (tmp_path / ".a.c.swp").write_text("an editor's")
    found.add(build.digest())
    assert len(found) == 4


def test_building_needs_no_package_but_the_standard_library() -> None:
    lines = f"import runpy; runpy.run_path({build.__file__!r})"
    subprocess.run([sys.executable, "-I", "-S", "-c", lines], check=True)


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A library that says what a test wants, on a processor that torch sees AVX-512 on."""
    says = SimpleNamespace(digest=build.digest, supported=lambda: 3)
    monkeypatch.setattr(binding, "_loaded", lambda: says)
    monkeypatch.setattr(binding, "LIBRARY", Path(__file__))
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(binding, "library", lambda: says)
    return says


def test_each_reason_for_torch_has_its_words(reasons: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    unavailable_reason = binding.unavailable_reason.__wrapped__
    assert unavailable_reason() == ""
    reasons.supported = lambda: 0
    assert "VNNI" in unavailable_reason()
    reasons.digest = lambda: build.digest() + 1
    assert "not of these sources" in unavailable_reason()
    del reasons.digest
    assert "does not load" in unavailable_reason()
    monkeypatch.setattr(binding, "LIBRARY", Path(__file__).parent / "none.so")
    assert f"python -m {build.__name__}" in unavailable_reason()
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    assert unavailable_reason() == "torch sees no AVX-512"


def test_a_file_that_is_no_library_is_a_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "kernels.so"
    broken.write_text("not a library")
    monkeypatch.setattr(binding, "LIBRARY", broken)
    monkeypatch.setattr(binding, "_loaded", binding._loaded.__wrapped__)
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    assert "does not load" in binding.unavailable_reason.__wrapped__()


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        (1, {torch.float32, torch.int8}),
        (3, {torch.float32, torch.bfloat16, torch.int8}),
        (7, {torch.float32}),  # tiles are faster for the others
    ],
)
def test_what_runs_follows_the_processor(
    reasons: Any, has: int, expected: set[torch.dtype]
) -> None:
    reasons.supported = lambda: has
    dtypes = (torch.float32, torch.bfloat16, torch.int8, torch.float16)
    assert {dtype for dtype in dtypes if binding.runs(dtype)} == expected
