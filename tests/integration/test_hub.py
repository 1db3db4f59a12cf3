from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.torch import hub
from tests.fake_hub import fake_hub


def test_a_hub_id_is_downloaded_loaded_and_works_offline_afterwards(
    xlm_roberta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    expected = BGEM3(xlm_roberta, device="cpu", dtype="float32").encode_documents(["dense vector"])
    with fake_hub(xlm_roberta, "someone/tiny-m3") as running:
        monkeypatch.setattr(hub, "HfApi", partial(HfApi, endpoint=running.url))
        online = BGEM3("someone/tiny-m3", cache_dir=tmp_path, device="cpu", dtype="float32")
        np.testing.assert_array_equal(
            online.encode_documents(["dense vector"]).dense, expected.dense
        )
    offline = BGEM3(
        "someone/tiny-m3", cache_dir=tmp_path, offline=True, device="cpu", dtype="float32"
    )
    np.testing.assert_array_equal(offline.encode_documents(["dense vector"]).dense, expected.dense)
