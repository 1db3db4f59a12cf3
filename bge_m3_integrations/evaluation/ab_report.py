"""The report of an A/B test: what the clicks in its log say, with an interval."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bge_m3_integrations._internal.extras import require
from bge_m3_integrations._internal.keywords import public_function
from bge_m3_integrations.core.validation import as_path
from bge_m3_integrations.errors import InputError

Floats = NDArray[np.float64]

LEAST_UNITS: Final = 10
"""Fewer keys in an arm make no interval."""
_RESAMPLES: Final = 9999
_BROKEN_SHARES: Final = 0.001
"""The chance below which keys are not dealt as the shares say."""


@dataclass(frozen=True, slots=True)
class ABComparison:
    """One arm against the first one.

    Attributes:
        arm: The arm.
        against: The first arm.
        difference: Of the means; above 0, `arm` is better. Not a number without data.
        interval: 95 % of its bootstrap, percentile method; None where there are too few keys.
        sentence: The result in words.
    """

    arm: str
    against: str
    difference: float
    interval: tuple[float, float] | None
    sentence: str


@dataclass(frozen=True, slots=True)
class ABReport:
    """The clicks of an experiment, compared.

    Attributes:
        experiment: Its name.
        design: "split" or "interleave".
        metric: What is compared: each key's mean over its searches.
        searches: How many of each arm; of both together where they were interleaved.
        units: How many keys of each arm.
        means: The metric of each arm, for "split".
        comparisons: Every other arm against the first.
        notes: For the reader: lines that were passed over, shares that do not hold.
    """

    experiment: str
    design: str
    metric: str
    searches: Mapping[str, int]
    units: Mapping[str, int]
    means: Mapping[str, float]
    comparisons: Sequence[ABComparison]
    notes: Sequence[str]

    def __str__(self) -> str:
        return "\n".join([*(one.sentence for one in self.comparisons), *self.notes])

    def to_dict(self) -> dict[str, Any]:
        """The report as plain Python, which `json.dumps` takes; what is not finite is None."""
        held = asdict(self)
        for one in held["comparisons"]:
            one["difference"] = _finite(one["difference"])
        held["means"] = {arm: _finite(mean) for arm, mean in self.means.items()}
        return held


@dataclass(slots=True)
class _Events:
    """The events of one experiment, read from its log."""

    about: dict[str, Any] | None = None
    searches: dict[str, dict[str, Any]] = field(default_factory=dict)
    clicked: dict[str, list[str]] = field(default_factory=dict)
    torn: int = 0


@public_function
def ab_report(
    log: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    experiment: str | None = None,
    seed: int = 0,
) -> ABReport:
    """Report what the clicks of an A/B test say.

    "split" compares the reciprocal rank of the first click, 0 for a search without one. Each key
    counts once, by the mean of its searches, and keys are what is resampled: the searches of one
    user are alike. "interleave" gives each search with clicks to the arm whose picks got more of
    them; the difference is the share of searches won less the share lost.

    Args:
        log: The file of an `ABTest`, or several.
        experiment: Its name; may be left out where the log has one only.
        seed: Of the bootstrap.

    Returns:
        The report; `print` shows its sentences.

    Raises:
        InputError: A file cannot be read or is no log, it has several experiments or not this one,
            or an experiment's arms were changed under the same name.
        MissingExtraError: It needs scipy: the extra "eval".
    """
    paths = [log] if isinstance(log, str | os.PathLike) else list(log)
    files = [as_path(path, name="log") for path in paths]
    events = _events(files, experiment)
    about = events.about or {}
    design, arms = about["design"], list(about["arms"])
    unknown = sum(search not in events.searches for search in events.clicked)
    notes = [
        *([f"{events.torn} lines were torn and are passed over."] if events.torn else []),
        *([f"{unknown} clicked answers are not in the log."] if unknown else []),
    ]
    if design == "interleave":
        values = {"": _by_unit(events, _preference(arms[1]))}
        pairs = [_preferred(arms, values[""], seed)]
    else:
        values = {arm: _by_unit(events, _reciprocal_rank, arm) for arm in arms}
        pairs = [_compared(arms[0], arm, values, seed) for arm in arms[1:]]
        notes += _share_notes(about["shares"], {arm: len(held) for arm, held in values.items()})
    return ABReport(
        experiment=about["experiment"],
        design=design,
        metric="preference" if design == "interleave" else "reciprocal rank of the first click",
        searches={arm: sum(map(len, held.values())) for arm, held in values.items()},
        units={arm: len(held) for arm, held in values.items()},
        means={arm: _mean(held) for arm, held in values.items() if arm},
        comparisons=pairs,
        notes=notes,
    )


def _events(files: Sequence[Path], experiment: str | None) -> _Events:
    found: dict[str, _Events] = {}
    torn = 0
    for file in files:
        for place, event in _lines(file):
            if event is None:
                torn += 1
                continue
            try:
                name = event["experiment"]
                _keep(found.setdefault(name, _Events()), event, place)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(f"{place} is no event of an ABTest: {error!r}") from error
    names = sorted(found)
    if experiment is None and len(names) > 1:
        raise InputError(f"the log has several experiments, {names}; name one: experiment=...")
    chosen = experiment if experiment is not None else next(iter(names), None)
    if chosen not in found or found[chosen].about is None:
        shown = ", ".join(map(str, files))
        raise InputError(f"{shown} has no experiment {chosen!r}; there are {names}")
    found[chosen].torn = torn
    return found[chosen]


def _lines(file: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """The lines of a log with their places; None for one that is no whole JSON."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    yield f"{file}:{number}", json.loads(line)
                except ValueError:
                    yield f"{file}:{number}", None
    except OSError as error:
        raise InputError(f"the log {file} cannot be read: {error}") from error


