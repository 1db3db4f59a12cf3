from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import storage
from benchmarks._quality.errors import ScoreErrors
from benchmarks._quality.gate import Change
from benchmarks._storage import measure, report
from benchmarks._storage.kinds import KINDS, Kind, merged, sign_bytes, signs
from benchmarks._storage.measure import DRAWN, JUDGED, Cost, Row, measured
from benchmarks._storage.memory import Resident, counted
from benchmarks._storage.shard import keep, search
from benchmarks._storage.texts import Encoding, Judged, Vectors
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.embeddings import EmbeddingBatch, SparseRows, TokenVectors, offsets_of

WIDTH = 32


def token_vectors(lengths: list[int], *, seed: int = 0) -> TokenVectors:
    rows = np.random.default_rng(seed).standard_normal((sum(lengths), WIDTH)).astype(np.float32)
    return TokenVectors(rows / np.linalg.norm(rows, axis=1, keepdims=True), offsets_of(lengths))


def batch(vectors: TokenVectors, dense: Any, sparse: list[dict[int, float]]) -> EmbeddingBatch:
    tokens = np.diff(vectors.offsets) + 1
    return EmbeddingBatch(
        np.array(dense, np.float32), SparseRows.from_dicts(sparse), vectors, tokens, 0 * tokens
    )


def vectors_of(documents: list[int]) -> Vectors:
    asked, held = token_vectors([4, 3], seed=1), token_vectors(documents)
    dense = np.eye(len(documents), 4)
    return Vectors(
        batch(asked, np.eye(2, 4), [{1: 1.0}, {2: 1.0}]),
        batch(held, dense, [{i: 1.0} for i in range(len(documents))]),
    )


def judged(documents: list[int]) -> Judged:
    names = [f"d{i}" for i in range(len(documents))]
    qrels = {"q0": {"d1": 1}, "q1": {"d2": 1}}
    return Judged(vectors_of(documents), ["q0", "q1"], names, qrels)


def row(colbert: str, disk: float, *, error: float = 1e-6, pooling: int = 1) -> Row:
    errors = {name: ScoreErrors(error, error / 3, 0.05) for name in (JUDGED, DRAWN)}
    change = Change(0.5, 0.49, -0.03, 0.01, 225)
    cost = Cost(disk, 1_000_000, disk, 2 * disk, 0.0, 5.0)
    return Row(Kind(colbert, pooling), cost, errors, {"colbert": change, "hybrid": change})


def test_signs_are_unit_vectors_of_one_size_and_zero_counts_as_positive() -> None:
    held = TokenVectors(np.array([[0.6, -0.8, 0.0, -1e-9]], np.float32), offsets_of([1]))

    assert signs(held).vectors.tolist() == [[0.5, -0.5, 0.5, -0.5]]
    assert signs(held).vectors.dtype == np.float32


def test_sign_scores_are_the_mean_of_the_best_scaled_products_with_signs() -> None:
    asked, held = token_vectors([3], seed=1), token_vectors([5])
    products = asked.vectors @ np.where(held.vectors >= 0, 1, -1).T / np.sqrt(WIDTH)

    found = scoring.maxsim(asked, signs(held))

    assert found[0, 0] == pytest.approx(products.max(axis=1).mean(), abs=1e-6)


def test_sign_bytes_are_a_thirty_second_of_float32_filled_up_to_whole_bytes() -> None:
    held = token_vectors([5, 2])
    odd = TokenVectors(held.vectors[:, :9], held.offsets)

    assert sign_bytes(held) == held.vectors.nbytes / 32
    assert sign_bytes(odd) == 7 * 2


def test_merging_by_three_keeps_a_third_rounded_up_and_by_one_everything() -> None:
    held = token_vectors([7, 3])

    assert merged(held, 1) is held
    assert np.diff(merged(held, 3).offsets).tolist() == [3, 1]


def test_pages_mapped_twice_count_once_and_the_log_not_at_all() -> None:
    folder = Path("/held")
    head = "7f00-7f10 r--s 00000000 08:01 42    "
    lines = [
        f"{head}/held/shard/chunk",
        "Rss: 8 kB",
        "Pss: 4 kB",
        "Anonymous: 0 kB",
        f"{head}/held/shard/chunk",
        "Rss: 8 kB",
        "Pss: 4 kB",
        f"{head}/held/shard/wal/open-1",
        "Rss: 64 kB",
        "Pss: 64 kB",
        f"{head}/heldback/chunk",
        "Pss: 16 kB",
        "7f00-7f10 rw-p 00000000 00:00 0",
        "Rss: 32 kB",
        "Pss: 32 kB",
        "Anonymous: 32 kB",
    ]

    assert counted(lines, folder) == Resident(8 * 1024, 16 * 1024, 32 * 1024)


def test_an_exact_store_scores_in_the_documents_order_and_takes_their_bytes(
    tmp_path: Path,
) -> None:
    asked, held = token_vectors([4, 3], seed=1), token_vectors([20, 30, 25])

    disk = keep(tmp_path / "store", Kind("float32"), held, copies=4)
    found = search(tmp_path / "store", asked, len(held), calls=3)

    assert np.abs(found.scores - scoring.maxsim(asked, held)).max() < 1e-6
    assert disk.rest >= 4 * held.vectors.nbytes
    assert len(found.seconds) == 3
    assert found.after.files >= found.before.files == 0


