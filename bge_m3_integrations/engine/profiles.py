"""Weight profiles by name: the file is read again when it changes, in one step."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from bge_m3_integrations._internal.file_state import file_state
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.learned import LearnedSum
from bge_m3_integrations.core.profile_file import read_profiles
from bge_m3_integrations.core.scores import PRESETS, Weights
from bge_m3_integrations.core.weighting import LEARNED, PROFILE_FILE, WeightProfile, WeightsLike
from bge_m3_integrations.errors import InputError

ENVIRONMENT = "BGE_M3_PROFILES"


class ProfileFile:
    """The profiles of a file as it is now; thread-safe.

    A profile is frozen and is looked up once per search, so a reload never mixes two weightings.

    Args:
        path: A TOML file, see `read_profiles`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._state: tuple[int, int, int] | None = None
        self._held: Mapping[str, WeightProfile] | None = None

    def profiles(self) -> Mapping[str, WeightProfile]:
        """The profiles by name, read again if the file has changed.

        Where it is broken or gone, the last good ones stay in use, and one warning says so.

        Returns:
            Frozen; a later change makes a new mapping.

        Raises:
            InputError: The file was never good.
        """
        state = file_state(self.path)
        if state != self._state or self._held is None:
            with self._lock:
                if state != self._state or self._held is None:
                    self._read(state)
        return self._held or {}

    def _read(self, state: tuple[int, int, int] | None) -> None:
        try:
            self._held = MappingProxyType(read_profiles(self.path))
        except InputError as error:
            if self._held is None:
                raise
            warn_user(f"{error}; the weight profiles read before stay in use")
        self._state = state


_FILES: dict[Path, ProfileFile] = {}


def profile_file(path: str | Path) -> ProfileFile:
    """The one `ProfileFile` of a path in this process."""
    whole = Path(path).expanduser().absolute()
    return _FILES.setdefault(whole, ProfileFile(whole))


def find_profile(name: str, folder: Path | None) -> WeightProfile:
    """Find a profile by its name, or by file and name: "weights.toml:my-profile".

    Args:
        name: A preset's name, or a profile's. It is looked for in `profiles.toml` in the index's
            folder, then in the file that the environment variable `BGE_M3_PROFILES` names.
        folder: The index's folder; None is none.

    Returns:
        The profile; for a preset one without a fusion.

    Raises:
        InputError: There is none of this name, with all names that there are; or its file is
            broken and never was good.
    """
    if name in PRESETS:
        return WeightProfile(name, PRESETS[name])
    if name == LEARNED:
        raise InputError(
            f"weights={LEARNED!r} are those of an index; search or rerank with one, after "
            "index.learn_weights()"
        )
    path, found, inside = name.rpartition(".toml:")
    if found:
        files = [profile_file(f"{path}.toml")]
    else:
        inside = name
        files = []
        if folder is not None and (folder / PROFILE_FILE).exists():
            files.append(profile_file(folder / PROFILE_FILE))
        if named := os.environ.get(ENVIRONMENT):
            files.append(profile_file(named))
    known: list[str] = []
    for file in files:
        profiles = file.profiles()
        if inside in profiles:
            return profiles[inside]
        known += [f"{one!r} in {file.path}" for one in sorted(profiles)]
    raise InputError(
        f"unknown weights {name!r}; there are the presets {sorted(PRESETS)}, and "
        + (", ".join(known) or f"no profiles: none in the index's folder, none by {ENVIRONMENT}")
    )


def check_name(weights: WeightsLike | None, folder: Path | None) -> None:
    """Refuse a name that stands for no profile, before a search looks for it.

    Args:
        weights: In any form; all but names pass.
        folder: Of the index; None is none.

    Raises:
        InputError: See `find_profile`.
    """
    if isinstance(weights, str) and weights != LEARNED:
        find_profile(weights, folder)


def resolve(
    weights: WeightsLike,
    *,
    query: str | None,
    folder: Path | None,
    learned: Callable[[], WeightProfile] | None = None,
) -> WeightProfile:
    """The profile that weights stand for.

    Args:
        weights: In any form.
        query: The query's text, which a function is called with; None where it is not known.
        folder: Of the index; None is none.
        learned: Gives the weights that the index has learned; None without an index.

    Returns:
        A profile; one without a name for numbers.

    Raises:
        InputError: They are malformed, name no profile, or are a function where there is no text.
    """
    if callable(weights):
        if query is None:
            raise InputError(
                f"weights={weights!r} is a function of the query's text, which is not known here; "
                "give weights, or the name of a profile"
            )
        chosen = weights(query)
        if chosen is None or callable(chosen):
            raise InputError(f"weights={weights!r} returned {chosen!r}, which are no weights")
        weights = chosen
    if isinstance(weights, str) and weights == LEARNED and learned is not None:
        return learned()
    if isinstance(weights, str):
        weights = find_profile(weights, folder)
    if isinstance(weights, WeightProfile):
        return _with_frequencies(weights, learned)
    return WeightProfile(None, Weights.parse(weights))


def _with_frequencies(
    profile: WeightProfile, learned: Callable[[], WeightProfile] | None
) -> WeightProfile:
    """A profile whose lexical values know the index's word frequencies, which no file holds."""
    fusion = profile.fusion
    if not isinstance(fusion, LearnedSum) or fusion.idf is not None:
        return profile
    if "sparse" not in profile.weights.modes:
        return profile
    if learned is None:
        raise InputError(
            f"the weight profile {profile.name!r} is for {fusion.name}, which needs the word "
            "frequencies that an index has learned; search, rerank or explain with that index"
        )
    return replace(profile, fusion=learned().fusion)


def by_profile(
    queries: Sequence[str],
    weights: WeightsLike | None,
    weighting: Callable[[WeightsLike | None, str | None], WeightProfile],
) -> list[tuple[WeightProfile, list[int]]]:
    """Group queries by the profile that they are ranked by.

    Args:
        queries: Texts.
        weights: In any form; a function is asked once for each query.
        weighting: Makes a profile of weights and a query's text.

    Returns:
        Profiles, and for each the positions of its queries; one profile unless weights are a
        function.
    """
    if not callable(weights):
        return [(weighting(weights, None), list(range(len(queries))))]
    groups: list[tuple[WeightProfile, list[int]]] = []
    for i, query in enumerate(queries):
        profile = weighting(weights, query)
        rows = next((rows for held, rows in groups if held == profile), None)
        if rows is None:
            groups.append((profile, [i]))
        else:
            rows.append(i)
    return groups
