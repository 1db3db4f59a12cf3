"""A process that opens an index after each of many damages: prints a line for each.

A process of its own, because the engine may end it. It is given the index's folder, that of an
older state, and where to work.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bge_m3_integrations.core.embeddings import ALL_MODES
from bge_m3_integrations.core.filters import parse
from bge_m3_integrations.errors import StoreError
from bge_m3_integrations.stores.edge import EdgeStore
from bge_m3_integrations.stores.edge.folder.files import blocks_of, copy_folder
from tests.unit.stores.edge.programs import ENCODER


def deleted(file: Path, chance: random.Random) -> None:
    file.unlink()


def cut(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.truncate(chance.randrange(max(1, file.stat().st_size)))


def emptied(file: Path, chance: random.Random) -> None:
    file.write_bytes(b"")


def zeroed(file: Path, chance: random.Random) -> None:
    size = file.stat().st_size
    with file.open("wb") as opened:
        opened.truncate(size)


def flipped(file: Path, chance: random.Random) -> None:
    size = file.stat().st_size
    with file.open("r+b") as opened:
        blocks = blocks_of(opened.fileno(), size)
        used = max((start + len(block.rstrip(b"\0")) for start, block in blocks), default=size)
        place = chance.randrange(used) if used else 0
        opened.seek(place)
        held = opened.read(1) or b"\0"
        opened.seek(place)
        opened.write(bytes([held[0] ^ 1 << chance.randrange(8)]))


DAMAGES = (deleted, cut, emptied, zeroed, flipped, flipped, flipped)


def seen(folder: Path) -> Any:
    """All that an index gives."""
    store = EdgeStore.open(folder)
    try:
        ids = list(store.ids())
        vectors = store.vectors(ids, ALL_MODES)
        query = ENCODER.encode(["fox on the bridge"], kind="query", modes=ALL_MODES)
        found = {m: store.find(query, m, limit=50) for m in ("dense", "sparse", "colbert")}
        numbers = [
            np.round(part, 5).tolist()
            for part in (vectors.dense, vectors.sparse.weights, vectors.colbert.vectors)  # type: ignore[union-attr]
        ]
        records = [(r.id, r.text, dict(r.metadata)) for r in store.get(ids) if r is not None]
        counts = [store.count(), store.count(parse({"i": {"$gte": 10}}))]
        return [records, numbers, repr(found), counts, store.manifest.filter_fields]
    finally:
        store.close()


def damaged(
    index: Path, older: Path, work: Path
) -> Iterator[tuple[str, str, Callable[[Path], object]]]:
    """Every file with each damage, as the file's name, the damage's, and what does it."""
    names = [f.relative_to(index) for f in sorted(index.rglob("*")) if f.is_file()]
    for i, name in enumerate(n for n in names if n.name not in {"lock", "holder.json"}):
        for j, damage in enumerate(DAMAGES):
            chance = random.Random(f"{i} {j}")
            yield str(name), damage.__name__, lambda place, d=damage, c=chance: d(place, c)
        before = older / name
        if before.exists() and before.read_bytes() != (index / name).read_bytes():
            yield str(name), "older", lambda place, b=before: shutil.copyfile(b, place)


def main(index: str, older: str, work: str) -> None:
    source, place = Path(index), Path(work)
    copy_folder(source, place)
    expected = json.loads(json.dumps(seen(place)))
    for name, kind, damage in damaged(source, Path(older), place):
        shutil.rmtree(place)
        copy_folder(source, place)
        sys.stdout.write(f"{name} {kind} ")
        sys.stdout.flush()
        damage(place / name)
        try:
            same = json.loads(json.dumps(seen(place))) == expected
            said = "same" if same else "CHANGED"
        except StoreError as error:
            said = "told" if str(place) in str(error) else f"RIDDLE {error!r}"
        except Exception as error:
            said = f"BARE {error!r}"
        sys.stdout.write(f"{said[:300]}\n".replace("\n", " ") + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
