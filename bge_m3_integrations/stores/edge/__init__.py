"""The embedded store: an index in a folder, over the Qdrant Edge engine."""

from bge_m3_integrations.stores.edge.apart import ApartStore
from bge_m3_integrations.stores.edge.home import restore
from bge_m3_integrations.stores.edge.manifest import REENCODE, EncoderNote, Manifest
from bge_m3_integrations.stores.edge.store import EdgeStore

__all__ = ["REENCODE", "ApartStore", "EdgeStore", "EncoderNote", "Manifest", "restore"]
