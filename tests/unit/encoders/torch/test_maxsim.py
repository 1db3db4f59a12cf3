"""The torch kernel against the numpy reference, and what it may hold at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import FloatArray, TokenVectors, offsets_of
from bge_m3_integrations.encoders.base import OffersMaxsim
from bge_m3_integrations.encoders.torch import maxsim as kernel
from bge_m3_integrations.encoders.torch.maxsim import maxsim
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError
from bge_m3_integrations.testing.fake import FakeEncoder

RNG = np.random.default_rng(11)
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def tokens(*lengths: int, dim: int = 64, dtype: Any = np.float32) -> TokenVectors:
    rows = RNG.standard_normal((sum(lengths), dim))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return TokenVectors(rows.astype(dtype), offsets_of(lengths))


def exact_tokens(*lengths: int, dim: int = 8) -> TokenVectors:
    """Small integers: their products and sums are exact in float32 in any order."""
    rows = RNG.integers(-4, 5, (sum(lengths), dim)).astype(np.float32)
    return TokenVectors(rows, offsets_of(lengths))


@pytest.fixture(params=["onednn", "plain"])
def either_product(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(kernel, "onednn_product", lambda: None)
    elif kernel.onednn_product() is None:
        pytest.skip("this torch has no oneDNN product")
    return str(request.param)


@pytest.mark.usefixtures("either_product")
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_gives_the_scores_of_the_reference(dtype: Any) -> None:
    queries = tokens(5, 1, 24, 17, dim=1024, dtype=dtype)
    documents = tokens(1, 90, 3, 260, 33, dim=1024, dtype=dtype)
    scores = maxsim(queries, documents)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, scoring.maxsim(queries, documents), rtol=0, atol=1e-5)


def test_a_negative_best_stays_negative() -> None:
    query = TokenVectors(np.array([[1.0, 0.0]], np.float32), offsets_of([1]))
    documents = TokenVectors(np.array([[-1, 0], [-0.6, 0.8]], np.float32), offsets_of([1, 1]))
    assert maxsim(query, documents)[0].tolist() == pytest.approx([-1.0, -0.6])


@given(LENGTHS, LENGTHS, st.integers(1, 3000))
def test_scores_do_not_depend_on_the_block_size(
    left: list[int], right: list[int], max_elements: int
) -> None:
    queries, documents = exact_tokens(*left), exact_tokens(*right)
    blocked = maxsim(queries, documents, max_elements=max_elements)
    np.testing.assert_array_equal(blocked, maxsim(queries, documents))


@given(LENGTHS, LENGTHS)
def test_a_text_scores_alone_as_in_any_batch(left: list[int], right: list[int]) -> None:
    queries, documents = exact_tokens(*left), exact_tokens(*right)
    together = maxsim(queries, documents, max_elements=512)
    for i in range(len(left)):
        for j in range(len(right)):
            alone = maxsim(queries.take(np.array([i])), documents.take(np.array([j])))
            assert alone[0, 0] == together[i, j]


def test_nothing_it_makes_is_larger_than_the_budget() -> None:
    queries, documents = tokens(300, 8, 2, dtype=np.float16), tokens(900, 1, 5, dtype=np.float16)
    most = 16 * 64
    with _Sizes() as sizes:
        maxsim(queries, documents, max_elements=most)
    assert sizes.made
    assert max(sizes.made) <= most
    with _Sizes() as free:
        maxsim(queries, documents)
    assert max(free.made) > most


def test_float32_documents_are_not_copied() -> None:
    documents = tokens(500)
    with _Sizes() as sizes:
        maxsim(tokens(2), documents)
    assert max(sizes.made) < documents.vectors.size


def test_blocks_hold_all_queries_so_that_documents_are_read_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[tuple[int, int]] = []
    product = kernel._product

    def counting(block: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
        rows.append((len(block), len(vectors)))
        return product(block, vectors)

    monkeypatch.setattr(kernel, "_product", counting)
    maxsim(tokens(3, 20, 9), tokens(30, 30, 40), max_elements=64 * 64)
    assert rows == [(64, 32), (36, 32)]


def test_documents_are_scored_stretch_by_stretch() -> None:
    queries, documents = exact_tokens(3, 30), exact_tokens(*[1, 4, 2] * 30)
    stretched = maxsim(queries, documents, max_elements=512)
    np.testing.assert_array_equal(stretched, scoring.maxsim(queries, documents))


def test_read_only_arrays_are_fine(recwarn: pytest.WarningsRecorder) -> None:
    queries, documents = tokens(4), tokens(6, 2)
    documents.vectors.flags.writeable = False
    np.testing.assert_allclose(
        maxsim(queries, documents), scoring.maxsim(queries, documents), rtol=0, atol=1e-5
    )
    assert not recwarn.list


@pytest.mark.parametrize(("q", "n"), [(0, 0), (0, 2), (2, 0)])
def test_no_texts_give_an_empty_table(q: int, n: int) -> None:
    queries = TokenVectors.concat([tokens(1)] * q, 64)
    documents = TokenVectors.concat([tokens(1)] * n, 64)
    assert maxsim(queries, documents).shape == (q, n)


@pytest.mark.parametrize("score", [maxsim, scoring.maxsim])
def test_it_refuses_what_has_no_score(score: scoring.Maxsim) -> None:
    with pytest.raises(InputError, match="queries are 64 wide and documents 32"):
        score(tokens(2), tokens(2, dim=32))
    with pytest.raises(InputError, match="a document without token vectors"):
        score(tokens(2), tokens(2, 0))


TEXTS = ["a b c", "b", "c d"]


@pytest.mark.parametrize(
    "score",
    [
        lambda engine: engine.score(["a b"], TEXTS).hybrid[0],
        lambda engine: engine.score_pairs([("a b", text) for text in TEXTS]).hybrid,
        lambda engine: [ranked.score for ranked in engine.rerank("a b", TEXTS)],
    ],
    ids=["score", "score_pairs", "rerank"],
)
def test_the_engine_scores_by_the_kernel_of_its_encoder_behind_any_wrapper(score: Any) -> None:
    encoder = _WithKernel()
    scores = score(BGEM3(encoder, clean=True))
    assert encoder.scored == len(TEXTS)
    np.testing.assert_allclose(scores, score(BGEM3(FakeEncoder())), rtol=0, atol=1e-5)


def test_an_encoder_without_kernel_is_scored_by_the_reference() -> None:
    queries, documents = tokens(3), tokens(4, 5)
    assert not isinstance(FakeEncoder(), OffersMaxsim)
    np.testing.assert_array_equal(
        BGEM3(FakeEncoder()).maxsim(queries, documents), scoring.maxsim(queries, documents)
    )


class _WithKernel(FakeEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.scored = 0

    def maxsim(self, queries: TokenVectors, documents: TokenVectors) -> FloatArray:
        self.scored += len(documents)
        return maxsim(queries, documents)


class _Sizes(TorchDispatchMode):
    """Counts the elements of every tensor that is made while it is entered, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {_storage(t) for t in _tensors((args, kwargs))}
        self.made += [t.numel() for t in _tensors(result) if _storage(t) not in given]
        return result


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
