"""A folder is taken hold of when what will search it is made, not at its first search."""

from __future__ import annotations

import copy
import errno
import fcntl
import gc
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.errors import InputError, StoreError
from bge_m3_integrations.index.config import IndexConfig
from bge_m3_integrations.index.opening import reserve
from bge_m3_integrations.stores.edge import Manifest
from bge_m3_integrations.stores.edge.folder.reservation import Reservation
from bge_m3_integrations.testing import FakeEncoder

ROOT = Path(__file__).parents[5]
HOLDER = """
    import sys
    from pathlib import Path
    from bge_m3_integrations.errors import StoreError
    from bge_m3_integrations.stores.edge.folder.reservation import Reservation
    try:
        held = Reservation(Path(sys.argv[1]))
        print("held", flush=True)
        sys.stdin.read()
    except StoreError as error:
        print(error, flush=True)
"""


def other(path: Path) -> subprocess.Popen[str]:
    """A process that reserves the folder until its input ends."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def said(path: Path) -> str:
    """What another process says that tries to reserve the folder."""
    return other(path).communicate(timeout=60)[0].strip()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with HybridIndex.open(tmp_path / "index", BGEM3(FakeEncoder()), colbert="float32") as index:
        index.add([Record("a", "fox on the bridge")])
    return tmp_path / "index"


@pytest.fixture
def held(folder: Path) -> Iterator[Path]:
    """A folder that another process holds."""
    process = other(folder)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "held"
    yield folder
    process.communicate(timeout=60)


def in_langchain_store(folder: Path) -> object:
    from bge_m3_integrations.langchain import BGEM3VectorStore

    return BGEM3VectorStore(BGEM3("no/model"), path=folder)


def in_langchain_store_alone(folder: Path) -> object:
    from bge_m3_integrations.langchain import BGEM3VectorStore

    return BGEM3VectorStore(path=str(folder))


def in_langchain_retriever(folder: Path) -> object:
    from bge_m3_integrations.langchain import BGEM3Retriever

    return BGEM3Retriever(index=folder)


def in_llama_reranker(folder: Path) -> object:
    from bge_m3_integrations.llama_index import BGEM3Reranker

    return BGEM3Reranker(engine=BGEM3("no/model"), index_path=folder)


def in_llama_store(folder: Path) -> object:
    from bge_m3_integrations.llama_index import BGEM3VectorStore

    return BGEM3VectorStore(BGEM3(FakeEncoder()), path=folder)


MAKES: list[Callable[[Path], object]] = [
    in_langchain_store,
    in_llama_store,
    in_langchain_store_alone,
    in_langchain_retriever,
    in_llama_reranker,
]


@pytest.mark.parametrize("make", MAKES)
def test_a_folder_of_another_process_is_refused_when_an_adapter_is_made(
    held: Path, make: Callable[[Path], object]
) -> None:
    with pytest.raises(StoreError, match=r"in use by process \d+ on "):
        make(held)


@pytest.mark.parametrize("make", MAKES)
def test_an_adapter_that_was_not_used_yet_holds_its_folder(
    folder: Path, make: Callable[[Path], object]
) -> None:
    adapter = make(folder)
    assert f"in use by process {os.getpid()} on " in said(folder)
    twin = make(folder)
    del adapter
    gc.collect()
    assert f"in use by process {os.getpid()} on " in said(folder)
    del twin
    gc.collect()
    assert said(folder) == "held"


@pytest.mark.parametrize("make", MAKES)
def test_what_is_no_index_is_refused_when_an_adapter_is_made(
    tmp_path: Path, make: Callable[[Path], object]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "manifest.json").write_text("{}")
    for name in ("file", "file/index", "full"):
        with pytest.raises(StoreError, match=r"is a file|no manifest of ours"):
            make(tmp_path / name)


@pytest.mark.parametrize("make", MAKES[2:])
def test_a_folder_that_is_not_there_is_refused_when_what_only_reads_is_made(
    folder: Path, make: Callable[[Path], object]
) -> None:
    with pytest.raises(StoreError, match=r"no index in .*did you mean .*/index\?"):
        make(folder.parent / "indx")


def test_making_an_adapter_loads_neither_torch_nor_the_search_engine(folder: Path) -> None:
    program = f"""
        import sys
        from bge_m3_integrations import BGEM3
        from bge_m3_integrations.langchain import BGEM3Retriever, BGEM3VectorStore
        BGEM3VectorStore(BGEM3("no/model"), path={str(folder)!r})
        BGEM3Retriever(index={str(folder)!r})
        print([name for name in ("torch", "qdrant_edge") if name in sys.modules])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.strip() == "[]"
    assert not (folder / "holder.json").exists()  # given back at the end


