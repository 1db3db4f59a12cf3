"""A checkpoint's tokenizer, read from `tokenizer.json` as it stands there.

`AutoTokenizer` is not asked where there is such a file: from transformers 5 on it builds the
normalizer and the pre-tokenizer of many models anew from its own code, so the same file gives other
ids under another version. What it adds to the file is added here: special tokens and added tokens
of the files beside it, and the length limit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bge_m3_integrations._internal.extras import is_installed
from bge_m3_integrations.encoders.torch.files import read_json
from bge_m3_integrations.encoders.torch.tokenizer import (
    SPECIAL,
    TextTokenizer,
    text_tokenizer,
    wrap_tokenizer,
)
from bge_m3_integrations.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer

TOKENIZER = "tokenizer.json"
_CONFIG = "tokenizer_config.json"
_SPECIAL_MAP = "special_tokens_map.json"
_ADDED = "added_tokens.json"
# The special tokens of a model's kind where the files name none, as transformers has them.
_ROBERTA = dict(
    zip(SPECIAL, ("<s>", "</s>", "<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True)
)
_BERT = {
    "cls_token": "[CLS]",
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
_USUAL: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("camembert", "longformer", "roberta", "roberta-prelayernorm"), _ROBERTA),
    **dict.fromkeys(("data2vec-text", "xlm-roberta", "xlm-roberta-xl", "xmod"), _ROBERTA),
    **dict.fromkeys(("bert", "distilbert", "electra", "nomic_bert"), _BERT),
    "mpnet": _ROBERTA | {"unk_token": "[UNK]"},
}


def load_tokenizer(
    folder: Path, *, model_type: str, trust_remote_code: bool, lower: bool = False
) -> TextTokenizer:
    """Read a checkpoint's tokenizer.

    Args:
        folder: Holds tokenizer.json, or files that transformers can build it from.
        model_type: Of the config; says which special tokens are usual.
        trust_remote_code: Whether code in the folder may run.
        lower: Write texts in lower case first.

    Returns:
        The tokenizer.

    Raises:
        CheckpointError: The files are unreadable, contradict each other, or give no fast tokenizer.
    """
    config = _settings(folder)
    own_code = trust_remote_code and "AutoTokenizer" in (config.get("auto_map") or {})
    if own_code or not (folder / TOKENIZER).is_file():
        loaded = _built(folder, trust_remote_code=trust_remote_code)
    else:
        loaded = _read(folder, config, _USUAL.get(model_type, {}))
    if lower:
        _lower(loaded.core)
    return loaded


def check_fits(tokenizer: TextTokenizer, rows: int, *, source: str) -> None:
    """Refuse a tokenizer that gives ids beyond the embedding table.

    Args:
        tokenizer: The tokenizer.
        rows: Of the embedding table.
        source: Where both come from.

    Raises:
        CheckpointError: There is such an id; the message names the token.
    """
    beyond = {t: i for t, i in tokenizer.core.get_vocab().items() if i >= rows}
    if beyond:
        token = min(beyond, key=lambda name: beyond[name])
        raise CheckpointError(
            f"the tokenizer in {source} has {len(beyond)} tokens beyond the embedding table, such "
            f"as {token!r} with the id {beyond[token]}, but the table has {rows} rows: tokens were "
            "added without a resize. Call model.resize_token_embeddings(len(tokenizer)), train and "
            "save again, or take the tokens out of tokenizer.json and added_tokens.json"
        )


def former_tokenizers(
    tokenizer: TextTokenizer, folder: Path, *, trust_remote_code: bool
) -> Iterator[TextTokenizer]:
    """The tokenizers that earlier versions of this package read from the same folder.

    They took whatever `AutoTokenizer` gave: the file's own rules up to transformers 4.57, and from
    5 on rules that are built anew. Indexes that were made so have fingerprints over these.

    Args:
        tokenizer: The folder's, as it is read now.
        folder: The checkpoint.
        trust_remote_code: Whether code in the folder may run.

    Yields:
        Tokenizers; the installed transformers' own may be one that is made already.
    """
    yield _rebuilt(tokenizer, folder)
    try:
        yield _built(folder, trust_remote_code=trust_remote_code)
    except CheckpointError:
        return  # this version of transformers cannot read it


def _settings(folder: Path) -> dict[str, Any]:
    """Read tokenizer_config.json, with the special tokens of the file beside it."""
    config = _optional(folder / _CONFIG)
    # as transformers has it: with added_tokens_decoder, the other file says nothing new
    if not config.get("added_tokens_decoder"):
        config |= {k: v for k, v in _optional(folder / _SPECIAL_MAP).items() if v}
    return config


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _read(folder: Path, config: Mapping[str, Any], usual: Mapping[str, str]) -> TextTokenizer:
    from tokenizers import Tokenizer

    path = folder / TOKENIZER
    try:
        core = Tokenizer.from_file(str(path))
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a tokenizer: {error}; download it again"
        ) from error
    named = {name: _content(config[name], folder) for name in SPECIAL if config.get(name)}
    # what is usual stands in only where the file knows it
    known = {name: token for name, token in usual.items() if core.token_to_id(token) is not None}
    special = {name: (known | named)[name] for name in SPECIAL if name in known | named}
    _add_tokens(core, config, special, folder)
    limit = config.get("model_max_length")
    if not isinstance(limit, int | float | None) or (limit is not None and not limit >= 1):
        raise CheckpointError(
            f"{folder / _CONFIG} has model_max_length {limit!r}; it must be a number of tokens"
        )
    return text_tokenizer(core, special, limit=limit, source=str(folder))


def _content(token: Any, folder: Path) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str) or not content:
        raise CheckpointError(
            f"the special token {token!r} in {folder} has no text; save the tokenizer again"
        )
    return content


def _add_tokens(
    core: Tokenizer, config: Mapping[str, Any], special: Mapping[str, str], folder: Path
) -> None:
    """Add what the files beside tokenizer.json name and it lacks; what it has stays as it is."""
    from tokenizers import AddedToken

    added = {token.content for token in core.get_added_tokens_decoder().values()}
    for content, (place, token) in _placed(config, special, folder).items():
        if content not in added:
            core.add_tokens([token])
            added.add(content)
        if (found := core.token_to_id(content)) != place:
            raise CheckpointError(
                f"the tokenizer files in {folder} contradict each other: {content!r} has the id "
                f"{place} in {_CONFIG} or {_ADDED}, but {found} by {TOKENIZER}; save the tokenizer "
                "again"
            )
    further = [
        token for token in (*special.values(), *_further(config, folder)) if token not in added
    ]
    core.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in further])


def _placed(
    config: Mapping[str, Any], special: Mapping[str, str], folder: Path
) -> dict[str, tuple[int, AddedToken]]:
    """Added tokens that the files beside tokenizer.json give an id, in the order of ids."""
    from tokenizers import AddedToken

    try:
        if decoder := config.get("added_tokens_decoder"):
            held = {int(i): _flags(entry) for i, entry in decoder.items()}
        else:
            named = special.values()
            held = {
                int(i): {
                    "content": token,
                    "special": token in named,
                    "normalized": token not in named,
                }
                for token, i in _optional(folder / _ADDED).items()
            }
        return {held[i]["content"]: (i, AddedToken(**held[i])) for i in sorted(held)}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"the added tokens in {folder} are malformed ({error!r}); save the tokenizer again"
        ) from error


def _flags(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != "__type"}


def _further(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Special tokens without a name, as transformers 4 and 5 call them."""
    held = [config.get(f"{kind}_special_tokens") or () for kind in ("additional", "extra")]
    lists = [list(some.values()) if isinstance(some, dict) else some for some in held]
    return [_content(token, folder) for some in lists for token in some]


