from __future__ import annotations

import numpy as np
import pytest

from benchmarks._search.corpus import BLOCK, FIELDS, QUERY_TOKENS, Corpus, name
from benchmarks._search.oracle import Expected, expected, lexical_scores, recall, tops
from benchmarks._search.tasks import LIMIT, TASKS, WEIGHTS

CORPUS = Corpus(1_500, dim=32)
QUERIES = CORPUS.queries(7)
TOPS = tops(CORPUS.blocks(), QUERIES, fields=(None, *FIELDS), most=100)


def stacked(corpus: Corpus) -> tuple[np.ndarray, list[dict[int, float]]]:
    """All documents at once, as only a test may have them."""
    blocks = list(corpus.blocks())
    weights = [block.lexical.as_dict(i) for block in blocks for i in range(len(block))]
    return np.concatenate([block.dense for block in blocks]), weights


def slow_scores(corpus: Corpus) -> dict[str, np.ndarray]:
    """Scores by the plainest code there is."""
    dense, weights = stacked(corpus)
    sparse = [
        [sum(w * d[t] for t, w in q.items() if t in d) for d in weights]
        for q in (QUERIES.lexical.as_dict(i) for i in range(len(QUERIES)))
    ]
    return {"dense": QUERIES.dense @ dense.T, "sparse": np.array(sparse, np.float32)}


def test_a_collection_is_the_same_in_every_process() -> None:
    again = Corpus(1_500, dim=32).block(1)
    block = CORPUS.block(1)

    assert np.array_equal(again.dense, block.dense)
    assert np.array_equal(again.lexical.token_ids, block.lexical.token_ids)
    assert np.array_equal(again.lexical.weights, block.lexical.weights)
    assert again.metadata(3) == block.metadata(3)
    assert not np.array_equal(Corpus(1_500, dim=32, seed=1).block(1).dense, block.dense)


def test_the_last_block_holds_what_is_left() -> None:
    assert [len(block) for block in CORPUS.blocks()] == [BLOCK, 500]
    assert [block.start for block in CORPUS.blocks()] == [0, BLOCK]
    assert list(CORPUS.blocks())[1].ids[0] == name(BLOCK)


def test_documents_of_a_cluster_are_near_and_others_at_right_angles() -> None:
    corpus = Corpus(1_000, dim=1024)
    dense = corpus.block(0).dense
    cosines = (dense @ dense.T)[np.triu_indices(len(dense), 1)]

    near = cosines[cosines > 0.3]
    assert near.mean() == pytest.approx(0.55, abs=0.02)
    assert len(near) / len(cosines) == pytest.approx(1 / 20, abs=0.01)
    assert np.abs(cosines[cosines <= 0.3]).mean() < 0.05


def test_lexical_weights_are_as_a_head_gives_them() -> None:
    lexical = CORPUS.block(0).lexical
    lengths = np.diff(lexical.indptr)
    _, counts = np.unique(lexical.token_ids, return_counts=True)

    assert 55 < lengths.mean() < 65
    assert lexical.token_ids.dtype == np.int32
    assert lexical.token_ids.min() >= 5
    assert lexical.token_ids.max() < 250_002
    assert all((np.diff(lexical.row(i)[0]) > 0).all() for i in range(50))
    assert counts.max() > 950
    assert np.median(counts) == 1
    assert lexical.weights.min() > 0


def test_keywords_select_what_they_are_named_after() -> None:
    fields = np.concatenate([block.fields for block in Corpus(5_000, dim=4).blocks()])

    for column, values in enumerate(FIELDS.values()):
        assert (fields[:, column] == 0).mean() == pytest.approx(1 / values, rel=0.3)


def test_texts_differ_and_are_as_long_as_said() -> None:
    texts = CORPUS.texts(0, 1_000) + CORPUS.texts(1_000, 500)

    assert len(set(texts)) == 1_500
    assert {len(text) for text in texts} == {560}


def test_a_query_is_near_its_document_and_shares_tokens_with_it() -> None:
    corpus = Corpus(1_000, dim=1024)
    queries, block = corpus.queries(20), corpus.block(0)
    rows = np.linspace(0, len(block) - 1, 20).astype(int)

    assert (queries.dense * block.dense[rows]).sum(axis=1).mean() == pytest.approx(0.75, abs=0.02)
    assert 10 < np.diff(queries.lexical.indptr).mean() <= 11
    for i, row in enumerate(rows.tolist()):
        shared = np.intersect1d(queries.lexical.row(i)[0], block.lexical.row(row)[0])
        assert len(shared) >= 7
        assert (queries.fields[i] == block.fields[row]).all()


def test_token_vectors_are_of_length_one_and_those_of_the_asked_document_fit_best() -> None:
    corpus = Corpus(1_000, dim=256)
    queries, block = corpus.queries(3), corpus.block(0).part(0, 40)
    asked, ends = corpus.query_tokens(queries)
    vectors, offsets = corpus.tokens(block)

    scores = np.maximum.reduceat(asked[: ends[1]] @ vectors.T, offsets[:-1], axis=1).mean(axis=0)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.diff(ends).tolist() == [QUERY_TOKENS] * 3
    assert {int(length) for length in np.diff(offsets)} <= set(range(100, 141))
    assert scores.argmax() == 0
    assert scores[1:].std() > 0.01


