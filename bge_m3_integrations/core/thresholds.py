"""Thresholds on a calibrated scale, and the names of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from bge_m3_integrations.core.validation import check_finite
from bge_m3_integrations.errors import InputError


@dataclass(frozen=True, slots=True)
class Probability:
    """A threshold on `Hit.probability`: the chance that a hit is relevant, learned from judgements.

    Attributes:
        value: Above 0 and at most 1.

    Raises:
        InputError: It is something else, such as a percentage.
    """

    value: float

    def __post_init__(self) -> None:
        number = check_finite("a Probability", self.value)
        if not 0 < number <= 1:
            fix = f"; for {number:g} % write Probability({number / 100:g})" if number > 1 else ""
            raise InputError(f"a Probability is above 0 and at most 1, not {self.value!r}{fix}")
        object.__setattr__(self, "value", number)

    def __str__(self) -> str:
        return f"Probability({self.value:g})"


@dataclass(frozen=True, slots=True)
class Percentile:
    """A threshold on `Hit.percentile`: the share of unrelated pairs with a lower value.

    It says that a hit is not there by chance. It is no probability of relevance.

    Attributes:
        value: In percent: at least 1 and below 100. (A fraction such as 0.99 is refused: it would
            keep nearly everything, where 99 is meant.)

    Raises:
        InputError: It is something else.
    """

    value: float

    def __post_init__(self) -> None:
        number = check_finite("a Percentile", self.value)
        if not 1 <= number < 100:
            fix = f"; did you mean Percentile({100 * number:g})?" if 0 < number < 1 else ""
            raise InputError(
                f"a Percentile is in percent, at least 1 and below 100, not {self.value!r}{fix}"
            )
        object.__setattr__(self, "value", number)

    def __str__(self) -> str:
        return f"Percentile({self.value:g})"


Threshold: TypeAlias = float | Probability | Percentile
"""A float is compared with the ranking value, the others with the calibrated scale."""
_KINDS: Final[Mapping[str, type[Probability | Percentile]]] = {
    "probability": Probability,
    "percentile": Percentile,
}


def as_threshold(value: Any) -> Threshold:
    """Check a caller's `score_threshold`.

    Args:
        value: A finite number, a `Probability` or a `Percentile`.

    Returns:
        The threshold, numbers as float.

    Raises:
        InputError: It is something else.
    """
    if isinstance(value, Probability | Percentile):
        return value
    return check_finite("score_threshold", value)


def threshold_of_json(value: Any) -> Any:
    """A threshold in the form that JSON has, `{"probability": 0.8}` or `{"percentile": 99}`.

    Args:
        value: Any.

    Returns:
        The `Probability` or the `Percentile`; another value as it is.

    Raises:
        InputError: Its number is out of range.
    """
    if isinstance(value, dict) and len(value) == 1:
        [(name, number)] = value.items()
        if name in _KINDS:
            return _KINDS[name](number)
    return value


def threshold_as_json(value: Threshold | None) -> float | dict[str, float] | None:
    """The form of a threshold that JSON has; `threshold_of_json` takes it back."""
    if isinstance(value, Probability | Percentile):
        return {type(value).__name__.lower(): value.value}
    return value


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the calibrated scale with the name that folklore gives it.

    Attributes:
        name: "near-duplicate", "related", "unclear" or "unrelated".
        least: The probability at which it begins.
        meaning: What the name means here, in a sentence.
    """

    name: str
    least: float
    meaning: str


BANDS: Final[Sequence[Band]] = (
    Band(
        "near-duplicate",
        0.85,
        "of 100 such hits at least 85 are relevant; whether two texts are copies it does not say",
    ),
    Band("related", 0.6, "of 100 such hits 60 to 85 are relevant"),
    Band("unclear", 0.3, "of 100 such hits 30 to 60 are relevant: look at them"),
    Band("unrelated", 0.0, "of 100 such hits fewer than 30 are relevant; some of them still are"),
)
"""The rule "over 85 % a near-duplicate, over 60 % related, below 30 % unrelated", as users quote it
for raw scores, where it means nothing. Here it is about `Hit.probability`."""


def band(probability: float) -> Band:
    """Name the part of the scale that a probability is in.

    Args:
        probability: A `Hit.probability`, from 0 to 1. A raw score has no band.

    Returns:
        One of `BANDS`.

    Raises:
        InputError: It is no number from 0 to 1, such as the None of a hit without calibration.
    """
    if probability is None or not 0 <= check_finite("a probability", probability) <= 1:
        raise InputError(
            f"bands are parts of the calibrated scale, from 0 to 1, not {probability!r}; a hit has "
            "a probability once its index was calibrated with judgements: see docs/thresholds.md"
        )
    return next(held for held in BANDS if probability >= held.least)
