"""Other libraries' BGE-M3 classes over this engine: change one import, keep the code.

See `docs/migration.md` for what is the same, what differs on purpose, and the native calls.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bge_m3_integrations.compat.flag_embedding import BGEM3FlagModel
    from bge_m3_integrations.compat.pymilvus import BGEM3EmbeddingFunction

_HOME_OF = {"BGEM3FlagModel": "flag_embedding", "BGEM3EmbeddingFunction": "pymilvus"}

__all__ = ["BGEM3EmbeddingFunction", "BGEM3FlagModel"]


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
