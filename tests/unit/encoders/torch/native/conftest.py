from __future__ import annotations

import platform
import shutil

import pytest
import torch

from bge_m3_integrations.encoders.torch.native.binding import unavailable_reason

BUILDS = (platform.system(), platform.machine()) == ("Linux", "x86_64") and shutil.which("cc")


@pytest.fixture
def needs_compiler() -> None:
    if not BUILDS:
        pytest.skip("this is not Linux on x86-64 with a C compiler")


@pytest.fixture(autouse=True)
def needs_kernels(request: pytest.FixtureRequest) -> None:
    """Skip where the machine is the reason; what was not built though it could be is a failure."""
    if "anywhere" in request.keywords or not unavailable_reason():
        return
    if not BUILDS or "AVX512" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip(unavailable_reason())
    if "processor" in unavailable_reason():
        pytest.skip(unavailable_reason())
    pytest.fail(unavailable_reason())
