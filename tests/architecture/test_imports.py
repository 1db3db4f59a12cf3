"""The folder says what a file may import; see docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bge_m3_integrations"
NAME = PACKAGE.name
STANDARD = sys.stdlib_module_names


@dataclass(frozen=True)
class Room:
    """The other packages and the rooms below that the files of a folder may import.

    A room that is named holds the rooms inside it, but for the room's own folder: a file of
    `stores/edge` that may see `stores` may see its files, and not `stores/memory`.
    """

    packages: Set[str] = field(default_factory=frozenset)
    below: Set[str] = field(default_factory=frozenset)


CORE = {"errors.py", "_internal", "core"}
STORE = CORE | {"stores"}
FOLDER = STORE | {"stores/edge/folder", "stores/edge/shard"}
INDEX = STORE | {"encoders", "engine", "index"}
TORCH = {"torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"}
LLAMA = {"numpy", "pydantic", "llama_index", "llama_index_instrumentation"}
ROOMS: dict[str, Room] = {
    "errors.py": Room(),
    "_version.py": Room(),
    "_internal": Room({"numpy", "rich", "pydantic", "pydantic_core"}, {"errors.py"}),
    "core": Room({"numpy", "tomlkit"}, CORE),
    "encoders": Room({"numpy", "torch"}, CORE | {"encoders/torch"}),
    "encoders/torch": Room({"numpy"} | TORCH, CORE | {"encoders", "_version.py"}),
    "engine": Room({"numpy", "cachetools"}, CORE | {"encoders"}),
    "stores": Room({"numpy"}, CORE),
    "stores/memory": Room({"numpy"}, STORE),
    "stores/edge/folder": Room({"filelock"}, STORE),
    "stores/edge/shard": Room({"numpy", "qdrant_edge"}, STORE | {"stores/edge/folder"}),
    "stores/edge": Room({"numpy", "qdrant_edge"}, FOLDER),
    "stores/edge/process": Room({"numpy"}, FOLDER | {"stores/edge"}),
    "index": Room({"numpy", "cachetools", "charset_normalizer"}, STORE | {"encoders", "engine"}),
    "langchain": Room({"numpy", "pydantic", "langchain_core"}, INDEX),
    "llama_index": Room(LLAMA, INDEX),
    "compat": Room({"numpy"}, CORE | {"encoders", "engine"}),
    "evaluation": Room({"numpy"}, INDEX | {"compat", "_version.py"}),
    "testing": Room(LLAMA, INDEX | {"langchain", "llama_index"}),
    "demo": Room({"numpy", "rich"}, INDEX | {"langchain", "llama_index"}),
    "cli": Room({"typer", "rich", "click"}, INDEX | {"demo", "evaluation", "_version.py"}),
    "__main__.py": Room(below={"cli"}),
    "__init__.py": Room(below=INDEX | {"_version.py"}),
}
# The one file of its room that speaks to another database.
CLIENTS: dict[str, set[str]] = {
    "langchain/qdrant.py": {"langchain_qdrant", "qdrant_client"},
    "langchain/milvus.py": {"langchain_milvus", "pymilvus"},
    "llama_index/qdrant.py": {"qdrant_client"},
}
# `encoders/flag.py` is the one file of its room that knows torch, and our modules for it.
ARROWS_UP = {("encoders", "encoders/torch")}
# Names for a signature alone, of a class whose methods the file holds.
TYPES_ONLY = {
    ("engine/similarity.py", "engine/engine.py"),
    ("engine/explain.py", "engine/engine.py"),
    ("core/explanation_html.py", "core/explanation.py"),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def room_of(name: str) -> str:
    """The innermost room that a file is in."""
    fitting = [room for room in ROOMS if name == room or name.startswith(f"{room}/")]
    return max(fitting, key=len)


def imported(file: Path) -> Iterator[str]:
    """Every absolute name that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(file)} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def seen(file: Path) -> set[str]:
    """The other files of the package that a file imports from."""
    files = (home(name) for name in imported(file) if name.partition(".")[0] == NAME)
    return {relative(found) for found in files if found != file}


