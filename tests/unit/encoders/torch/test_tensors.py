from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from bge_m3_integrations.encoders.torch import tensors
from bge_m3_integrations.encoders.torch.tensors import MappedTensors

NAME = "encoder.layer.0.intermediate.dense.weight"


@pytest.fixture
def large(tmp_path: Path) -> tuple[Path, torch.Tensor]:
    values = torch.arange(1 << 20, dtype=torch.float32).view(1024, 1024)
    path = tmp_path / "model.safetensors"
    save_file({NAME: values}, path)
    return path, values


def test_safetensors_and_torch_files_give_the_same_tensors(
    xlm_roberta: Path, tmp_path: Path
) -> None:
    stored = load_file(xlm_roberta / "model.safetensors")
    torch.save(stored, tmp_path / "new.bin")
    torch.save(stored, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    for path in (xlm_roberta / "model.safetensors", tmp_path / "new.bin", tmp_path / "old.bin"):
        found = MappedTensors([path])
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in stored.items())


def test_shards_are_one_mapping(xlm_roberta: Path, tmp_path: Path) -> None:
    stored = list(load_file(xlm_roberta / "model.safetensors").items())
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, part in zip(paths, (stored[::2], stored[1::2]), strict=True):
        save_file(dict(part), path)
    assert len(MappedTensors(paths)) == len(stored)


def test_the_names_of_the_first_bert_checkpoints_are_understood(tmp_path: Path) -> None:
    save_file(
        {"LayerNorm.gamma": torch.ones(2), "LayerNorm.beta": torch.zeros(2)},
        tmp_path / "m.safetensors",
    )
    found = MappedTensors([tmp_path / "m.safetensors"])
    assert set(found) == {"LayerNorm.weight", "LayerNorm.bias"}


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_released_pages_leave_memory_and_come_back(
    large: tuple[Path, torch.Tensor], tmp_path: Path, suffix: str
) -> None:
    path, values = large
    if suffix == "bin":
        path = tmp_path / "model.bin"
        torch.save({NAME: values}, path)
    found = MappedTensors([path])
    if NAME not in found._mapped:
        pytest.skip("this system does not tell what is mapped")
    assert torch.equal(found[NAME], values)
    before = resident(path)
    found.release(NAME)
    assert resident(path) < before / 4
    assert torch.equal(found[NAME], values)


def test_memory_that_is_no_map_of_the_file_is_never_released(tmp_path: Path) -> None:
    path = tmp_path / "old.bin"
    torch.save({NAME: torch.ones(1024, 1024)}, path, _use_new_zipfile_serialization=False)
    found = MappedTensors([path])
    found.release(NAME)
    assert torch.equal(found[NAME], torch.ones(1024, 1024))


def test_a_system_without_these_calls_only_keeps_more_memory(
    large: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensors, "_libc", lambda _: None)
    path, values = large
    found = MappedTensors([path])
    found.release(NAME)
    tensors.release_freed_memory()
    assert torch.equal(found[NAME], values)


def test_a_file_can_be_replaced_while_its_tensors_are_held(
    large: tuple[Path, torch.Tensor], tmp_path: Path
) -> None:
    path, values = large
    found = MappedTensors([path])
    save_file({NAME: torch.zeros(1024, 1024)}, tmp_path / "other.safetensors")
    shutil.move(tmp_path / "other.safetensors", path)
    found.release(NAME)
    assert torch.equal(found[NAME], values)


def resident(path: Path) -> int:
    """KiB of a file in this process' memory."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        if "-" in line.split(maxsplit=1)[0]:
            ours = line.endswith(str(path.resolve()))
        elif ours and line.startswith("Rss:"):
            total += int(line.split()[1])
    return total
