"""Texts to embeddings: alone, gathered into batches, awaited or queued; and texts to tokens."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Unpack, overload

from bge_m3_integrations._internal.keywords import NoMore, checks_itself, public_class, refuse
from bge_m3_integrations._internal.progress import ProgressLike, encoding
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    EmbeddingBatch,
    Kind,
    Modes,
    TokenBatch,
)
from bge_m3_integrations.core.validation import as_list, check_text, check_texts
from bge_m3_integrations.encoders.wrapper import innermost
from bge_m3_integrations.engine.request import EncodeRequest, check_kind
from bge_m3_integrations.engine.token_counts import own_token_count, own_token_ids, token_counts
from bge_m3_integrations.engine.truncation import Cuts, Limit

if TYPE_CHECKING:
    pass

from bge_m3_integrations.engine.model import ModelHandle

_MAIN = threading.main_thread()


@public_class
class EncodingModel(ModelHandle):
    """A model that turns texts into embeddings and tokens."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "document",
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        progress: ProgressLike = None,
    ) -> EmbeddingBatch:
        """Encode texts of one kind.

        The kinds differ only in the instruction that is put in front (`query_instruction`,
        `document_instruction`). BGE-M3 needs none, so both give the same numbers by default.

        Args:
            texts: See `encode_queries`.
            kind: "document" for texts that are searched, "query" for those that search.
            modes: See `encode_queries`.
            max_length: See `encode_queries`.
            progress: See `encode_queries`.

        Returns:
            One row per text, in order.

        Raises:
            InputError: A text is no encodable string, or an argument is out of range.
        """
        return self._encode(texts, kind, modes, max_length, progress)

    async def aencode(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "document",
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
    ) -> EmbeddingBatch:
        """See `encode`, and `aencode_queries`."""
        return await self._aencode(texts, kind, modes, max_length)

    @checks_itself
    def encode_queries(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        progress: ProgressLike = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """Encode queries, in one batch with those of other waiting threads and coroutines.

        Args:
            texts: Any number of strings, also none, also empty ones.
            modes: What to compute; a mode that is not asked for costs nothing.
            max_length: Most tokens per text, special tokens included.
            progress: None shows a bar in a terminal and in a notebook once the work has taken two
                seconds, none where stderr is piped; True shows one in any case, False none. A
                function is called with the number done and the total, after each pass.
            **unknown: None: a keyword that comes here is an error, which names the right one.

        Returns:
            One row per text, in order.

        Raises:
            InputError: A text is no encodable string, or an argument is out of range.
        """
        if unknown:
            refuse(unknown, self.encode_queries)
        return self._encode(texts, "query", modes, max_length, progress)

    @checks_itself
    def encode_documents(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        progress: ProgressLike = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """Encode documents; see `encode_queries`."""
        if unknown:
            refuse(unknown, self.encode_documents)
        return self._encode(texts, "document", modes, max_length, progress)

    @checks_itself
    async def aencode_queries(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """See `encode_queries`; a coroutine canceled before its batch starts is not encoded."""
        if unknown:
            refuse(unknown, self.aencode_queries)
        return await self._aencode(texts, "query", modes, max_length)

    @checks_itself
    async def aencode_documents(
        self,
        texts: Sequence[str],
        *,
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
        **unknown: Unpack[NoMore],
    ) -> EmbeddingBatch:
        """See `aencode_queries`."""
        if unknown:
            refuse(unknown, self.aencode_documents)
        return await self._aencode(texts, "document", modes, max_length)

    def submit(
        self,
        texts: Sequence[str],
        *,
        kind: Kind = "query",
        modes: Modes = ALL_MODES,
        max_length: int | None = None,
    ) -> Future[EmbeddingBatch]:
        """Queue texts to be encoded with others in one batch; returns at once, before loading too.

        Args:
            texts: Any number of strings.
            kind: Whether they are queries or documents.
            modes: The modes to compute. A mode that the model lacks is the future's error.
            max_length: Most tokens per text, special tokens included.

        Returns:
            A future of one row per text; it can be canceled until its batch starts. Nothing warns
            of texts that were cut: `truncated` of the result counts them, and so does `stats`.

        Raises:
            InputError: A text is no encodable string, or an argument is malformed.
        """
        request = EncodeRequest.checked(kind, modes, max_length)
        return self._batcher.submit(self._checked(texts), request, self._run)

    def tokenize(
        self, texts: Sequence[str], *, kind: Kind = "document", max_length: int | None = None
    ) -> TokenBatch:
        """Tokenize texts as encoding does, with the place of each token in its text."""
        return self.encoder.tokenize(texts, kind=kind, max_length=max_length)

    @overload  # a str is a sequence of str too: the first signature that fits counts
    def count_tokens(  # type: ignore[overload-overlap]
        self, texts: str, *, kind: Kind = ...
    ) -> int: ...
    @overload
    def count_tokens(self, texts: Sequence[str], *, kind: Kind = ...) -> list[int]: ...
    def count_tokens(
        self, texts: str | Sequence[str], *, kind: Kind = "document"
    ) -> int | list[int]:
        """Count the tokens of one text or of several; the weights are not loaded.

        The two special tokens, and an instruction, are counted: a text fits if this is at most
        `max_length`. Nothing is cut off. For splitters see `length_function`.

        Args:
            texts: A text, or any number of texts.
            kind: Chooses the instruction.

        Returns:
            A number for a text, a list of numbers for a list.

        Raises:
            InputError: A text is no encodable string.
        """
        check_kind(kind)
        many = self._checked([texts] if isinstance(texts, str) else texts)
        counts = token_counts(self.encoder, many, kind=kind)
        return counts[0] if isinstance(texts, str) else counts

    def length_function(self, text: str) -> int:
        """Count a text's own tokens, without the two special ones, for a text splitter.

        `RecursiveCharacterTextSplitter(length_function=engine.length_function, chunk_size=510)`
        makes chunks of at most 512 tokens. LlamaIndex: `SentenceSplitter(tokenizer=...)` takes
        `engine.token_ids`.

        Args:
            text: Of any length.

        Returns:
            The number of tokens; the weights are not loaded.

        Raises:
            InputError: It is no encodable string.
        """
        check_text(text, name="text", surrogates=self._clean)
        return own_token_count(self.encoder, text)

    def token_ids(self, text: str) -> list[int]:
        """List the ids of a text's own tokens, without special ones; nothing is cut off.

        Args:
            text: Of any length.

        Returns:
            Token ids, in order; the weights are not loaded.

        Raises:
            InputError: It is no encodable string.
        """
        check_text(text, name="text", surrogates=self._clean)
        # behind the cleaning, which would move the ends of a part of a text
        return own_token_ids(innermost(self.encoder), self.text_of_spans(text))

    def _encode(
        self,
        texts: Sequence[str],
        kind: Kind,
        modes: Modes,
        max_length: int | None,
        progress: ProgressLike,
    ) -> EmbeddingBatch:
        request = EncodeRequest.checked(kind, modes, max_length)
        checked = as_list(texts, "texts")
        check_texts(checked, surrogates=self._clean)
        with Cuts({kind: checked}) as cuts, encoding(progress, len(checked)):
            if threading.current_thread() is _MAIN:
                batch = self._run(checked, request)
            else:
                batch = self._batcher.encode(checked, request, self._run)
            cuts.note(checked, kind, batch, self._limit(request) if batch.truncated.any() else None)
        return batch

    async def _aencode(
        self, texts: Sequence[str], kind: Kind, modes: Modes, max_length: int | None
    ) -> EmbeddingBatch:
        # the event loop does nothing slow: also the model's configuration is read by the worker
        request = EncodeRequest.checked(kind, modes, max_length)
        checked = self._checked(texts)
        with Cuts({kind: checked}) as cuts:
            future = self._batcher.submit(checked, request, self._run)
            batch = await asyncio.wrap_future(future)
            cuts.note(checked, kind, batch, self._limit(request) if batch.truncated.any() else None)
        return batch

    def _run(self, texts: Sequence[str], request: EncodeRequest) -> EmbeddingBatch:
        if self._modes is None or not request.modes <= self._modes:
            self._require(request.modes)
        encoder = self._encoder or self.encoder
        return encoder.encode(
            texts, kind=request.kind, modes=request.modes, max_length=request.max_length
        )

    def _checked(self, texts: Sequence[str]) -> Sequence[str]:
        texts = as_list(texts, "texts")
        check_texts(texts, surrogates=self._clean)
        return texts

    def text_of_spans(self, text: str) -> str:
        """The text that spans of tokens belong to: the text itself, or its cleaned form."""
        if not self._clean:
            return text
        from bge_m3_integrations.engine.cleaning import clean_text

        return clean_text(text)

    def _limit(self, request: EncodeRequest) -> Limit:
        usual = self.encoder.max_length
        most = getattr(innermost(self.encoder), "model_max_length", usual)
        return Limit(request.max_length or usual, most)
