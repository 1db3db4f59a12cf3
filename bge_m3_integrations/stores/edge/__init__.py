"""The embedded store: an index in a folder, over the Qdrant Edge engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_m3_integrations._internal.lazy import lazy_names

if TYPE_CHECKING:
    from bge_m3_integrations.stores.edge.folder.config import FolderConfig
    from bge_m3_integrations.stores.edge.folder.manifest import REENCODE, EncoderInfo, Manifest
    from bge_m3_integrations.stores.edge.lifecycle import restore
    from bge_m3_integrations.stores.edge.process.client import ProcessStore
    from bge_m3_integrations.stores.edge.store import EdgeStore

_HOME_OF = {
    "ProcessStore": "process.client",
    "EdgeStore": "store",
    "FolderConfig": "folder.config",
    "EncoderInfo": "folder.manifest",
    "Manifest": "folder.manifest",
    "REENCODE": "folder.manifest",
    "restore": "lifecycle",
}

__all__ = [
    "REENCODE",
    "EdgeStore",
    "EncoderInfo",
    "FolderConfig",
    "Manifest",
    "ProcessStore",
    "restore",
]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
