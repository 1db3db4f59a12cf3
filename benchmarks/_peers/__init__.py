"""The encoders that are compared: one file per family, each importing its package only to load."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._peers.base import Encoded, Model, Peer, Setting
from benchmarks._peers.flag import FLAG
from benchmarks._peers.lite import FASTEMBED, LITE
from benchmarks._peers.m3serve import M3SERVE
from benchmarks._peers.ours import OURS
from benchmarks._peers.st import ST

__all__ = ["PEERS", "Encoded", "Model", "Peer", "Setting", "chosen"]

PEERS = {peer.name: peer for peer in (*OURS, *FLAG, *M3SERVE, *LITE, *ST, *FASTEMBED)}


def chosen(names: Sequence[str]) -> list[Peer]:
    """The peers with these names, or whose names start with them; all for no names."""
    if unknown := [n for n in names if not any(p.startswith(n) for p in PEERS)]:
        raise SystemExit(f"no peer is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    return [p for p in PEERS.values() if not names or p.name.startswith(tuple(names))]
