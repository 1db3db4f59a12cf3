from __future__ import annotations

import json
import shutil
import threading
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.core.embeddings import EmbeddingBatch
from bge_m3_integrations.encoders.torch import devices, load
from bge_m3_integrations.encoders.torch.encoder import TorchEncoder
from bge_m3_integrations.encoders.torch.layers import PackedBackbone
from bge_m3_integrations.encoders.torch.linear import PlainLinear
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.errors import (
    CheckpointError,
    EncodingError,
    InputError,
    PoolingWarning,
    TruncationWarning,
)
from tests.checkpoints import POSITIONS, make_xlm_roberta, write_pooling


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


def assert_finite(batch: EmbeddingBatch) -> None:
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.colbert is not None
    assert np.isfinite(batch.dense).all()
    assert np.isfinite(batch.sparse.weights).all()
    assert np.isfinite(batch.colbert.vectors).all()
    np.testing.assert_allclose(np.linalg.norm(batch.dense, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(batch.colbert.vectors, axis=1), 1, atol=1e-5)


# -- inputs ------------------------------------------------------------------------------------


def test_no_texts_give_empty_arrays_of_the_right_width(engine: BGEM3) -> None:
    batch = engine.encode_documents([])
    assert batch.dense is not None
    assert batch.colbert is not None
    assert batch.dense.shape == (0, engine.encoder.dim)
    assert batch.colbert.vectors.shape == (0, engine.encoder.colbert_dim)
    assert len(batch) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \t\n ",
        "a\x00b",
        "dense 稠密 плотный كثيف 🙂",
        "<s></s><pad><mask> text",
        "\ufeffx",
        "�",
    ],
    ids=["empty", "blank", "nul", "scripts", "specials", "bom", "replacement"],
)
def test_odd_texts_give_finite_unit_vectors(engine: BGEM3, text: str) -> None:
    batch = engine.encode_documents([text, "dense vector"])
    assert_finite(batch)
    assert batch[0].colbert is not None
    assert len(batch[0].colbert) == batch[0].tokens - 1


def test_a_million_characters_are_cut_at_the_limit_and_counted(engine: BGEM3) -> None:
    with pytest.warns(TruncationWarning, match="1 of 1 text "):
        batch = engine.encode_documents(["dense " * 166_667], modes={"dense"})
    assert batch.tokens[0] == POSITIONS
    assert batch.tokens[0] + batch.truncated[0] > 166_667


def test_a_lone_surrogate_is_an_error_that_says_where_and_how_to_mend_it(engine: BGEM3) -> None:
    with pytest.raises(InputError, match=r"text 1 .*ud800.* at character 3.*clean=True"):
        engine.encode_documents(["fine", "abc\ud800"])


@pytest.mark.parametrize("texts", [[None], [b"bytes"], [3]])
def test_what_is_no_string_is_named_by_position(engine: BGEM3, texts: list[Any]) -> None:
    with pytest.raises(InputError, match="text 1 must be str"):
        engine.encode_documents(["fine", *texts])


def test_cleaning_mends_what_would_be_refused(xlm_roberta: Path) -> None:
    clean = BGEM3(xlm_roberta, device="cpu", dtype="float32", clean=True)
    batch = clean.encode_documents(["dense\ud800  vector\x07"])
    assert_finite(batch)
    assert clean.fingerprint != BGEM3(xlm_roberta).fingerprint


@pytest.mark.parametrize("length", [1, POSITIONS + 1])
def test_a_length_that_the_model_cannot_take_names_the_range(engine: BGEM3, length: int) -> None:
    with pytest.raises(InputError, match=f"between 2 .* {POSITIONS}"):
        engine.encode_documents(["a"], max_length=length)


@pytest.mark.parametrize("length", [True, 8.5, "8"])
def test_a_length_that_is_no_whole_number_is_refused(engine: BGEM3, length: Any) -> None:
    with pytest.raises(InputError, match=r"max_length must be a whole number .* not "):
        engine.encode_documents(["a"], max_length=length)


