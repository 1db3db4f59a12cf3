"""Tiny random checkpoints in BGE-M3's format: right in every file, wrong in every meaning."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

HIDDEN = 32
POSITIONS = 1024
WORDS = (  # noqa: SIM905 (a paragraph of words is what it is)
    "dense sparse colbert vector token weight query document score model text search index "
    "the of and is what how in for a with not are where hybrid rank retrieval language "
    "稠密 稀疏 向量 检索 文档 查询 模型 权重 什么 是 的 如何"
).split()

CHARACTERS = [*string.ascii_letters, *string.digits, *"?.,-'", *dict.fromkeys("".join(WORDS[-12:]))]


def make_xlm_roberta(
    folder: Path, *, positions: int = POSITIONS, seed: int = 0, vocabulary: int | None = None
) -> Path:
    """An XLM-R checkpoint with a unigram tokenizer, `positions` usable positions.

    A `vocabulary` larger than the tokenizer's makes the embedding table, and so the file, large.
    """
    torch.manual_seed(seed)
    tokenizer = _unigram_tokenizer(positions)
    config = XLMRobertaConfig(
        vocab_size=vocabulary or len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=2,  # 16 numbers each: compiled kernels take them
        intermediate_size=64,
        max_position_embeddings=positions + 2,
        type_vocab_size=1,
    )
    return _save(folder, XLMRobertaModel(config, add_pooling_layer=False), tokenizer)


def make_bert(
    folder: Path, *, positions: int = POSITIONS, seed: int = 1, eos: bool = False
) -> Path:
    """A BERT checkpoint; its WordPiece tokenizer calls the end mark sep, and eos only if asked."""
    torch.manual_seed(seed)
    tokenizer = _wordpiece_tokenizer(positions)
    if eos:
        tokenizer.eos_token = "[SEP]"
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
    )
    return _save(folder, BertModel(config, add_pooling_layer=False), tokenizer)


def write_pooling(folder: Path, pooling: str) -> None:
    """Write sentence-transformers' pooling config for cls, mean_tokens or lasttoken."""
    target = folder / "1_Pooling"
    target.mkdir(exist_ok=True)
    text = f'{{"word_embedding_dimension": {HIDDEN}, "pooling_mode_{pooling}": true}}'
    (target / "config.json").write_text(text, encoding="utf-8")


def _save(folder: Path, backbone: torch.nn.Module, tokenizer: PreTrainedTokenizerFast) -> Path:
    for parameter in backbone.parameters():
        if parameter.dim() > 1:  # the default init is so flat that all texts look alike
            torch.nn.init.normal_(parameter, std=0.3)
    backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    colbert, sparse = torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Linear(HIDDEN, 1)
    torch.nn.init.normal_(sparse.weight, std=0.1)
    torch.nn.init.constant_(sparse.bias, 0.8)  # most tokens of any text get a weight
    torch.save(colbert.state_dict(), folder / "colbert_linear.pt")
    torch.save(sparse.state_dict(), folder / "sparse_linear.pt")
    return folder


def _unigram_tokenizer(positions: int) -> PreTrainedTokenizerFast:
    # written out, not trained: the trainers break ties differently from run to run
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    words = [(f"\u2581{word}", -4 - i / 100) for i, word in enumerate(WORDS) if word.isascii()]
    han = [(word, -4 - i / 100) for i, word in enumerate(WORDS) if not word.isascii()]
    pieces = [(piece, -8 - i / 100) for i, piece in enumerate(["\u2581", *CHARACTERS])]
    vocabulary = [(token, 0.0) for token in special]
    vocabulary += list(dict([*pieces, *words, *han]).items())
    core = Tokenizer(models.Unigram([*vocabulary, ("<mask>", 0.0)], unk_id=3))
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.add_special_tokens([*special, "<mask>"])
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=positions,
    )


def _wordpiece_tokenizer(positions: int) -> PreTrainedTokenizerFast:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = dict.fromkeys([*special, *WORDS, *CHARACTERS, *(f"##{c}" for c in CHARACTERS)])
    core = Tokenizer(models.WordPiece({t: i for i, t in enumerate(tokens)}, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.add_special_tokens(special)
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
        model_max_length=positions,
    )
