"""A checkpoint's tokenizer is what tokenizer.json says, under every version of transformers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.demo import checkpoint_path
from bge_m3_integrations.encoders.torch import tokenizer_file
from bge_m3_integrations.encoders.torch.fingerprint import combine
from bge_m3_integrations.encoders.torch.tokenizer_file import load_tokenizer
from bge_m3_integrations.errors import CheckpointError
from tests.checkpoints import WORDS, make_xlm_roberta

ODD = ["dense vector ", "  dense", "dense\n", "a  b   c", "\tx\t", "ﬁne ﬀ", "\u3000稠密\u3000", "",
       " ", "a <mask> b", "<s>typed</s>", "e\u0301 é", "\u200bzero\u200b", "A" * 400]  # fmt: skip

DEMO_FINGERPRINT = "b7e9e9378a96cdd17657e00a1c2e8c5542ccbbfe8b481efb4a4cef64e48b34ed"


@pytest.fixture(scope="module")
def as_bge_m3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose tokenizer_config.json names XLM-R's class, as BAAI/bge-m3's does."""
    folder = make_xlm_roberta(tmp_path_factory.mktemp("as_bge_m3"))
    # transformers 4 writes the decoder, 5 does not
    none: dict[str, Any] = {"backend": None, "added_tokens_decoder": None}
    amend(folder, "tokenizer_config.json", tokenizer_class="XLMRobertaTokenizer", **none)
    return folder


@pytest.fixture
def copy(as_bge_m3: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(as_bge_m3, tmp_path / "copy"))


def amend(folder: Path, name: str, **fields: Any) -> None:
    path = folder / name
    held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    held = {k: v for k, v in (held | fields).items() if v is not None}
    path.write_text(json.dumps(held), encoding="utf-8")


def texts() -> list[str]:
    rng = random.Random(3)
    marks = [" ", "  ", "\n", "\t", "\u3000", ". ", ", "]
    made = ["".join(rng.choice(WORDS) + rng.choice(marks) for _ in range(n)) for n in range(1, 40)]
    return [*ODD, *made, *(f"{text} " for text in made)]


def ids(folder: Path, some: list[str]) -> list[list[int]]:
    loaded = load_tokenizer(folder, model_type="xlm-roberta", trust_remote_code=False)
    packed = loaded.pack(some, instruction="", max_length=4096)
    return [packed.row(i).tolist() for i in range(len(some))]


@pytest.mark.parametrize("folder", ["as_bge_m3", "xlm_roberta", "bert", "demo"])
def test_the_ids_are_those_of_the_file(folder: str, request: pytest.FixtureRequest) -> None:
    path = checkpoint_path() if folder == "demo" else request.getfixturevalue(folder)
    core = Tokenizer.from_file(str(path / "tokenizer.json"))
    assert ids(path, texts()) == [core.encode(text).ids for text in texts()]