def test_token_vectors_are_the_same_however_many_are_asked_for() -> None:
    block = CORPUS.block(1)
    many, offsets = CORPUS.tokens(block.part(10, 20))
    one, _ = CORPUS.tokens(block.part(13, 14))

    assert np.array_equal(many[offsets[3] : offsets[4]], one)


def test_repeated_token_vectors_are_those_of_the_first_documents() -> None:
    corpus = Corpus(2_500, dim=16, distinct=1_100)
    late, early = corpus.block(2).part(250, 253), corpus.block(0).part(50, 53)

    assert np.array_equal(corpus.tokens(late)[0], corpus.tokens(early)[0])
    assert not np.array_equal(
        CORPUS.tokens(CORPUS.block(1).part(100, 101))[0][0],
        CORPUS.tokens(CORPUS.block(0).part(0, 1))[0][0],
    )


def test_lexical_scores_are_sums_over_shared_tokens() -> None:
    block = CORPUS.block(0).part(0, 50)

    found = lexical_scores(QUERIES.lexical, block.lexical)

    assert np.allclose(found, slow_scores(CORPUS)["sparse"][:, :50], atol=1e-6)


def test_the_oracles_best_of_a_mode_are_those_of_all_scores() -> None:
    scores = slow_scores(CORPUS)
    for mode in ("dense", "sparse"):
        top = TOPS[None, mode]
        best = -np.sort(-scores[mode], axis=1)[:, :100]
        assert np.allclose(getattr(top, mode), best, atol=1e-5)
        other = "sparse" if mode == "dense" else "dense"
        beside = np.take_along_axis(scores[other], top.numbers, axis=1)
        assert np.allclose(getattr(top, other), beside, atol=1e-5)


def test_the_oracle_keeps_to_a_filter_and_leaves_places_empty() -> None:
    top = TOPS["shelf", "dense"]
    fields = np.concatenate([block.fields for block in CORPUS.blocks()])

    for i in range(len(QUERIES)):
        passing = np.flatnonzero(fields[:, 0] == QUERIES.fields[i, 0])
        kept = top.numbers[i][top.numbers[i] >= 0]
        assert sorted(kept.tolist()) == passing.tolist()


@pytest.mark.parametrize("task", ["hybrid", "hybrid 10 %"])
def test_the_oracle_combines_exact_scores_of_the_union(task: str) -> None:
    scores, wanted = slow_scores(CORPUS), expected(TASKS[task], CORPUS, QUERIES, TOPS)
    fields = np.concatenate([block.fields for block in CORPUS.blocks()])
    for i, one in enumerate(wanted):
        column = list(FIELDS).index("section")
        passing = fields[:, column] == QUERIES.fields[i, column]
        rows = np.flatnonzero(passing) if "%" in task else np.arange(1_500)
        union = {
            int(rows[j])
            for mode in ("dense", "sparse")
            for j in np.argsort(-scores[mode][i, rows])[:100]
        }
        value = 0.4 * scores["dense"][i] + 0.2 * scores["sparse"][i]
        best = sorted(union, key=lambda j: -value[j])[:LIMIT]
        assert set(best) <= one.numbers
        assert len(one.numbers) <= LIMIT + 1


def test_the_oracle_adds_maxsim_over_the_candidates() -> None:
    task = TASKS["hybrid+colbert"]
    scores, (asked, ends) = slow_scores(CORPUS), CORPUS.query_tokens(QUERIES)
    union = {int(j) for m in ("dense", "sparse") for j in np.argsort(-scores[m][0])[:50]}

    def value(number: int) -> float:
        block = CORPUS.block(number // BLOCK)
        row = number % BLOCK
        vectors = CORPUS.tokens(block.part(row, row + 1))[0]
        late = (asked[: ends[1]] @ vectors.T).max(axis=1).mean()
        parts = (scores["dense"][0, number], scores["sparse"][0, number], late)
        return sum(w * p for w, p in zip(WEIGHTS.values(), parts, strict=True))

    best = sorted(union, key=lambda j: -value(j))[:LIMIT]
    assert set(best) <= expected(task, CORPUS, QUERIES, TOPS)[0].numbers


def test_a_find_by_maxsim_has_nothing_to_be_compared_with() -> None:
    assert {one.needed for one in expected(TASKS["colbert"], CORPUS, QUERIES, TOPS)} == {0}


def test_recall_is_the_share_found_among_the_first_ten() -> None:
    wanted = [Expected(frozenset(range(10)), 10), Expected(frozenset({1, 2, 3}), 2)]
    ten = [name(i) for i in range(10)]

    assert recall([ten, ten], wanted) == 1
    assert recall([[name(99)] * 10 + ten, [name(3)]], wanted) == 0.25
    assert np.isnan(recall([], wanted))
