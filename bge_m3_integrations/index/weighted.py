"""The weights of an index: what a name stands for, learning them, and explaining their scores."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import numpy as np

from bge_m3_integrations._internal.keywords import checks_itself, public_class
from bge_m3_integrations._internal.progress import ProgressLike, reporter
from bge_m3_integrations._internal.warn import warn_user
from bge_m3_integrations.core.explanation import Difference, Explanation, difference_of
from bge_m3_integrations.core.learned import LearnedWeights, check_learned
from bge_m3_integrations.core.records import Hit
from bge_m3_integrations.core.router import QueryRouter
from bge_m3_integrations.core.scores import PRESETS, Weights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.core.weighting import LEARNED, MeasuredOn, WeightProfile, WeightsLike
from bge_m3_integrations.engine.explain import Without, explain
from bge_m3_integrations.engine.profiles import resolve
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.handle import IndexHandle
from bge_m3_integrations.index.learning.file import LearnedFile
from bge_m3_integrations.index.learning.learn import LEAST_DOCUMENTS, learn, sampled, scripts_of
from bge_m3_integrations.stores.display import modes_name, place_of

_GROWN: Final = 2
"""An index of twice the documents should learn its weights again."""

_SCRIPT_SAMPLE: Final = 500


@public_class
class WeightedIndex(IndexHandle):
    """An index whose weights have names, can be learned, and are explained."""

    @checks_itself
    def weighting(
        self, weights: WeightsLike | None = None, query: str | None = None
    ) -> WeightProfile:
        """The profile that weights stand for in this index's searches.

        Args:
            weights: In any form that `search` takes.
            query: A query's text, for weights that are a function of it.

        Returns:
            Weights with their fusion; the name "default" for None, none for numbers.

        Raises:
            InputError: They are malformed, name no profile, or were measured on another model or
                on token vectors kept in another way.
        """
        _ = self._searcher  # an error where there is no index, before a model is read
        if weights is None:
            return WeightProfile("default", Weights().restricted(self.modes))
        profile = resolve(weights, query=query, folder=self.path, learned=self._learned_profile)
        profile.check(self.measured_on)
        return profile

    def measured_on(self) -> MeasuredOn:
        """The model and the storage that numbers of this index come from, for profiles."""
        storage = (self._searcher.colbert_kind or "float32").replace("float,", "float32,")
        modes = modes_name(self.modes)
        return replace(self._engine.measured_on(), storage=storage, modes=modes)

    @property
    def learned_weights(self) -> LearnedWeights | None:
        """The weights that this index has learned; None without.

        Those of a folder are read again when another handle on it has learned anew.

        Raises:
            StoreError: The file is damaged, or cannot be read.
        """
        held, file = self._learned, self._learned_file
        if held is None and file is not None:
            held = file.now()
        if held is not None and held is not self._in_use:
            self._in_use = held
            self._see_growth()
        return held

    def _see_growth(self) -> None:
        """Say once that the index has outgrown the learned weights in use."""
        held = self._in_use
        if held is None or held is self._outgrown:
            return
        if (now := self._store.count()) >= _GROWN * held.records:
            self._outgrown = held
            warn_user(
                f"the weights of the index {place_of(self._store)} were learned when it had "
                f"{held.records:,} documents, and it has {now:,} now; learn again"
            )

    def _learned_profile(self) -> WeightProfile:
        return check_learned(self.learned_weights, self.path)

    def learn_weights(
        self,
        *,
        documents: int = 100,
        seed: int = 0,
        save: bool = True,
        progress: ProgressLike = None,
    ) -> LearnedWeights:
        """Learn weights from this index's own documents, without labels.

        A sentence, or the title, is taken out of a document and asked as a query; good weights
        find what is left of it among all documents. Questions and rests are encoded, nothing else,
        and nothing leaves the machine. Afterwards `weights="learned"` works in every search.
        `docs/weights.md` tells how well it does.

        Args:
            documents: Most documents to take questions out of, at least 40. A document that a
                sentence is to be taken out of has three or more.
            seed: Of all sampling: the same seed on the same index gives the same weights.
            save: Keep them in the index's folder, for later processes too. Otherwise, and in
                memory, this object keeps them.
            progress: See `add`.

        Returns:
            The weights; `print` shows them beside each mode and the presets.

        Raises:
            InputError: Fewer than 40 documents can be split, or the index keeps one mode only.
            StoreError: The index is read only, or its folder cannot be written to.
        """
        documents = check_int("documents", documents, least=LEAST_DOCUMENTS)
        seed = check_int("seed", seed, least=0)
        self._prove()
        searcher, file = self._searcher, self._file_to_change() if save else None
        with reporter(progress, label="learning weights", total=5) as tell:
            lesson = learn(
                searcher, self._engine, self.modes, documents=documents, seed=seed, tell=tell
            )
        learned = LearnedWeights(
            LEARNED,
            lesson.weights,
            lesson.fusion,
            self.measured_on(),
            documents=lesson.documents,
            queries=lesson.queries,
            records=lesson.records,
            seed=seed,
            gains=lesson.gains,
            scale=tuple(lesson.curve.scale.tolist()),
            curve=lesson.curve.gains.astype(np.float32),
            null=lesson.null,
            date=time.strftime("%Y-%m-%d"),
        )
        if file is None:
            self._learned = learned
        else:
            file.replace(learned)
            self._learned = None
        return learned

    def _file_to_change(self) -> LearnedFile | None:
        """The file of the learned weights; None in memory, an error where it is read only."""
        file = self._learned_file
        if file is not None and getattr(self._store, "read_only", False):
            raise StoreError(
                f"{file.path.parent} was opened with read_only=True, so weights cannot be kept in "
                "it; learn_weights(save=False) keeps them in memory"
            )
        return file

    def router(self, usual: Weights | None = None) -> QueryRouter:
        """Make a rule that chooses weights for each query, for `weights=` of a search.

        Args:
            usual: For queries that nothing is special about; None is the default.

        Returns:
            The rule, which knows the scripts of this index from a sample of its documents.
        """
        chosen = list(sampled(self._store.ids(), _SCRIPT_SAMPLE, seed=0))
        found = scripts_of(self._searcher, chosen).values()
        base = (usual or Weights()).restricted(self.modes)
        keyword = PRESETS["keyword"].restricted(self.modes)
        return QueryRouter(frozenset(s for s in found if s is not None), base, keyword)

    def explain(
        self,
        query: str,
        document: Hit | str,
        *,
        weights: WeightsLike | None = None,
        without: Without | None = None,
    ) -> Explanation:
        """Explain the score of a document of this index; see `BGEM3.explain`.

        Both texts are encoded anew. So the numbers are exact where the index keeps token vectors
        in fewer bits, and may differ from a hit's in the third place.

        Args:
            query: The query.
            document: A hit, which is explained by its own weights, or a record's id.
            weights: How much each mode counts; None is the hit's, or the default.
            without: See `BGEM3.explain`.

        Returns:
            Parts that sum to the score.

        Raises:
            InputError: There is no such record, or the weights rank by places.
        """
        record = document.record if isinstance(document, Hit) else self._store.get([document])[0]
        if record is None:
            raise InputError(f"this index has no record {document!r}")
        if weights is None and isinstance(document, Hit):
            weights = document.weighting or document.weights
        profile = self.weighting(weights, query)
        return explain(self._engine, query, record.text, profile, without=without)

    def explain_difference(
        self, query: str, a: Hit | str, b: Hit | str, *, weights: WeightsLike | None = None
    ) -> Difference:
        """Explain why one document of this index beats another; see `BGEM3.explain_difference`.

        Args:
            query: The query.
            a: A hit or a record's id.
            b: Another one.
            weights: See `explain`.

        Returns:
            Parts that sum to the difference of the scores.
        """
        first, second = (self.explain(query, one, weights=weights) for one in (a, b))
        return difference_of(first, second)
