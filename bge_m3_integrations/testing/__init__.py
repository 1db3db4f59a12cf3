"""Public helpers for testing code that uses this package; none of them imports pytest."""

from __future__ import annotations

from bge_m3_integrations._internal.lazy import public_names
from bge_m3_integrations.testing.fake import Call, FakeEncoder
from bge_m3_integrations.testing.store_conformance import StoreConformance

__all__ = ["Call", "FakeEncoder", "StoreConformance"]
__dir__ = public_names(__name__)