def test_reading_a_tokenizer_asks_nothing_of_transformers(
    as_bge_m3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("AutoTokenizer was asked")

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", refused)
    assert ids(as_bge_m3, ["dense"])


def test_special_tokens_and_the_limit_come_from_the_files_beside_it(as_bge_m3: Path) -> None:
    loaded = load_tokenizer(as_bge_m3, model_type="xlm-roberta", trust_remote_code=False)
    assert (loaded.prefix, loaded.suffix, loaded.pad_token_id) == ((0,), (2,), 1)
    assert sorted(loaded.unweighted.tolist()) == [0, 1, 2, 3]
    assert loaded.length_limit == 1024


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_without_those_files_the_models_kind_says_which_tokens_are_special(
    copy: Path, bert: Path, tmp_path: Path, name: str
) -> None:
    for folder, kind, special in ((copy, "xlm-roberta", [0, 1, 2, 3]), (bert, "bert", [0, 1, 2])):
        bare = Path(shutil.copytree(folder, tmp_path / kind))
        (bare / name).unlink(missing_ok=True)
        loaded = load_tokenizer(bare, model_type=kind, trust_remote_code=False)
        assert sorted(loaded.unweighted.tolist()) == special


def test_a_special_token_with_settings_of_its_own_is_read_by_its_content(copy: Path) -> None:
    pad = {"content": "<pad>", "lstrip": False, "__type": "AddedToken"}
    amend(copy, "tokenizer_config.json", pad_token=pad)
    loaded = load_tokenizer(copy, model_type="xlm-roberta", trust_remote_code=False)
    assert loaded.pad_token_id == 1


@pytest.mark.parametrize("place", ["added_tokens.json", "added_tokens_decoder", "special", "extra"])
def test_a_token_that_only_the_files_beside_it_name_is_added(copy: Path, place: str) -> None:
    size = Tokenizer.from_file(str(copy / "tokenizer.json")).get_vocab_size()
    entry = {"content": "<q>", "lstrip": False, "normalized": False, "special": True}
    if place == "added_tokens.json":
        amend(copy, place, **{"<q>": size})
    elif place == "added_tokens_decoder":
        amend(copy, "tokenizer_config.json", added_tokens_decoder={str(size): entry})
    elif place == "special":
        amend(copy, "special_tokens_map.json", additional_special_tokens=["<q>"])
    else:
        amend(copy, "tokenizer_config.json", extra_special_tokens={"question": "<q>"})
    assert ids(copy, ["dense<q>dense"])[0].count(size) == 1


def test_an_added_token_with_two_ids_is_refused_with_both(copy: Path) -> None:
    amend(copy, "added_tokens.json", **{"<q>": 900})
    with pytest.raises(CheckpointError, match=r"'<q>' has the id 900 .* but \d+ by"):
        ids(copy, ["a"])


@pytest.mark.parametrize(
    "decoder", [{"x": {"content": "a"}}, {"5": {"lstrip": True}}, ["a"], {"5": {"odd": 1}}]
)
def test_malformed_added_tokens_are_an_error(copy: Path, decoder: Any) -> None:
    amend(copy, "tokenizer_config.json", added_tokens_decoder=decoder)
    with pytest.raises(CheckpointError, match="malformed"):
        ids(copy, ["a"])


@pytest.mark.parametrize("token", [{"lstrip": True}, 7, ["<unk>"], {"content": 7}])
def test_a_special_token_without_its_text_is_an_error(copy: Path, token: Any) -> None:
    amend(copy, "tokenizer_config.json", unk_token=token, extra_special_tokens=[token])
    amend(copy, "special_tokens_map.json", unk_token=None)
    with pytest.raises(CheckpointError, match="has no text"):
        ids(copy, ["a"])


@pytest.mark.parametrize("limit", [10**30, float("inf"), None])
def test_a_huge_length_limit_is_none(copy: Path, limit: Any) -> None:
    amend(copy, "tokenizer_config.json", model_max_length=limit)
    loaded = load_tokenizer(copy, model_type="xlm-roberta", trust_remote_code=False)
    assert loaded.length_limit is None


@pytest.mark.parametrize("limit", ["512", 0, -1, [512], float("nan")])
def test_a_length_limit_that_is_no_number_of_tokens_is_an_error(copy: Path, limit: Any) -> None:
    amend(copy, "tokenizer_config.json", model_max_length=limit)
    with pytest.raises(CheckpointError, match="model_max_length"):
        ids(copy, ["a"])


def test_a_special_token_that_the_vocabulary_lacks_is_added_as_before(copy: Path) -> None:
    amend(copy, "tokenizer_config.json", pad_token="<padding>")
    amend(copy, "special_tokens_map.json", pad_token="<padding>")
    loaded = load_tokenizer(copy, model_type="xlm-roberta", trust_remote_code=False)
    assert loaded.words([loaded.pad_token_id]) == ["<padding>"]


def test_a_damaged_tokenizer_file_is_named(copy: Path) -> None:
    (copy / "tokenizer.json").write_text('{"version": "1.0"}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read"):
        ids(copy, ["a"])


# -- ids beyond the embedding table ------------------------------------------------------------


def test_a_token_beyond_the_embedding_table_is_refused_at_load_with_both_numbers(
    copy: Path,
) -> None:
    rows = json.loads((copy / "config.json").read_text())["vocab_size"]
    amend(copy, "added_tokens.json", **{"<q>": rows})
    with pytest.raises(CheckpointError, match=rf"'<q>' with the id {rows}.*{rows} rows") as raised:
        BGEM3(copy, device="cpu").encode_documents(["no such token here"])
    assert "resize_token_embeddings" in str(raised.value)


def test_a_table_with_rows_to_spare_loads(tmp_path: Path) -> None:
    folder = make_xlm_roberta(tmp_path, vocabulary=1000)
    assert BGEM3(folder, device="cpu").encode_documents(["dense"]).dense is not None


# -- vocabularies without tokenizer.json -------------------------------------------------------


def test_a_bert_vocabulary_alone_gives_the_ids_of_its_tokenizer_json(
    bert: Path, tmp_path: Path
) -> None:
    bare = Path(shutil.copytree(bert, tmp_path / "bare"))
    core = Tokenizer.from_file(str(bare / "tokenizer.json"))
    by_id = sorted(core.get_vocab().items(), key=lambda item: item[1])
    (bare / "vocab.txt").write_text("\n".join(token for token, _ in by_id), encoding="utf-8")
    (bare / "tokenizer.json").unlink()
    (bare / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    loaded = load_tokenizer(bare, model_type="bert", trust_remote_code=False)
    packed = loaded.pack(["dense vector score"], instruction="", max_length=64)
    assert packed.row(0).tolist() == core.encode("dense vector score").ids


def without_tokenizer_json(folder: Path, vocabulary: str, content: bytes) -> Path:
    (folder / "tokenizer.json").unlink()
    (folder / vocabulary).write_bytes(content)
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as raised:
        BGEM3(folder, device="cpu").encode_documents(["a"])
    return str(raised.value)


def test_a_sentencepiece_file_alone_names_the_packages_that_it_needs(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer_file, "is_installed", lambda _: False)
    text = refusal(without_tokenizer_json(copy, "sentencepiece.bpe.model", b"no model"))
    assert f"no tokenizer.json in {copy}" in text
    assert "from sentencepiece.bpe.model, run: pip install sentencepiece protobuf" in text


def test_a_vocabulary_that_cannot_be_read_is_a_checkpoint_error(copy: Path) -> None:
    pytest.importorskip("sentencepiece")
    text = refusal(without_tokenizer_json(copy, "sentencepiece.bpe.model", b"no model"))
    assert str(copy) in text
    assert "tokenizer.json" in text


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.model", "vocab.txt"])
def test_a_vocabulary_that_the_tokenizers_class_does_not_read_is_refused(
    copy: Path, name: str
) -> None:
    pytest.importorskip("sentencepiece")
    assert str(copy) in refusal(without_tokenizer_json(copy, name, b"a\nb\n"))


def test_a_sentencepiece_vocabulary_is_built_where_the_packages_are(
    copy: Path, tmp_path: Path
) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    lines = [f"dense sparse vector token weight query score {i}" for i in range(200)]
    prefix = tmp_path / "sentencepiece.bpe"
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(lines), model_prefix=str(prefix), vocab_size=60, unk_id=0,
        bos_id=1, eos_id=2, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = prefix.with_suffix(".bpe.model").read_bytes()
    bare = without_tokenizer_json(copy, "sentencepiece.bpe.model", model)
    loaded = load_tokenizer(bare, model_type="xlm-roberta", trust_remote_code=False)
    packed = loaded.pack(["dense vector"], instruction="", max_length=64).ids
    words = "".join(loaded.words(packed.tolist()))
    assert words == "<s>\u2581dense\u2581vector</s>"
    assert loaded.unweighted.tolist() == [0, 2, 1, 3]  # fairseq's order, not the file's


# -- fingerprints ------------------------------------------------------------------------------


def test_the_demo_checkpoints_fingerprint_is_the_same_under_every_version() -> None:
    assert BGEM3(checkpoint_path()).fingerprint == DEMO_FINGERPRINT


@pytest.mark.parametrize(
    "fingerprint",
    [DEMO_FINGERPRINT, "a389d36603e5211f2a375b23057efe7d5d360fa2311ccece2c6954950bf96035"],
    ids=["made under 4.57", "made under 5"],
)
def test_fingerprints_made_before_are_still_the_demo_checkpoints(fingerprint: str) -> None:
    assert BGEM3(checkpoint_path()).has_fingerprint(fingerprint)


@pytest.mark.parametrize(
    ("tokenizer", "architecture"),
    [
        (
            "4b84c338adbd4558eda15854a1b2a3e6c657c75c001adb0cb8c1ae4cfbb8d44b",
            "b48a9afadc6ef4c04045b49f943e97b31247a1e8cd7db6bbe2b60cb9bc707ecf",
        ),
        (
            "c512847f403462b1510d620bd862945f60d7d880d4a8955d862c14f1397205fb",
            "266197d23364a7c1ef4f280ac3600a09fc357a52d72c6c288c090beb77e36807",
        ),
    ],
    ids=["made under 4.57", "made under 5"],
)
def test_fingerprints_over_a_tokenizer_that_was_rebuilt_are_still_the_models(
    as_bge_m3: Path, tokenizer: str, architecture: str
) -> None:
    engine = BGEM3(as_bge_m3)
    weights = engine.encoder.encoder.source.weights_digest  # type: ignore[attr-defined]
    assert engine.has_fingerprint(combine(tokenizer, architecture, weights, "cls", ""))
    assert not engine.has_fingerprint("0" * 64)


def test_an_index_with_a_fingerprint_made_before_opens_and_keeps_it(
    as_bge_m3: Path, tmp_path: Path
) -> None:
    engine = BGEM3(as_bge_m3, device="cpu", dtype="float32")
    with HybridIndex.open(tmp_path / "index", engine) as index:
        index.add([Record("a", "dense vector")])
    manifest = tmp_path / "index/manifest.json"
    held = json.loads(manifest.read_text())
    for former in sorted(engine.encoder.former_fingerprints - {engine.fingerprint}):
        held["encoder"]["fingerprint"] = former
        manifest.write_text(json.dumps(held))
        with HybridIndex.open(tmp_path / "index", engine) as index:
            assert index.search("dense", limit=1)[0].id == "a"
        assert json.loads(manifest.read_text())["encoder"]["fingerprint"] == former


def test_cleaning_has_former_fingerprints_of_its_own(as_bge_m3: Path) -> None:
    plain, clean = BGEM3(as_bge_m3), BGEM3(as_bge_m3, clean=True)
    assert plain.encoder.former_fingerprints
    assert not plain.encoder.former_fingerprints & clean.encoder.former_fingerprints
    assert all(clean.has_fingerprint(f) for f in clean.encoder.former_fingerprints)
    assert not any(clean.has_fingerprint(f) for f in plain.encoder.former_fingerprints)


def test_a_position_type_that_is_absent_is_the_usual_one(copy: Path, as_bge_m3: Path) -> None:
    amend(copy, "config.json", position_embedding_type="absolute")
    assert BGEM3(copy).fingerprint == BGEM3(as_bge_m3).fingerprint
    amend(copy, "config.json", position_embedding_type="relative_key")
    assert BGEM3(copy).fingerprint != BGEM3(as_bge_m3).fingerprint