def home(name: str) -> Path:
    """The file of a module, or of the module that a name is imported from."""
    path = PACKAGE.parent.joinpath(*name.split("."))
    homes = (file for at in (path, path.parent) for file in (at / "__init__.py", Path(f"{at}.py")))
    return next(file for file in homes if file.is_file())


SEEN = {relative(file): seen(file) for file in FILES}


def a_circle(graph: dict[str, set[str]]) -> list[str]:
    """The nodes of one circle, first and last the same; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_imports_only_the_packages_of_its_room(file: Path) -> None:
    name = relative(file)
    packages = {found.partition(".")[0] for found in imported(file)}
    allowed = ROOMS[room_of(name)].packages | CLIENTS.get(name, set())
    assert packages - STANDARD - {NAME} <= allowed


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_sees_only_the_rooms_below_it(file: Path) -> None:
    own = room_of(relative(file))

    def open_to(room: str, below: str) -> bool:
        return room == below or (room.startswith(f"{below}/") and not own.startswith(f"{below}/"))

    # a package's face lists the names of the rooms inside it
    inside = f"{own}/" if file.name == "__init__.py" else "no room"
    others = {room_of(name) for name in SEEN[relative(file)]} - {own}
    above = {
        room
        for room in others
        if not any(open_to(room, below) for below in ROOMS[own].below)
        and not room.startswith(inside)
    }
    assert above == set()


def test_no_file_sees_itself_through_others() -> None:
    graph = {
        name: {to for to in seen if (name, to) not in TYPES_ONLY} for name, seen in SEEN.items()
    }
    assert a_circle(graph) == []


def test_no_room_sees_itself_through_others() -> None:
    graph: dict[str, set[str]] = {room: set() for room in ROOMS}
    for name, seen in SEEN.items():
        if not name.endswith("/__init__.py"):
            graph[room_of(name)] |= {room_of(to) for to in seen} - {room_of(name)}
    for room, above in ARROWS_UP:
        graph[room] -= {above}
    assert a_circle(graph) == []


def test_a_circle_is_found() -> None:
    assert a_circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})[0] in {"a", "b", "c"}
    assert a_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


HEAVY = ["torch", "transformers", "langchain_core", "llama_index", "qdrant_edge", "qdrant_client"]
HEAVY += ["FlagEmbedding", "pymilvus", "typer", "scipy", "pydantic"]


@pytest.mark.parametrize(
    "program",
    [
        "import bge_m3_integrations",
        "from bge_m3_integrations import Weights, HybridIndex, BGEM3; BGEM3('BAAI/bge-m3')",
        "from bge_m3_integrations.testing import FakeEncoder",
        "import bge_m3_integrations.demo, bge_m3_integrations.compat",
    ],
)
def test_importing_the_package_loads_nothing_heavy(program: str) -> None:
    check = f"import sys; {program}; print([m for m in {HEAVY} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


def test_the_langchain_adapters_load_no_stores_client() -> None:
    pytest.importorskip("langchain_core")
    clients = ["langchain_qdrant", "qdrant_client", "langchain_milvus", "pymilvus"]
    check = (
        "import sys; import bge_m3_integrations.langchain as adapters; "
        "[getattr(adapters, name) for name in adapters.__all__]; "
        f"print([m for m in {clients} if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "[]"


def test_every_public_name_can_be_loaded_and_is_listed() -> None:
    import bge_m3_integrations as m3

    for name in m3.__all__:
        assert getattr(m3, name) is not None
        assert name in dir(m3)
    with pytest.raises(AttributeError, match="no attribute 'BGEM4'"):
        m3.BGEM4  # noqa: B018


def test_the_typed_names_are_the_lazy_names() -> None:
    import bge_m3_integrations as m3

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    typed = next(n for n in tree.body if isinstance(n, ast.If))
    names = {a.name for n in typed.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert names == set(m3.__all__) == set(m3._HOME_OF)
