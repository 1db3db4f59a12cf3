"""A calibration: ranking values read as a place among unrelated pairs, and as a probability."""

from __future__ import annotations

import json
import math
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Self

import numpy as np

from bge_m3_integrations.core.calibration_parts import (
    Floats,
    Readings,
    Relevance,
    Rule,
    Unrelated,
    candidate_z,
)
from bge_m3_integrations.core.display import Shown, counted
from bge_m3_integrations.core.embeddings import MODES
from bge_m3_integrations.core.fusion import Fusion
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.thresholds import Probability
from bge_m3_integrations.core.validation import as_path
from bge_m3_integrations.errors import InputError

KIND: Final = "bge-m3-integrations calibration"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The index and the search that a calibration was measured on, and so belongs to.

    Attributes:
        fingerprint: Of the model.
        model: Its name, for a reader.
        query_instruction: Put in front of every query.
        storage: How the index kept token vectors; see `MeasuredOn.storage`.
        weights: Those of the search; their ratios count.
        fusion: The name of its rule.
        max_score: The rule's greatest value by these weights; None where there is none.
        documents: How many the index held.
        collection: The name of the collection or of its judgements.
        date: Day of the measurement, "2026-12-01".
    """

    fingerprint: str
    model: str
    query_instruction: str
    storage: str
    weights: Weights
    fusion: str
    max_score: float | None
    documents: int
    collection: str
    date: str

    def is_of_search(self, weights: Weights, fusion: Fusion) -> bool:
        """Whether the values of a search are on the scale that was measured."""
        return (
            fusion.name == self.fusion
            and np.allclose(_ratios(weights), _ratios(self.weights), atol=1e-9)
            and _finite_or_none(fusion.max_score(weights)) == self.max_score
        )

    def strangeness(self, index: Mapping[str, Any]) -> str | None:
        """The first difference between an index and the one that was measured.

        Args:
            index: The `fingerprint`, `query_instruction` and `storage` of it.

        Returns:
            A sentence that names both sides; None where it is the same.
        """
        for name, said in _OWN.items():
            if index[name] != getattr(self, name):
                return (
                    f"it was measured on {said} {getattr(self, name)!r}, and this index has "
                    f"{index[name]!r}"
                )
        return None


_OWN: Final = {
    "fingerprint": "the model",
    "storage": "token vectors kept as",
    "query_instruction": "the query instruction",
}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Calibration(Shown):
    """Reads the ranking values of an index's searches; `evaluation.calibrate` makes it.

    Attributes:
        measured: What it belongs to.
        unrelated: The values of unrelated pairs.
        relevance: The probability of relevance; None where it was made without judgements.
    """

    measured: Measured
    unrelated: Unrelated
    relevance: Relevance | None = None

    def percentile(self, values: Floats) -> Floats:
        """Read values as a place among unrelated pairs.

        Args:
            values: Ranking values, of any shape.

        Returns:
            The share of unrelated pairs with a lower value, in percent; float64. The greatest is
            100 * pairs / (pairs + 1): no more can be known. It is no probability.
        """
        return self.unrelated.percentile(values)

    def probability(self, values: Floats, candidate_z: Floats) -> Floats:
        """Read values as the probability that their documents are relevant.

        Args:
            values: `(n,)` ranking values.
            candidate_z: `(n,)`; see the function of that name. NaN reads the value alone.

        Returns:
            `(n,) float64`, from 0 to 1.

        Raises:
            InputError: The calibration was made without judgements.
        """
        return self._judged.rule.probability(values, candidate_z)

    def threshold(
        self, *, precision: float | None = None, recall: float | None = None
    ) -> Probability:
        """Choose the threshold for a wanted precision, or for a wanted recall.

        It is the lowest one whose kept hits have at least the precision, or the highest one that
        keeps at least the share of the relevant hits: by the lower bound of Wilson, one-sided at
        90 %, over at least 10 hits of the judged queries. Relevant documents that the search did
        not find are not counted: no threshold brings them back.

        Args:
            precision: From 0 to 1: how many of the kept hits are to be relevant.
            recall: From 0 to 1: how many of the relevant hits are to be kept.

        Returns:
            For `score_threshold`.

        Raises:
            InputError: Not exactly one is given, there were no judgements, or no threshold is
                proved to do it; the message has the best there is.
        """
        if (precision is None) == (recall is None):
            raise InputError("threshold() needs either precision or recall: precision=0.8")
        return self._judged.threshold(precision=precision, recall=recall)

    def read(self, values: Floats) -> Readings:
        """Read the values of all candidates of one query, `(n,)`."""
        chance = self.relevance
        return Readings(
            self.unrelated.percentile(values),
            None if chance is None else chance.rule.probability(values, candidate_z(values)),
        )

    @property
    def _judged(self) -> Relevance:
        if self.relevance is None:
            raise InputError(
                "this calibration was made without judgements, so it knows percentiles and no "
                "probabilities: Percentile(99), or calibrate(index, dataset)"
            )
        return self.relevance

    def to_dict(self) -> dict[str, Any]:
        """The calibration as plain Python, which `json.dumps` takes; `from_dict` takes it back."""
        parts = {"unrelated": self.unrelated, "relevance": self.relevance}
        return {
            "kind": KIND,
            "format": FORMAT,
            "measured": asdict(self.measured),
            **{name: part and _plain(part) for name, part in parts.items()},
        }

    @classmethod
    def from_dict(cls, held: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Args:
            held: As JSON gives it.

        Returns:
            The calibration.

        Raises:
            InputError: It is something else; the message says what.
        """
        return cls(*_parsed(held))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calibration as JSON; the file is the old one or the new one, whatever crashes.

        Args:
            path: A file in a folder that exists.

        Raises:
            InputError: It cannot be written.
        """
        place = as_path(path)
        new = place.with_name(f".{place.name}.{secrets.token_hex(4)}.new")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(json.dumps(self.to_dict(), allow_nan=False))
                file.flush()
                os.fsync(file.fileno())
            new.replace(place)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            raise InputError(f"the calibration cannot be written to {place}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a calibration from its file.

        Args:
            path: Written by `save`.

        Returns:
            The calibration.

        Raises:
            InputError: There is no such file, or it holds something else.
        """
        place = as_path(path)
        try:
            return cls.from_dict(json.loads(place.read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{place} holds no calibration: {error}") from error

    def lines(self) -> Sequence[str]:
        """The calibration for a reader: one sentence a line."""
        about, null = self.measured, self.unrelated
        weights = "/".join(f"{about.weights.of(mode):.3g}" for mode in MODES)
        found = [
            f"Calibration of {about.collection}: {counted(about.documents, 'document')}, "
            f"{about.model}, weights {weights} ({about.fusion}), {about.date}",
            f"Percentiles: {null.pairs:,} unrelated pairs of {null.queries:,} queries. 99 % have a "
            f"value below {null.value_at(99):.4f}, 99.9 % below {null.value_at(99.9):.4f}.",
        ]
        if self.relevance is None:
            return [*found, "Probabilities: none, because no judgements were given."]
        held = self.relevance
        base = held.relevant / held.pairs
        rule = "Platt" if held.rule.steps is None else "isotonic over Platt"
        return [
            *found,
            f"Probabilities ({rule}): {held.pairs:,} hits of {held.queries:,} judged queries, "
            f"{base:.0%} of them relevant.",
            f"Calibration error on held-out queries {held.ece:.3f}; the raw value read as a "
            f"probability has {held.raw_ece:.3f}.",
            f"Brier score {held.brier:.3f}; always saying {base:.2f} has {base * (1 - base):.3f}.",
        ]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _parts(self) -> Iterable[str]:
        yield f"{self.measured.collection!r}"
        yield from self.unrelated._parts()
        if self.relevance is not None:
            yield from self.relevance._parts()


def _ratios(weights: Weights) -> Floats:
    values = np.array([weights.of(mode) for mode in MODES])
    return np.asarray(values / values.sum())


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(part: Any) -> dict[str, Any]:
    return {f.name: _listed(getattr(part, f.name)) for f in fields(part)}


def _listed(value: Any) -> Any:
    if isinstance(value, Rule):
        return _plain(value)
    return value.tolist() if isinstance(value, np.ndarray) else value


def _parsed(held: Any) -> tuple[Measured, Unrelated, Relevance | None]:
    """The parts of a calibration in a file."""
    if not isinstance(held, Mapping) or held.get("kind") != KIND:
        raise InputError(f'there is no {{"kind": "{KIND}"}}')
    if held.get("format") != FORMAT:
        raise InputError(
            f"it has format {held.get('format')!r}, and this version reads {FORMAT}; calibrate anew"
        )
    try:
        about, judged = held["measured"], held["relevance"]
        weights = Weights.parse(about["weights"])
        return (
            Measured(**{**about, "weights": weights}),
            Unrelated(**held["unrelated"]),
            None if judged is None else Relevance(**{**judged, "rule": Rule(**judged["rule"])}),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"it is damaged: {type(error).__name__} {error}; calibrate anew"
        ) from error
