"""Runs every conformance suite and prints one line for each: `make conformance`.

LangChain's own suites come last. Anything but "passed" is a failure here: no test of a standard may
be skipped or expected to fail.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "conformance"
LANGCHAIN_LEAST = 129
"""How many of LangChain's own tests there must be: see the suites in `docs/architecture.md`."""
_ORDER = ("Store", "Own", "LlamaIndex", "LangChain")


class Tally:
    """Counts results by suite: a pytest plugin."""

    def __init__(self) -> None:
        self.suites: dict[str, str] = {}
        self.results: dict[str, Counter[str]] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Remember which suite each test belongs to."""
        for item in items:
            self.suites[item.nodeid] = suite_of(item)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count a test once: by its call, or by a phase that went wrong."""
        if report.when != "call" and report.outcome == "passed":
            return
        outcome = "expected to fail" if hasattr(report, "wasxfail") else report.outcome
        counts = self.results.setdefault(self.suites[report.nodeid], Counter())
        counts[outcome] += 1

    def lines(self) -> Iterator[str]:
        """One line per suite."""
        width = max(map(len, self.results), default=0)
        for suite in sorted(self.results, key=lambda name: (_ORDER.index(name.split()[0]), name)):
            counts = self.results[suite]
            said = ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items()))
            yield f"{suite:<{width}}  {said}"

    def of_langchain(self) -> int:
        """How many of LangChain's own tests passed."""
        return sum(
            counts["passed"]
            for name, counts in self.results.items()
            if name.startswith("LangChain")
        )

    @property
    def clean(self) -> bool:
        """Whether everything passed."""
        return all(set(counts) == {"passed"} for counts in self.results.values())


def suite_of(item: pytest.Item) -> str:
    """Whose suite a test is of, and which one."""
    cls: type | None = getattr(item, "cls", None)
    if cls is None:
        return f"Own {Path(str(item.path)).stem.removeprefix('test_')}"
    for base in cls.__mro__[1:]:
        if base.__module__.startswith("langchain_tests."):
            return f"LangChain {base.__name__}: {cls.__name__.removeprefix('Test')}"
        if base.__module__ == "bge_m3_integrations.testing.llama_index":
            return f"LlamaIndex {base.__name__}: {cls.__name__.removeprefix('Test')}"
        if base.__module__ == "bge_m3_integrations.testing.store_conformance":
            return f"Store {base.__name__}: {cls.__name__.removeprefix('Test')}"
    return f"Own {Path(str(item.path)).stem.removeprefix('test_')}"


def main() -> int:
    """Run the suites; 0 where all of them pass."""
    tally = Tally()
    code = pytest.main(["-q", "--no-header", "-p", "no:cacheprovider", str(FOLDER)], [tally])
    print("\n".join(["", *tally.lines()]))
    passed = tally.of_langchain()
    print(f"LangChain's own tests: {passed} passed, at least {LANGCHAIN_LEAST} wanted")
    return int(code) or int(not tally.clean or passed < LANGCHAIN_LEAST)


if __name__ == "__main__":
    sys.exit(main())