@pytest.mark.parametrize("isolated", [False, True])
def test_a_reserved_folder_is_opened_by_its_own_process(folder: Path, isolated: bool) -> None:
    held = Reservation(folder.resolve())
    with HybridIndex.open(folder, BGEM3(FakeEncoder()), isolated=isolated) as index:
        again = Reservation(folder.resolve())  # of what this process has open
        assert index.count() == 1
        again.release()
        held.release()
        assert index.count() == 1
    assert said(folder) == "held"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (IndexConfig(colbert="turbo8"), "has colbert 'float32', but 'turbo8'"),
        (IndexConfig(modes=["dense"]), r"has modes .*, but \('dense',\)"),
        (IndexConfig(pooling=2), "has pooling 1, but 2"),
        (IndexConfig(filter_fields=["lang"]), "has filter_fields 'all'"),
    ],
)
def test_what_contradicts_an_index_is_said_before_it_is_opened(
    folder: Path, choices: IndexConfig, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        reserve(folder, BGEM3("no/model"), choices)
    assert said(folder) == "held"


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        (BGEM3("no/model", dtype="int8"), "made in None, but int8"),
        (BGEM3("no/model", max_length=7), "the full length.*7"),
    ],
)
def test_an_engine_whose_options_contradict_an_index_is_refused_unloaded(
    folder: Path, engine: BGEM3, message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        reserve(folder, engine, IndexConfig())


def test_a_fork_and_a_pickle_end_a_reservation(folder: Path) -> None:
    from bge_m3_integrations.langchain import BGEM3Retriever

    retriever = BGEM3Retriever(index=folder)
    assert copy.deepcopy(retriever) == retriever
    assert "in use" in said(folder)
    pickle.dumps(retriever)
    assert said(folder) == "held"

    held = Reservation(folder.resolve())
    child = os.fork()
    if not child:
        os._exit(0 if said(folder) == "held" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    held.release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP])
def test_a_file_system_without_locks_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    before = sorted(folder.iterdir())
    for make in (
        lambda: HybridIndex.open(folder, BGEM3(FakeEncoder())),
        lambda: reserve(folder, BGEM3("no/model"), IndexConfig()),
    ):
        with pytest.raises(StoreError, match=r"file system of .*/index has no locks.*NFS.*local"):
            make()
    assert sorted(folder.iterdir()) == before


def test_a_lock_refused_in_silence_is_asked_about(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As older versions of filelock do: every error looks as if somebody held the lock."""
    import filelock

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "_acquire", lambda _: None)
    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(StoreError, match="has no locks"):
        HybridIndex.open(folder, BGEM3(FakeEncoder()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device='gpu' is no torch device"),
        ({"device": "cuda:one"}, "device='cuda:one' is no torch device"),
        ({"device": ["cpu", "CUDA"]}, "device='CUDA' is no torch device"),
        ({"device": 0}, "device=0 is neither a torch device nor a list"),
        ({"dtype": "fp16"}, r"dtype='fp16' is not one of \['auto', 'float32'"),
        ({"dtype": None}, "dtype=None is not one of"),
    ],
)
def test_a_device_or_dtype_that_is_none_is_refused_when_an_engine_is_made(
    options: dict[str, Any], message: str
) -> None:
    from bge_m3_integrations.langchain import BGEM3Embeddings
    from bge_m3_integrations.llama_index import BGEM3Embedding

    with pytest.raises(InputError, match=message):
        BGEM3("no/model", **options)
    for adapter in (BGEM3Embeddings, BGEM3Embedding):
        with pytest.raises(ValueError, match=r"device|dtype"):
            adapter(model_name="no/model", **options)


def test_a_manifest_needs_no_engine_to_be_read(folder: Path) -> None:
    held = Manifest.read(folder)
    assert held is not None
    assert held.colbert == "float32"


def test_a_new_folder_that_was_asked_for_is_kept_from_others_before_its_first_document(
    tmp_path: Path,
) -> None:
    from bge_m3_integrations.langchain import BGEM3VectorStore

    new = (tmp_path / "new").resolve()
    store = BGEM3VectorStore(BGEM3(FakeEncoder()), path=new, create=True)
    assert "in use by process" in said(new)
    assert store.similarity_search("tea") == []
    store.add_texts(["tea"])
    store.close()
    assert said(new) == "held"


@pytest.mark.parametrize("create", [None, False])
def test_a_path_that_nobody_vouches_for_is_not_made(tmp_path: Path, create: bool | None) -> None:
    from bge_m3_integrations.langchain import BGEM3VectorStore

    with suppress(StoreError):
        BGEM3VectorStore(BGEM3(FakeEncoder()), path=tmp_path / "typo", create=create).close()
    assert not (tmp_path / "typo").exists()
