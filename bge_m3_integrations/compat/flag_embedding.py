"""`FlagEmbedding.BGEM3FlagModel` over this engine: same names, arguments and output types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from bge_m3_integrations._internal.keywords import public_class
from bge_m3_integrations.compat import conversions
from bge_m3_integrations.core import scoring
from bge_m3_integrations.core.display import called
from bge_m3_integrations.core.embeddings import (
    ALL_MODES,
    MODES,
    EmbeddingBatch,
    FloatArray,
    Kind,
    Mode,
    TokenVectors,
    offsets_of,
)
from bge_m3_integrations.core.scores import FixedWeights, Weights
from bge_m3_integrations.core.validation import check_int
from bge_m3_integrations.encoders.placement import TorchDevice
from bge_m3_integrations.engine.engine import BGEM3
from bge_m3_integrations.errors import InputError

Texts = str | Iterable[str]
Lexical = Mapping[str, float]

_WORD_MARK = "\u2581"
"""What a sentencepiece token carries in place of the space before it."""

_UNNORMALIZED = (
    "normalize_embeddings=False: this engine gives unit vectors only, and lengths say nothing in "
    "BGE-M3's scores; leave it at True"
)


@public_class
class BGEM3FlagModel:
    """FlagEmbedding's BGE-M3 class (1.4.2) over this engine.

    Outputs have FlagEmbedding's keys, order and nesting: "dense_vecs" an array of float32,
    "lexical_weights" dicts from token id (a string) to np.float32, "colbert_vecs" arrays of
    float32; a mode that is off is None, and one string drops the outer list. They are float32 on
    every device, where FlagEmbedding's are float16 on a GPU. `docs/migration.md` lists every
    difference with its reason.

    Args:
        model_name_or_path: A folder or a hub id. Loaded at the first use, not here.
        normalize_embeddings: Only True: no vector leaves the engine unnormalized.
        use_fp16: float16 on a GPU; float32 on a CPU, with the weights as they are in the file.
        use_bf16: bfloat16 where the hardware computes it, CPUs included; elsewhere what the engine
            chooses. Wins over `use_fp16`.
        query_instruction_for_retrieval: Put around queries by `encode_queries`.
        query_instruction_format: Format of two fields, instruction and text.
        devices: One device, as a name, a CUDA number or a list of one. None chooses one.
        pooling_method: "cls", "mean" or "last_token".
        trust_remote_code: Allow code that comes with the checkpoint to run.
        cache_dir: Where downloads are kept.
        colbert_dim: Width of the checkpoint's ColBERT head; -1 reads it from there.
        batch_size: How many pairs `compute_score` holds in memory at once. Forward passes are
            batched by tokens, not by texts, so it changes no speed and no number.
        query_max_length: Limit in tokens of `encode_queries`. What is cut is warned of.
        passage_max_length: Limit in tokens of `encode` and `encode_corpus`.
        return_dense: Whether to return dense vectors.
        return_sparse: Whether to return lexical weights.
        return_colbert_vecs: Whether to return token vectors.
        truncate_dim: Keep this many leading columns of dense and token vectors, normalized again;
            `compute_score` uses the whole vectors, as in FlagEmbedding.
        passage_instruction_for_retrieval: Put around documents by `encode_corpus`.
        passage_instruction_format: Format of two fields, instruction and text.

    Raises:
        InputError: An argument is unknown, or asks for something this engine does not do.
    """

    def __init__(  # noqa: PLR0917 - FlagEmbedding's order
        self,
        model_name_or_path: str | Path,
        normalize_embeddings: bool = True,
        use_fp16: bool = True,
        use_bf16: bool = False,
        query_instruction_for_retrieval: str | None = None,
        query_instruction_format: str = "{}{}",
        devices: str | int | TorchDevice | list[str] | list[int] | None = None,
        pooling_method: str = "cls",
        trust_remote_code: bool = False,
        cache_dir: str | None = None,
        colbert_dim: int = -1,
        batch_size: int = 256,
        query_max_length: int = 512,
        passage_max_length: int = 512,
        return_dense: bool = True,
        return_sparse: bool = False,
        return_colbert_vecs: bool = False,
        truncate_dim: int | None = None,
        passage_instruction_for_retrieval: str | None = None,
        passage_instruction_format: str = "{}{}",
    ) -> None:
        if not normalize_embeddings:
            raise InputError(_UNNORMALIZED)
        self.model_name_or_path, self.pooling_method = model_name_or_path, pooling_method
        self.use_fp16, self.use_bf16 = use_fp16, use_bf16
        self.query_instruction_for_retrieval = query_instruction_for_retrieval
        self.passage_instruction_for_retrieval = passage_instruction_for_retrieval
        self.query_instruction_format = query_instruction_format
        self.passage_instruction_format = passage_instruction_format
        self.batch_size: int = check_int("batch_size", batch_size)
        self.query_max_length, self.passage_max_length = query_max_length, passage_max_length
        self.return_dense, self.return_sparse = return_dense, return_sparse
        self.truncate_dim = (
            None if truncate_dim is None else check_int("truncate_dim", truncate_dim)
        )
        self._device, self._cache_dir = conversions.one_device(devices), cache_dir
        self._colbert_dim, self._trust_remote_code = colbert_dim, trust_remote_code
        self.return_colbert_vecs = return_colbert_vecs

    def __repr__(self) -> str:
        made = vars(self).get("engine", str(self.model_name_or_path))
        return called(self, lambda: [repr(made)])

    @cached_property
    def engine(self) -> BGEM3:
        """The native engine, without instructions: this class puts them around the texts."""
        return BGEM3(
            self.model_name_or_path,
            device=self._device,
            dtype=conversions.dtype_name(
                self._device, use_fp16=self.use_fp16, use_bf16=self.use_bf16
            ),
            pooling=self.pooling_method,
            trust_remote_code=self._trust_remote_code,
            cache_dir=self._cache_dir,
            query_instruction="",
            document_instruction="",
        )

    def encode(  # noqa: PLR0917 - FlagEmbedding's order
        self,
        sentences: Texts,
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
        instruction: str | None = None,
        instruction_format: str = "{}{}",
    ) -> dict[str, Any]:
        """Encode texts as they are, up to `passage_max_length` tokens.

        Args:
            sentences: One text or several.
            batch_size: Changes nothing here; see the class.
            max_length: Limit in tokens; None is the constructor's, as for every option below.
            return_dense: Whether to return dense vectors.
            return_sparse: Whether to return lexical weights.
            return_colbert_vecs: Whether to return token vectors.
            instruction: Put around each text; None puts nothing.
            instruction_format: Format of two fields, instruction and text.

        Returns:
            "dense_vecs", "lexical_weights" and "colbert_vecs"; see the class.

        Raises:
            InputError: No mode is on, or a text is no encodable string.
        """
        check_int("batch_size", self.batch_size if batch_size is None else batch_size)
        texts = [sentences] if isinstance(sentences, str) else list(sentences)
        texts = conversions.instructed(texts, instruction, instruction_format)
        limit = self.passage_max_length if max_length is None else max_length
        modes = self._modes(return_dense, return_sparse, return_colbert_vecs)
        output = self._output(self._encode(texts, "document", modes, limit))
        if isinstance(sentences, str):
            return {name: None if rows is None else rows[0] for name, rows in output.items()}
        return output

    def encode_queries(  # noqa: PLR0917 - FlagEmbedding's order
        self,
        queries: Texts,
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """Encode queries with their instruction, up to `query_max_length`; see `encode`."""
        return self.encode(
            queries,
            batch_size,
            self.query_max_length if max_length is None else max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
            instruction=self.query_instruction_for_retrieval,
            instruction_format=self.query_instruction_format,
        )

    def encode_corpus(  # noqa: PLR0917 - FlagEmbedding's order
        self,
        corpus: Texts,
        batch_size: int | None = None,
        max_length: int | None = None,
        return_dense: bool | None = None,
        return_sparse: bool | None = None,
        return_colbert_vecs: bool | None = None,
    ) -> dict[str, Any]:
        """Encode documents with their instruction, up to `passage_max_length`; see `encode`."""
        return self.encode(
            corpus,
            batch_size,
            max_length,
            return_dense,
            return_sparse,
            return_colbert_vecs,
            instruction=self.passage_instruction_for_retrieval,
            instruction_format=self.passage_instruction_format,
        )

    def compute_score(
        self,
        sentence_pairs: tuple[str, str] | list[str] | Sequence[tuple[str, str] | list[str]],
        batch_size: int | None = None,
        max_query_length: int | None = None,
        max_passage_length: int | None = None,
        weights_for_different_modes: FixedWeights | None = None,
    ) -> dict[str, Any]:
        """Score pairs of query and document, without instructions.

        Args:
            sentence_pairs: One pair, or several.
            batch_size: How many pairs are held in memory at once.
            max_query_length: Limit of the first texts; None is `query_max_length`.
            max_passage_length: Limit of the second texts; None is `passage_max_length`.
            weights_for_different_modes: Dense, sparse, colbert; None is 1, 1, 1.

        Returns:
            "colbert", "sparse", "dense", "sparse+dense" and "colbert+sparse+dense": lists of
            floats, or for one pair a float each.

        Raises:
            InputError: An item is no pair of strings, or the weights are malformed, negative or
                all 0.
        """
        pairs, alone = conversions.as_pairs(sentence_pairs)
        given = weights_for_different_modes
        weights = Weights(1.0, 1.0, 1.0) if given is None else Weights.parse(given)
        step = check_int("batch_size", self.batch_size if batch_size is None else batch_size)
        first = self.query_max_length if max_query_length is None else max_query_length
        second = self.passage_max_length if max_passage_length is None else max_passage_length
        scores: dict[str, list[float]] = {}
        for start in range(0, max(1, len(pairs)), step):
            chunk = pairs[start : start + step]
            parts = conversions.pairwise(
                self._encode([query for query, _ in chunk], "query", ALL_MODES, first),
                self._encode([document for _, document in chunk], "document", ALL_MODES, second),
            )
            for name, values in conversions.five_scores(parts, weights).items():
                scores.setdefault(name, []).extend(values)
        return {name: values[0] if alone else values for name, values in scores.items()}

    @overload
    def compute_lexical_matching_score(
        self, lexical_weights_1: Lexical, lexical_weights_2: Lexical
    ) -> np.float32: ...
    @overload
    def compute_lexical_matching_score(
        self, lexical_weights_1: Sequence[Lexical], lexical_weights_2: Sequence[Lexical]
    ) -> FloatArray: ...
    def compute_lexical_matching_score(
        self,
        lexical_weights_1: Lexical | Sequence[Lexical],
        lexical_weights_2: Lexical | Sequence[Lexical],
    ) -> np.float32 | FloatArray:
        """Compute dot products of lexical weights over shared keys.

        Args:
            lexical_weights_1: The weights of one text, or of `n` texts.
            lexical_weights_2: The weights of one text, or of `m` texts; one if the first is one.

        Returns:
            One number, or `(n, m) float32`.

        Raises:
            InputError: One text's weights are matched against a list.
        """
        left, right = lexical_weights_1, lexical_weights_2
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            return np.float32(conversions.lexical_matrix([left], [right])[0, 0])
        if isinstance(left, Mapping) or isinstance(right, Mapping):
            raise InputError(
                "lexical weights must be two dicts or two lists of dicts, not one each"
            )
        return conversions.lexical_matrix(left, right)

    def colbert_score(self, q_reps: Any, p_reps: Any) -> np.float32:
        """Compute the ColBERT score of two texts: the mean of the query vectors' best matches.

        Args:
            q_reps: `(query vectors, dim)`.
            p_reps: `(document vectors, dim)`.

        Returns:
            One number; `.item()` and `float()` work as on FlagEmbedding's tensor.
        """
        left, right = (np.asarray(vectors) for vectors in (q_reps, p_reps))
        queries, documents = (TokenVectors(v, offsets_of([len(v)])) for v in (left, right))
        return np.float32(scoring.maxsim(queries, documents)[0, 0])

    def convert_id_to_token(
        self, lexical_weights: Lexical | Sequence[Lexical]
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Convert ids to readable tokens.

        Args:
            lexical_weights: The weights of one text or of several.

        Returns:
            Dicts from token to weight; of ids with the same text the heaviest counts. A dict for
            one text, also for a list of one, as in FlagEmbedding.
        """
        rows = [lexical_weights] if isinstance(lexical_weights, Mapping) else lexical_weights
        named = [self._named(row) for row in rows]
        return named[0] if len(named) == 1 else named

    def _named(self, row: Lexical) -> dict[str, Any]:
        tokens = self.engine.encoder.id_to_token([int(token_id) for token_id in row])
        heaviest: dict[str, Any] = {}
        for token, weight in zip(tokens, row.values(), strict=True):
            text = token.replace(_WORD_MARK, " ").removeprefix(" ")
            heaviest[text] = max(weight, heaviest.get(text, weight))
        return heaviest

    def _modes(self, *asked: bool | None) -> frozenset[Mode]:
        own = (self.return_dense, self.return_sparse, self.return_colbert_vecs)
        flags = [mine if flag is None else flag for flag, mine in zip(asked, own, strict=True)]
        modes = frozenset(mode for mode, flag in zip(MODES, flags, strict=True) if flag)
        if not modes:
            raise InputError(
                "return_dense, return_sparse and return_colbert_vecs are all off; turn one on"
            )
        return modes

    def _encode(
        self, texts: list[str], kind: Kind, modes: frozenset[Mode], limit: int
    ) -> EmbeddingBatch:
        encoder = self.engine.encoder
        if self._colbert_dim > 0 and self._colbert_dim != encoder.colbert_dim:
            raise InputError(
                f"colbert_dim={self._colbert_dim}, but this checkpoint's head gives "
                f"{encoder.colbert_dim}; leave it at -1"
            )
        if self.truncate_dim is not None and self.truncate_dim > encoder.dim:
            raise InputError(f"truncate_dim={self.truncate_dim}, but vectors have {encoder.dim}")
        encode = self.engine.encode_queries if kind == "query" else self.engine.encode_documents
        # 512 on a shorter model is no error as long as the texts fit, and else the engine warns
        return encode(texts, modes=modes, max_length=min(limit, encoder.max_length))

    def _output(self, batch: EmbeddingBatch) -> dict[str, Any]:
        dense, sparse, colbert = batch.dense, batch.sparse, batch.colbert
        dim = self.truncate_dim
        return {
            "dense_vecs": None if dense is None else conversions.shortened(dense, dim),
            "lexical_weights": None if sparse is None else conversions.lexical_dicts(sparse),
            "colbert_vecs": None
            if colbert is None
            else [conversions.shortened(colbert.row(i), dim) for i in range(len(colbert))],
        }
