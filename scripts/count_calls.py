"""Counts the Python calls inside the package that one encoding and one search make.

    python scripts/count_calls.py

A call is a function of `bge_m3_integrations` that is entered, the depth how many of them are open
at once, in the thread that asks. The model is the demo's, loaded before; the text is a new one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.demo import checkpoint_path

PACKAGE = str(Path(sys.modules["bge_m3_integrations"].__file__ or "").parent)


def counted(run: Callable[[], object]) -> tuple[int, int]:
    """Calls inside the package, and how deep they go, in this thread."""
    calls = depth = deepest = 0

    def trace(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls, depth, deepest
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return
        if event == "call":
            calls += 1
            depth += 1
            deepest = max(deepest, depth)
        elif event == "return":
            depth -= 1

    sys.setprofile(trace)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls, deepest


def programs() -> dict[str, Callable[[str], object]]:
    """What is counted: an encoding, a search in memory, and LangChain's way to the same search."""
    from bge_m3_integrations.langchain import BGEM3Retriever

    engine = BGEM3(checkpoint_path(), device="cpu", dtype="float32")
    index = HybridIndex(engine)
    index.add([Record(str(i), f"text number {i} of the collection") for i in range(200)])
    retriever = BGEM3Retriever(index=index, k=10)
    return {
        "encode_queries of one text": lambda text: engine.encode_queries([text]),
        "search in memory": lambda text: index.search(text, limit=10),
        "LangChain's invoke": retriever.invoke,
    }


def main() -> None:
    """Print one line for each."""
    for name, run in programs().items():
        run("is it warm?")
        calls, depth = counted(partial(run, f"which text is {name}?"))
        print(f"{name:<30} {calls:>6,} calls {depth:>4} deep")


if __name__ == "__main__":
    main()