def test_results_come_back_in_the_order_of_the_texts(xlm_roberta: Path) -> None:
    texts = ["dense " * n for n in (30, 1, 100, 2, 60)]
    small = BGEM3(xlm_roberta, device="cpu", dtype="float32", token_budget=64)
    batch = small.encode_documents(texts)
    for i, text in enumerate(texts):
        alone = small.encode_documents([text])
        np.testing.assert_allclose(batch.dense[i], alone.dense[0], atol=1e-5)  # type: ignore[index]
        assert batch[i].tokens == alone[0].tokens


def test_only_the_modes_that_are_asked_for_are_computed(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    heads = inner(engine).source.modules
    named = {id(getattr(heads, name)): name for name in ("colbert", "sparse")}
    ran: list[str] = []
    apply = PlainLinear.__call__

    def noted(self: PlainLinear, x: torch.Tensor) -> torch.Tensor:
        ran.extend([named[id(self)]] * (id(self) in named))
        return apply(self, x)

    monkeypatch.setattr(PlainLinear, "__call__", noted)
    batch = engine.encode_documents(["dense"], modes={"dense"})
    assert ran == []
    assert batch.modes == {"dense"}
    engine.encode_documents(["dense"], modes={"sparse"})
    assert ran == ["sparse"]


# -- tokens ------------------------------------------------------------------------------------


def test_spans_point_into_the_users_text_behind_the_instruction(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", document_instruction="search the text of ")
    text = "dense vector 稠密"
    tokens = engine.tokenize([text])
    own = [tuple(span) for span in tokens.spans.tolist() if span != [-1, -1]]
    covered = "".join(text[start:end] for start, end in own)
    assert unicodedata.normalize("NFKC", covered).replace(" ", "") == text.replace(" ", "")
    assert tokens.spans[0].tolist() == [-1, -1]
    assert len(own) < len(tokens.ids) - 2


def test_each_tokens_colbert_row_counts_from_the_second_token(engine: BGEM3) -> None:
    tokens = engine.tokenize(["dense", "sparse vector"])
    rows = np.split(tokens.colbert_rows, tokens.offsets[1:-1])
    for row in rows:
        assert row.tolist() == list(range(-1, len(row) - 1))


def test_ids_become_readable_tokens_and_unknown_ids_are_refused(engine: BGEM3) -> None:
    ids = engine.tokenize(["dense"]).row(0).tolist()
    words = engine.encoder.id_to_token(ids)
    assert words[0] == "<s>"
    assert "dense" in "".join(words)
    with pytest.raises(InputError, match="999999"):
        engine.encoder.id_to_token([999_999])


# -- numbers -----------------------------------------------------------------------------------


def test_bfloat16_stays_close_to_float32(xlm_roberta: Path, engine: BGEM3) -> None:
    texts = ["dense vector of a document", "sparse", "what is retrieval " * 20]
    half = BGEM3(xlm_roberta, device="cpu", dtype="bfloat16").encode_documents(texts)
    full = engine.encode_documents(texts)
    assert half.dense is not None
    assert full.dense is not None
    assert half.dense.dtype == np.float32
    assert (half.dense * full.dense).sum(axis=1).min() > 0.99


def test_a_text_that_overflows_in_half_precision_is_computed_again_in_float32(copy: Path) -> None:
    # float16 ends at 65,504: a feed-forward layer of 1e5 overflows there and only there
    blow_up(copy, 300.0)
    texts = ["dense vector", "sparse"]
    half = BGEM3(copy, device="cpu", dtype="float16")
    full = BGEM3(copy, device="cpu", dtype="float32").encode_documents(texts)
    batch = half.encode_documents(texts)
    assert_finite(batch)
    assert batch.dense is not None
    assert full.dense is not None
    assert (batch.dense * full.dense).sum(axis=1).min() > 0.99
    again = half.encode_documents(texts)
    assert again.dense is not None
    assert np.array_equal(batch.dense, again.dense)  # nothing was left upcast


def test_a_text_that_is_not_finite_in_float32_either_is_named(copy: Path) -> None:
    blow_up(copy, float("nan"))
    with pytest.raises(EncodingError, match="text 0"):
        BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])


