"""QueryRouter: codes, other scripts, and everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bge_m3_integrations import BGEM3, HybridIndex, QueryRouter, Record, Weights
from bge_m3_integrations.testing import FakeEncoder


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("error E4021 on start", "code"),
        ("X200-B", "code"),
        ("what is sha256", "code"),
        ("ef_construct m", "code"),
        ("numpy.linalg.eigh fails", "code"),
        ("maxPoolSize", "code"),
        ("什么是 X200-B", "code"),
        ("the 3rd of May", "usual"),
        ("in 2015 and 1998", "usual"),
        ("U.S. economy", "usual"),
        ("don't", "usual"),
        ("混合检索的权重", "other-script"),
        ("سؤال", "other-script"),
        ("", "usual"),
        ("123 456", "usual"),
    ],
)
def test_the_look_of_a_query_decides(query: str, reason: str) -> None:
    made = QueryRouter({"latin"})(query)
    assert made.name == f"router:{reason}"
    if reason == "other-script":
        assert made.weights == Weights(0.4, 0.0, 0.4)
    if reason == "usual":
        assert made.weights == Weights()


@given(st.text(max_size=40))
def test_any_text_has_weights(query: str) -> None:
    assert QueryRouter({"latin"})(query).weights.modes
    assert QueryRouter()(query).name != "router:other-script"


def test_an_index_makes_one_of_its_own_scripts_and_modes() -> None:
    with HybridIndex(BGEM3(FakeEncoder()), modes=["dense", "sparse"]) as index:
        index.add([Record("a", "only Latin letters"), Record("b", "1234")])
        router = index.router(Weights(1, 2, 3))
        assert set(router.scripts) == {"latin"}
        assert router("hello").weights == Weights(1, 2, 0)
        assert index.search("hello X200-B", weights=router)[0].weighting == "router:code"
        assert index.search("你好", weights=router)[0].weights == Weights(1, 0, 0)


def test_lexical_weights_alone_stay_as_they_are() -> None:
    assert QueryRouter({"latin"}, usual=Weights(0, 1, 0))("你好").weights == Weights(0, 1, 0)
