"""Test loading, tokenising and encoding under the least and the newest supported versions.

`make test` runs under the pins of `constraints.txt`. Here environments of their own get the least
versions that pyproject.toml allows, and the newest that there are, and run the tests of what
depends on transformers and tokenizers: files, configs, tokenizers, fingerprints and numbers.
Another one of the least runs the tests beside FlagEmbedding.

Run with `make test-versions`, for one of them with `make test-versions VERSIONS=least`. It takes
minutes and the network, and is no part of `make test`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LEAST = (
    "transformers==4.57.1",  # the first of 4.57 that was not taken back
    "tokenizers==0.22.0",
    "huggingface-hub==0.36.0",
    "safetensors==0.5.0",
)
ENVIRONMENTS = {
    "least": (*LEAST, "numpy==1.26.4"),
    "least-flag": (*LEAST, "FlagEmbedding==1.4.2"),  # whose pyarrow needs numpy 2
    "newest": ("transformers", "tokenizers", "huggingface-hub", "safetensors", "numpy"),
}
EXTRAS = "clean,langchain,llama-index"
OTHERS = ("hypothesis", "psutil", "pytest", "pytest-asyncio")
TESTS = (
    "tests/unit/encoders/torch/test_files.py",
    "tests/unit/encoders/torch/test_encoder.py",
    "tests/unit/encoders/torch/test_config.py",
    "tests/unit/encoders/torch/test_heads_that_are_there.py",
    "tests/unit/encoders/torch/test_layers.py",
    "tests/unit/encoders/torch/test_sentence_transformers.py",
    "tests/unit/encoders/torch/test_tensor_checks.py",
    "tests/unit/encoders/torch/test_tensors.py",
    "tests/unit/encoders/torch/test_tokenizer_file.py",
    "tests/unit/evaluation/test_parity.py",
)
PARITY = (
    "tests/parity/test_demo_checkpoint.py",
    "tests/parity/test_flag_embedding.py",
    "tests/parity/test_flag_encoder.py",
)
"""Where FlagEmbedding is: 1.4.2 imports what transformers 5.24 removed."""


def try_versions(name: str, folder: Path) -> bool:
    """Make one environment and run the tests there; says how it went."""
    venv.create(folder, with_pip=True)
    python = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pip = [python, "-m", "pip", "install", "-q"]
    torch = [*shlex.split(os.environ.get("TORCH_FLAGS", "")), os.environ.get("TORCH", "torch")]
    tests = PARITY if name.endswith("flag") else TESTS
    steps = [
        [*pip, *torch],
        [*pip, *ENVIRONMENTS[name], *OTHERS, f"{ROOT}[{EXTRAS}]"],
        # the checkout is what is tested: its kernels are built, the wheel's bounds hold
        [python, "-m", "pip", "uninstall", "-q", "-y", "bge-m3-integrations"],
        [python, "-c", "import transformers, tokenizers; print(transformers.__version__, "
         "tokenizers.__version__)"],
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
    ]  # fmt: skip
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
    good = all(
        subprocess.run(step, check=False, cwd=ROOT, env=one_thread).returncode == 0
        for step in steps
    )
    print(f"{'pass' if good else 'FAIL'}  {name}", flush=True)
    return good


def main() -> None:
    """Try the environments that are named, or all."""
    wanted = sys.argv[1:] or list(ENVIRONMENTS)
    if unknown := set(wanted) - set(ENVIRONMENTS):
        sys.exit(f"no environment {sorted(unknown)}; there are {sorted(ENVIRONMENTS)}")
    with tempfile.TemporaryDirectory() as place:
        failed = [name for name in wanted if not try_versions(name, Path(place) / name)]
    if failed:
        sys.exit(f"these versions do not work: {', '.join(failed)}")


if __name__ == "__main__":
    main()
