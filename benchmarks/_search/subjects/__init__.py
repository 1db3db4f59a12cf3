"""What is searched: one file per family, each importing its package only to open."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks._search.subjects.base import Kind
from benchmarks._search.subjects.bgem3index import BGEM3INDEX
from benchmarks._search.subjects.inmemory import INMEMORY
from benchmarks._search.subjects.milvus import MILVUS
from benchmarks._search.subjects.ours import OURS
from benchmarks._search.subjects.qdrant import QDRANT

KINDS = {kind.name: kind for kind in (*OURS, BGEM3INDEX, INMEMORY, QDRANT, MILVUS)}


def chosen(names: Sequence[str], stores: Sequence[str]) -> list[Kind]:
    """The peers whose names start so (all for no names) and our stores of these names."""
    ours = [kind for kind in OURS if kind.store in stores]
    others = [kind for kind in KINDS.values() if kind not in OURS]
    known = (*ours, *others)
    if unknown := [n for n in names if not any(k.name.startswith(n) for k in known)]:
        raise SystemExit(f"nothing is called {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return [kind for kind in known if not names or kind.name.startswith(tuple(names))]
