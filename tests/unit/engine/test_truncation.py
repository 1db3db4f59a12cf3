"""Texts longer than the limit: one warning for each call, with names and advice that fits."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, InputError, Record, TruncationWarning
from bge_m3_integrations.testing import FakeEncoder
from tests import checkpoints

LONG = "one two three four five six"
OTHER = "seven eight nine ten eleven twelve thirteen"


@pytest.fixture
def engine() -> BGEM3:
    return BGEM3(FakeEncoder(max_length=4))


def told(call: Callable[[], object]) -> list[str]:
    """The messages of a call, all of them at a line of this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    assert {warning.filename for warning in caught} <= {__file__}
    assert {warning.category for warning in caught} <= {TruncationWarning}
    return [str(warning.message) for warning in caught]


def records(count: int) -> list[Record]:
    return [Record(f"r{i}", f"{LONG} {i}" if i % 2 else "short") for i in range(count)]


def test_one_text_of_one(engine: BGEM3) -> None:
    assert told(lambda: engine.encode_queries([LONG])) == [
        "1 of 1 text (query) was longer than 4 tokens (position 0); 4 tokens were dropped. "
        "Split long texts into chunks"
    ]


def test_several_are_named_by_position_and_counted(engine: BGEM3) -> None:
    texts = ["short", LONG, OTHER, LONG]
    assert told(lambda: engine.encode_documents(texts)) == [
        "3 of 4 texts (document) were longer than 4 tokens (positions 1, 2 and 3); 13 tokens were "
        "dropped. Split long texts into chunks"
    ]


def test_of_many_the_first_are_named(engine: BGEM3) -> None:
    (message,) = told(lambda: engine.encode_documents([f"{LONG} {i}" for i in range(1200)]))
    assert "1,200 of 1,200 texts" in message
    assert "(positions 0, 1, 2, 3, 4 and 1,195 more)" in message


def test_one_token_is_one(engine: BGEM3) -> None:
    (message,) = told(lambda: engine.encode_documents(["one two three"]))
    assert "; 1 token was dropped." in message


def test_the_limit_can_only_be_raised_where_the_model_takes_more(tmp_path: Path) -> None:
    folder = checkpoints.make_xlm_roberta(tmp_path, positions=16)
    for max_length, of_call in ((8, None), (None, 8)):
        engine = BGEM3(folder, device="cpu", max_length=max_length)
        (message,) = told(lambda: engine.encode_queries(["the " * 12], max_length=of_call))  # noqa: B023
        assert message.endswith("or raise max_length: this model takes 16 tokens")
    (message,) = told(lambda: engine.encode_queries(["the " * 50]))
    assert message.endswith("Split long texts into chunks")


def test_score_and_rerank_tell_once_of_queries_and_documents(
    engine: BGEM3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bge_m3_integrations.core.validation.ENCODED_CHARACTERS", 60
    )  # stretches of two
    documents = ["short", LONG, "a", OTHER, LONG]
    for call in (
        lambda: engine.score([LONG, "short"], documents),
        lambda: engine.score_pairs([(LONG, one) for one in documents]),
        lambda: engine.rerank(LONG, documents),
        lambda: HybridIndex(engine).rerank(LONG, documents),
    ):
        (message,) = told(call)
        assert "texts (query)" in message or "text (query)" in message
        assert "3 of 5 texts (document) were longer than 4 tokens (positions 1, 3 and 4)" in message
        assert message.count("Split") == 1
    assert len(told(lambda: engine.similarity(LONG, [OTHER]))) == 1


def test_adding_tells_once_with_the_first_ids(engine: BGEM3) -> None:
    for put in (
        lambda index: index.add(records(40), batch_size=3),
        lambda index: index.ingest(records(40), batch_size=3),
        lambda index: index.ingest(iter(records(40)), batch_size=3),
    ):
        (message,) = told(lambda: put(HybridIndex(engine)))  # noqa: B023
        assert message.startswith(
            "20 of 40 texts (document) were longer than 4 tokens (ids 'r1', 'r3', 'r5', 'r7', 'r9' "
            "and 15 more); 100 tokens were dropped."
        )


