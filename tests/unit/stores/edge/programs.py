"""A process that writes to an index until it is killed, and a witness of what must be left of it.

The process says in a log what it begins and what it has done: `python -m ... FOLDER LOG ROUND VIA
MOMENT`. Every number of a record follows from its text, and its text from id and version.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import ALL_MODES, EmbeddingBatch
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.stores.base import Store
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, ProcessStore
from bge_m3_integrations.testing import FakeEncoder

ENCODER = FakeEncoder(dim=8, colbert_dim=4)
MOMENTS = ("add", "isolated", "optimize", "flush", "rewrite", "delete")
"""What a process is killed in the middle of."""
OPTIONS: dict[str, Any] = {
    "modes": ["dense", "sparse", "colbert"],
    "dim": 8,
    "colbert_dim": 4,
    "colbert": "float32",
}
NEW = [Record(f"new-{i}", f"stone number{i}", {"i": i}) for i in range(5)]
ROOT = Path(__file__).parents[4]
_SECONDS = {"isolated": 1.5, "optimize": 0.04, "add": 0.02}
_IDS = 300
_MANY = 1200
"""Records that must be replaced before the engine finds anything to optimise."""
_WORDS = ("fox", "bridge", "river", "stone", "cheese", "bread", "night", "train", "letter")


@dataclass(frozen=True, slots=True)
class Version:
    """What a record is to look like: the text's version, and that of the metadata."""

    text: str
    metadata: str


@dataclass(frozen=True, slots=True)
class Step:
    """One call that changes an index; `add` and `rewrite` give the records their version."""

    name: str
    ids: Sequence[int] = ()
    version: str = ""


def record_of(i: int, version: Version) -> Record:
    chosen = random.Random(f"{i} {version.text}").choices(_WORDS, k=i % 7)
    text = " ".join([f"number{i}", f"version{version.text}", *chosen])
    return Record(f"id-{i}", text, {"i": i, "text": version.text, "metadata": version.metadata})


def encoded(records: Sequence[Record]) -> EmbeddingBatch:
    return ENCODER.encode([r.text for r in records], kind="document", modes=ALL_MODES)


def open_store(folder: Path) -> EdgeStore:
    return EdgeStore.open(folder, FolderConfig(**OPTIONS))


def open_apart(folder: Path) -> ProcessStore:
    return ProcessStore.open(folder, FolderConfig(**OPTIONS))


OPEN: dict[str, Callable[[Path], EdgeStore | ProcessStore]] = {
    "inside": open_store,
    "isolated": open_apart,
}


def run(folder: Path, code: str) -> str:
    """What another process says that does something with a store: its count, or its error."""
    program = f"""
import sys; from pathlib import Path
from tests.unit.stores.edge.programs import *
store = open_store(Path(sys.argv[1])); {code}; print(store.count()); store.close()
"""
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def holder_of(folder: Path) -> int:
    """The process that holds an index."""
    return int(json.loads((folder / "holder.json").read_text(encoding="utf-8"))["pid"])


class Writer:
    """Carries steps out, with a store alone, through an index over it, or in another process."""

    def __init__(self, folder: Path, via: str) -> None:
        self._index: HybridIndex | None = None
        self.store: EdgeStore | ProcessStore
        if via == "index":
            self._index = HybridIndex.open(folder, BGEM3(ENCODER), colbert="float32", create=True)
            assert isinstance(self._index.store, EdgeStore)
            self.store = self._index.store
        else:
            self.store = OPEN["isolated" if via == "isolated" else "inside"](folder)

    def run(self, step: Step) -> None:
        match step.name:
            case "add":
                self._add([record_of(i, Version(step.version, step.version)) for i in step.ids])
            case "rewrite":
                held = self.store.get([f"id-{i}" for i in step.ids])
                self.store.rewrite([_rewritten(r, step.version) for r in held if r is not None])
            case "delete":
                self.store.delete(ids=[f"id-{i}" for i in step.ids])
            case "flush":
                self.store.flush()
            case _:
                self.store.optimize(isolated=step.name == "isolated")

    def close(self) -> None:
        (self._index or self.store).close()

    def _add(self, records: Sequence[Record]) -> None:
        if self._index is None:
            self.store.upsert(records, encoded(records))
        else:
            self._index.add(records, batch_size=7)


