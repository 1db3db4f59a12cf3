"""Records and hits: documents as an index keeps them and finds them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, SupportsIndex, overload

from bge_m3_integrations.core.display import Shown, counted, html_table, quoted, short, shortened
from bge_m3_integrations.core.embeddings import Mode, ordered_modes
from bge_m3_integrations.core.export import ExportedFields, plain_json, plain_number, plain_scores
from bge_m3_integrations.core.metadata import plain
from bge_m3_integrations.core.scores import Weights, scores_shown
from bge_m3_integrations.errors import InputError


def text_hash(text: str) -> str:
    """The sha256 of a text in UTF-8, in hex, as in `Record.text_hash`."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True, repr=False)
class Record(Shown, ExportedFields):
    """A document as the index keeps it.

    Attributes:
        id: Any non-empty string.
        text: Exactly what is encoded, and hashed.
        metadata: What filters see; JSON values. What is nearly one becomes one, such as a numpy
            integer or a tuple; `metadata.plain` is the rule.
        content: What a reader sees; None stands for `text`.
        payload: Opaque JSON that belongs to one adapter; by the same rule.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    content: str | None = None
    payload: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id:
            raise InputError(f"a record's id must be a non-empty string, not {self.id!r}")
        if not isinstance(self.text, str):
            raise InputError(
                f"record {self.id!r}: text must be str, not {type(self.text).__name__}"
            )
        if not isinstance(self.metadata, Mapping):
            raise InputError(
                f"record {self.id!r}: metadata must be a mapping, not "
                f"{type(self.metadata).__name__}; leave it out for none"
            )
        if not isinstance(self.content, str | None):
            raise InputError(
                f"record {self.id!r}: content must be str or None, not "
                f"{type(self.content).__name__}"
            )
        for name in ("metadata", "payload"):
            held = plain(getattr(self, name), f"record {self.id!r}: {name}")
            object.__setattr__(self, name, held)

    @classmethod
    def from_stored(cls, fields: Iterable[Any]) -> Record:
        """Return a record that was checked when it was stored, from its fields in their order."""
        record = object.__new__(cls)
        for name, value in zip(cls.__slots__, fields, strict=True):
            object.__setattr__(record, name, value)
        return record

    def __hash__(self) -> int:
        return hash((self.id, self.text))

    def _parts(self) -> Iterable[str]:
        yield f"id={quoted(self.id)}"
        yield f"text={quoted(self.text)}"
        if self.metadata:
            yield f"metadata={short(self.metadata)}"
        if self.content is not None:
            yield f"content={quoted(self.content)}"
        if self.payload is not None:
            yield f"payload of {counted(len(self.payload), 'key')}"

    def to_dict(self) -> dict[str, Any]:
        """The record as plain Python, which `json.dumps` takes.

        Returns:
            All fields by their names. `HybridIndex.add` takes it back.

        Raises:
            InputError: JSON has no form for something in the metadata or the payload.
        """
        return {
            "id": self.id,
            "text": self.text,
            "metadata": plain_json(self.metadata, f"record {self.id!r}: metadata"),
            "content": self.content,
            "payload": plain_json(self.payload, f"record {self.id!r}: payload"),
        }

    @property
    def display_text(self) -> str:
        """The text for a reader: `content`, or `text` where there is none."""
        return self.text if self.content is None else self.content

    @property
    def text_hash(self) -> str:
        """The sha256 of the encoded text, in hex: tells whether stored vectors still fit."""
        return text_hash(self.text)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that one mode found.

    Attributes:
        id: The record's id.
        score: That mode's component score.
    """

    id: str
    score: float


