from __future__ import annotations

import subprocess
import sys

import pytest

from bge_m3_integrations._internal.extras import check, require
from bge_m3_integrations.errors import MissingExtraError


@pytest.mark.parametrize("module", ["no_such_package_here", "no_such_package_here.part"])
def test_a_missing_package_gives_the_pip_line(module: str) -> None:
    line = rf'{module} is not installed; run: pip install "bge-m3-integrations\[clean\]"'
    with pytest.raises(MissingExtraError, match=line):
        require(module, extra="clean")
    with pytest.raises(ImportError):
        check(module, extra="clean")


def test_a_package_that_is_there_is_imported() -> None:
    assert require("json.decoder", extra="clean").__name__ == "json.decoder"


@pytest.mark.parametrize(
    ("folder", "framework", "extra"),
    [("langchain", "langchain_core", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_a_missing_framework_gives_the_pip_line_from_any_module_of_its_folder(
    folder: str, framework: str, extra: str
) -> None:
    program = (
        "import sys\n"
        f"sys.modules[{framework!r}] = None\n"  # as if it were not installed
        f"sys.modules['{framework}.core'] = None\n"
        f"import bge_m3_integrations.{folder}.retriever\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert f'pip install "bge-m3-integrations[{extra}]"' in done.stderr
