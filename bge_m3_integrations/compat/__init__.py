"""Other libraries' BGE-M3 classes over this engine: change one import, keep the code.

See `docs/migration.md` for what is the same, what differs on purpose, and the native calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_m3_integrations._internal.lazy import lazy_names

if TYPE_CHECKING:
    from bge_m3_integrations.compat.flag_embedding import BGEM3FlagModel
    from bge_m3_integrations.compat.pymilvus import BGEM3EmbeddingFunction

_HOME_OF = {"BGEM3FlagModel": "flag_embedding", "BGEM3EmbeddingFunction": "pymilvus"}

__all__ = ["BGEM3EmbeddingFunction", "BGEM3FlagModel"]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