def test_hybrid_ranks_candidates_only_and_colbert_ranks_everything() -> None:
    texts = judged([5, 6, 7, 4])
    colbert = np.array([[0.1, 0.9, 0.2, 0.3], [0.1, 0.9, 0.2, 0.3]], np.float32)
    texts.candidates = np.array([[True, False, True, True], [True, False, True, True]])

    found = texts.quality(colbert)

    # the first query's document is the best by ColBERT, and no candidate
    assert found["colbert"].tolist() == pytest.approx([1.0, 1 / np.log2(4)])
    assert found["hybrid"][0] == 0.0
    assert found["hybrid"][1] > 0.0


def test_candidates_are_the_first_by_dense_and_those_that_share_a_token() -> None:
    few = judged([5, 6, 7, 4])
    many = judged([2] * 150)

    assert few.candidates.all()
    assert many.candidates.sum(axis=1).tolist() == [100, 100]


def test_sign_bits_are_measured_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "keep", None)
    texts = judged([5, 6, 7, 4])

    found = measured(Kind("sign bits", 3), texts, vectors_of([6, 6]), tmp_path)

    assert found.cost.disk == (2 + 2) * WIDTH / 8 / 12
    assert found.cost.p50 is None
    assert found.errors[JUDGED].greatest > 0.01
    assert set(found.quality) == {"colbert", "hybrid"}


def test_float32_in_a_store_changes_no_ranking(tmp_path: Path) -> None:
    found = measured(Kind("float32"), judged([5, 6, 7, 4]), vectors_of([6, 6]), tmp_path)

    assert max(held.greatest for held in found.errors.values()) < 1e-6
    assert all(held.value == held.reference for held in found.quality.values())
    assert found.cost.p50 is not None
    assert list(tmp_path.iterdir()) == []


def test_the_cheapest_is_sought_among_unpooled_kinds_that_are_near_enough() -> None:
    rows = [row("float32", 4096), row("float16", 2048), row("turbo8", 1028, error=1.3e-4)]
    pooled, bits = row("turbo8", 343, pooling=3), row("sign bits", 128)

    assert report.cheapest([*rows, pooled, bits], "greatest").kind == Kind("turbo8")


def test_a_single_pair_too_far_off_counts_by_greatest_error_and_not_by_mean() -> None:
    rows = [row("float16", 2048), row("turbo8", 1028, error=3.1e-4)]

    assert report.cheapest(rows, "greatest").kind == Kind("float16")
    assert report.cheapest(rows, "mean").kind == Kind("turbo8")


def test_the_rule_for_the_default_goes_by_vectors_of_the_model_s_width() -> None:
    near, off = ScoreErrors(1.3e-4, 3e-5, 0.05), ScoreErrors(7e-4, 6e-5, 0.05)
    rows = [
        row("float16", 2048),
        replace(row("turbo8", 1028), errors={DRAWN: near, JUDGED: off}),
    ]

    assert report.cheapest(rows, "greatest", texts=[DRAWN]).kind == Kind("turbo8")
    assert report.cheapest(rows, "greatest").kind == Kind("float16")


def test_a_table_says_pass_or_fail_and_leaves_open_what_was_not_measured() -> None:
    again = Row(Kind("reencode"), Cost(0.0), {JUDGED: ScoreErrors(2e-7, 1e-7, 0.05)})

    lines = report.table([row("turbo8", 1028), again]).splitlines()

    assert "0.4900: -2.00% [-3.00%, +1.00%] **fails**" in lines[2]
    assert lines[3].startswith("| reencode | 0 | - | 1.0e-07 (2.0e-07) | - | as float32 |")


def test_an_earlier_run_reads_back_and_fills_the_page(tmp_path: Path) -> None:
    facts = {"date": "today", "cpu": "some CPU", "cores": "2"}
    encoding = Encoding(100, 12_000, 10.0)
    rows = (row("float32", 4096), row("turbo8", 1028))
    found = storage.Measurement(facts, (1.0, 2.0), rows, encoding, encoding)
    path, page = tmp_path / "run.json", tmp_path / "page.md"
    path.write_text(json.dumps(asdict(found)), encoding="utf-8")
    page.write_text("<!-- storage -->\n<!-- end of storage -->\n", encoding="utf-8")

    storage.main(["--read", str(path), "--markdown", str(page)])

    assert storage.Measurement.of(json.loads(path.read_text(encoding="utf-8"))) == found
    assert "at full size **turbo8**, on Cranfield" in page.read_text(encoding="utf-8")
    assert "some CPU (2 cores)" in page.read_text(encoding="utf-8")


def test_without_texts_or_an_earlier_run_the_command_says_what_to_give() -> None:
    with pytest.raises(SystemExit, match="--cranfield and --full-size"):
        storage.main([])


def test_kinds_are_named_apart_and_only_unpooled_ones_of_the_engine_can_be_default() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)
    assert [kind.name for kind in KINDS if kind.is_choice] == ["float32", "float16", "turbo8"]
