"""The tensors of weight files as views of memory maps: in memory only when touched."""

from __future__ import annotations

import ctypes
import gc
import mmap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

# Names of the first BERT checkpoints.
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}


class MappedTensors(Mapping[str, torch.Tensor]):
    """Names to tensors of one or more files; read-only views, valid as long as they are held.

    Args:
        paths: Safetensors files, or torch files that hold a plain state dict.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        self._mapped: set[str] = set()
        for path in paths:
            views = {_modern(name): tensor for name, tensor in _views(path).items()}
            self._tensors |= views
            maps = _file_maps(path)
            self._mapped |= {n for n, t in views.items() if _lies_in(t, maps)}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def release(self, name: str) -> None:
        """Give the memory of a tensor's pages back; they are read from the file when touched.

        Does nothing where the tensor is no map of its file (a file from before torch 1.6) or the
        system has no such call: dropping pages of other memory would lose their content.

        Args:
            name: A tensor's name.
        """
        tensor, advise = self._tensors[name], _libc("madvise")
        if advise is None or name not in self._mapped:
            return
        page = mmap.PAGESIZE
        start = -(-tensor.data_ptr() // page) * page
        end = (tensor.data_ptr() + tensor.nbytes) // page * page
        if end > start:
            advise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), mmap.MADV_DONTNEED)


def release_freed_memory() -> None:
    """Let the C library give freed memory back to the system, where it is glibc.

    It keeps small blocks for itself otherwise, and loading a large vocabulary frees a hundred MiB
    of them. Costs a full garbage collection: a quarter of a second among a million objects.
    """
    if _libc("malloc_trim") is not None:
        gc.collect()
        trim_heap()


def trim_heap() -> None:
    """Give back what was freed, without a garbage collection; where the C library is glibc."""
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(0)


def _views(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    if path.suffix != ".safetensors":
        return _state_dict(_load_mapped(path))
    with safe_open(path, framework="pt") as reader:
        return {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118


def _state_dict(loaded: Any) -> dict[str, torch.Tensor]:
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by name")
    for name, value in loaded.items():
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{name!r} in it is a {type(value).__name__}, not a tensor")
    return loaded


def _load_mapped(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # a file from before torch 1.6 is no zip archive and cannot be mapped
        return torch.load(path, map_location="cpu", weights_only=True)


def _modern(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(old, new)
    return name


@cache
def _libc(function: str) -> Any:
    """A function of the C library, or None where there is none of this name."""
    try:
        return getattr(ctypes.CDLL(None), function, None)
    except (OSError, TypeError):  # Windows
        return None


def _file_maps(path: Path) -> list[tuple[int, int]]:
    """Where this process maps a file, as Linux tells it; elsewhere nothing."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    fields = [line.split(maxsplit=5) for line in lines]
    spans = [some[0].split("-") for some in fields if some[5:] == [str(path.resolve())]]
    return [(int(start, 16), int(end, 16)) for start, end in spans]


def _lies_in(tensor: torch.Tensor, maps: list[tuple[int, int]]) -> bool:
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    return any(start <= first and last <= end for start, end in maps)
