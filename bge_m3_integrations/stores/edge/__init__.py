"""The embedded store: an index in a folder, over the Qdrant Edge engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bge_m3_integrations._lazy import lazy_names

if TYPE_CHECKING:
    from bge_m3_integrations.stores.edge.apart import ApartStore
    from bge_m3_integrations.stores.edge.home import restore
    from bge_m3_integrations.stores.edge.manifest import REENCODE, EncoderNote, Manifest
    from bge_m3_integrations.stores.edge.store import EdgeStore

_HOME_OF = {
    "REENCODE": "manifest",
    "ApartStore": "apart",
    "EdgeStore": "store",
    "EncoderNote": "manifest",
    "Manifest": "manifest",
    "restore": "home",
}

__all__ = ["REENCODE", "ApartStore", "EdgeStore", "EncoderNote", "Manifest", "restore"]


if not TYPE_CHECKING:  # a checker would take every misspelt name for one of ours
    __getattr__, __dir__ = lazy_names(__name__, _HOME_OF)
