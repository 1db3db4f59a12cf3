"""Finding a checkpoint: which files are read and fetched, and what each failure says."""

from __future__ import annotations

import errno
import json
import os
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants

from bge_m3_integrations.encoders.torch import hub as hub_module
from bge_m3_integrations.encoders.torch.files import HEADS, CheckpointFiles
from bge_m3_integrations.encoders.torch.hub import resolve_checkpoint
from bge_m3_integrations.errors import CheckpointError, InputError
from tests.fake_hub import COMMIT, FakeHub, fake_hub

REPO = "owner/tiny-m3"
SECRET = "hf_SecretToken"

NEEDED = {
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "modules.json",
    "1_Pooling/config.json",
    "colbert_linear.pt",
    "sparse_linear.pt",
    "pytorch_model.bin",
}
UNNEEDED = {
    ".gitattributes",
    "README.md",
    "imgs/nqa.jpg",
    "long.jpg",
    "sentencepiece.bpe.model",
    "modeling_own.py",
    "flax_model.msgpack",
    "tf_model.h5",
    "rust_model.ot",
    "onnx/model.onnx",
    "onnx/model.onnx_data",
    "onnx/config.json",
    "onnx/tokenizer.json",
    "onnx/colbert_linear.pt",
}


def write(folder: Path, *names: str, content: str | None = None) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Equal contents are one blob in the hub's cache and would be fetched once.
        default = json.dumps({"content of": name}) if name.endswith(".json") else f"of {name}"
        path.write_text(default if content is None else content)
    return folder


def write_sharded(folder: Path) -> None:
    shards = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    weight_map = {"a.weight": shards[0], "b.weight": shards[1], "b.bias": shards[1]}
    write(folder, *shards)
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    write(folder, "model.safetensors.index.json", content=index)


