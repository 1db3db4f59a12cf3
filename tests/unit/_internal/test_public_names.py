"""What `dir` shows: the public names, and what Python's tools look for."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex
from bge_m3_integrations.testing import FakeEncoder

MODULES = ["", ".engine.cache", ".compat", ".demo", ".core.filters", ".testing"]
ADAPTERS = {
    "langchain": ["", ".byte_store", ".qdrant"],
    "llama_index": ["", ".qdrant"],
}


def shown(thing: object) -> list[str]:
    return [name for name in dir(thing) if not name.startswith("__")]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_shows_its_public_names(name: str) -> None:
    module = importlib.import_module(f"bge_m3_integrations{name}")
    assert shown(module) == sorted(module.__all__)
    assert {"__name__", "__doc__", "__file__"} <= set(dir(module))
    assert all(getattr(module, one) is not None for one in module.__all__)


@pytest.mark.parametrize(
    "name", [f"{framework}{part}" for framework, parts in ADAPTERS.items() for part in parts]
)
def test_an_adapters_module_shows_its_public_names(name: str) -> None:
    module = importlib.import_module(f"bge_m3_integrations.{name}")
    assert shown(module) == sorted(module.__all__)
    assert all(getattr(module, one) is not None for one in module.__all__)


def objects() -> list[Any]:
    from bge_m3_integrations import langchain, llama_index

    engine = BGEM3(FakeEncoder())
    made: list[Any] = [engine, HybridIndex(engine), langchain.BGEM3VectorStore(engine)]
    made.append(made[-1].as_retriever())
    for names, module in ((langchain.__all__, langchain), (llama_index.__all__, llama_index)):
        classes = [
            getattr(module, name)
            for name in names
            if name.startswith("BGEM3") and not name.endswith(("Translator", "ByteStore"))
        ]
        made += [cls(engine) for cls in classes]
    return made


def test_an_object_shows_public_names_and_those_of_python() -> None:
    for made in objects():
        assert not [name for name in shown(made) if name.startswith("_")], type(made)
        assert {"__class__", "__doc__", "__init__"} <= set(dir(made))
        assert {"engine", "index", "include_scores", "close"} & set(shown(made))
