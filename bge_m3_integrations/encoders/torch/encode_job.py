"""The stages of one encode call: tokenize, run a pass, store its numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypedDict

import numpy as np

from bge_m3_integrations._internal.forks import between_forks
from bge_m3_integrations._internal.shutdown import check_leaving
from bge_m3_integrations.core.embeddings import IntArray, Mode
from bge_m3_integrations.core.validation import chunks
from bge_m3_integrations.encoders.pipeline import Piece
from bge_m3_integrations.encoders.torch.device_ops import Device
from bge_m3_integrations.encoders.torch.heads import lexical_rows
from bge_m3_integrations.encoders.torch.modules import BatchOutput, run_pack
from bge_m3_integrations.encoders.torch.output import Results
from bge_m3_integrations.encoders.torch.packing import Pack
from bge_m3_integrations.encoders.torch.source import Source
from bge_m3_integrations.encoders.torch.tokenizer import PackedIds, TextTokenizer
from bge_m3_integrations.errors import EncodingError

# One stretch is some five passes of a GPU: long enough that sorting by length within it is as good
# as among all, short enough that a GPU waits little for the first one.
_STRETCH_CHARACTERS = 1_000_000
_STRETCH_TEXTS = 32_768


class Limits(TypedDict):
    """Limits to tokenize a call's texts by: `TextTokenizer.pack`'s arguments."""

    instruction: str
    max_length: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive texts of a call, tokenized.

    Attributes:
        first: The first one's position among the caller's texts.
        tokens: Their ids.
    """

    first: int
    tokens: PackedIds

    @property
    def lengths(self) -> IntArray:
        """`(n,)` tokens per text."""
        return np.diff(self.tokens.offsets)


@dataclass(frozen=True, slots=True)
class Stretches:
    """A call's texts, tokenized a stretch at a time: so neither ids nor packs of all are held.

    Attributes:
        tokenizer: The tokenizer.
        texts: The caller's texts.
        limits: Instruction and length limit.
    """

    tokenizer: TextTokenizer
    texts: Sequence[str]
    limits: Limits

    def pieces(self) -> Iterable[slice]:
        """Where the stretches are."""
        if len(self.texts) == 1:
            return (slice(0, 1),)
        return chunks(self.texts, most=_STRETCH_TEXTS, characters=_STRETCH_CHARACTERS)

    def tokenized(self, piece: slice) -> Stretch:
        """One stretch."""
        with between_forks:
            tokens = self.tokenizer.pack(self.texts[piece], **self.limits)
        return Stretch(piece.start, tokens)


@dataclass(frozen=True, slots=True)
class _Started:
    """A pass over texts at some positions among the caller's; `arrived` waits for its numbers."""

    rows: IntArray
    pack: Pack
    arrived: Callable[[], BatchOutput]


@dataclass(frozen=True, slots=True)
class Work(Generic[Piece]):
    """The stages of one encode call; implements `encoders.pipeline.Work`."""

    source: Source
    device: Device
    modes: frozenset[Mode]
    results: Results
    tokenized: Callable[[Piece], Stretch]

    def prepare(self, piece: Piece) -> Stretch:
        """Tokenize, and make room for the texts' numbers."""
        stretch = self.tokenized(piece)
        self.results.extend(stretch.tokens)
        return stretch

    def start(self, stretch: Stretch, rows: IntArray) -> _Started:
        """Queue a pass, and the copies behind it."""
        check_leaving()
        ids, offsets = stretch.tokens.ids, stretch.tokens.offsets
        pack = Pack.from_rows(
            list(map(ids.__getitem__, map(slice, offsets[rows], offsets[rows + 1])))
        )
        return _Started(stretch.first + rows, pack, self._pass(pack))

    def finish(self, started: _Started) -> None:
        """Store finite numbers; a text whose numbers are not is tried in float32."""
        output, sparse, pack = started.arrived(), None, started.pack
        finite = output.finite(pack.lengths)
        if not finite.all():
            output = self._recomputed(started, output, np.flatnonzero(~finite))
        if output.sparse is not None:
            ids = pack.ids.numpy().astype(np.int32)
            unweighted = self.source.tokenizer.unweighted
            sparse = lexical_rows(output.sparse, ids, pack.lengths, unweighted)
        self.results.write(started.rows, output.dense, sparse, output.colbert)

    def _recomputed(self, started: _Started, output: BatchOutput, bad: IntArray) -> BatchOutput:
        lengths = started.pack.lengths
        again = self._pass(started.pack, wide=True)()
        still = started.rows[~again.finite(lengths)]
        if len(still):
            raise EncodingError(
                "gives numbers that are not finite or a vector of length 0, in float32 too; the "
                "checkpoint's weights are damaged or overflow on this text",
                int(still[0]),
            )
        return _merged(output, again, bad, lengths)

    def _pass(self, pack: Pack, *, wide: bool = False) -> Callable[[], BatchOutput]:
        with between_forks, self.device.alone():
            modules = self.source.modules
            # off the CPU all that is read again is what float32 is computed from
            watched = modules.watched if wide or self.source.device.type == "cpu" else None
            if watched is not None:
                watched.check()
            output = run_pack(modules, pack, self.modes, pooling=self.source.pooling, wide=wide)
            if watched is not None:  # meanwhile
                watched.check()
            return self.device.fetch(output)


def _merged(
    output: BatchOutput, again: BatchOutput, bad: IntArray, lengths: IntArray
) -> BatchOutput:
    """The first output with the texts at `bad` taken from the second."""
    texts = np.arange(len(lengths))
    tokens = np.repeat(texts, lengths)
    vectors = np.repeat(texts, lengths - 1)
    for owner, old, new in (
        (texts, output.dense, again.dense),
        (tokens, output.sparse, again.sparse),
        (vectors, output.colbert, again.colbert),
    ):
        if old is not None and new is not None:
            take = np.isin(owner, bad)
            old[take] = new[take]
    return output
