"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

from bge_m3_integrations.encoders.torch.native.binding import unavailable_reason

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def machine() -> dict[str, str]:
    """Date, processor, the flags that kernels go by, cores and memory.

    Our own kernels are those of an unlimited process: one kept to less than AVX-512 uses torch.
    """
    cpu = _pairs(Path("/proc/cpuinfo"))
    held = cpu.get("flags", "").split()
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": cpu.get("model name", platform.processor()),
        "family and model": f"{cpu.get('cpu family', '?')}/{cpu.get('model', '?')}",
        "flags": " ".join(flag for flag in FLAGS if flag in held),
        "cores": str(os.cpu_count()),
        "memory": _pairs(Path("/proc/meminfo")).get("MemTotal", "?"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "kernels": unavailable_reason() or "compiled",
    }


def isa_environment(isa: str) -> dict[str, str]:
    """Variables that keep torch, oneDNN and MKL to an instruction set; "full" sets none."""
    if isa == "full":
        return {}
    return {
        "ATEN_CPU_CAPABILITY": isa,
        "ONEDNN_MAX_CPU_ISA": isa.upper(),
        "MKL_ENABLE_INSTRUCTIONS": isa.upper(),
    }


def _pairs(path: Path) -> dict[str, str]:
    """The first value of each name in a file of `name : value` lines."""
    if not path.exists():
        return {}
    lines = (line.partition(":") for line in path.read_text(encoding="utf-8").splitlines())
    pairs = [(name.strip(), value.strip()) for name, _, value in lines]
    return dict(reversed(pairs))
