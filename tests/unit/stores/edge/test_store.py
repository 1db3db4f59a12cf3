from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID

import numpy as np
import pytest
import qdrant_edge

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    Mode,
    SparseRows,
    TokenVectors,
    offsets_of,
    ordered_modes,
)
from bge_m3_integrations.core.filters import And, Compare, Predicate
from bge_m3_integrations.core.records import Record
from bge_m3_integrations.errors import BGEM3Error, InputError, StoreError
from bge_m3_integrations.stores.edge import EdgeStore, FolderConfig, points
from bge_m3_integrations.testing import FakeEncoder
from tests.unit.stores.edge.programs import ENCODER, OPEN, encoded, open_store
from tests.unit.stores.edge.test_points import IDS

SOUND = Record("sound", "fox on the bridge", {"lang": "en", "end": "bridge"})
BATCH = [Record(f"new-{i}", f"number{i} stone") for i in range(259)]
"""More than one write of the engine: the bad row comes after good ones."""
Spoil = Callable[[EmbeddingBatch], EmbeddingBatch]


@pytest.fixture(scope="module")
def embeddings() -> EmbeddingBatch:
    return encoded(BATCH)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    """A store of one record."""
    opened = open_store(tmp_path / "index")
    opened.upsert([SOUND], encoded([SOUND]))
    yield opened
    opened.close()


class Reopened:
    """An index of one record that is closed and opened again after every misuse."""

    def __init__(self, path: Path, kind: str) -> None:
        self._open = OPEN[kind]
        self.store = self._open(path)
        self.store.upsert([SOUND], encoded([SOUND]))

    def check(self) -> None:
        """It holds its one record, opens again, and takes another."""
        assert self.store.get([SOUND.id, BATCH[0].id, BATCH[-1].id]) == [SOUND, None, None]
        self.store.close()
        self.store = self._open(self.store.path)
        assert self.store.get([SOUND.id, BATCH[0].id, BATCH[-1].id]) == [SOUND, None, None]
        assert self.store.count() == 1
        other = Record("other", "cheese")
        self.store.upsert([other], encoded([other]))
        query = ENCODER.encode(["cheese"], kind="query", modes=ALL_MODES)
        for mode in ordered_modes(ALL_MODES):
            assert self.store.find(query, mode, limit=1)[0][0].id == "other"
        assert list(self.store.ids()) == ["other", "sound"]
        assert self.store.delete(ids=["other"]) == 1


@pytest.fixture(scope="module", params=list(OPEN))
def reopened(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Reopened]:
    held = Reopened(tmp_path_factory.mktemp("reopened") / "index", request.param)
    yield held
    held.store.close()


def dense(change: Callable[[Any], Any]) -> Spoil:
    return lambda batch: replace(batch, dense=change(np.array(batch.dense)))


def sparse(**changes: Callable[[Any], Any]) -> Spoil:
    def spoil(batch: EmbeddingBatch) -> EmbeddingBatch:
        held: Any = batch.sparse
        new = {name: change(getattr(held, name).copy()) for name, change in changes.items()}
        return replace(batch, sparse=replace(held, **new))

    return spoil


def colbert(**changes: Callable[[Any], Any]) -> Spoil:
    def spoil(batch: EmbeddingBatch) -> EmbeddingBatch:
        held: Any = batch.colbert
        new = {name: change(getattr(held, name).copy()) for name, change in changes.items()}
        return replace(batch, colbert=replace(held, **new))

    return spoil


def put(value: float, *, dtype: Any = None) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array = array if dtype is None else array.astype(dtype)
        array[-1] = value
        return array

    return change


def ragged(array: Any) -> Any:
    rows = np.empty(len(array), object)
    rows[:] = [row[: 4 - (i == len(array) - 1)].tolist() for i, row in enumerate(array)]
    return rows


def without(mode: Mode) -> Spoil:
    return lambda batch: batch.only(ALL_MODES - {mode})


def reordered(array: Any) -> Any:
    array[-2:] = array[-2:][::-1]
    return array