def _lower(core: Tokenizer) -> None:
    from tokenizers import normalizers

    rest = core.normalizer
    core.normalizer = normalizers.Sequence([normalizers.Lowercase(), *([rest] if rest else [])])


def _built(folder: Path, *, trust_remote_code: bool) -> TextTokenizer:
    """Have transformers build a tokenizer, from a vocabulary or by the checkpoint's own code."""
    from transformers import AutoTokenizer

    pieces = next((name for name in _SENTENCEPIECE if (folder / name).exists()), None)
    lacking = [name for module, name in _BUILDERS.items() if not is_installed(module)]
    to_install = (
        f"To build a tokenizer from {pieces}, run: pip install {' '.join(lacking)}; or save"
    )
    remedy = (to_install if pieces and lacking else "Save") + (
        f" {TOKENIZER}, which needs nothing further, where that works: "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )
    if pieces and "sentencepiece" in lacking and not (folder / TOKENIZER).exists():
        raise CheckpointError(f"there is no {TOKENIZER} in {folder}. {remedy}")
    try:
        loaded = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=trust_remote_code
        )
    except Exception as error:
        raise CheckpointError(
            f"the tokenizer in {folder} cannot be built: {error}. {remedy}"
        ) from error
    built = wrap_tokenizer(loaded, source=str(folder))
    if built.core.get_vocab_size(with_added_tokens=False) <= len(SPECIAL):
        raise CheckpointError(
            f"the tokenizer in {folder} was built without a vocabulary: its class "
            f"{type(loaded).__name__} reads another file than there is. {remedy}"
        )
    return built


_SENTENCEPIECE = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
_BUILDERS = {"sentencepiece": "sentencepiece", "google.protobuf": "protobuf"}


def _rebuilt(tokenizer: TextTokenizer, folder: Path) -> TextTokenizer:
    """The same vocabulary by the rules that transformers 5 has for XLM-R, not by the file's."""
    from tokenizers import Tokenizer

    parts = json.loads(tokenizer.core.to_str())
    scheme = "always" if _settings(folder).get("add_prefix_space", True) else "never"
    mark = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}
    parts["normalizer"] = _charsmap(parts["normalizer"])
    parts["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [{"type": "WhitespaceSplit"}, mark],
    }
    parts["decoder"] = mark
    return replace(tokenizer, core=Tokenizer.from_str(json.dumps(parts)))


def _charsmap(normalizer: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The one part of a normalizer that is kept there."""
    parts = (normalizer or {}).get("normalizers", [normalizer])
    return next((part for part in parts if part and part["type"] == "Precompiled"), None)
