"""IndexConfig: what no index can be opened by is refused when the config is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError
from bge_m3_integrations.index.config import IndexConfig
from bge_m3_integrations.testing import FakeEncoder


@pytest.mark.parametrize("create", [0, 1, "yes", [], {}, np.bool_(False)], ids=repr)
def test_create_is_none_true_or_false_and_nothing_like_them(create: Any, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(InputError, match="create must be None, True or False"):
        HybridIndex.open(folder, BGEM3(FakeEncoder()), create=create)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        ({"colbert": []}, "colbert=.* is not one of"),
        ({"pooling": True}, "pooling must be a whole number"),
        ({"modes": [[]]}, "modes must be one or more of"),
        ({"create": True, "read_only": True}, "no index begins with read_only=True"),
        ({"isolated": "no"}, "isolated must be True or False, not 'no'"),
        ({"read_only": 1}, "read_only must be True or False, not 1"),
        ({"allow_dtype_mismatch": None}, "allow_dtype_mismatch must be True or False, not None"),
    ],
)
def test_options_that_fit_no_index_are_refused_by_name(options: Any, fix: str) -> None:
    with pytest.raises(InputError, match=fix):
        IndexConfig(**options)