def forget_sessions() -> None:
    """Drop the client's connections; before version 1 it called that otherwise."""
    close = getattr(huggingface_hub, "close_session", None)
    (close or huggingface_hub.utils.reset_sessions)()


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    connect = socket.create_connection

    def loopback(address: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        assert address[0] == "127.0.0.1", f"a test tried to reach {address}"
        return connect(address, *args, **kwargs)

    monkeypatch.setattr(socket, "create_connection", loopback)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    forget_sessions()
    yield
    forget_sessions()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny-m3", *NEEDED)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    served = write(tmp_path / "served", *NEEDED, *UNNEEDED)
    with fake_hub(served, REPO) as running:
        monkeypatch.setattr(hub_module, "HfApi", partial(HfApi, endpoint=running.url))
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def message(model: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        resolve_checkpoint(model, **options)
    assert SECRET not in str(raised.value)
    return str(raised.value)


def relative(found: CheckpointFiles) -> list[str]:
    return [path.relative_to(found.folder).as_posix() for path in found.weights]


# A local folder


def test_a_folder_is_used_as_it_is_and_the_hub_is_not_asked(folder: Path, hub: FakeHub) -> None:
    assert resolve_checkpoint(folder) == CheckpointFiles(
        folder=folder,
        weights=(folder / "pytorch_model.bin",),
        heads={
            "sparse": folder / "sparse_linear.pt",
            "colbert": folder / "colbert_linear.pt",
        },
        tokenizer=folder / "tokenizer.json",
        pooling_config=folder / "1_Pooling/config.json",
        name="tiny-m3",
        revision=None,
    )
    assert hub.requests == []


def test_a_folder_wins_over_a_repository_of_the_same_name(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / REPO, *NEEDED)
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint(REPO).revision is None
    assert hub.requests == []


def test_the_current_folder_is_named_by_its_own_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert resolve_checkpoint(".").name == "tiny-m3"


def test_a_tilde_is_the_home_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert resolve_checkpoint("~/tiny-m3").folder == folder


def test_a_revision_of_a_folder_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match=r"revision='v1'.*local folder"):
        resolve_checkpoint(folder, revision="v1")


def test_safetensors_is_read_before_bin(folder: Path) -> None:
    write_sharded(folder)
    assert len(resolve_checkpoint(folder).weights) == 2
    write(folder, "model.safetensors")
    assert relative(resolve_checkpoint(folder)) == ["model.safetensors"]


def test_shards_are_those_that_the_index_names(folder: Path) -> None:
    write_sharded(folder)
    write(folder, "model-00001-of-00007.safetensors")
    assert relative(resolve_checkpoint(folder)) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_a_missing_shard_is_named(folder: Path) -> None:
    write_sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    text = message(folder)
    assert "model-00002-of-00002.safetensors" in text
    assert "model-00001-of-00002.safetensors" not in text


def test_an_index_cannot_name_a_file_outside_the_folder(folder: Path) -> None:
    write(folder.parent, "outside.safetensors")
    index = json.dumps({"weight_map": {"a": "../outside.safetensors"}})
    write(folder, "model.safetensors.index.json", content=index)
    assert "../outside.safetensors" in message(folder)


def test_an_index_without_a_weight_map_is_an_error(folder: Path) -> None:
    write(folder, "model.safetensors.index.json")
    assert "no weight_map" in message(folder)


def test_a_folder_without_pooling_has_none(folder: Path) -> None:
    (folder / "1_Pooling/config.json").unlink()
    assert resolve_checkpoint(folder).pooling_config is None


@pytest.mark.parametrize("vocabulary", ["sentencepiece.bpe.model", "vocab.txt", "vocab.json"])
def test_a_vocabulary_stands_in_for_tokenizer_json(folder: Path, vocabulary: str) -> None:
    (folder / "tokenizer.json").unlink()
    write(folder, vocabulary)
    assert resolve_checkpoint(folder).tokenizer == folder / vocabulary


@pytest.mark.parametrize(
    ("absent", "expected"),
    [
        (["config.json"], "config.json, the architecture"),
        (["pytorch_model.bin"], "weights, one of model.safetensors, model.safetensors.index"),
        (["tokenizer.json"], "a tokenizer, one of tokenizer.json, sentencepiece.bpe.model"),
    ],
)
def test_a_missing_part_is_named_with_the_place_and_what_is_there(
    folder: Path, absent: list[str], expected: str
) -> None:
    for name in absent:
        (folder / name).unlink()
    text = message(folder)
    assert expected in text
    assert str(folder) in text
    assert "It has: 1_Pooling/, 1_Pooling/config.json, " in text


def test_all_missing_parts_are_named_at_once(tmp_path: Path) -> None:
    text = message(write(tmp_path / "empty", "snapshots/x"))
    assert all(part in text for part in ("config.json", "weights", "tokenizer"))
    assert "It has: snapshots/." in text


@pytest.mark.parametrize("content", ["{", "\N{REPLACEMENT CHARACTER}", "[1]"])
def test_a_config_that_is_no_json_object_is_an_error(folder: Path, content: str) -> None:
    write(folder, "config.json", content=content)
    text = message(folder)
    assert str(folder / "config.json") in text
    assert "JSON" in text


@pytest.mark.parametrize("name", ["pytorch_model.bin", "colbert_linear.pt", "tokenizer.json"])
def test_an_lfs_pointer_is_not_taken_for_the_file(folder: Path, name: str) -> None:
    write(folder, name, content="version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    text = message(folder)
    assert name in text
    assert "git lfs pull" in text


@pytest.mark.parametrize("name", ["pytorch_model.bin", "1_Pooling/config.json"])
def test_a_broken_link_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(folder / "gone")
    assert f"{folder / name} is a link to a file that is not there" in message(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "sparse_linear.pt"])
def test_a_pipe_in_place_of_a_file_is_named_and_never_waited_for(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{folder / name} is a named pipe where a file should be" in message(folder)


def test_a_socket_in_place_of_a_file_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "tokenizer.json").unlink()
    monkeypatch.chdir(folder)  # a socket's whole path must be short
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("tokenizer.json")
        assert "is a socket where a file should be" in message(folder)


def test_a_folder_of_a_heads_name_is_no_head(folder: Path) -> None:
    (folder / "sparse_linear.pt").unlink()
    (folder / "sparse_linear.pt").mkdir()
    assert list(resolve_checkpoint(folder).heads) == ["colbert"]


@pytest.mark.parametrize(
    "name", ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
)
def test_an_adapter_beside_the_base_is_to_be_merged_first(folder: Path, name: str) -> None:
    write(folder, name)
    text = message(folder)
    assert name in text
    assert "Merge first" in text
    assert "merge_and_unload" in text


@pytest.mark.parametrize("name", ["quantize_config.json", "hf_quant_config.json"])
def test_a_config_of_quantised_weights_is_refused(folder: Path, name: str) -> None:
    write(folder, name)
    assert f"quantized weights ({name})" in message(folder)


def test_json_of_a_hundred_thousand_levels_is_an_error(folder: Path) -> None:
    write(folder, "config.json", content='{"a":' * 100_000)
    assert "is not JSON" in message(folder)


def test_an_empty_file_is_named(folder: Path) -> None:
    write(folder, "sparse_linear.pt", content="")
    assert "sparse_linear.pt is empty" in message(folder)


# Names


@pytest.mark.parametrize(
    "name",
    [
        "./model",
        "../a",
        "~/nowhere-m3",
        "~no-such-user/m3",
        "/no/model",
        "a/b/c",
        "C:\\m3",
        Path("owner/m3"),
    ],
)
def test_a_path_that_does_not_exist_is_never_asked_of_the_hub(
    name: str | Path, hub: FakeHub
) -> None:
    text = message(name)
    assert f"no folder {str(name)!r}" in text
    assert str(Path.cwd()) in text
    assert hub.requests == []


def test_a_bare_name_suggests_the_hub_id(hub: FakeHub) -> None:
    assert 'Did you mean "BAAI/bge-m3"?' in message("bge-m3")
    assert "Did you mean" not in message("something-else-entirely")
    assert hub.requests == []


def test_a_file_is_not_a_folder(folder: Path) -> None:
    assert "is a file; pass the folder" in message(folder / "config.json")


def test_an_empty_name_is_an_error() -> None:
    with pytest.raises(InputError, match="model is empty"):
        resolve_checkpoint(" ")


def test_a_name_that_the_hub_forbids_is_explained(hub: FakeHub, cache: Path) -> None:
    assert "neither an existing folder nor a valid hub id" in message("a b/c", cache_dir=cache)
    assert hub.requests == []


# The hub


def test_only_the_needed_files_are_downloaded(hub: FakeHub, cache: Path) -> None:
    found = resolve_checkpoint(REPO, cache_dir=cache)
    assert hub.fetched() == NEEDED
    assert not any("onnx" in request.path for request in hub.requests)
    assert found.folder.is_relative_to(cache)
    assert (found.name, found.revision) == (REPO, COMMIT)


def test_one_set_of_weights_is_downloaded(hub: FakeHub, cache: Path) -> None:
    write(hub.folder, "model.safetensors")
    resolve_checkpoint(REPO, cache_dir=cache)
    assert hub.fetched() == NEEDED - {"pytorch_model.bin"} | {"model.safetensors"}


def test_shards_are_downloaded_with_their_index(hub: FakeHub, cache: Path) -> None:
    write_sharded(hub.folder)
    write(hub.folder, "model-00001-of-00007.safetensors")
    found = resolve_checkpoint(REPO, cache_dir=cache)
    extra = {"model.safetensors.index.json", *relative(found)}
    assert len(found.weights) == 2
    assert hub.fetched() == NEEDED - {"pytorch_model.bin"} | extra


def test_weights_come_last_so_a_broken_download_never_looks_complete(
    hub: FakeHub, cache: Path
) -> None:
    resolve_checkpoint(REPO, cache_dir=cache)
    got = [request.path for request in hub.requests if request.method == "GET"]
    assert got[-1].endswith("/pytorch_model.bin")


def test_code_is_downloaded_only_when_trusted(hub: FakeHub, cache: Path) -> None:
    resolve_checkpoint(REPO, cache_dir=cache, trust_remote_code=True)
    assert hub.fetched() == NEEDED | {"modeling_own.py"}


def test_vocabularies_are_downloaded_where_tokenizer_json_is_absent(
    hub: FakeHub, cache: Path
) -> None:
    (hub.folder / "tokenizer.json").unlink()
    found = resolve_checkpoint(REPO, cache_dir=cache)
    assert found.tokenizer.name == "sentencepiece.bpe.model"
    assert hub.fetched() == NEEDED - {"tokenizer.json"} | {"sentencepiece.bpe.model"}


def test_a_checkpoint_without_heads_is_downloaded_without_them(hub: FakeHub, cache: Path) -> None:
    for head in HEADS.values():
        (hub.folder / head).unlink()
    found = resolve_checkpoint(REPO, cache_dir=cache)
    assert found.heads == {}
    assert hub.fetched() == NEEDED - set(HEADS.values())
    assert resolve_checkpoint(REPO, cache_dir=cache, offline=True) == found


def test_an_adapter_is_refused_before_anything_is_downloaded(hub: FakeHub, cache: Path) -> None:
    write(hub.folder, "adapter_config.json")
    text = message(REPO, cache_dir=cache)
    assert f"{REPO}@main" in text
    assert "Merge first" in text
    assert hub.fetched() == set()


def test_the_configs_that_modules_json_names_are_downloaded(hub: FakeHub, cache: Path) -> None:
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "own_pooling"}]
    write(hub.folder, "modules.json", content=json.dumps(modules))
    write(hub.folder, "own_pooling/config.json", "other_folder/config.json")
    found = resolve_checkpoint(REPO, cache_dir=cache)
    assert hub.fetched() == NEEDED | {"own_pooling/config.json"}
    assert (found.folder / "own_pooling/config.json").exists()