def test_a_call_that_fails_tells_too_and_its_own_error_comes(engine: BGEM3) -> None:
    index = HybridIndex(engine)

    def check(batch: object, embeddings: object) -> None:
        raise InputError("refused")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InputError, match="refused"):
            index.add(records(4), check=check)
    with pytest.warns(TruncationWarning, match="ids 'r1' and 'r3'"), pytest.raises(InputError):
        index.add(records(4), check=check)


def test_a_search_that_encodes_candidates_again_tells_once(tmp_path: Path, engine: BGEM3) -> None:
    with HybridIndex.open(tmp_path / "index", engine, colbert="reencode") as index:
        told(lambda: index.add(records(4)))
        for call in (
            lambda: index.search(LONG),
            lambda: asyncio.run(index.asearch(LONG)),
        ):
            (message,) = told(call)
            assert message.startswith("1 of 1 text (query) was longer than 4 tokens (position 0)")


def test_the_next_call_tells_of_itself_only(engine: BGEM3) -> None:
    assert len(told(lambda: engine.encode_documents([LONG]))) == 1
    assert told(lambda: engine.encode_documents(["short"])) == []
    assert "1 of 2 texts (document) was" in told(lambda: engine.encode_documents(["a", LONG]))[0]


def test_coroutines_beside_each_other_tell_of_themselves(engine: BGEM3) -> None:
    async def all_of_them() -> None:
        await asyncio.gather(*(engine.aencode_documents(["a"] * n + [LONG]) for n in range(1, 5)))

    messages = told(lambda: asyncio.run(all_of_them()))
    assert sorted(message[: message.index(")")] for message in messages) == [
        f"1 of {n + 1} texts (document" for n in range(1, 5)
    ]
    engine.close()


def test_it_is_logged_without_the_texts(engine: BGEM3, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "bge_m3_integrations"):
        told(lambda: engine.encode_documents([LONG]))
    assert "1 of 1 text (document) was longer" in caplog.text
    assert "three" not in caplog.text


def test_the_warning_points_to_the_users_program_through_both_frameworks(tmp_path: Path) -> None:
    begin = (
        "import asyncio\n"
        "from bge_m3_integrations import BGEM3, HybridIndex\n"
        "from bge_m3_integrations.testing import FakeEncoder\n"
        "from bge_m3_integrations.langchain import BGEM3Embeddings\n"
        "from bge_m3_integrations.langchain import BGEM3VectorStore as LangChainStore\n"
        "from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3Index\n"
        "from llama_index.core.schema import TextNode\n"
        "engine = BGEM3(FakeEncoder(max_length=4))\n"
        "long, other = 'one two three four five six', 'seven eight nine ten eleven'\n"
        "nodes = [TextNode(text=long), TextNode(text=other)]\n"
    )
    calls = [
        "engine.encode_documents([long])",
        "asyncio.run(engine.aencode_queries([long]))",
        "asyncio.run(HybridIndex(engine).asearch_batch([long]))",
        "LangChainStore.from_texts([long, other], engine)",
        "LangChainStore(engine).add_texts([long, other])",
        "asyncio.run(LangChainStore(engine).aadd_texts([long, other]))",
        "asyncio.run(LangChainStore.afrom_texts([long, other], engine))",
        "BGEM3Embeddings(engine).embed_documents([long])",
        "BGEM3Embedding(engine).get_text_embedding_batch([long, other])",
        "BGEM3Index(nodes, engine=engine)",
        "BGEM3Index(nodes, engine=engine, insert_batch_size=1)",
    ]
    program = tmp_path / "program.py"
    program.write_text(begin + "\n".join(calls) + "\n")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, check=True
    )
    told = [line for line in done.stderr.splitlines() if "TruncationWarning" in line]
    first = begin.count("\n") + 1
    wanted = [f"{program}:{first + i}:" for i in range(len(calls))]
    assert [line.split(" ")[0] for line in told] == wanted, done.stderr
