from __future__ import annotations

import numpy as np
import pytest
import torch

from bge_m3_integrations.encoders.torch.packing import Pack, rounded, windows

PAD = 1


def pack_of(*rows: list[int]) -> Pack:
    return Pack.from_rows([np.array(row, np.int32) for row in rows])


def test_a_pack_lays_texts_end_to_end() -> None:
    pack = pack_of([0, 5, 2], [0, 2])
    assert pack.ids.tolist() == [0, 5, 2, 0, 2]
    assert pack.offsets.tolist() == [0, 3, 5]
    assert pack.after_first().tolist() == [1, 2, 4]


def test_positions_start_anew_in_each_text() -> None:
    pack = pack_of([0, 5, 2], [0, 2])
    assert pack.positions(None).tolist() == [0, 1, 2, 0, 1]
    assert pack.positions(PAD).tolist() == [2, 3, 4, 2, 3]


def test_a_typed_padding_token_has_the_padding_position_as_in_transformers() -> None:
    from transformers.models.xlm_roberta.modeling_xlm_roberta import XLMRobertaEmbeddings

    rows = [[0, PAD, 7, PAD, PAD, 9, 2], [PAD, 5, 2]]
    theirs = [
        XLMRobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor([row]), PAD)[0]
        for row in rows
    ]
    assert torch.equal(pack_of(*rows).positions(PAD), torch.cat(theirs))


def test_windows_cover_a_pack_in_order_and_join_short_texts_only() -> None:
    found = windows(np.array([300, 100, 20, 8, 1, 128, 127]), size=128)
    assert [w.lengths for w in found] == [(300,), (100, 20, 8), (1,), (128,), (127,)]
    assert [w.start for w in found] == [0, 300, 428, 429, 557]
    assert found[-1].end == 684


def test_a_window_hides_texts_from_each_other() -> None:
    (window,) = windows(np.array([2, 1]), size=8)
    mask = window.mask(torch.float32, size=4)
    assert mask is not None
    assert (mask == 0).tolist() == [
        [True, True, False, False],
        [True, True, False, False],
        [False, False, True, False],
        [False, False, False, True],
    ]
    assert windows(np.array([3]), size=8)[0].mask(torch.float32, size=4) is None


@pytest.mark.parametrize("least", [8, 32])
def test_sizes_are_rounded_up_to_few(least: int) -> None:
    sizes = {n: rounded(n, least=least) for n in range(1, 8193)}
    assert all(n <= size <= n + max(least, n / 8) for n, size in sizes.items())
    assert len(set(sizes.values())) <= 8 * 10
    assert rounded(8192, least=least) == 8192
