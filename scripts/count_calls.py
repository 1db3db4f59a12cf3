"""Counts the Python calls inside the package that one encoding and one search make.

    python scripts/count_calls.py
    python scripts/count_calls.py --tree

A call is a function of `bge_m3_integrations` that is entered, in any thread. The depth is how many
of them are open at once in one thread. The model is the demo's, loaded before; the text is a new
one. A processor without the compiled kernels makes more calls in each layer. With `--tree` every
call is shown, indented by its depth.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import ClassVar

from bge_m3_integrations import BGEM3, HybridIndex, Record
from bge_m3_integrations.demo import checkpoint_path

PACKAGE = str(Path(sys.modules["bge_m3_integrations"].__file__ or "").parent)


class Counter(threading.local):
    """Counts calls in each thread; threads that start after `install` are counted too."""

    calls: ClassVar[int] = 0
    deepest: ClassVar[int] = 0
    counting: ClassVar[bool] = False
    tree: ClassVar[list[str]] = []
    depth = 0

    def install(self) -> None:
        """Trace this thread and all later ones."""
        threading.setprofile(self.trace)
        sys.setprofile(self.trace)

    def remove(self) -> None:
        """Trace no more."""
        threading.setprofile(None)
        sys.setprofile(None)

    def trace(self, frame: FrameType, event: str, _: object) -> None:
        """Count one event of the interpreter."""
        if event not in ("call", "return") or not frame.f_code.co_filename.startswith(PACKAGE):
            return
        self.depth = max(0, self.depth + (1 if event == "call" else -1))
        if Counter.counting:
            if event == "call":
                file = frame.f_code.co_filename[len(PACKAGE) + 1 :]
                Counter.tree.append(f"{'  ' * self.depth}{file} {frame.f_code.co_qualname}")
            Counter.calls += event == "call"
            Counter.deepest = max(Counter.deepest, self.depth)

    def count(self, run: Callable[[], object]) -> tuple[int, int]:
        """Return the calls inside the package and their depth."""
        Counter.calls = Counter.deepest = 0
        Counter.tree.clear()
        Counter.counting = True
        try:
            run()
        finally:
            Counter.counting = False
        return Counter.calls, Counter.deepest


def programs() -> dict[str, Callable[[str], object]]:
    """Return an encoding, a search in memory, and LangChain's way to the same search."""
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
    counter = Counter()
    counter.install()
    for name, run in programs().items():
        run("is it warm?")
        calls, depth = counter.count(partial(run, f"which text is {name}?"))
        print(f"{name:<30} {calls:>6,} calls {depth:>4} deep")
        if "--tree" in sys.argv[1:]:
            print("\n".join(Counter.tree))
    counter.remove()


if __name__ == "__main__":
    main()
