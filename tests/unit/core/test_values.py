"""Values for a reader and for other programs: representations, tables, JSON, FastAPI."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError, MemoryStore, Record, Weights
from bge_m3_integrations.core.embeddings import SparseRows
from bge_m3_integrations.core.records import Hit, Hits
from bge_m3_integrations.core.scores import Components, Ranked, Scores
from bge_m3_integrations.testing import FakeEncoder

HOSTILE = "<script>alert('x')</script>\x1b[31m\x00\u202egnp\n\nnext"


@pytest.fixture
def engine() -> BGEM3:
    return BGEM3(FakeEncoder())


@pytest.fixture
def hits(engine: BGEM3) -> list[Hit]:
    index = HybridIndex(engine)
    index.add(
        [
            Record("fox", "the fox " * 500, {"lang": "en", "year": 2020}),
            Record("dog", f"the dog {HOSTILE}", {"html": "<b>bold</b>"}),
        ]
    )
    return index.search("the fox")


def strict(value: Any) -> Any:
    """What comes back from strict JSON."""
    return json.loads(json.dumps(value, allow_nan=False))


def test_a_batch_is_shown_by_its_sizes(engine: BGEM3) -> None:
    batch = engine.encode(["the fox", "a longer text about dogs"])
    assert repr(batch) == (
        "EmbeddingBatch(2 texts, 11 tokens, dense 32, sparse 7 weights, colbert 9 x 16)"
    )
    assert repr(batch.only(["dense"])) == "EmbeddingBatch(2 texts, 11 tokens, dense 32)"
    assert repr(batch[0]) == "Embedding(4 tokens, dense 32, sparse 2 weights, colbert 3 x 16)"
    assert repr(batch.sparse) == "SparseRows(2 texts, 7 weights)"
    assert repr(batch.colbert) == "TokenVectors(2 texts, vectors 9 x 16)"
    assert repr(engine.tokenize(["the fox"])) == "TokenBatch(1 text, 4 tokens)"


def test_a_cut_text_is_shown_as_cut() -> None:
    encoder = FakeEncoder(max_length=4)
    batch = encoder.encode(["one two three"], kind="query", modes=["dense"])
    assert repr(batch) == "EmbeddingBatch(1 text, 4 tokens, 1 cut off, dense 32)"


def test_few_scores_are_shown_and_of_many_the_range(engine: BGEM3) -> None:
    few = engine.score(["fox"], ["fox", "dog"], weights=Weights.only("dense"))
    other = f"{few.dense[0, 1]:.4f}"
    assert repr(few) == (
        f"Scores(1 x 2, hybrid 1.0000 {other}, dense 1.0000 {other}, weights 1/0/0)"
    )
    many = engine.score(["fox"], [f"text {i}" for i in range(200)])
    assert " to " in repr(many)
    assert len(repr(many)) < 250
    assert repr(Components(dense=np.full(9, np.nan, np.float32))) == "Components(dense 9 numbers)"


def test_hits_are_short_and_say_what_was_cut(hits: list[Hit]) -> None:
    assert len(repr(hits)) < 500
    assert "(4,000 characters)" in repr(hits[0])
    assert "(4,000 characters)" in repr(hits[0].record)
    assert repr(Ranked(3, 0.5, {"dense": 0.25})) == "Ranked(index=3, score=0.5000, dense=0.2500)"
    assert repr(Record("a", "short", {"k": 1})) == "Record(id='a', text='short', metadata={'k': 1})"


class _Bad:
    def __repr__(self) -> str:
        raise RuntimeError


def test_a_representation_never_raises_and_never_grows() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    circular: dict[str, Any] = {}
    circular["self"] = circular
    for metadata in ({"d": deep}, {"b": _Bad()}, circular, {"n": 10**4000, "t": "x" * 10**6}):
        held = Record("a", "b")
        object.__setattr__(held, "metadata", metadata)
        assert len(repr(held)) < 500
    unusable: Any = None
    assert repr(SparseRows(unusable, unusable, unusable)).startswith("SparseRows(cannot be shown")
    broken = Hit(held, 0.5, "sum", {"dense": unusable}, 0.5, Weights())
    assert repr(broken).startswith("Hit(cannot be shown")
    assert Hits([broken])._repr_html_() is not None or repr(Hits([broken]))


def test_hits_are_a_table_in_jupyter_with_everything_escaped(hits: list[Hit]) -> None:
    assert isinstance(hits, Hits)
    table = hits._repr_html_()
    assert table is not None
    assert table.count("<tr>") == 3
    for words in ("<script", "<b>", "\x1b", "\x00", "\u202e", "\nnext"):
        assert words not in table
    assert "&lt;script&gt;" in table
    assert f"{hits[0].score:.4f}" in table
    assert "…" in table
    table.encode()


def test_a_long_table_says_how_many_rows_it_leaves_out(hits: list[Hit]) -> None:
    table = Hits(list(hits) * 60)._repr_html_()
    assert table is not None
    assert table.count("<tr>") == 101
    assert "and 20 more hits" in table


def test_a_list_of_hits_is_a_list(hits: list[Hit]) -> None:
    assert hits == list(hits)
    assert [*hits] == hits[:]
    assert isinstance(hits[:1], Hits)
    assert isinstance(hits[0], Hit)
    again = pickle.loads(pickle.dumps(hits))
    assert again == hits
    assert type(again) is type(copy.deepcopy(hits)) is Hits


def test_every_search_gives_a_table(engine: BGEM3) -> None:
    index = HybridIndex(engine)
    index.add(["fox", "dog"])
    found = [index.search("fox"), index.search_diverse("fox"), *index.search_batch(["fox", "dog"])]
    assert all(isinstance(rows, Hits) for rows in found)


def test_hits_and_records_are_hashable(hits: list[Hit]) -> None:
    again = pickle.loads(pickle.dumps(hits))
    assert {*hits, *again} == set(hits)
    assert {hit.record for hit in again} == {hit.record for hit in hits}
    ranked = Ranked(0, 0.5, {"dense": 0.5})
    assert {ranked, Ranked(0, 0.5, {"dense": 0.5})} == {ranked}


def test_a_hit_has_its_text_and_metadata(hits: list[Hit]) -> None:
    assert hits[0].text == hits[0].record.text
    assert hits[0].metadata == {"lang": "en", "year": 2020}


def test_every_value_becomes_strict_json(engine: BGEM3, hits: list[Hit]) -> None:
    batch = engine.encode(["the fox", ""])
    values: list[Any] = [*hits, hits[0].record, batch, batch[0], engine.score(["a"], ["b", "c"])]
    values += [*engine.rerank("a", ["b"]), engine.score_pairs([("a", "b")]).components]
    for value in values:
        made = value.to_dict()
        assert strict(made) == made
    made = batch.to_dict()
    assert made["tokens"] == [4, 2]
    assert made["dense"] == batch.dense.tolist()
    assert made["sparse"][0] == {str(i): w for i, w in batch.sparse.as_dict(0).items()}
    assert made["colbert"][1] == batch.colbert.row(1).tolist()
    assert "colbert" not in batch.only(["dense"]).to_dict()


def test_a_hit_as_a_dict_has_what_a_reader_asks_for(hits: list[Hit]) -> None:
    made = hits[0].to_dict()
    assert made["id"] == "fox"
    assert made["text"] == hits[0].text
    assert made["metadata"] == {"lang": "en", "year": 2020}
    assert made["score"] == hits[0].score
    assert made["components"] == dict(hits[0].components)
    assert made["weights"] == {"dense": 0.4, "sparse": 0.2, "colbert": 0.4}


def test_numbers_of_numpy_and_those_that_are_none_leave_as_json() -> None:
    score: Any = np.float32(0.5)
    assert strict(Ranked(0, score, {"dense": math.nan}).to_dict()) == {
        "index": 0,
        "score": 0.5,
        "components": {"dense": None},
        "weights": {"dense": 0.4, "sparse": 0.2, "colbert": 0.4},
        "hybrid": None,
        "fusion": "weighted_sum",
        "weighting": None,
    }
    parts = Components(dense=np.array([[np.nan, 1.0]], np.float32))
    made = Scores(parts, np.array([[np.inf, 1.0]], np.float32), Weights.only("dense")).to_dict()
    assert made["hybrid"] == [[None, 1.0]]
    assert made["dense"] == [[None, 1.0]]


def test_a_record_as_a_dict_can_be_added_again(engine: BGEM3) -> None:
    record = Record("a", "text", {"tags": ["x"], "n": None}, content="shown", payload={"p": 1})
    index = HybridIndex(engine)
    assert index.add([strict(record.to_dict())]) == ["a"]
    assert index.get(["a"]) == [record]


@pytest.mark.parametrize(
    ("metadata", "words"),
    [({"f": object()}, "object"), ({"n": 10**5000}, "digits"), ({(1, 2): 3}, "key")],
)
def test_what_json_has_no_form_for_is_named(metadata: Any, words: str) -> None:
    held = Record("a", "b")
    object.__setattr__(held, "metadata", metadata)
    with pytest.raises(InputError, match=words):
        held.to_dict()


def test_pydantic_serialises_values_and_reads_records(engine: BGEM3, hits: list[Hit]) -> None:
    pydantic = pytest.importorskip("pydantic")
    scores, batch = engine.score(["a"], ["b"]), engine.encode(["a"])
    for kind, value in ((Hit, hits[0]), (Scores, scores), (type(batch), batch)):
        adapter = pydantic.TypeAdapter(kind)
        assert adapter.validate_python(value) is value
        assert json.loads(adapter.dump_json(value)) == adapter.dump_python(value) == value.to_dict()
    read = pydantic.TypeAdapter(Record).validate_python({"id": "a", "text": "b"})
    assert read == Record("a", "b")


def test_values_are_fields_of_pydantic_models(engine: BGEM3, hits: list[Hit]) -> None:
    pydantic = pytest.importorskip("pydantic")
    fields: Any = {"hits": (list[Hit], ...), "scores": (Scores, ...), "best": (Hit | None, None)}
    answer = pydantic.create_model("Answer", **fields)
    scores = engine.score(["a"], ["b"])
    made = answer(hits=hits, scores=scores, best=hits[0])
    assert json.loads(made.model_dump_json()) == {
        "hits": [hit.to_dict() for hit in hits],
        "scores": scores.to_dict(),
        "best": hits[0].to_dict(),
    }
    assert answer.model_json_schema(mode="serialization")["type"] == "object"
    record = pydantic.TypeAdapter(Record)
    assert "text" in record.json_schema()["properties"]
    assert record.json_schema(mode="serialization")["type"] == "object"


def _gives(value: Any) -> Any:
    def endpoint():  # type: ignore[no-untyped-def]  # noqa: ANN202
        return value

    return endpoint


def test_fastapi_returns_values_and_documents_them(engine: BGEM3, hits: list[Hit]) -> None:
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()
    routes: dict[str, tuple[Any, Any]] = {
        "hits": (list[Hit], hits),
        "shown": (Hits, Hits(hits)),
        "hit": (Hit, hits[0]),
        "record": (Record, hits[0].record),
        "ranked": (list[Ranked], engine.rerank("a", ["b", "c"])),
        "scores": (Scores, engine.score(["a"], ["b"])),
        "batch": (type(engine.encode([])), engine.encode(["a"])),
    }
    for name, (kind, value) in routes.items():
        app.get(f"/{name}", response_model=kind)(_gives(value))
    client = TestClient(app)
    for name, (_, value) in routes.items():
        rows = [v.to_dict() for v in value] if isinstance(value, list) else value.to_dict()
        assert client.get(f"/{name}").json() == rows
    assert client.get("/openapi.json").status_code == 200


def test_fastapi_returns_hits_without_an_annotation_too(hits: list[Hit], engine: BGEM3) -> None:
    fastapi = pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    app = fastapi.FastAPI()
    app.get("/hits")(_gives(hits))
    app.get("/ranked")(_gives(engine.rerank("a", ["b"])))
    with HybridIndex(engine) as index:
        index.add(["a fox"])
        app.get("/lexical")(_gives(index.search("fox", weights=(0, 1, 0))))
    client = TestClient(app)
    assert client.get("/hits").json()[0]["record"]["id"] == "fox"
    assert client.get("/ranked").json()[0]["index"] == 0
    assert client.get("/lexical").json()[0]["max_score"] is None


def test_an_engine_is_shown_by_name_device_and_dtype() -> None:
    assert repr(BGEM3("BAAI/bge-m3", device="cpu", dtype="bfloat16")) == (
        "BGEM3('BAAI/bge-m3', cpu, bfloat16, not loaded)"
    )
    assert repr(BGEM3()) == "BGEM3('BAAI/bge-m3', device auto, dtype auto, not loaded)"
    assert repr(BGEM3(device=["cpu", "cpu"])).count("cpu + cpu") == 1
    assert repr(BGEM3(FakeEncoder())) == "BGEM3(over FakeEncoder)"


def test_a_loaded_engine_is_shown_by_what_it_computes_in(xlm_roberta: Path) -> None:
    engine = BGEM3(xlm_roberta, device="cpu")
    engine.count_tokens("a")
    assert "not loaded" in repr(engine)
    engine.encode(["a"])
    assert repr(engine).startswith(f"BGEM3({str(xlm_roberta)!r}, cpu, ")
    assert "auto" not in repr(engine)


def test_showing_an_engine_imports_and_reads_nothing() -> None:
    code = (
        "import sys; from bge_m3_integrations import BGEM3, HybridIndex\n"
        "print(HybridIndex(BGEM3('./nowhere')), BGEM3('./nowhere'))\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_an_index_is_shown_by_place_size_and_modes(
    engine: BGEM3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = HybridIndex(engine)
    index.add(["a", "b"])
    assert repr(index) == "HybridIndex(in memory, 2 documents, dense + sparse + colbert)"
    assert repr(index.store) == "MemoryStore(2 documents, dense + sparse + colbert)"
    monkeypatch.chdir(tmp_path)
    with HybridIndex.open("my_index", engine, modes=["dense", "sparse"]) as kept:
        kept.add(["a"])
        assert repr(kept) == "HybridIndex('my_index', 1 document, dense + sparse)"
        assert repr(kept.store) == "EdgeStore('my_index', 1 document, dense + sparse)"
        store = kept.store
    assert repr(kept) == "HybridIndex('my_index', closed)"
    assert repr(store) == "EdgeStore('my_index', closed)"
    assert repr(HybridIndex(engine, MemoryStore(modes=["dense"]))).endswith("0 documents, dense)")


def test_showing_an_index_waits_for_no_lock(engine: BGEM3, tmp_path: Path) -> None:
    with HybridIndex.open(tmp_path / "index", engine, create=True) as index:
        store: Any = index.store
        shown: list[str] = []
        with store._index._writing, store._index.shard._lock, engine._lock:
            other = threading.Thread(target=lambda: shown.extend([repr(index), repr(engine)]))
            other.start()
            other.join(10)
        assert len(shown) == 2
        assert "dense + sparse + colbert" in shown[0]


def test_an_index_has_a_length_and_is_true_when_empty(engine: BGEM3) -> None:
    index = HybridIndex(engine)
    assert len(index) == 0
    assert index
    index.add(["a", "b", "c"])
    assert len(index) == 3
