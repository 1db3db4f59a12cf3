"""Loading a checkpoint: once, quietly, and only if its parts fit together."""

from __future__ import annotations

import shutil
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3
from bge_m3_integrations.encoders.torch import devices, load
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.errors import (
    CheckpointError,
    InputError,
    PoolingWarning,
)
from tests.checkpoints import make_xlm_roberta, write_pooling


@pytest.fixture(scope="module")
def engine(xlm_roberta: Path) -> BGEM3:
    return BGEM3(xlm_roberta, device="cpu", dtype="float32")


@pytest.fixture
def copy(xlm_roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))


def inner(engine: BGEM3) -> TorchEncoder:
    encoder = engine.encoder.encoder
    assert isinstance(encoder, TorchEncoder)
    return encoder


def test_an_engine_loads_nothing_before_it_is_used(tmp_path: Path) -> None:
    engine = BGEM3(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere"):
        engine.encode_documents(["a"])


def test_loading_a_model_prints_nothing(
    xlm_roberta: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModel

    folder = Path(shutil.copytree(xlm_roberta, tmp_path / "with_pooler"))
    AutoModel.from_pretrained(xlm_roberta).save_pretrained(folder)  # unlike ours, with a pooler
    capfd.readouterr()
    BGEM3(folder, device="cpu").encode_documents(["dense"])
    assert capfd.readouterr() == ("", "")


def test_engines_of_one_checkpoint_device_and_dtype_share_the_weights(xlm_roberta: Path) -> None:
    first, second = (BGEM3(xlm_roberta, device="cpu", dtype="float32") for _ in range(2))
    assert inner(first).source.modules is inner(second).source.modules
    other = BGEM3(xlm_roberta, device="cpu", dtype="bfloat16")
    assert inner(other).source.modules is not inner(first).source.modules


def test_many_threads_load_one_model_and_get_equal_numbers(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[int] = []
    original = load._load

    def counted(*args: Any, **kwargs: Any) -> Any:
        loads.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(load, "_load", counted)
    engine = BGEM3(copy, device="cpu", dtype="float32")
    start = threading.Barrier(8)

    def encode(_: int) -> Any:
        start.wait()
        return engine.encode_documents(["dense vector", "sparse"]).dense

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(encode, range(8)))
    assert loads == [1]
    for result in results[1:]:
        np.testing.assert_allclose(result, results[0], atol=1e-6)


@pytest.mark.parametrize("head", ["colbert_linear.pt", "sparse_linear.pt"])
def test_a_missing_head_is_an_error_that_names_the_file(copy: Path, head: str) -> None:
    (copy / head).unlink()
    with pytest.raises(CheckpointError, match=head):
        BGEM3(copy, device="cpu").encode_documents(["a"])


def test_a_misshapen_head_names_both_shapes(copy: Path) -> None:
    torch.save(torch.nn.Linear(16, 1).state_dict(), copy / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=r"\(1, 16\).*\(1, 32\)"):
        BGEM3(copy, device="cpu").encode_documents(["a"])


def test_a_head_file_that_is_no_layer_is_named(copy: Path) -> None:
    (copy / "colbert_linear.pt").write_bytes(b"not a torch file")
    with pytest.raises(CheckpointError, match=r"colbert_linear\.pt"):
        BGEM3(copy, device="cpu").encode_documents(["a"])


def test_a_head_file_cannot_run_code(copy: Path) -> None:
    torch.save({"weight": threading.Event, "bias": print}, copy / "sparse_linear.pt")
    with pytest.raises(CheckpointError, match=r"sparse_linear\.pt"):
        BGEM3(copy, device="cpu").encode_documents(["a"])


def test_backbone_weights_that_do_not_fit_the_config_are_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing.*encoder\.layer\.1\.output"):
        BGEM3(copy, device="cpu").encode_documents(["a"])


def test_torch_weights_give_the_same_numbers_and_fingerprint_as_safetensors(
    copy: Path, engine: BGEM3
) -> None:
    from safetensors.torch import load_file

    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    binary = BGEM3(copy, device="cpu", dtype="float32")
    ours, theirs = binary.encode_documents(["dense"]), engine.encode_documents(["dense"])
    np.testing.assert_array_equal(ours.dense, theirs.dense)
    assert binary.fingerprint == engine.fingerprint


def test_pooling_auto_reads_the_checkpoints_own_config(copy: Path, xlm_roberta: Path) -> None:
    write_pooling(copy, "mean_tokens")
    auto = BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])
    mean = BGEM3(xlm_roberta, device="cpu", dtype="float32", pooling="mean")
    np.testing.assert_array_equal(auto.dense, mean.encode_documents(["dense vector"]).dense)


