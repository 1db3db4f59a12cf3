from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bge_m3_integrations import (
    BGEM3,
)
from bge_m3_integrations.langchain import BGEM3VectorStore
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.langchain.stored import DOCUMENTS, Made


@pytest.fixture(params=["memory", "edge"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Made]:
    """A store with the documents, in memory and in a folder."""
    encoder = FakeEncoder()
    path = tmp_path / "index" if request.param == "edge" else None
    with BGEM3VectorStore.from_documents(DOCUMENTS, BGEM3(encoder), path=path) as store:
        yield encoder, store
