"""A/B tests of weights: who gets which, and a log of what was shown and clicked."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, Unpack

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations._internal.warn import in_thread
from bge_m3_integrations.core.embeddings import MODES
from bge_m3_integrations.core.export import plain_number, plain_scores
from bge_m3_integrations.core.records import Hit, Hits
from bge_m3_integrations.core.scores import Weights
from bge_m3_integrations.core.validation import as_list, as_path, check_finite
from bge_m3_integrations.core.weighting import WeightProfile, WeightsLike, as_weights
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.index import HybridIndex
from bge_m3_integrations.index.request import SearchOptions

Design: TypeAlias = Literal["split", "interleave"]
_WHOLE: Final = 1 << 64


def assign(key: str, shares: Mapping[str, float], *, experiment: str) -> str:
    """The arm of a key: the same one in every process, version and order of the arms.

    The first 64 bits of a sha256 of experiment and key, as a place between 0 and the sum of the
    shares, which are laid side by side in the order of their names.

    Args:
        key: Whoever is to see one arm only: a user or a session.
        shares: The part of the keys that each arm gets; only the ratios matter.
        experiment: Its name: another one deals the keys anew.

    Returns:
        One of the arms.

    Raises:
        InputError: The key is empty or no string, or the shares are not positive numbers.
    """
    parts = sorted(_shares(shares).items())
    place = _fraction(experiment, _key(key)) * sum(share for _, share in parts)
    for arm, share in parts:
        place -= share
        if place < 0:
            return arm
    return parts[-1][0]


def team_draft(
    rankings: Mapping[str, Sequence[Hit]], *, limit: int, coin: str
) -> tuple[Hits, list[str]]:
    """Interleave two rankings so that clicks tell which is better (Radlinski et al. 2008).

    In each round both arms pick their best document that is not picked yet; a coin decides who
    goes first.

    Args:
        rankings: Two arms' hits, best first.
        limit: Most hits.
        coin: Any text: the same one falls the same way.

    Returns:
        The hits and, for each of them, the arm that picked it.
    """
    left = {arm: list(hits) for arm, hits in rankings.items()}
    picked: dict[str, tuple[Hit, str]] = {}
    while any(left.values()):
        order = sorted(left, reverse=_fraction(coin, str(len(picked))) < 0.5)
        for arm in order:
            fresh = next((hit for hit in left[arm] if hit.id not in picked), None)
            left[arm] = [hit for hit in left[arm] if hit.id not in picked and hit is not fresh]
            if fresh is not None:
                picked[fresh.id] = (fresh, arm)
    chosen = list(picked.values())[:limit]
    return Hits(hit for hit, _ in chosen), [arm for _, arm in chosen]


@dataclass(frozen=True, slots=True)
class ABAnswer:
    """The result of a search in an experiment.

    Attributes:
        id: For `ABTest.feedback`.
        hits: Best first.
        arm: The arm that was searched by; None where two were interleaved.
    """

    id: str
    hits: Hits
    arm: str | None


@public_class
class ABTest:
    """Searches an index by the weights of one arm or of another, and logs what happened.

    The log is a file of JSON lines on this machine: an event for the experiment, for each search
    (its arm, the ids of the hits and their scores) and for each feedback. Documents' texts are
    never in it. Keys are in it as a hash, queries too unless `texts=True`; who knows a key or a
    query can find its hash. Nothing is sent anywhere.

    A line is appended by one write, so threads and, where the system appends in one piece as Linux
    and macOS do on local disks, processes may share a log.

    Args:
        index: It is searched.
        arms: The weights of each arm, in any form of `HybridIndex.search`; the first one is what
            the others are compared with.
        log: The file; it is begun if it is not there.
        name: Of the experiment. Change it when you change the arms.
        design: "split" shows each key one arm. "interleave" mixes the rankings of two arms in each
            answer, which finds a difference with a tenth of the searches or fewer, and says less of
            its size.
        shares: The part of the keys that each arm gets; None is equal parts. Not for "interleave".
        texts: Log the queries' texts.

    Raises:
        InputError: There are fewer than two arms, or more than two to interleave, or an argument
            is malformed.
    """

    def __init__(
        self,
        index: HybridIndex,
        arms: Mapping[str, WeightsLike],
        *,
        log: str | os.PathLike[str],
        name: str,
        design: Design = "split",
        shares: Mapping[str, float] | None = None,
        texts: bool = False,
    ) -> None:
        if not isinstance(index, HybridIndex):
            raise InputError(f"ABTest needs a HybridIndex, not {type(index).__name__}")
        self._index, self._texts = index, texts
        self._arms = _checked_arms(arms, design)
        self._name, self._design = _key(name, "name"), design
        if design == "interleave" and shares is not None:
            raise InputError("both arms are in every interleaved answer; leave out shares")
        self._shares = dict.fromkeys(self._arms, 1.0) if shares is None else _shares(shares)
        if set(self._shares) != set(self._arms):
            raise InputError(f"shares are for {sorted(shares or ())}, arms {sorted(self._arms)}")
        self._log = EventLog(as_path(log, name="log"))
        described = {arm: _described(weights) for arm, weights in self._arms.items()}
        about = {"design": design, "arms": described, "shares": self._shares}
        self._write("experiment", about)

    def arm_of(self, key: str) -> str:
        """The arm that a key sees; see `assign`."""
        return assign(key, self._shares, experiment=self._name)

    def search(self, query: str, *, key: str, **options: Unpack[SearchOptions]) -> ABAnswer:
        """Search by the weights of the key's arm, and log it.

        Args:
            query: The query's text.
            key: Whoever is to see one arm only: a user or a session.
            **options: Those of `HybridIndex.search` besides the weights.

        Returns:
            The hits, with an id for `feedback`.

        Raises:
            InputError: As `search` does; also for weights among the options.
            StoreError: The log cannot be written.
        """
        arms = self._plan(key, options)
        found = {
            arm: self._index.search(query, **(options | SearchOptions(weights=self._arms[arm])))
            for arm in arms
        }
        return self._answer(query, key, found, options.get("limit", 10))

    async def asearch(self, query: str, *, key: str, **options: Unpack[SearchOptions]) -> ABAnswer:
        """See `search`; the event loop is free meanwhile."""
        arms = self._plan(key, options)
        found = {
            arm: await self._index.asearch(
                query, **(options | SearchOptions(weights=self._arms[arm]))
            )
            for arm in arms
        }
        return await in_thread(self._answer, query, key, found, options.get("limit", 10))

    def feedback(self, search: str, clicked: str | Iterable[str]) -> None:
        """Log what was clicked, or was of use, in the answer of a search; may come several times.

        Args:
            search: `ABAnswer.id`.
            clicked: The id of a hit, or several in their order.

        Raises:
            InputError: One of them is no string.
            StoreError: The log cannot be written.
        """
        ids = [clicked] if isinstance(clicked, str) else as_list(clicked, "clicked")
        for one in [search, *ids]:
            _key(one, "an id")
        self._write("feedback", {"search": search, "clicked": ids})

    def _plan(self, key: str, options: SearchOptions) -> list[str]:
        if options.get("weights") is not None:
            raise InputError("the arms have the weights of an ABTest; leave out weights=")
        arm = self.arm_of(key)
        return list(self._arms) if self._design == "interleave" else [arm]

    def _answer(
        self, query: str, key: str, found: Mapping[str, Sequence[Hit]], limit: int
    ) -> ABAnswer:
        search = uuid.uuid4().hex
        if len(found) == 1:
            [(arm, hits)] = found.items()
            answer, teams = ABAnswer(search, Hits(hits), arm), None
        else:
            mixed, teams = team_draft(found, limit=limit, coin=f"{self._name}\0{key}\0{query}")
            answer = ABAnswer(search, mixed, None)
        self._write(
            "search",
            {
                "search": search,
                "unit": _digest(self._name, key),
                "query": query if self._texts else _digest(self._name, query),
                "arm": answer.arm,
                "ids": [hit.id for hit in answer.hits],
                **({} if teams is None else {"teams": teams}),
                "scores": [plain_number(hit.score) for hit in answer.hits],
                "components": [plain_scores(hit.components) for hit in answer.hits],
            },
        )
        return answer

    def _write(self, event: str, about: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._log.append({"event": event, "experiment": self._name, "time": now, **about})


class EventLog:
    """A file of JSON lines that is only appended to.

    Args:
        path: The file; opened anew for each line, so it may be moved away meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, threading.Lock()

    def append(self, event: Mapping[str, Any]) -> None:
        """Write one line in one piece; behind a line that was torn, on a line of its own.

        Args:
            event: JSON values.

        Raises:
            StoreError: The file cannot be written.
        """
        line = json.dumps(event, allow_nan=False).encode() + b"\n"  # ASCII: no lone surrogates
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        try:
            with self._lock:
                file = os.open(self._path, flags, 0o600)
                try:
                    self._write(file, line)
                finally:
                    os.close(file)
        except OSError as error:
            raise StoreError(f"the log {self._path} cannot be written: {error}") from error

    def _write(self, file: int, line: bytes) -> None:
        end = os.lseek(file, 0, os.SEEK_END)
        if end:
            os.lseek(file, end - 1, os.SEEK_SET)
            if os.read(file, 1) != b"\n":
                line = b"\n" + line
        if (written := os.write(file, line)) != len(line):
            raise OSError(f"{written} of {len(line)} bytes were written; is the disk full?")