def test_an_explicit_pooling_that_contradicts_the_files_wins_with_a_warning(copy: Path) -> None:
    write_pooling(copy, "mean_tokens")
    with pytest.warns(PoolingWarning, match="'cls' was asked for.*'mean'"):
        BGEM3(copy, device="cpu", pooling="cls").encode_documents(["dense"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BGEM3(copy, device="cpu", pooling="mean").encode_documents(["dense"])


@pytest.mark.parametrize("stated", ["max_tokens", "weightedmean_tokens"])
def test_a_pooling_that_is_not_known_is_refused_and_not_replaced(copy: Path, stated: str) -> None:
    write_pooling(copy, stated)
    with pytest.raises(CheckpointError, match=f"{stated}.*pass pooling="):
        BGEM3(copy, device="cpu").encode_documents(["dense"])
    BGEM3(copy, device="cpu", pooling="mean").encode_documents(["dense"], modes={"sparse"})


def test_an_unknown_pooling_device_or_dtype_names_the_choices(xlm_roberta: Path) -> None:
    for options, words in (
        ({"pooling": "max"}, "last_token"),
        ({"device": "tpu9"}, "auto, cpu, cuda or mps"),
        ({"dtype": "int4"}, "bfloat16"),
    ):
        with pytest.raises(InputError, match=words):
            BGEM3(xlm_roberta, **options).encode_documents(["a"])  # type: ignore[arg-type]


def test_torchs_own_devices_and_dtypes_are_taken(xlm_roberta: Path) -> None:
    named = BGEM3(xlm_roberta, device="cpu", dtype="bfloat16")
    given = BGEM3(xlm_roberta, device=torch.device("cpu"), dtype=torch.bfloat16)
    assert given.options == named.options
    assert inner(given).source.modules is inner(named).source.modules
    assert BGEM3(xlm_roberta, device=[torch.device("cpu", 0)]).options["device"] == "cpu:0"
    for options in ({"device": torch.float32}, {"device": 0}, {"device": []}):
        with pytest.raises(InputError, match="neither a torch device nor a list of them"):
            BGEM3(xlm_roberta, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="not one of"):
        BGEM3(xlm_roberta, dtype=torch.int32).encode_documents(["a"])


def test_the_adapters_and_the_compatible_class_take_torchs_own_too(xlm_roberta: Path) -> None:
    from bge_m3_integrations.compat import BGEM3FlagModel
    from bge_m3_integrations.langchain import BGEM3Embeddings
    from bge_m3_integrations.llama_index import BGEM3Embedding

    own: Any = {"device": torch.device("cpu"), "dtype": torch.float32}
    for made in (
        BGEM3Embeddings(model=xlm_roberta, **own),
        BGEM3Embedding(model_name=str(xlm_roberta), **own),
    ):
        assert (made.device, made.dtype) == ("cpu", "float32")
        assert made.engine.options["dtype"] == "float32"
    assert (
        BGEM3FlagModel(xlm_roberta, devices=torch.device("cpu")).engine.options["device"] == "cpu"
    )


@pytest.mark.parametrize("wrong", [{}, {"model": 7}, {"engine": 7}, {"device": 3.5}])
def test_no_validation_error_prints_a_token(xlm_roberta: Path, wrong: dict[str, Any]) -> None:
    from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever
    from bge_m3_integrations.llama_index import BGEM3Embedding
    from bge_m3_integrations.llama_index import BGEM3Reranker as Postprocessor

    secret = "hf_" + "SecretToken" * 3
    makers: list[Any] = [BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever]
    for make in [*makers, BGEM3Embedding, Postprocessor]:
        with pytest.raises(Exception) as raised:  # noqa: PT011 - pydantic's, or ours
            make(token=secret, **wrong)
        assert secret not in str(raised.value)
        assert secret not in repr(raised.value)


def test_a_token_is_in_no_repr(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, token="hf_SecretToken")
    assert "hf_SecretToken" not in f"{engine!r} {vars(engine)} {engine.options}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused(xlm_roberta: Path) -> None:
    with pytest.raises(InputError, match="not on this machine"):
        BGEM3(xlm_roberta, device="cuda:3").encode_documents(["a"])


def test_auto_takes_bfloat16_only_from_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "cpu_has_bfloat16", lambda native=native: native)
        assert devices.pick_dtype("auto", cpu) is expected


def test_a_checkpoint_written_anew_is_loaded_anew(copy: Path, tmp_path: Path) -> None:
    first = BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])
    kept = BGEM3(copy, device="cpu", dtype="float32")
    kept.encode_documents(["dense"])  # its model stays in memory
    shutil.copytree(make_xlm_roberta(tmp_path / "new", seed=9), copy, dirs_exist_ok=True)
    again = BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])
    assert first.dense is not None
    assert again.dense is not None
    assert np.abs(first.dense - again.dense).max() > 0.01