def test_the_revision_and_the_token_and_the_library_are_sent(hub: FakeHub, cache: Path) -> None:
    hub.token, hub.revisions = SECRET, ("v1",)
    resolve_checkpoint(REPO, revision="v1", token=SECRET, cache_dir=cache)
    assert {request.authorization for request in hub.requests} == {f"Bearer {SECRET}"}
    assert all(request.user_agent.startswith("bge-m3-integrations/") for request in hub.requests)
    assert hub.requests[0].path == f"/api/models/{REPO}/revision/v1"


def test_a_second_load_offline_asks_nothing(hub: FakeHub, cache: Path) -> None:
    online = resolve_checkpoint(REPO, cache_dir=cache)
    hub.requests.clear()
    assert resolve_checkpoint(REPO, cache_dir=cache, offline=True) == online
    assert resolve_checkpoint(REPO, cache_dir=cache, offline=True, revision=COMMIT) == online
    assert hub.requests == []


def test_the_offline_variable_is_obeyed(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    online = resolve_checkpoint(REPO, cache_dir=cache)
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_checkpoint(REPO, cache_dir=cache) == online
    assert hub.requests == []


def test_a_second_load_online_downloads_nothing_again(hub: FakeHub, cache: Path) -> None:
    resolve_checkpoint(REPO, cache_dir=cache)
    hub.requests.clear()
    resolve_checkpoint(REPO, cache_dir=cache)
    assert hub.fetched() == set()


def test_offline_without_a_copy_says_what_to_do(hub: FakeHub, cache: Path) -> None:
    text = message(REPO, cache_dir=cache, offline=True)
    assert f"{REPO}@main is not in the cache {cache}" in text
    assert "run once online" in text
    assert hub.requests == []


def test_a_copy_offline_without_a_head_has_the_others(hub: FakeHub, cache: Path) -> None:
    found = resolve_checkpoint(REPO, cache_dir=cache)
    found.heads["colbert"].unlink()
    again = resolve_checkpoint(REPO, cache_dir=cache, offline=True)
    assert list(again.heads) == ["sparse"]


def test_an_incomplete_copy_of_bge_m3_offline_says_what_is_missing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = write(tmp_path / "served", *NEEDED)
    with fake_hub(served, "BAAI/bge-m3") as running:
        monkeypatch.setattr(hub_module, "HfApi", partial(HfApi, endpoint=running.url))
        resolve_checkpoint("BAAI/bge-m3", cache_dir=cache).heads["colbert"].unlink()
        text = message("BAAI/bge-m3", cache_dir=cache, offline=True)
    assert "lacks: colbert_linear.pt" in text
    assert "Run once online" in text


def test_an_unknown_repository_suggests_the_right_spelling(hub: FakeHub, cache: Path) -> None:
    text = message("BAAI/bge_m3", cache_dir=cache)
    assert "no repository 'BAAI/bge_m3' at 127.0.0.1" in text
    assert 'Did you mean "BAAI/bge-m3"?' in text


def test_an_unknown_revision_is_named(hub: FakeHub, cache: Path) -> None:
    text = message(REPO, revision="v9", cache_dir=cache)
    assert f"{REPO} has no revision 'v9'" in text


def test_a_private_repository_asks_for_a_token(hub: FakeHub, cache: Path) -> None:
    hub.token = SECRET
    assert "pass token= if it is private" in message(REPO, cache_dir=cache)


def test_a_wrong_token_is_refused_and_never_shown(hub: FakeHub, cache: Path) -> None:
    hub.token = "hf_another"
    assert "refused the access token" in message(REPO, cache_dir=cache, token=SECRET)


def test_a_token_with_a_line_break_is_an_error_that_does_not_show_it(hub: FakeHub) -> None:
    with pytest.raises(InputError) as raised:
        resolve_checkpoint(REPO, token=f"{SECRET}\n")
    assert SECRET not in str(raised.value)
    assert hub.requests == []


def test_a_login_that_never_was_is_explained(hub: FakeHub, cache: Path) -> None:
    assert "nobody is logged in" in message(REPO, cache_dir=cache, token=True)


def test_a_gated_repository_says_to_ask_for_access(hub: FakeHub, cache: Path) -> None:
    hub.gated = True
    assert f"{REPO}@main is gated: ask for access" in message(REPO, cache_dir=cache)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (403, "denies access"),
        (429, "limits the rate"),
        (500, "answered 500"),
        (404, "answered 404"),
    ],
)
def test_a_refusal_names_its_status(hub: FakeHub, cache: Path, status: int, expected: str) -> None:
    hub.status = status
    text = message(REPO, cache_dir=cache)
    assert expected in text
    assert str(status) in text
    assert "pass a local folder" in text


