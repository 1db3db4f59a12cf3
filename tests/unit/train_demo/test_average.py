from __future__ import annotations

import pytest
import torch
from torch import nn

from scripts.train_demo.average import Average, mean


def model(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    nn.init.constant_(layer.bias, value)
    return layer


def test_the_first_update_takes_the_weights_as_they_are() -> None:
    layer = model(1.0)
    average = Average(layer)
    average.update(model(4.0))
    average.apply(layer)
    assert layer.weight.item() == 4.0


def test_later_updates_move_a_part_of_the_way() -> None:
    layer = model(0.0)
    average = Average(layer)
    average.update(layer)
    average.update(model(12.0))
    average.apply(layer)
    # The second update keeps 2 / (2 + 10) of the old average.
    assert layer.bias.item() == pytest.approx(10.0)


def test_lent_weights_go_back() -> None:
    layer = model(1.0)
    average = Average(layer)
    nn.init.constant_(layer.weight, 3.0)
    with average.applied(layer):
        assert layer.weight.item() == 1.0
    assert layer.weight.item() == 3.0


def test_lent_weights_go_back_after_an_error() -> None:
    layer = model(1.0)
    average = Average(layer)
    nn.init.constant_(layer.weight, 3.0)
    with pytest.raises(RuntimeError, match="stop"), average.applied(layer):
        raise RuntimeError("stop")
    assert torch.equal(layer.weight, torch.full((1, 1), 3.0))


def test_the_mean_of_checkpoints_is_taken_name_by_name_in_float32() -> None:
    one = {"a": torch.tensor([1.0, 2.0]).half(), "b": torch.tensor([[4.0]])}
    other = {"a": torch.tensor([3.0, 2.0]).half(), "b": torch.tensor([[5.0]])}
    found = mean([one, other])
    assert found["a"].dtype == torch.float32
    assert found["a"].tolist() == [2.0, 2.0]
    assert found["b"].tolist() == [[4.5]]
