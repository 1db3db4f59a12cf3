from __future__ import annotations

import platform
import shutil

import pytest
import torch

from bge_m3_integrations.encoders.torch.native.binding import why_not

BUILDS = (platform.system(), platform.machine()) == ("Linux", "x86_64") and shutil.which("cc")


@pytest.fixture
def needs_compiler() -> None:
    if not BUILDS:
        pytest.skip("this is not Linux on x86-64 with a C compiler")


@pytest.fixture(autouse=True)
def needs_kernels(request: pytest.FixtureRequest) -> None:
    """Skip where the machine is the reason; what was not built though it could be is a failure."""
    if "anywhere" in request.keywords or not why_not():
        return
    if not BUILDS or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip(why_not())
    if "processor" in why_not():
        pytest.skip(why_not())
    pytest.fail(why_not())