def test_a_hub_that_breaks_off_is_named_with_its_own_status(hub: FakeHub, cache: Path) -> None:
    hub.file_status = 501
    assert "127.0.0.1 answered 501" in message(REPO, cache_dir=cache)


def test_an_unreachable_hub_is_named_and_the_cause_is_chained(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setattr(hub_module, "HfApi", partial(HfApi, endpoint=endpoint))
        with pytest.raises(
            CheckpointError, match=r"cannot reach 127.0.0.1 .*Connect(ion)?E"
        ) as raised:
            resolve_checkpoint(REPO, cache_dir=cache)
    assert "offline=True" in str(raised.value)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        RuntimeError(f"Data processing error: {os.strerror(errno.ENOSPC)} (os error 28)"),
    ],
    ids=["file system", "native downloader"],
)
def test_a_full_disk_asks_for_another_cache(
    hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error

    monkeypatch.setattr(HfApi, "snapshot_download", fail)
    text = message(REPO, cache_dir=cache)
    assert f"cannot be stored in {cache}: {os.strerror(errno.ENOSPC)}; set cache_dir=" in text


def test_a_cache_that_cannot_be_a_folder_is_named(hub: FakeHub, cache: Path) -> None:
    cache.write_text("a file")
    assert f"cannot be stored in {cache}: " in message(REPO, cache_dir=cache)
