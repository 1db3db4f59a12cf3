"""What LlamaIndex's own integration tests ask of every class, and what they forget."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.embeddings.loading import load_embed_model
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseComponent

from bge_m3_integrations import BGEM3, InputError
from bge_m3_integrations import llama_index as adapters
from bge_m3_integrations.llama_index import (
    BGEM3Embedding,
    BGEM3Reranker,
    BGEM3Retriever,
    BGEM3SparseEmbedding,
)
from bge_m3_integrations.testing import FakeEncoder

Component = BGEM3Embedding | BGEM3SparseEmbedding | BGEM3Reranker
COMPONENTS: list[type[Component]] = [BGEM3Embedding, BGEM3SparseEmbedding, BGEM3Reranker]
EXTRA: dict[type[BaseComponent], dict[str, Any]] = {
    BGEM3Embedding: {"model_name": "some/model", "embed_batch_size": 7},
    BGEM3SparseEmbedding: {"model_name": "some/model", "num_workers": 2},
    BGEM3Reranker: {"model": "some/model", "top_n": 5, "weights": "keyword"},
}


def descendants(cls: type) -> Iterator[type]:
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)


def made(cls: type[Component]) -> Component:
    return cls(max_length=99, dtype="float32", query_instruction="q: ", **EXTRA[cls])


@pytest.mark.parametrize(
    ("cls", "base"),
    [
        (BGEM3Embedding, BaseEmbedding),
        (BGEM3SparseEmbedding, BaseSparseEmbedding),
        (BGEM3Reranker, BaseNodePostprocessor),
        (BGEM3Retriever, BaseRetriever),
    ],
)
def test_a_class_has_its_llama_index_base(cls: type, base: type) -> None:
    assert base.__name__ in [ancestor.__name__ for ancestor in cls.__mro__]


@pytest.mark.parametrize("cls", COMPONENTS)
def test_a_class_name_is_its_own_and_nobody_elses(cls: type[BaseComponent]) -> None:
    others = {other for other in descendants(BaseComponent) if issubclass(other, BaseComponent)}
    others = {other for other in others if not issubclass(other, cls)}
    assert cls.class_name() not in {other.class_name() for other in others}
    assert cls.class_name() == cls.__name__


@pytest.mark.parametrize("cls", COMPONENTS)
def test_a_component_comes_back_from_its_dict_and_its_json(cls: Any) -> None:
    component = made(cls)
    for back in (cls.from_dict(component.to_dict()), cls.from_json(component.to_json())):
        assert back.to_dict() == component.to_dict()
        assert back.engine._config == component.engine._config
        assert back.engine.name == "some/model"


@pytest.mark.parametrize("cls", COMPONENTS)
def test_a_component_comes_back_from_its_pickle_with_an_equal_engine(cls: Any) -> None:
    component = made(cls)
    engine = component.engine
    back = pickle.loads(pickle.dumps(component))
    assert back.to_dict() == component.to_dict()
    assert back.engine._config == component.engine._config
    assert component.engine is engine


@pytest.mark.parametrize("cls", COMPONENTS)
def test_a_component_over_an_encoder_object_says_why_it_cannot_travel(cls: Any) -> None:
    component = cls(engine=BGEM3(FakeEncoder()))
    with pytest.raises(InputError, match=r"FakeEncoder.*cannot be pickled"):
        pickle.dumps(component)
    with pytest.raises(InputError, match=r"from_dict\(data, engine="):
        cls.from_dict(component.to_dict())


@pytest.mark.parametrize("cls", COMPONENTS)
def test_a_dict_made_over_an_encoder_object_fits_an_equal_engine_only(cls: Any) -> None:
    data = cls(engine=BGEM3(FakeEncoder())).to_dict()
    assert cls.from_dict(data, engine=BGEM3(FakeEncoder())).to_dict() == data
    with pytest.raises(InputError, match="engine_fingerprint"):
        cls.from_dict(data, engine=BGEM3(FakeEncoder(dim=8)))


@pytest.mark.parametrize("cls", COMPONENTS)
def test_a_folder_may_be_a_path_and_is_written_as_text(cls: Any) -> None:
    name = "model" if cls is BGEM3Reranker else "model_name"
    component = cls(**{name: Path("some/folder")}, cache_dir=Path("cache"))
    assert component.to_dict()[name] == "some/folder"
    assert cls.from_json(component.to_json()).engine.name == "some/folder"
    same = cls(engine=BGEM3(Path("some/folder"), cache_dir=Path("cache")))
    assert same.to_dict() == component.to_dict()


def test_weights_come_back_from_a_dict() -> None:
    back = BGEM3Reranker.from_dict(made(BGEM3Reranker).to_dict())
    assert back.weights == "keyword"


def test_an_embedding_is_found_by_its_class_name() -> None:
    data = made(BGEM3Embedding).to_dict()
    assert load_embed_model(data).to_dict() == data


def test_importing_the_folder_imports_neither_llama_index_core_nor_torch() -> None:
    code = (
        "import sys, bge_m3_integrations.llama_index as a; assert 'BGEM3Retriever' in dir(a); "
        "sys.exit(bool({'llama_index.core', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_making_adapters_over_a_named_model_imports_no_torch() -> None:
    code = (
        "import sys; from bge_m3_integrations import BGEM3, HybridIndex; "
        "import bge_m3_integrations.llama_index as a; e = BGEM3('no/model'); "
        "a.BGEM3Retriever(HybridIndex(e)); a.BGEM3Reranker(engine=e); "
        "a.BGEM3Embedding(engine=e).to_dict(); a.BGEM3SparseEmbedding(engine=e); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'BGEM3Retreiver'"):
        _ = adapters.BGEM3Retreiver  # type: ignore[attr-defined]
