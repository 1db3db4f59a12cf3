from __future__ import annotations

import torch

from scripts.train_demo.calibrate import mean


def test_the_mean_of_checkpoints_is_taken_name_by_name_in_float32() -> None:
    one = {"a": torch.tensor([1.0, 2.0]).half(), "b": torch.tensor([[4.0]])}
    other = {"a": torch.tensor([3.0, 2.0]).half(), "b": torch.tensor([[5.0]])}
    found = mean([one, other])
    assert found["a"].dtype == torch.float32
    assert found["a"].tolist() == [2.0, 2.0]
    assert found["b"].tolist() == [[4.5]]
