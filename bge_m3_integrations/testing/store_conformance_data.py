"""Records, queries and filters that the stores' conformance tests use."""

from __future__ import annotations

from typing import Any

from bge_m3_integrations.core.filters import Filter, Ids, Not, Predicate, parse
from bge_m3_integrations.core.records import Record

TEXTS = {
    "a": "the quick brown fox jumps over the lazy dog",
    "A": "a slow green turtle walks under the old bridge",
    "0": "sparse lexical weights of a multilingual model",
    "doc/ü ключ 文档": "检索模型 dense sparse colbert",
    "x" * 300: "late interaction compares every token vector",
    "b2": "the fox and the turtle share a bridge",
    "blank": "",
    "z": "an entirely different subject: bread, butter and cheese",
}
_METADATA: tuple[dict[str, Any], ...] = (
    {"lang": "en", "year": 2020, "draft": False, "tags": ["animal", "short"], "score": 0.5},
    {"lang": "en", "year": 2021.0, "draft": True, "tags": [], "who": {"name": "Ann", "age": 31}},
    {"lang": "de", "year": 2021, "one": 1, "who.name": "flat", "who": {"name": "deep"}},
    {"lang": "zh", "year": "2021", "draft": None, "tags": ["模型", 1, True, None]},
    {"lang": None, "one": True, "big": 2**53 + 1, "nested": [["x", 1], []]},
    {"lang": "", "year": -1, "tags": "animal"},
    {},
    {"lang": "EN", "year": 2020, "who": "nobody", "score": -0.0},
)
RECORDS = tuple(
    Record(key, text, metadata, content=None if i % 2 else f"shown {i}", payload={"n": [i, None]})
    for i, ((key, text), metadata) in enumerate(zip(TEXTS.items(), _METADATA, strict=True))
)
QUERIES = ("fox on the bridge", "sparse weights 检索", "bread")
CONDITIONS: tuple[dict[str, Any], ...] = (
    {},
    {"lang": "en"},
    {"lang": None},
    {"lang": ""},
    {"year": 2021},
    {"year": 2021.0},
    {"year": "2021"},
    {"one": 1},
    {"one": True},
    {"draft": False},
    {"score": 0},
    {"big": 2**53 + 1},
    {"tags": ["animal", "short"]},
    {"tags": []},
    {"tags": "animal"},
    {"nested": [["x", 1], []]},
    {"who.name": "flat"},
    {"who.name": "deep"},
    {"who.age": {"$gte": 31}},
    {"lang": {"$ne": "en"}},
    {"draft": {"$ne": None}},
    {"year": {"$gt": 2020}},
    {"year": {"$gte": 2020, "$lt": 2021}},
    {"year": {"$lte": -1}},
    {"lang": {"$gt": "EN"}},
    {"one": {"$gte": 0}},
    {"lang": {"$in": ["de", None]}},
    {"lang": {"$in": []}},
    {"year": {"$nin": [2020, "2021"]}},
    {"draft": {"$exists": True}},
    {"draft": {"$exists": False}},
    {"tags": {"$contains": "animal"}},
    {"tags": {"$contains": 1}},
    {"tags": {"$contains": None}},
    {"lang": {"$contains": "e"}},
    {"lang": {"$not": {"$in": ["en", "de"]}}},
    {"$or": [{"lang": "zh"}, {"$and": [{"lang": "en"}, {"draft": True}]}]},
    {"$or": []},
    {"$not": {"year": {"$gte": 2020}}},
)
FILTERS: tuple[Filter, ...] = (
    *map(parse, CONDITIONS),
    Predicate(lambda metadata: len(metadata) > 3),
    Ids(["a", "0", "gone"]),
    Not(Ids(["a", "0"])),
    Ids([]),
)
