from __future__ import annotations

import pytest

from benchmarks._shape import BGE_M3, TINY
from benchmarks.gpu import LENGTHS, Timing, flops, table, texts_of


def test_a_token_of_a_short_text_costs_two_operations_a_weight() -> None:
    weights = 24 * 12 * 1024**2 + 1024**2
    assert flops(BGE_M3, 32) == pytest.approx(2 * weights, rel=0.01)


def test_attention_costs_four_operations_a_layer_component_and_token_seen() -> None:
    more = flops(BGE_M3, 8192) - flops(BGE_M3, 4096)
    assert more == 4 * 24 * 1024 * 4096


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_has_the_same_tokens_in_different_texts(length: int) -> None:
    texts = texts_of(length, tokens=16384, shape=TINY)
    assert len(texts) * length == 16384
    assert len(set(texts)) == len(texts)


def test_a_failure_stands_in_its_cell() -> None:
    timings = [
        Timing("ours", 32, (10.0, 30.0, 20.0), share=0.5),
        Timing("FlagEmbedding", 32, (), failure="OutOfMemoryError: full"),
    ]
    assert table(timings)[1] == ["32", "20 (10-30)", "OutOfMemoryError: full", "-", "50%"]
