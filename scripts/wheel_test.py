"""Build the wheel and try it in two empty environments, one per framework.

Each environment gets the wheel with one extra; there, the other framework must be absent, and a
small program must index and retrieve through the framework's adapters.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

from bge_m3_integrations.encoders.torch.native.binding import unavailable_reason
from bge_m3_integrations.encoders.torch.native.build import LIBRARY

ROOT = Path(__file__).resolve().parents[1]

COMMON = """
import importlib.util
import sys

import bge_m3_integrations as m3

heavy = {{"torch", "transformers", "langchain_core", "llama_index", "qdrant_edge"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert importlib.util.find_spec("{absent}") is None, "{absent} is here"
from bge_m3_integrations.demo import checkpoint_path, load_corpus

from bge_m3_integrations.encoders.torch.native.binding import unavailable_reason

assert bool(unavailable_reason()) == {without_kernels}, unavailable_reason()
index = m3.HybridIndex(m3.BGEM3(checkpoint_path(), device="cpu"))
index.add(load_corpus()[:20])
"""

LANGCHAIN = """
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever

documents = BGEM3Retriever(index=index, k=3).invoke("How are token vectors compared?")
assert len(documents) == 3
assert len(BGEM3Reranker(engine=index.engine).compress_documents(documents, "token vectors")) == 3
assert len(BGEM3Embeddings(engine=index.engine).embed_query("hello")) == index.engine.encoder.dim
print("langchain:", [document.id for document in documents])
"""

LLAMA_INDEX = """
from bge_m3_integrations.llama_index import BGEM3Embedding, BGEM3Reranker, BGEM3Retriever

nodes = BGEM3Retriever(index, similarity_top_k=3).retrieve("How are token vectors compared?")
assert len(nodes) == 3
reranked = BGEM3Reranker(engine=index.engine).postprocess_nodes(nodes, query_str="token vectors")
assert len(reranked) == 3
embedding = BGEM3Embedding(engine=index.engine).get_query_embedding("hello")
assert len(embedding) == index.engine.encoder.dim
print("llama_index:", [node.node.node_id for node in nodes])
"""


def build(folder: Path) -> Path:
    """Build the wheel into a folder and return its path."""
    run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)])
    wheel = next(folder.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    native = "bge_m3_integrations/encoders/torch/native"
    assert f"{native}/kernels/kernels.h" in names
    assert (f"{native}/kernels.so" in names) == LIBRARY.exists()
    assert wheel.name.endswith("none-any.whl") != LIBRARY.exists(), wheel.name
    return wheel


def try_extra(wheel: Path, folder: Path, *, extra: str, absent: str, program: str) -> None:
    """Install the wheel with one extra into a new environment and run a program there."""
    venv.create(folder, with_pip=True)
    binaries = folder / ("Scripts" if sys.platform == "win32" else "bin")
    python = binaries / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    run([*pip, *shlex.split(os.environ.get("TORCH_FLAGS", "")), "torch"])
    run([*pip, f"{wheel}[{extra}]"])
    # from another folder, and isolated: the checkout must not be importable
    run(
        [
            str(python),
            "-I",
            "-c",
            COMMON.format(absent=absent, without_kernels=bool(unavailable_reason())) + program,
        ],
        cwd=folder,
    )
    run([str(binaries / "bge-m3"), "demo", "--limit", "1", "--query", "half precision"], cwd=folder)


def run(command: list[str], cwd: Path | None = None) -> None:
    """Run a command and stop at its failure."""
    subprocess.run(command, check=True, cwd=cwd)


def main() -> None:
    """Build once, try both."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = build(folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 2**20:.1f} MiB")
        try_extra(
            wheel,
            folder / "langchain",
            extra="langchain",
            absent="llama_index",
            program=LANGCHAIN,
        )
        try_extra(
            wheel,
            folder / "llama_index",
            extra="llama-index",
            absent="langchain_core",
            program=LLAMA_INDEX,
        )


if __name__ == "__main__":
    main()
