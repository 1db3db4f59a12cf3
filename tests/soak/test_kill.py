from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.stores.edge.programs import MOMENTS, Witness

ROUNDS = 50


@pytest.mark.soak
@pytest.mark.parametrize("via", ["store", "index", "isolated"])
def test_an_index_survives_being_killed_again_and_again(tmp_path: Path, via: str) -> None:
    witness = Witness(tmp_path / "index", via)
    for number in range(ROUNDS):
        witness.check_a_kill(number, MOMENTS[number % len(MOMENTS)])
    assert witness.acknowledged > ROUNDS
