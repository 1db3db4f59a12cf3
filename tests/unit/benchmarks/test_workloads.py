from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import _workloads
from benchmarks._checkpoint import backbone_sizes, checkpoint
from benchmarks._shape import BGE_M3, SPECIALS, TINY, Shape, pieces
from benchmarks._workloads import ladder, text_of


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("cache"), shape=TINY)


def test_mixed_texts_are_those_of_the_performance_notes() -> None:
    work = _workloads.workload("mixed")

    assert len(work.lengths) == 48
    assert work.tokens == 6_315
    assert max(work.lengths) == 468


def test_lengths_add_up_or_are_refused() -> None:
    assert sum(ladder(32, total=2_048, longest=256)) == 2_048
    with pytest.raises(ValueError, match="3 lengths up to 10 cannot add up to 100"):
        ladder(3, total=100, longest=10)


@pytest.mark.parametrize("name", ["mixed", "short", "query"])
def test_a_text_has_exactly_as_many_tokens_as_it_says(tiny: Path, name: str) -> None:
    from transformers import AutoTokenizer

    work = _workloads.workload(name)
    tokenizer = AutoTokenizer.from_pretrained(tiny)

    ids = tokenizer(work.texts(TINY))["input_ids"]

    assert [len(row) for row in ids] == list(work.lengths)
    assert not any({*row[1:-1]} & {0, 1, 2, 3, TINY.vocabulary - 1} for row in ids)


def test_texts_are_the_same_every_time_and_differ_from_each_other() -> None:
    work = _workloads.workload("query")

    assert work.texts(BGE_M3) == work.texts(BGE_M3)
    assert len({*work.texts(BGE_M3)}) == len(work.lengths)


def test_words_of_a_long_text_lie_anywhere_in_the_table_and_repeat() -> None:
    ids = {piece: i for i, (piece, _) in enumerate(pieces(BGE_M3))}

    words = text_of(8_192, shape=BGE_M3, seed=(0,)).split()

    places = np.array([ids[f"\u2581{word}"] for word in words])
    assert places.max() > 200_000
    assert np.median(places) > 20_000
    assert 1_000 < len({*words}) < 7_000


def test_the_vocabulary_is_as_large_as_bge_m3s_and_without_repetition() -> None:
    vocabulary = [piece for piece, _ in pieces(BGE_M3)]

    assert len(vocabulary) == len({*vocabulary}) == 250_002
    assert tuple(vocabulary[:4]) == SPECIALS
    assert vocabulary[-1] == "<mask>"


def test_both_tokenizer_files_give_the_same_ids(tiny: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import AutoTokenizer

    plain = sentencepiece.SentencePieceProcessor(str(tiny / "sentencepiece.bpe.model"))
    text = text_of(40, shape=TINY, seed=(5,)) + " x7?"

    ids = AutoTokenizer.from_pretrained(tiny)(text)["input_ids"]

    assert [i + 1 for i in plain.encode(text)] == ids[1:-1]
    assert len(plain) == TINY.vocabulary - 2


def test_sizes_are_those_that_transformers_expects() -> None:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    shape = Shape(layers=1)
    with torch.device("meta"):
        model = XLMRobertaModel(
            XLMRobertaConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.hidden,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                intermediate_size=shape.ffn,
                max_position_embeddings=shape.positions,
                type_vocab_size=1,
            )
        )

    expected = {name: tuple(p.shape) for name, p in model.named_parameters()}

    assert dict(backbone_sizes(shape)) == expected


def test_a_checkpoint_is_written_once_and_knows_its_shape(tiny: Path) -> None:
    before = (tiny / "model.safetensors").stat().st_mtime_ns

    again = checkpoint(tiny.parent, shape=TINY)

    assert again == tiny
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before
    assert Shape.of(tiny) == TINY


def test_one_seed_gives_one_checkpoint(tiny: Path, tmp_path: Path) -> None:
    twin = checkpoint(tmp_path / "twin", shape=TINY)
    other = checkpoint(tmp_path / "other", shape=TINY, seed=1)

    weights = [(f / "model.safetensors").read_bytes() for f in (tiny, twin, other)]
    assert weights[0] == weights[1] != weights[2]


def test_a_half_precision_checkpoint_is_half_as_large(tiny: Path, tmp_path: Path) -> None:
    half = checkpoint(tmp_path, shape=TINY, dtype="float16")

    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tiny, half)]
    assert sizes[1] == pytest.approx(sizes[0] / 2, rel=0.05)
    assert json.loads((half / "config.json").read_text())["torch_dtype"] == "float16"


def test_our_engine_loads_it_with_all_three_heads(tiny: Path) -> None:
    from bge_m3_integrations import BGEM3

    engine = BGEM3(tiny, device="cpu", dtype="float32")
    texts = _workloads.workload("short").texts(TINY)[:4]

    batch = engine.encode_documents(texts)

    assert engine.modes == {"dense", "sparse", "colbert"}
    assert batch.tokens.tolist() == list(_workloads.workload("short").lengths[:4])
    assert len(batch.sparse.token_ids) > 0


def test_the_exported_graph_computes_what_transformers_computes(tiny: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file
    from transformers import AutoModel

    from benchmarks._peers._graph import Encoder, renamed

    tensors = load_file(tiny / "model.safetensors")
    model = Encoder(TINY).eval()
    model.load_state_dict({renamed(k): v for k, v in tensors.items() if "pooler" not in k})
    ids = torch.tensor([[0, 50, 60, 70, 2], [0, 80, 2, 1, 1]])
    mask = ids.ne(1).long()

    with torch.no_grad():
        ours = model(ids, mask)
        theirs = AutoModel.from_pretrained(tiny)(ids, mask).last_hidden_state

    assert (ours - theirs)[mask.bool()].abs().max() < 1e-5
