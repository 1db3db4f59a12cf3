"""Sentence-transformers' files beside a checkpoint are followed, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bge_m3_integrations import BGEM3
from bge_m3_integrations.errors import CheckpointError
from tests.checkpoints import write_pooling

TEXT = "dense vector of a document"
OLD = "sentence_transformers.models."


@pytest.fixture
def copy(xlm_roberta: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(xlm_roberta, tmp_path / "copy"))


def engine(folder: Path, **options: Any) -> BGEM3:
    return BGEM3(folder, device="cpu", dtype="float32", **options)


def modules(folder: Path, *entries: tuple[str, str]) -> None:
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": kind}
        for i, (kind, path) in enumerate([(f"{OLD}Transformer", ""), *entries])
    ]
    (folder / "modules.json").write_text(json.dumps(listed))


def prompts(folder: Path, **fields: Any) -> None:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(fields))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as raised:
        engine(folder, **options).encode_queries([TEXT], modes=["dense"])
    return str(raised.value)


# -- modules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [f"{OLD}Dense", "sentence_transformers.base.modules.dense.Dense", f"{OLD}LayerNorm"]
)
def test_a_module_that_would_change_vectors_is_refused_by_name(copy: Path, kind: str) -> None:
    modules(copy, (f"{OLD}Pooling", "1_Pooling"), (kind, "2_Dense"))
    write_pooling(copy, "cls_token")
    text = refusal(copy)
    assert kind.rpartition(".")[2] in text
    assert "'2_Dense'" in text


def test_a_usual_list_of_modules_loads(copy: Path) -> None:
    modules(copy, (f"{OLD}Pooling", "1_Pooling"), (f"{OLD}Normalize", "2_Normalize"))
    write_pooling(copy, "cls_token")
    assert engine(copy).encode_queries([TEXT]).dense is not None


def test_a_transformer_in_another_folder_is_refused_with_the_folder_to_pass(copy: Path) -> None:
    listed = [{"type": f"{OLD}Transformer", "path": "0_Transformer"}]
    (copy / "modules.json").write_text(json.dumps(listed))
    assert str(copy / "0_Transformer") in refusal(copy)


@pytest.mark.parametrize(
    "content",
    ["{", "7", '{"type": "x"}', '[{"path": "1_Pooling"}]', '[{"type": "Pooling", "path": "../x"}]'],
)
def test_modules_that_are_no_such_list_are_an_error(copy: Path, content: str) -> None:
    (copy / "modules.json").write_text(content)
    assert "modules.json" in refusal(copy)


# -- pooling -----------------------------------------------------------------------------------


def test_the_pooling_is_read_where_modules_json_says(copy: Path, xlm_roberta: Path) -> None:
    modules(copy, (f"{OLD}Pooling", "own/pooling"))
    (copy / "own/pooling").mkdir(parents=True)
    config = {"pooling_mode_mean_tokens": True}
    (copy / "own/pooling/config.json").write_text(json.dumps(config))
    write_pooling(copy, "cls_token")  # a folder that no module names
    mean = engine(xlm_roberta, pooling="mean").encode_queries([TEXT]).dense
    np.testing.assert_array_equal(engine(copy).encode_queries([TEXT]).dense, mean)


def test_a_pooling_config_that_is_named_and_missing_is_an_error(copy: Path) -> None:
    modules(copy, (f"{OLD}Pooling", "1_Pooling"))
    text = refusal(copy)
    assert str(copy / "1_Pooling/config.json") in text
    assert "pass pooling=" in text
    assert engine(copy, pooling="cls").encode_queries([TEXT]).dense is not None


def test_two_poolings_are_refused(copy: Path) -> None:
    modules(copy, (f"{OLD}Pooling", "1_Pooling"), (f"{OLD}Pooling", "2_Pooling"))
    assert "2 pooling modules" in refusal(copy)


# -- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "query", "document"),
    [
        ({"prompts": {"query": "find: ", "document": "text: "}}, "find: ", "text: "),
        ({"prompts": {"query": "find: ", "passage": "text: "}}, "find: ", "text: "),
        ({"prompts": {"query": "find: ", "document": "", "corpus": "text: "}}, "find: ", "text: "),
        ({"prompts": {"query": "find: "}, "default_prompt_name": "query"}, "find: ", "find: "),
        ({"prompts": {"s2p": "to: "}, "default_prompt_name": "s2p"}, "to: ", "to: "),
        (
            {"prompts": {"query": "", "s2p": "to: "}, "default_prompt_name": "s2p"},
            "",
            "to: ",
        ),
        ({"prompts": {"s2p": "to: "}, "default_prompt_name": None}, "", ""),
        ({"prompts": {"query": None, "document": None}}, "", ""),
        ({"prompts": None}, "", ""),
        ({}, "", ""),
    ],
)
def test_prompts_stand_in_front_of_texts(
    copy: Path, xlm_roberta: Path, fields: dict[str, Any], query: str, document: str
) -> None:
    prompts(copy, **fields)
    own = engine(copy)
    told = engine(xlm_roberta, query_instruction=query, document_instruction=document)
    for kind in ("query", "document"):
        ids = [e.tokenize([TEXT], kind=kind).ids.tolist() for e in (own, told)]  # type: ignore[arg-type]
        assert ids[0] == ids[1]
    np.testing.assert_array_equal(
        own.encode_queries([TEXT]).dense, told.encode_queries([TEXT]).dense
    )
    np.testing.assert_array_equal(
        own.encode_documents([TEXT]).dense, told.encode_documents([TEXT]).dense
    )
    assert own.fingerprint == told.fingerprint


def test_an_instruction_wins_over_a_prompt_and_an_empty_one_is_none(
    copy: Path, xlm_roberta: Path
) -> None:
    prompts(copy, prompts={"query": "find: "})
    plain = engine(xlm_roberta).encode_queries([TEXT]).dense
    without = engine(copy, query_instruction="").encode_queries([TEXT]).dense
    np.testing.assert_array_equal(without, plain)
    assert engine(copy).encoder.encoder.query_instruction == "find: "  # type: ignore[attr-defined]


def test_an_index_is_opened_again_with_the_prompts_that_it_was_made_with(
    copy: Path, tmp_path: Path
) -> None:
    from bge_m3_integrations import HybridIndex, Record

    prompts(copy, prompts={"query": "find: ", "document": "text: "})
    with HybridIndex.open(tmp_path / "index", engine(copy)) as index:
        index.add([Record("a", TEXT)])
    with HybridIndex.open(tmp_path / "index") as index:
        assert index.search(TEXT, limit=1)[0].id == "a"


def test_the_compatible_class_adds_no_prompt_as_flag_embedding_adds_none(
    copy: Path, xlm_roberta: Path
) -> None:
    from bge_m3_integrations.compat import BGEM3FlagModel

    prompts(copy, prompts={"query": "find: ", "document": "text: "})
    with_prompts, plain = (
        BGEM3FlagModel(str(f), devices="cpu", use_fp16=False).encode_queries([TEXT])["dense_vecs"]
        for f in (copy, xlm_roberta)
    )
    np.testing.assert_array_equal(with_prompts, plain)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompts": {"query": 7}},
        {"prompts": ["find: "]},
        {"prompts": {"query": "find: "}, "default_prompt_name": "other"},
        {"prompts": {}, "default_prompt_name": ["query"]},
    ],
)
def test_malformed_prompts_are_refused(copy: Path, fields: dict[str, Any]) -> None:
    prompts(copy, **fields)
    assert "config_sentence_transformers.json" in refusal(copy)


def test_a_mean_that_leaves_the_prompt_out_is_refused(copy: Path) -> None:
    prompts(copy, prompts={"query": "find: "})
    (copy / "1_Pooling").mkdir()
    config = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    (copy / "1_Pooling/config.json").write_text(json.dumps(config))
    assert "include_prompt" in refusal(copy)


def test_texts_are_put_in_lower_case_where_the_model_was_trained_so(copy: Path) -> None:
    (copy / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    lower, upper = (engine(copy).tokenize([t]).ids.tolist() for t in (TEXT, TEXT.upper()))
    assert lower == upper
