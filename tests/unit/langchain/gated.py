"""An encoder that waits: whether an event loop runs on is seen without a clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Sequence

from bge_m3_integrations.core.embeddings import EmbeddingBatch, Kind, Modes
from bge_m3_integrations.testing import FakeEncoder

PATIENCE = 10.0


class GatedEncoder(FakeEncoder):
    """Encodes once the gate is open, or after `PATIENCE` seconds: a failing test ends as well."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.expired = False

    def encode(
        self, texts: Sequence[str], *, kind: Kind, modes: Modes, max_length: int | None = None
    ) -> EmbeddingBatch:
        self.entered.set()
        self.expired |= not self.gate.wait(PATIENCE)
        return super().encode(texts, kind=kind, modes=modes, max_length=max_length)

    async def runs_beside_the_loop(self, work: Awaitable[object]) -> bool:
        """Whether the loop and its threads stay free while the work waits at the gate."""
        task = asyncio.ensure_future(work)
        while not self.entered.is_set():
            await asyncio.sleep(0.001)
        await asyncio.to_thread(int)
        waiting = not task.done()
        self.gate.set()
        await task
        return waiting and not self.expired
