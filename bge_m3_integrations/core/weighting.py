"""Named weightings: weights, the fusion they were measured with, and on what they were measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.embeddings import ALL_MODES, Mode
from bge_m3_integrations.core.fusion import Fusion
from bge_m3_integrations.core.scores import PRESETS, FixedWeights, Weights
from bge_m3_integrations.errors import InputError

LEARNED: Final = "learned"
"""The name of the profile that an index has learned itself."""
PROFILE_FILE: Final = "profiles.toml"
LEARNED_FILE: Final = "learned_weights.npz"
CALIBRATION_FILE: Final = "calibration.json"
COMPANION_FILES: Final = (PROFILE_FILE, LEARNED_FILE, CALIBRATION_FILE)
"""Files in an index's folder that are not the store's, and go along with its backups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredOn:
    """The place that a profile's numbers come from; None is not known, and not compared.

    Attributes:
        fingerprint: Of the model.
        storage: How the index kept token vectors: "float32", "float16", "turbo8", "reencode", with
            ", n tokens a vector" behind where they were pooled.
        modes: What the index kept: "dense + sparse + colbert".
        query_instruction: Put before queries.
        document_instruction: Put before documents.
        collection: A name for people.
        evidence: A sentence for people, such as "225 judged queries: nDCG@10 0.497, default 0.471".
    """

    fingerprint: str | None = None
    storage: str | None = None
    modes: str | None = None
    query_instruction: str | None = None
    document_instruction: str | None = None
    collection: str | None = None
    evidence: str | None = None


_COMPARED = {
    "fingerprint": "the model",
    "storage": "token vectors kept as",
    "modes": "the modes",
    "query_instruction": "the query instruction",
    "document_instruction": "the document instruction",
}


@dataclass(frozen=True, slots=True)
class WeightProfile:
    """Weights under a name, with the fusion that they are meant for.

    Attributes:
        name: What a hit reports as its weighting; None for weights given as numbers.
        weights: How much each mode counts.
        fusion: How scores become one ranking value; None leaves it to the search.
        measured_on: Where the numbers come from.
        allow_mismatch: Warn, once, instead of refusing another model or storage.
    """

    name: str | None
    weights: Weights
    fusion: Fusion | None = None
    measured_on: MeasuredOn = field(default=MeasuredOn())
    allow_mismatch: bool = False

    def check(self, here: Callable[[], MeasuredOn]) -> None:
        """Refuse a model or a storage that the profile was not measured on.

        Args:
            here: Gives what is in use; called if the profile says anything, since the first call
                may read every weight file. What is None in it is not compared.

        Raises:
            InputError: They differ, and `allow_mismatch` is not set.
        """
        measured = self.measured_on
        if not any(getattr(measured, name) is not None for name in _COMPARED):
            return
        now = here()
        differ = [
            f"{said} {was!r}, and here it is {its!r}"
            for name, said in _COMPARED.items()
            if None not in (was := getattr(measured, name), its := getattr(now, name))
            and was != its
        ]
        if not differ:
            return
        said = f"the weight profile {self.name!r} was measured on {'; and on '.join(differ)}"
        if not self.allow_mismatch:
            raise InputError(
                f"{said}; measure again, or set allow_mismatch = true in the profile to take its "
                "numbers all the same"
            )
        warn_user(f"{said}; its numbers are used all the same, as allow_mismatch says")


StaticWeights: TypeAlias = FixedWeights | WeightProfile
WeightsLike: TypeAlias = StaticWeights | Callable[[str], StaticWeights]
"""What `weights=` takes: weights in any form of `Weights.parse`, a profile or its name, or a
function that is given the query's text and returns one of these."""


def as_weights(value: Any) -> WeightsLike | None:
    """Check weights as far as that can be done without an index, and copy what may change.

    Args:
        value: Any form of `WeightsLike`, or None.

    Returns:
        Weights for numbers; names, profiles, functions and None as they are.

    Raises:
        InputError: It has none of these forms.
    """
    if value is None or isinstance(value, WeightProfile) or callable(value):
        return value  # type: ignore[no-any-return]
    if isinstance(value, str):
        if not value.strip():
            raise InputError(f"weights={value!r} names no profile; there are {sorted(PRESETS)}")
        return value
    return Weights.parse(value)


def modes_of(value: WeightsLike | None) -> frozenset[Mode]:
    """The modes that weights may count: all of them where only a search can tell."""
    if isinstance(value, WeightProfile):
        return value.weights.modes
    if value is None or callable(value) or (isinstance(value, str) and value not in PRESETS):
        return ALL_MODES
    return Weights.parse(value).modes