@dataclass(frozen=True, slots=True, repr=False)
class Hit(Shown, ExportedFields):
    """One result of a search, best first.

    Attributes:
        record: The document.
        score: The value that the list is ranked by.
        fusion: The name of the rule that made `score`.
        components: The score of each mode that was computed.
        hybrid: The raw weighted mean of the components.
        weights: The weights used.
        colbert_kind: How the index keeps the token vectors that were scored, such as "turbo8",
            "turbo8, 3 tokens a vector" or "reencode"; None where they are kept as they are, or
            were not scored.
        max_score: The score that stands for full relevance; None where none does.
        weighting: The name of the weight profile or preset; None for weights given as numbers.
        lexical: The lexical value of learned weights, which takes the place of the sparse score in
            `score`; None by other weights.
        probability: The chance that the document is relevant, from 0 to 1; None unless the index
            has a calibration with judgements that fits the search.
        percentile: The share of unrelated pairs with a lower score, in percent, which is no
            probability; None unless the index has a calibration that fits the search.
    """

    record: Record
    score: float
    fusion: str
    components: Mapping[Mode, float]
    hybrid: float
    weights: Weights
    colbert_kind: str | None = None
    max_score: float | None = 1.0
    weighting: str | None = None
    lexical: float | None = None
    probability: float | None = None
    percentile: float | None = None

    @property
    def id(self) -> str:
        """The record's id."""
        return self.record.id

    @property
    def text(self) -> str:
        """The record's text, as it was encoded; `record.display_text` is the text for a reader."""
        return self.record.text

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The record's metadata."""
        return self.record.metadata

    def __hash__(self) -> int:
        return hash((self.record, self.score))

    def _parts(self) -> Iterable[str]:
        yield f"id={quoted(self.id)}"
        yield from scores_shown(self.score, self.components)
        yield f"text={quoted(self.record.display_text)}"

    def to_dict(self) -> dict[str, Any]:
        """The hit as plain Python, which `json.dumps` takes.

        Returns:
            "id", "text", "content" and "metadata" of the record; "score", "relevance", "fusion",
            "hybrid", "components", "weights", "weighting" and "colbert_kind"; where there is a
            calibration, "probability" and "percentile". A score that is not finite is None. The
            record's payload, an adapter's own, is left out.

        Raises:
            InputError: JSON has no form for something in the metadata.
        """
        return {
            "id": self.id,
            "text": self.text,
            "content": self.record.content,
            "metadata": plain_json(self.metadata, f"record {self.id!r}: metadata"),
            "score": plain_number(self.score),
            "relevance": plain_number(self.relevance),
            "fusion": self.fusion,
            "hybrid": plain_number(self.hybrid),
            "components": plain_scores(self.components),
            "weights": plain_scores(asdict(self.weights)),
            "weighting": self.weighting,
            **({} if self.lexical is None else {"lexical": plain_number(self.lexical)}),
            "colbert_kind": self.colbert_kind,
            **self._calibrated(),
        }

    @property
    def score_details(self) -> dict[str, Any]:
        """All scores with fusion and weights, as JSON values.

        "score", the value ranked by; "fusion", the rule that made it; "hybrid", the raw weighted
        mean; "weighting", the name of the weights or None; "weights", a mapping of the three modes;
        each mode's own score by its name; and "probability" and "percentile" where they are known.
        """
        modes = {str(mode): score for mode, score in self.components.items()}
        return {
            "score": self.score,
            "fusion": self.fusion,
            "hybrid": self.hybrid,
            "weighting": self.weighting,
            "weights": asdict(self.weights),
            **modes,
            **({} if self.lexical is None else {"lexical": self.lexical}),
            **self._calibrated(),
        }

    def _calibrated(self) -> dict[str, float | None]:
        """The readings of a calibration; none without one."""
        held = {"probability": self.probability, "percentile": self.percentile}
        return {name: plain_number(value) for name, value in held.items() if value is not None}

    @property
    def relevance(self) -> float:
        """The score in [0, 1], for callers that want that: uncalibrated, no probability.

        It is the share of the greatest score, cut off at 0 and 1. Lexical scores alone have no
        greatest one: `s / (1 + s)`.
        """
        return relevance(self.score, self.max_score)


class Hits(list[Hit]):
    """A list of hits, best first, which Jupyter shows as a table."""

    @overload
    def __getitem__(self, i: SupportsIndex, /) -> Hit: ...
    @overload
    def __getitem__(self, i: slice, /) -> Hits: ...
    def __getitem__(self, i: SupportsIndex | slice, /) -> Hit | Hits:
        """One hit, or some of them as `Hits`."""
        return Hits(super().__getitem__(i)) if isinstance(i, slice) else super().__getitem__(i)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        del source
        return handler.generate_schema(list[Hit])  # a list of them in a form is one of hits

    def _repr_html_(self) -> str | None:
        """A table with a row per hit, of at most 100; texts and metadata are cut and escaped."""
        try:
            return self._table()
        except Exception:
            return None  # Jupyter shows the `repr` then

    def _table(self) -> str:
        shown = self[:_ROWS_SHOWN]
        modes = ordered_modes({mode for hit in shown for mode in hit.components})
        rows = [
            [
                i,
                shortened(hit.id),
                hit.score,
                *(hit.components.get(mode, "") for mode in modes),
                shortened(hit.record.display_text, _CELL_WIDTH),
                shortened(short(hit.metadata), _CELL_WIDTH) if hit.metadata else "",
            ]
            for i, hit in enumerate(shown, start=1)
        ]
        more = len(self) - len(shown)
        return html_table(
            ["#", "id", "score", *modes, "text", "metadata"],
            rows,
            note=f"and {counted(more, 'more hit')}" if more else "",
        )


_ROWS_SHOWN = 100
_CELL_WIDTH = 160


def relevance(score: float, max_score: float | None) -> float:
    """See `Hit.relevance`; `max_score` is a hit's or a fusion's."""
    if max_score is None or math.isinf(max_score):
        return max(score, 0.0) / (1 + max(score, 0.0))
    return min(max(score / max_score, 0.0), 1.0)
