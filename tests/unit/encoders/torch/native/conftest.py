from __future__ import annotations

import pytest

from bge_m3_integrations.encoders.torch.native.library import why_not


@pytest.fixture(autouse=True)
def needs_kernels(request: pytest.FixtureRequest) -> None:
    if why_not() and "anywhere" not in request.keywords:
        pytest.skip(why_not())