def repeated(array: Any) -> Any:
    array[-1] = array[-2]
    return array


def emptied(offsets: Any) -> Any:
    offsets[-2] = offsets[-1]
    return offsets


def begun_late(offsets: Any) -> Any:
    offsets[0] = 1
    return offsets


def stepping_back(offsets: Any) -> Any:
    offsets[-2] = offsets[-3] - 1
    return offsets


def negative(batch: EmbeddingBatch) -> EmbeddingBatch:
    """The first id of the last row, so that they still ascend."""
    assert batch.sparse is not None
    ids = batch.sparse.token_ids.copy()
    ids[batch.sparse.indptr[-2]] = -1
    return replace(batch, sparse=replace(batch.sparse, token_ids=ids))


MALFORMED: dict[str, Spoil] = {
    "dense NaN": dense(put(np.nan)),
    "dense inf": dense(put(np.inf)),
    "dense -inf": dense(put(-np.inf)),
    "dense beyond float32": dense(put(1e300, dtype=np.float64)),
    "dense too wide": dense(lambda array: np.hstack([array, array])),
    "dense too narrow": dense(lambda array: array[:, :-1]),
    "dense 1-D": dense(lambda array: array[:, 0]),
    "dense 3-D": dense(lambda array: array[:, :, None]),
    "dense ragged": dense(ragged),
    "dense a row short": dense(lambda array: array[:-1]),
    "dense missing": without("dense"),
    "sparse ids longer": sparse(token_ids=lambda ids: np.append(ids, ids[-1] + 1)),
    "sparse ids shorter": sparse(token_ids=lambda ids: ids[:-1]),
    "sparse weights longer": sparse(weights=lambda weights: np.append(weights, 1)),
    "sparse weights shorter": sparse(weights=lambda weights: weights[:-1]),
    "sparse ids twice": sparse(token_ids=repeated),
    "sparse ids unsorted": sparse(token_ids=reordered),
    "sparse id negative": negative,
    "sparse id beyond 32 bits": sparse(token_ids=put(2**40, dtype=np.int64)),
    "sparse ids not whole": sparse(token_ids=put(60_000.5, dtype=np.float64)),
    "sparse weights 2-D": sparse(weights=lambda weights: weights[:, None]),
    "sparse weight NaN": sparse(weights=put(np.nan)),
    "sparse weight inf": sparse(weights=put(np.inf)),
    "sparse weight beyond float32": sparse(weights=put(1e300, dtype=np.float64)),
    "sparse weight zero": sparse(weights=put(0)),
    "sparse weight negative": sparse(weights=put(-1)),
    "sparse rows missing": sparse(indptr=lambda offsets: offsets[:-1]),
    "sparse rows begin late": sparse(indptr=begun_late),
    "sparse rows step back": sparse(indptr=stepping_back),
    "sparse missing": without("sparse"),
    "colbert NaN": colbert(vectors=put(np.nan)),
    "colbert inf": colbert(vectors=put(np.inf)),
    "colbert beyond float32": colbert(vectors=put(1e300, dtype=np.float64)),
    "colbert ragged": colbert(vectors=ragged),
    "colbert text without vectors": colbert(offsets=emptied),
    "colbert 1-D": colbert(vectors=lambda array: array[:, 0]),
    "colbert 3-D": colbert(vectors=lambda array: array[:, None]),
    "colbert too narrow": colbert(vectors=lambda array: array[:, :-1]),
    "colbert too few vectors": colbert(vectors=lambda array: array[:-1]),
    "colbert too many vectors": colbert(vectors=lambda array: np.vstack([array, array])),
    "colbert rows missing": colbert(offsets=lambda offsets: offsets[:-1]),
    "colbert rows begin late": colbert(offsets=begun_late),
    "colbert rows step back": colbert(offsets=stepping_back),
    "colbert missing": without("colbert"),
    "no counts of tokens": lambda batch: replace(batch, tokens=batch.tokens[:0]),
    "a count of tokens short": lambda batch: replace(batch, tokens=batch.tokens[:-1]),
    "a count of dropped tokens short": lambda batch: replace(batch, truncated=batch.truncated[:-1]),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", MALFORMED)
def test_malformed_numbers_are_refused_and_the_index_opens_afterwards(
    reopened: Reopened, embeddings: EmbeddingBatch, shape: str
) -> None:
    with pytest.raises(BGEM3Error):
        reopened.store.upsert(BATCH, MALFORMED[shape](embeddings))
    reopened.check()


def _nested(levels: int) -> Any:
    held: Any = 1
    for _ in range(levels):
        held = [held]
    return held


def _cycle() -> Any:
    held: dict[str, Any] = {}
    held["me"] = [held]
    return held


MALFORMED_VALUES: dict[str, Any] = {
    "bytes": b"x",
    "date": datetime.now(UTC),
    "set": {1},
    "key": {1: 2},
    "array": np.zeros(1),
    "huge": 10**5000,
    "deep": _nested(100_000),
    "cycle": _cycle(),
}


def _spoilt(record: Record, place: str, kind: str) -> Record:
    """A record with what would be refused had it been there when the record was made."""
    held: dict[str, Any] = {place: {"v": None}}
    made = replace(record, **held)
    getattr(made, place)["v"] = MALFORMED_VALUES[kind]
    return made


@pytest.mark.parametrize("kind", MALFORMED_VALUES)
def test_malformed_values_are_refused_and_the_index_opens_afterwards(
    reopened: Reopened, embeddings: EmbeddingBatch, kind: str
) -> None:
    for place in ("metadata", "payload"):
        with pytest.raises(InputError, match="new-258"):
            reopened.store.upsert([*BATCH[:-1], _spoilt(BATCH[-1], place, kind)], embeddings)
        with pytest.raises(InputError, match="sound"):
            reopened.store.rewrite([_spoilt(SOUND, place, kind)])
    reopened.check()


def test_malformed_batches_are_refused_and_the_index_opens_afterwards(
    reopened: Reopened, embeddings: EmbeddingBatch
) -> None:
    for records in ([*BATCH, BATCH[0]], BATCH[:-1], [*BATCH[:-1], BATCH[0]], []):
        with pytest.raises(InputError):
            reopened.store.upsert(records, embeddings)
    reopened.check()


SHAPES = [(name, mode) for name in MALFORMED for mode in ordered_modes(ALL_MODES)]


@pytest.mark.parametrize(("shape", "mode"), [pair for pair in SHAPES if pair[1] in pair[0]])
def test_malformed_queries_are_refused(
    reopened: Reopened, embeddings: EmbeddingBatch, shape: str, mode: Mode
) -> None:
    queries = MALFORMED[shape](embeddings)
    with pytest.raises(BGEM3Error):
        reopened.store.find(queries, mode, limit=1)
    with pytest.raises(BGEM3Error):
        reopened.store.score(queries, [["sound"]] * len(queries), [mode])
    assert reopened.store.count() == 1


def test_every_id_and_value_comes_back_from_the_disk(store: EdgeStore) -> None:
    values = [float("nan"), float("inf"), 2**70, -(2**70), "\ud800", "\x00", None, -0.0, "x" * 9999]
    metadata = {"v": values, "\ud800": {"a.b": values}, "name": 1, "n_": 2, "": 3}
    records = [
        Record(name, f"text {i}\ud800", {**metadata, "i": i}, content="\udfff", payload=metadata)
        for i, name in enumerate(IDS)
    ]
    vectors = encoded([replace(record, text=f"text {i}") for i, record in enumerate(records)])
    store.upsert(records, vectors)
    store.close()
    store = open_store(store.path)
    assert repr(store.get(IDS)) == repr(records)
    assert list(store.ids()) == sorted([*IDS, "sound"])
    assert store.text_hashes(IDS) == [record.text_hash for record in records]
    assert store.count(Compare("i", "$gte", 0)) == len(IDS)
    np.testing.assert_allclose(store.vectors(IDS, ["dense"]).dense, vectors.dense, atol=1e-6)
    found = store.find(vectors, "dense", limit=len(IDS) + 1)
    assert [row[0].id for row in found] == IDS
    store.rewrite([replace(record, metadata={}) for record in records])
    assert store.delete(ids=IDS) == len(IDS)
    assert store.count() == 1
    store.close()


def test_an_empty_id_makes_no_record() -> None:
    with pytest.raises(InputError, match="non-empty"):
        Record("", "text")


class PanicException(BaseException):
    """What the engine raises when it panics: no Exception, as its own."""


class Failing:
    """An engine object, one method of which fails."""

    def __init__(self, held: Any, name: str, error: BaseException) -> None:
        self._held, self._name, self._error = held, name, error

    def __getattr__(self, name: str) -> Any:
        if name == self._name:
            return self._fail
        return getattr(self._held, name)

    def _fail(self, *_: object) -> None:
        raise self._error


CALLS: dict[str, Callable[[EdgeStore], object]] = {
    "update": lambda store: store.upsert([SOUND], encoded([SOUND])),
    "query": lambda store: store.find(encoded([SOUND]), "dense", limit=1),
    "retrieve": lambda store: store.get(["sound"]),
    "scroll": lambda store: list(store.ids(Compare("lang", "$ne", "de"))),
    "count": lambda store: store.count(),
    "flush": lambda store: store.flush(),
    "optimize": lambda store: store.optimize(),
}


@pytest.mark.parametrize("reopened", ["inside"], indirect=True)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("error", [PanicException("broken"), RuntimeError("broken")])
def test_what_the_engine_raises_becomes_our_error(
    reopened: Reopened, monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException
) -> None:
    store = reopened.store
    shard = store._shard
    with monkeypatch.context() as patch:
        patch.setattr(shard, "_held", Failing(shard._held, name, error))
        with pytest.raises(StoreError, match=r"index engine failed.*broken") as raised:
            CALLS[name](store)
    assert raised.value.__cause__ is error
    assert store.get(["sound"]) == [SOUND]
    reopened.check()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_an_interruption_stays_what_it_is(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(store._shard, "_held", Failing(store._shard._held, "count", error))
        with pytest.raises(type(error)):
            store.count()
    assert store.count() == 1


@pytest.mark.parametrize("error", [PanicException("broken"), RuntimeError("broken")])
def test_a_store_whose_last_flush_fails_lets_go_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    store = open_store(tmp_path / "index")
    store.upsert([SOUND], encoded([SOUND]))
    monkeypatch.setattr(store._shard, "_held", Failing(store._shard._held, "flush", error))
    with pytest.raises(StoreError, match="broken"):
        store.close()
    again = open_store(tmp_path / "index")
    assert again.get(["sound"]) == [SOUND]
    again.close()


def test_what_a_failed_write_left_is_seen(
    store: EdgeStore, embeddings: EmbeddingBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(store.ids()) == ["sound"]  # known from now on
    write, calls = store._shard.write, [0]

    def first(*given: Any, rounded: bool) -> Any:
        *most, rows = given
        return points.upsert_of(*most, slice(rows.start, rows.start + 1), rounded=rounded)

    def half(upsert: Any) -> None:
        calls[0] += 1
        write(upsert)
        if calls[0] == 1:
            monkeypatch.setattr("bge_m3_integrations.stores.edge.writes.upsert_of", first)
        if calls[0] == 2:
            raise StoreError("broken")

    monkeypatch.setattr(store._shard, "write", half)
    with pytest.raises(StoreError, match="broken"):
        store.upsert(BATCH, embeddings)
    left = [record.id for record in BATCH[:257]]
    assert store.count() == 258
    assert list(store.ids()) == sorted([*left, "sound"])


class Spy:
    """An engine object whose calls are written down."""

    def __init__(self, held: Any) -> None:
        self._held = held
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._held, name)

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            return method(*arguments)

        return call

    def of(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for called, arguments in self.calls if called == name]


def long_texts(lengths: Sequence[int]) -> EmbeddingBatch:
    """Embeddings of given numbers of token vectors."""
    rows = np.random.default_rng(0).normal(size=(sum(lengths), 4)).astype(np.float32)
    counts = np.array(lengths, np.int64)
    dense_rows = np.eye(8, dtype=np.float32)[np.arange(len(lengths)) % 8]
    weights = SparseRows.from_dicts([{i + 1: 1.0} for i in range(len(lengths))])
    vectors = TokenVectors(rows, offsets_of(lengths))
    return EmbeddingBatch(dense_rows, weights, vectors, counts, counts * 0)


def test_no_write_holds_more_than_1024_token_vectors_but_for_one_long_text(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [1500, 600, 8000, 1, 2047, 1, *[3] * 700]
    sizes: list[tuple[int, int]] = []

    make = points.UpdateOperation.upsert_points

    def spied(made: list[Any]) -> Any:
        sizes.append((len(made), sum(len(point.vector["colbert"]) for point in made)))
        return make(made)

    monkeypatch.setattr(points, "UpdateOperation", SimpleNamespace(upsert_points=spied))
    spy = Spy(store._shard._held)
    monkeypatch.setattr(store._shard, "_held", spy)
    store.upsert([Record(f"{i}", "text") for i in range(len(lengths))], long_texts(lengths))
    assert sum(count for count, _ in sizes) == len(lengths)
    assert all(tokens <= 1024 or count == 1 for count, tokens in sizes)
    assert all(count <= 256 for count, _ in sizes)
    assert len(spy.of("update")) == len(sizes)


def test_scoring_token_vectors_takes_at_most_256_points_a_call(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 600
    ids = [f"{i}" for i in range(count)]
    store.upsert([Record(i, "text") for i in ids], long_texts([2] * count))
    spy = Spy(store._shard._held)
    monkeypatch.setattr(store._shard, "_held", spy)
    query = ENCODER.encode(["fox"], kind="query", modes=ALL_MODES)
    store.score(query, [ids], ["colbert"])
    store.find(query, "colbert", limit=10)
    chosen = [request.filter.must[0].point_ids for (request,) in spy.of("query")]
    assert [len(points) for points in chosen] == [256, 256, 88, *[128] * 4, 89]
    assert all(request.limit <= 256 for (request,) in spy.of("query"))


@pytest.mark.parametrize("tokens", [1, 16, 32, 33, 700])
def test_scoring_token_vectors_multiplies_at_most_so_many_pairs_a_call(
    store: EdgeStore, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    lengths = dict(enumerate([8192, 3, 3, 8192, 600, *[120] * 300, 8000, 8000, 8000]))
    texts = [Record(f"{i}", "text") for i in lengths]
    # what the payload says counts here; the vectors are fewer
    counts = np.array(list(lengths.values()))
    store.upsert(texts, replace(long_texts([2] * len(texts)), tokens=counts))
    by_point = {points.point_id(f"{i}"): length for i, length in lengths.items()}
    scored, calls = store._shard.scored, list[tuple[int, list[int]]]()

    def spied(part: Any, chosen: Sequence[UUID]) -> Any:
        calls.append((len(part.query), [by_point[point] for point in chosen]))
        return scored(part, chosen)

    monkeypatch.setattr(store._shard, "scored", spied)
    query = long_texts([tokens]).only(["colbert"])
    found = store.score(query, [[text.id for text in texts]], ["colbert"])[0].colbert
    assert all(count <= 32 for count, _ in calls)
    assert all(count * sum(held) <= 32 * 8192 for count, held in calls)
    assert all(len(held) <= 256 for _, held in calls)
    assert sum(count * len(held) for count, held in calls) == tokens * len(texts)
    documents = long_texts([2] * len(texts))
    expected = dict(scoring.components(query, documents, ["colbert"]).items())["colbert"][0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_no_search_brings_vectors_into_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder())) as index:
        index.add([Record(f"{i}", f"fox number{i}", {"i": i}) for i in range(50)])
        assert isinstance(index.store, EdgeStore)
        spy = Spy(index.store._shard._held)
        monkeypatch.setattr(index.store._shard, "_held", spy)
        assert len(index.search("fox", limit=5)) == 5
        assert len(index.search("fox", limit=5, exact=True)) == 5
        assert len(index.search("fox", limit=5, where={"i": {"$lt": 9}})) == 5
        assert len(index.search("fox", limit=5, candidates={"colbert": 20})) == 5
        retrieved, asked = spy.of("retrieve"), spy.of("query") + spy.of("scroll")
        monkeypatch.undo()
    assert len(retrieved) > 3
    assert len(asked) > 10
    assert all(vectors is False for _, _, vectors in retrieved)
    assert all(request.with_vector is False for (request,) in asked)


def test_a_search_reads_the_payload_of_its_hits_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder())) as index:
        index.add([Record(f"{i}", f"fox number{i}", {"i": i}) for i in range(300)])
        assert isinstance(index.store, EdgeStore)
        spy = Spy(index.store._shard._held)
        monkeypatch.setattr(index.store._shard, "_held", spy)
        index.search("fox", limit=5)
        bodies = [
            points
            for points, names, _ in spy.of("retrieve")
            if isinstance(names, qdrant_edge.PayloadSelector.Include) and "body" in names.keys
        ]
        monkeypatch.undo()
    assert [len(points) for points in bodies] == [5]
    assert all(isinstance(point, UUID) for point in bodies[0])


def test_readers_and_a_writer_at_once_see_whole_records(store: EdgeStore) -> None:
    query = ENCODER.encode(["version stone"], kind="query", modes=ALL_MODES)
    stop, errors = threading.Event(), []

    def read() -> None:
        try:
            while not stop.is_set():
                found = store.find(query, "dense", limit=20)[0]
                parts = store.score(query, [[c.id for c in found]], ALL_MODES)[0]
                assert parts.shape == (len(found),)
                for record in store.get([c.id for c in found]):
                    assert record is None or record.text.endswith(record.metadata["end"])
                assert len(store.scroll(limit=5).records) <= 5
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for version in range(15):
        end = f"v{version}"
        records = [Record(f"{i}", f"number{i} stone {end}", {"end": end}) for i in range(30)]
        store.upsert(records, encoded(records))
        store.delete(ids=[f"{version}"])
        if version % 5 == 0:
            store.flush()
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.count() == 30


@pytest.mark.parametrize("add", ["add", "ingest"])
@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_what_no_store_keeps_is_refused_before_anything_is_encoded(
    tmp_path: Path, add: str, kind: str
) -> None:
    encoder, path = FakeEncoder(), tmp_path / "index"
    records = [Record("a", "sound"), Record("b", "not", {"date": None})]
    cast(dict[str, Any], records[1].metadata)["date"] = datetime.now(UTC)
    engine = BGEM3(encoder)
    with HybridIndex(engine) if kind == "memory" else HybridIndex.open(path, engine) as index:
        with pytest.raises(InputError, match=r"record 'b': metadata\['date'\]"):
            getattr(index, add)(records)
        assert index.count() == 0
    assert not encoder.forwards


def test_a_function_as_filter_is_asked_again_by_every_call(tmp_path: Path) -> None:
    encoder = FakeEncoder(dim=4)
    batch = encoder.encode(["fox", "dog"], kind="document", modes=["dense"])
    wanted = {1}
    where = Predicate(lambda metadata: metadata["n"] in wanted)
    store = EdgeStore.open(tmp_path / "index", FolderConfig(modes=["dense"], dim=4))
    store.upsert([Record("a", "fox", {"n": 1}), Record("b", "dog", {"n": 2})], batch)
    for numbers, ids in [({1}, ["a"]), ({2}, ["b"]), ({1, 2}, ["a", "b"]), (set(), [])]:
        wanted.clear()
        wanted.update(numbers)
        assert store.count(where) == len(ids)
        assert list(store.ids(where)) == ids
        assert list(store.ids(And([where]))) == ids
        found = store.find(batch.take([0]), "dense", limit=2, where=where)[0]
        assert sorted(candidate.id for candidate in found) == ids
    store.close()
