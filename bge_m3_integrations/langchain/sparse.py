"""The common part of the classes that give lexical weights to other stores."""

from __future__ import annotations

from typing import Any, ClassVar

from bge_m3_integrations.core.display import called
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.langchain.embeddings import BGEM3Embeddings, engine_of


class SparseView:
    """An engine that is asked for lexical weights; a subclass gives them its store's form.

    Args:
        engine: Shared with the dense embeddings, or these embeddings.

    Attributes:
        engine: The engine.
        role: Under which it is told so.
    """

    role: ClassVar[str]

    def __init__(self, engine: BGEM3 | BGEM3Embeddings) -> None:
        self.engine: BGEM3 = engine_of(engine)
        self.engine.declare(self.role, query=["sparse"], document=["sparse"])

    def __repr__(self) -> str:
        return called(self, lambda: [repr(self.engine)])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.engine,)  # a copy declares its needs again
