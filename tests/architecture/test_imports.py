"""The directory says what a file may import; see docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "bge_m3_integrations"
STANDARD = sys.stdlib_module_names
CORE = {"numpy"}
# A row for each room; the first match wins: the third-party packages that it may import.
ALLOWED: list[tuple[str, set[str]]] = [
    ("errors.py", set()),
    ("_internal/", CORE | {"rich", "pydantic", "pydantic_core"}),
    ("core/", CORE),
    (
        "encoders/torch/",
        CORE | {"torch", "transformers", "tokenizers", "safetensors"} | {"huggingface_hub"},
    ),
    ("encoders/", CORE | {"torch"}),
    ("engine/", CORE),
    ("stores/edge/", CORE | {"qdrant_edge", "filelock"}),
    ("stores/", CORE),
    ("index/", CORE | {"charset_normalizer"}),
    ("langchain/qdrant.py", {"langchain_core", "pydantic", "langchain_qdrant", "qdrant_client"}),
    ("langchain/milvus.py", {"langchain_core", "pydantic", "langchain_milvus", "pymilvus"}),
    ("langchain/", CORE | {"langchain_core", "pydantic"}),
    ("llama_index/qdrant.py", CORE | {"llama_index", "pydantic", "qdrant_client"}),
    ("llama_index/", CORE | {"llama_index", "llama_index_instrumentation", "pydantic"}),
    ("compat/", CORE),
    ("evaluation/", CORE),
    ("testing/", CORE | {"llama_index", "llama_index_instrumentation", "pydantic"}),
    ("demo/", CORE | {"rich"}),
    ("cli/", {"typer", "rich", "click"}),
    ("", set()),
]
# A row for each room: the rooms below it, which are all that it may see.
BELOW: dict[str, set[str]] = {
    "errors.py": set(),
    "_version.py": set(),
    "_internal": {"errors"},
    "core": {"errors", "_internal"},
}
BELOW["encoders"] = BELOW["core"] | {"core", "_version"}
BELOW["engine"] = BELOW["core"] | {"core", "encoders"}
BELOW["stores"] = BELOW["core"] | {"core"}
BELOW["index"] = BELOW["engine"] | {"engine", "stores"}
BELOW["langchain"] = BELOW["llama_index"] = BELOW["index"] | {"index"}
BELOW["compat"] = BELOW["engine"] | {"engine"}
BELOW["evaluation"] = BELOW["index"] | {"index", "compat", "_version"}
BELOW["testing"] = BELOW["llama_index"] | {"langchain", "llama_index"}
BELOW["demo"] = BELOW["testing"]
BELOW["cli"] = BELOW["demo"] | {"demo", "evaluation", "compat", "_version"}
BELOW["__main__.py"] = {"cli"}
FILES = sorted(PACKAGE.rglob("*.py"))


def relative(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imported(file: Path) -> set[str]:
    """Every absolute module that a file imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(file)} imports relatively"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def rule(table: list[tuple[str, set[str]]], name: str) -> set[str]:
    return next(value for prefix, value in table if name.startswith(prefix))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_imports_only_what_its_place_allows(file: Path) -> None:
    packages = {name.partition(".")[0] for name in imported(file)}
    foreign = packages - STANDARD - {"bge_m3_integrations"}
    assert foreign <= rule(ALLOWED, relative(file))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_sees_only_the_parts_below_it(file: Path) -> None:
    if relative(file) == "__init__.py":
        return
    parts = {
        name.split(".")[1] for name in imported(file) if name.startswith("bge_m3_integrations.")
    }
    own = relative(file).partition("/")[0]
    assert parts - {own} <= BELOW[own]


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