def _checked_arms(arms: Mapping[str, WeightsLike], design: Design) -> dict[str, WeightsLike]:
    if design not in ("split", "interleave"):
        raise InputError(f'design must be "split" or "interleave", not {design!r}')
    if not isinstance(arms, Mapping) or len(arms) < 2 or (design == "interleave" and len(arms) > 2):
        most = "two" if design == "interleave" else "two or more"
        raise InputError(f"arms must map {most} names to weights, not {arms!r}")
    checked: dict[str, WeightsLike] = {}
    for arm, weights in arms.items():
        held = as_weights(weights)
        if held is None:
            raise InputError(f"arm {arm!r} has no weights; write its name, such as 'default'")
        checked[_key(arm, "an arm")] = held
    return checked


def _described(weights: WeightsLike) -> Any:
    """Weights for a log: numbers, a profile's name with its numbers, or a function's name."""
    if isinstance(weights, WeightProfile):
        return {"name": weights.name, **_described(weights.weights)}
    if isinstance(weights, Weights):
        return {mode: weights.of(mode) for mode in MODES}
    return getattr(weights, "__qualname__", str(weights))


def _shares(shares: Mapping[str, float]) -> dict[str, float]:
    checked = {arm: check_finite(f"the share of {arm!r}", held) for arm, held in shares.items()}
    if not checked or min(checked.values()) <= 0:
        raise InputError(f"shares must be numbers above 0, not {shares!r}; leave out an arm of 0")
    return checked


def _key(value: object, name: str = "key") -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{name} must be a string that is not empty, not {value!r}")
    return value


def _fraction(salt: str, text: str) -> float:
    """A number from 0 to below 1 that looks random and is always the same."""
    return int(_digest(salt, text), 16) / _WHOLE


def _digest(salt: str, text: str) -> str:
    whole = f"{len(salt)}\0{salt}\0{text}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(whole).hexdigest()[:16]
