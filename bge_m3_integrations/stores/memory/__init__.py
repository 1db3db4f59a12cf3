"""Exact search in memory."""

from __future__ import annotations

from bge_m3_integrations.stores.memory.store import MemoryStore

__all__ = ["MemoryStore"]