class Witness:
    """Knows which versions of each record an index may hold, one unless a step was cut."""

    def __init__(self, folder: Path, via: str) -> None:
        self._folder, self._via = folder, via
        self._versions: dict[int, set[Version | None]] = {}
        self.acknowledged = 0
        self.cut: Counter[str] = Counter()

    def check_a_kill(self, number: int, moment: str) -> None:
        """Let a process write and kill it; nothing is lost, and the cut step can be completed."""
        log = self._folder.with_suffix(f".{number}.log")
        cut = None
        for step, done in _killed(self._folder, log, number, self._via, moment):
            self._note(step, done=done)
            cut = None if done else step
        writer = Writer(self._folder, self._via)
        try:
            self._compare(writer.store)
            if cut is not None:
                self.cut[cut.name] += 1
                writer.run(cut)
                self._note(cut, done=True)
            self._compare(writer.store)
        finally:
            writer.close()
        assert len([f for f in self._folder.iterdir() if f.name.startswith("shard-")]) == 1

    def _note(self, step: Step, *, done: bool) -> None:
        for i in step.ids:
            before = self._versions.setdefault(i, {None})
            after = {_after(step, version) for version in before}
            self._versions[i] = after if done else before | after
            self.acknowledged += done

    def _compare(self, store: Store) -> None:
        held = store.get([f"id-{i}" for i in self._versions])
        for (i, allowed), record in zip(self._versions.items(), held, strict=True):
            assert _version_of(record) in allowed, (i, record, allowed)
            if record is not None:
                assert record == record_of(i, _certain(record))
            self._versions[i] = {_version_of(record)}
        _check_numbers(store, [record for record in held if record is not None])


def _check_numbers(store: Store, records: Sequence[Record]) -> None:
    ids = [record.id for record in records]
    assert list(store.ids()) == sorted(ids)
    assert store.count() == len(ids)
    if not ids:
        return
    expected, found = encoded(records), store.vectors(ids, ALL_MODES)
    for mine, its in zip(_arrays(expected), _arrays(found), strict=True):
        np.testing.assert_allclose(its, mine, atol=1e-6)
    query = ENCODER.encode(["fox on the bridge"], kind="query", modes=ALL_MODES)
    scores = store.score(query, [ids], ALL_MODES)[0]
    for mode, row in scoring.components(query, expected, ALL_MODES).items():
        np.testing.assert_allclose(dict(scores.items())[mode], row[0], atol=1e-5, err_msg=mode)


def _arrays(batch: EmbeddingBatch) -> list[Any]:
    assert batch.dense is not None
    assert batch.sparse is not None
    assert batch.colbert is not None
    sparse, colbert = batch.sparse, batch.colbert
    packed = [sparse.indptr, sparse.token_ids, sparse.weights, colbert.offsets, colbert.vectors]
    return [batch.dense, *packed, batch.tokens, batch.truncated]


def _after(step: Step, before: Version | None) -> Version | None:
    if step.name == "add":
        return Version(step.version, step.version)
    if step.name == "rewrite" and before is not None:
        return Version(before.text, step.version)
    return None


def _version_of(record: Record | None) -> Version | None:
    return None if record is None else _certain(record)


def _certain(record: Record) -> Version:
    return Version(record.metadata["text"], record.metadata["metadata"])


def _rewritten(record: Record, version: str) -> Record:
    return record_of(record.metadata["i"], Version(record.metadata["text"], version))


def _killed(
    folder: Path, log: Path, number: int, via: str, moment: str
) -> Iterator[tuple[Step, bool]]:
    """The steps of a process until it was killed, each as begun and, if it came to that, done."""
    chance = random.Random(number)
    given = [str(folder), str(log), str(number), via, moment]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.stores.edge.programs", *given],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            _await(log, moment, chance.randint(1, 3), child)
            time.sleep(chance.uniform(0, _SECONDS.get(moment, 0.01)))
            if via == "isolated" and number % 2:
                # the process of the index; its caller ends by the error that says so
                os.kill(holder_of(folder), signal.SIGKILL)
                assert "was killed by SIGKILL" in child.communicate(timeout=60)[1]
        finally:
            child.kill()
    for line in log.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # else it was not said
            said = json.loads(line)
            yield Step(**said["step"]), said["done"]


def _await(log: Path, moment: str, times: int, child: subprocess.Popen[str]) -> None:
    begun = f'"name": "{moment}"'
    while not log.exists() or log.read_text().count(begun) < 2 * times - 1:
        assert child.poll() is None, child.stderr and child.stderr.read()
        time.sleep(0.002)


def _steps(number: int, moment: str) -> Iterator[Step]:
    chance = random.Random(number)
    if moment in {"isolated", "optimize"}:
        yield Step("add", range(_MANY), f"{number}.many")
    for turn in range(1_000_000):
        start = chance.randrange(_IDS)
        ids = range(start, start + chance.choice([1, 40, 250]))
        name = moment if turn % 3 == 2 else chance.choice(MOMENTS)
        if name == "delete" and moment == "optimize":
            ids = range(start, start + 300)
        name = "flush" if name == "isolated" != moment else name
        changes = name in {"add", "rewrite", "delete"}
        yield Step(name, ids if changes else (), f"{number}.{turn}")


def main(folder: str, log: str, number: str, via: str, moment: str) -> None:
    writer, parent = Writer(Path(folder), via), os.getppid()
    with Path(log).open("w") as file:
        for step in _steps(int(number), moment):
            if os.getppid() != parent:  # a test that was killed kills nobody: end with it
                return
            for done in (False, True):
                said = {"name": step.name, "ids": list(step.ids), "version": step.version}
                file.write(json.dumps({"step": said, "done": done}) + "\n")
                file.flush()
                if not done:
                    writer.run(step)


if __name__ == "__main__":
    main(*sys.argv[1:])