def _keep(held: _Events, event: dict[str, Any], place: str) -> None:
    kind = event["event"]
    if kind == "experiment":
        about = {name: event[name] for name in ("experiment", "design", "arms", "shares")}
        if held.about is not None and held.about != about:
            raise InputError(
                f"{place}: the experiment {event['experiment']!r} has arms {about['arms']}, and "
                f"before {held.about['arms']}; its figures would be of neither: give changed arms "
                "a new name, and split the log"
            )
        held.about = about
    elif kind == "search":
        held.searches[event["search"]] = {name: event[name] for name in ("unit", "arm", "ids")} | {
            "teams": event.get("teams")
        }
    elif kind == "feedback":
        held.clicked.setdefault(event["search"], []).extend(event["clicked"])
    else:
        raise KeyError(kind)


def _by_unit(events: _Events, value: Any, arm: str | None = None) -> dict[str, list[float]]:
    """The values of each key's searches; those that say nothing are left out."""
    found: dict[str, list[float]] = {}
    for search, shown in events.searches.items():
        if arm is not None and shown["arm"] != arm:
            continue
        one = value(shown, events.clicked.get(search, []))
        if one is not None:
            found.setdefault(shown["unit"], []).append(one)
    return found


def _reciprocal_rank(shown: Mapping[str, Any], clicked: Sequence[str]) -> float:
    ranks = [shown["ids"].index(one) + 1 for one in clicked if one in shown["ids"]]
    return 1 / min(ranks) if ranks else 0.0


def _preference(second: str) -> Any:
    def value(shown: Mapping[str, Any], clicked: Sequence[str]) -> float | None:
        """1 where the second arm's picks got more clicks, -1 where the first's did."""
        team = dict(zip(shown["ids"], shown["teams"], strict=True))
        picks = [team[one] == second for one in dict.fromkeys(clicked) if one in team]
        return float(np.sign(2 * sum(picks) - len(picks))) if picks else None

    return value


def _means(held: Mapping[str, Sequence[float]]) -> Floats:
    return np.array([np.mean(values) for values in held.values()], np.float64)


def _mean(held: Mapping[str, Sequence[float]]) -> float:
    return float(_means(held).mean()) if held else math.nan


def _compared(
    first: str, arm: str, values: Mapping[str, Mapping[str, Sequence[float]]], seed: int
) -> ABComparison:
    samples = [_means(values[arm]), _means(values[first])]
    numbers = " and ".join(
        f"{sum(map(len, values[name].values())):,} searches of {len(values[name]):,} keys by "
        f"{name!r}"
        for name in (arm, first)
    )
    for name, sample in zip((arm, first), samples, strict=True):
        if sample.size < LEAST_UNITS:
            return _too_few(arm, first, f"{name!r} has {sample.size} keys")
    return _judged(
        (arm, first),
        samples,
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        f"in the reciprocal rank of the first click, {numbers}",
        seed,
    )


def _preferred(arms: Sequence[str], held: Mapping[str, Sequence[float]], seed: int) -> ABComparison:
    first, second = arms
    sample = _means(held)
    if sample.size < LEAST_UNITS:
        return _too_few(second, first, f"there are clicks of {sample.size} keys")
    searches = sum(map(len, held.values()))
    said = (
        f"in the share of searches won, {searches:,} searches with clicks of {sample.size:,} keys"
    )
    return _judged((second, first), [sample], np.mean, said, seed)


def _too_few(arm: str, first: str, said: str) -> ABComparison:
    sentence = f"Too early to tell {arm!r} from {first!r}: {said}, and {LEAST_UNITS} are needed."
    return ABComparison(arm, first, math.nan, None, sentence)


def _judged(
    arms: tuple[str, str], samples: Sequence[Floats], statistic: Any, said: str, seed: int
) -> ABComparison:
    """The difference of an arm to the first, its interval and the sentence on both."""
    arm, first = arms
    difference = float(statistic(*samples))
    if all(np.ptp(sample) == 0 for sample in samples):
        low = high = difference  # nothing to resample: all keys are alike
    else:
        bootstrap = require("scipy.stats", extra="eval").bootstrap
        found = bootstrap(
            tuple(samples),
            statistic,
            n_resamples=_RESAMPLES,
            batch=max(1, 4_000_000 // max(sample.size for sample in samples)),
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(found.low), float(found.high)
    about = f"95 % interval {low:+.3f} to {high:+.3f} {said}"
    if low <= 0 <= high:
        sentence = (
            f"The difference of {arm!r} and {first!r} is within chance: {difference:+.3f}, {about}."
        )
    else:
        better, worse = (arm, first) if difference > 0 else (first, arm)
        sentence = f"{better!r} is better than {worse!r} by {abs(difference):.3f}, {about}."
    return ABComparison(arm, first, difference, (low, high), sentence)


def _share_notes(shares: Mapping[str, float], units: Mapping[str, int]) -> list[str]:
    """A note where the numbers of keys cannot have come from the shares by chance."""
    total, whole = sum(units.values()), sum(shares.values())
    wanted = [total * shares[arm] / whole for arm in units]
    if not total or min(wanted) < 5:
        return []
    chance = require("scipy.stats", extra="eval").chisquare(list(units.values()), wanted).pvalue
    if chance >= _BROKEN_SHARES:
        return []
    return [
        f"The arms have {dict(units)} keys, which shares of {dict(shares)} do not make (chance "
        f"{chance:.1g}): some searches are not logged, or keys change. Do not trust the difference."
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