def test_an_index_names_the_record_whose_numbers_are_not_finite(copy: Path) -> None:
    blow_up(copy, float("nan"))
    index = HybridIndex(BGEM3(copy, device="cpu", dtype="float32"))
    with pytest.raises(EncodingError, match="record 'the one'"):
        index.add([Record("the one", "dense vector")])
    assert index.count() == 0


def blow_up(folder: Path, factor: float) -> None:
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in ("intermediate.dense.weight", "output.dense.weight"):
        tensors[f"encoder.layer.0.{name}"] *= factor
    save_file(tensors, path, metadata={"format": "pt"})


def test_out_of_memory_shrinks_the_batches_and_keeps_the_results(
    xlm_roberta: Path, engine: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    hidden = PackedBackbone.hidden
    failures: list[int] = []

    def limited(self: PackedBackbone, pack: Pack, *, wide: bool = False) -> torch.Tensor:
        if len(pack.ids) > 40:
            failures.append(len(pack.ids))
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")
        return hidden(self, pack, wide=wide)

    texts = ["dense vector"] * 3 + [f"text {i} of a document" for i in range(20)]
    expected = engine.encode_documents(texts)
    monkeypatch.setattr(PackedBackbone, "hidden", limited)
    batch = tight.encode_documents(texts)
    assert failures
    np.testing.assert_allclose(batch.dense, expected.dense, atol=1e-5)


def test_another_runtime_error_is_not_retried(
    xlm_roberta: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = BGEM3(xlm_roberta, device="cpu", dtype="float32")
    calls: list[int] = []

    def broken(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(PackedBackbone, "hidden", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        engine.encode_documents(["a", "b", "c"])
    assert calls == [1]


# -- checkpoints -------------------------------------------------------------------------------


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


# -- pooling -----------------------------------------------------------------------------------


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


# -- fingerprint -------------------------------------------------------------------------------


def test_the_fingerprint_ignores_path_dtype_device_and_query_instruction(
    copy: Path, engine: BGEM3
) -> None:
    other = BGEM3(copy, device="cpu", dtype="bfloat16", query_instruction="find: ")
    assert other.fingerprint == engine.fingerprint


def test_the_fingerprint_changes_with_weights_pooling_and_document_instruction(
    xlm_roberta: Path, tmp_path: Path, engine: BGEM3
) -> None:
    others = [
        BGEM3(make_xlm_roberta(tmp_path / "other", seed=5)),
        BGEM3(xlm_roberta, pooling="mean"),
        BGEM3(xlm_roberta, document_instruction="passage: "),
    ]
    prints = {engine.fingerprint, *(other.fingerprint for other in others)}
    assert len(prints) == 4


def test_the_fingerprint_changes_with_the_tokenizers_rules(copy: Path, engine: BGEM3) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"] = {"type": "Lowercase"}
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    assert BGEM3(copy).fingerprint != engine.fingerprint


def test_the_fingerprint_changes_when_two_layers_trade_places(copy: Path, engine: BGEM3) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    swapped = {
        name.replace("layer.0.", "layer.x.")
        .replace("layer.1.", "layer.0.")
        .replace(".x.", ".1."): t
        for name, t in tensors.items()
    }
    save_file(swapped, copy / "model.safetensors", metadata={"format": "pt"})
    assert BGEM3(copy).fingerprint != engine.fingerprint


def test_a_checkpoint_written_anew_is_loaded_anew(copy: Path, tmp_path: Path) -> None:
    first = BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])
    kept = BGEM3(copy, device="cpu", dtype="float32")
    kept.encode_documents(["dense"])  # its model stays in memory
    shutil.copytree(make_xlm_roberta(tmp_path / "new", seed=9), copy, dirs_exist_ok=True)
    again = BGEM3(copy, device="cpu", dtype="float32").encode_documents(["dense vector"])
    assert first.dense is not None
    assert again.dense is not None
    assert np.abs(first.dense - again.dense).max() > 0.01


def test_the_fingerprint_changes_when_a_head_is_replaced(copy: Path, engine: BGEM3) -> None:
    torch.save(torch.nn.Linear(32, 1).state_dict(), copy / "sparse_linear.pt")
    assert BGEM3(copy).fingerprint != engine.fingerprint
