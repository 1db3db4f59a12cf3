"""Averages of weights: a moving one over a training, and the mean of several trainings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

DECAY = 0.999


class Average:
    """The exponential moving average of a model's parameters.

    Early on it forgets faster, so that the weights of the first update do not stay.
    """

    def __init__(self, model: nn.Module) -> None:
        self._values = _copies(model)
        self._count = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes the model's present weights in.

        Args:
            model: The model.
        """
        self._count += 1
        decay = min(DECAY, self._count / (self._count + 10)) if self._count > 1 else 0.0
        for value, new in zip(self._values, model.parameters(), strict=True):
            value.lerp_(new, 1 - decay)

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Gives the model the average weights.

        Args:
            model: The model.
        """
        for parameter, value in zip(model.parameters(), self._values, strict=True):
            parameter.copy_(value)

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Lends the model the average weights.

        Args:
            model: The model; it gets its own weights back.

        Yields:
            Nothing.
        """
        own = _copies(model)
        self.apply(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(model.parameters(), own, strict=True):
                    parameter.copy_(value)


def _copies(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def mean(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of weights that are near each other (Wortsman et al. 2022, "Model soups").

    Args:
        states: Of the same names and shapes.

    Returns:
        Their mean, float32.
    """
    stacked = {name: torch.stack([s[name].float() for s in states]) for name in states[0]}
    return {name: values.mean(dim=0) for name, values in stacked.items()}
