"""A tokenizer with as many entries as XLM-R's, in both file formats that encoders read."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from benchmarks._shape import SPECIALS, Shape, pieces

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # SentencePiece's kinds of pieces


def write_tokenizer(folder: Path, shape: Shape) -> None:
    """Write tokenizer.json and its companions, and sentencepiece.bpe.model."""
    _dump(folder / "tokenizer.json", _tokenizer_json(shape))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    _dump(folder / "special_tokens_map.json", names)
    config = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": shape.positions - 2}
    _dump(folder / "tokenizer_config.json", config | names)
    (folder / "sentencepiece.bpe.model").write_bytes(_sentencepiece(shape))


def _tokenizer_json(shape: Shape) -> dict[str, Any]:
    marks = [*enumerate(SPECIALS), (shape.vocabulary - 1, "<mask>")]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": m, **flags, "special": True} for i, m in marks],
        "normalizer": {"type": "NFKC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, _metaspace()],
        },
        "post_processor": _template(),
        "decoder": _metaspace(),
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [list(p) for p in pieces(shape)]},
    }


def _metaspace() -> dict[str, Any]:
    return {
        "type": "Metaspace",
        "replacement": "\u2581",
        "prepend_scheme": "always",
        "split": True,
    }


def _template() -> dict[str, Any]:
    start, end = (
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"SpecialToken": {"id": "</s>", "type_id": 0}},
    )
    first, second = (
        {"Sequence": {"id": "A", "type_id": 0}},
        {"Sequence": {"id": "B", "type_id": 0}},
    )
    ids = {m: {"id": m, "ids": [i], "tokens": [m]} for m, i in (("<s>", 0), ("</s>", 2))}
    return {
        "type": "TemplateProcessing",
        "single": [start, first, end],
        "pair": [start, first, end, end, second, end],
        "special_tokens": ids,
    }


def _sentencepiece(shape: Shape) -> bytes:
    """A SentencePiece model: its ids are XLM-R's less one, its first three are other marks."""
    plain = pieces(shape)[len(SPECIALS) : -1]
    rows = [("<unk>", 0.0, _UNKNOWN), ("<s>", 0.0, _CONTROL), ("</s>", 0.0, _CONTROL)]
    rows += [(piece, score, _NORMAL) for piece, score in plain]
    model = b"".join(_field(1, _piece(*row)) for row in rows)
    trainer = _key(3, 0) + _varint(1)  # model_type: unigram
    normalizer = _field(1, b"identity") + _key(3, 0) + _varint(1)  # add_dummy_prefix
    return model + _field(2, trainer) + _field(3, normalizer)


def _piece(text: str, score: float, kind: int) -> bytes:
    packed = _field(1, text.encode()) + _key(2, 5) + struct.pack("<f", score)
    return packed + _key(3, 0) + _varint(kind)


def _field(number: int, payload: bytes) -> bytes:
    return _key(number, 2) + _varint(len(payload)) + payload


def _key(number: int, wire: int) -> bytes:
    return _varint(number << 3 | wire)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
