"""Results as a table, for a terminal or as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks._parity import Parity
from benchmarks._peers import PEERS
from benchmarks._results import Run

FLAG = "flag-b12"
_NONE = ""


@dataclass(frozen=True, slots=True)
class Spread:
    """Values of the repetitions."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return median(self.values)

    def __str__(self) -> str:
        low, high = min(self.values), max(self.values)
        wide = f" ({_number(low)}-{_number(high)})" if len(self.values) > 1 else ""
        return f"{_number(self.median)}{wide}"


def spread(runs: Sequence[Run], workload: str) -> Spread | None:
    """A workload's values over a peer's repetitions."""
    values = tuple(m.value for run in runs for m in run.measured if m.workload == workload)
    return Spread(values) if values else None


def by_peer(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs of each peer, in the peers' order."""
    grouped = {name: [r for r in runs if r.peer == name] for name in PEERS}
    return {name: held for name, held in grouped.items() if held}


def best_three_heads(grouped: Mapping[str, Sequence[Run]], workload: str) -> str | None:
    """The fastest peer, ours aside, that gives all three heads."""
    others = [n for n in grouped if PEERS[n].heads == 3 and PEERS[n].family != "ours"]
    measured = [name for name in others if spread(grouped[name], workload)]
    return max(measured, key=lambda name: _speed(grouped[name], workload), default=None)


def encode_rows(
    runs: Sequence[Run], parities: Mapping[str, Parity], workloads: Sequence[str], *, isa: str
) -> list[list[str]]:
    """Header and one row per peer; where a cell has several values they are the workloads'."""
    grouped = by_peer(runs)
    best = {w: best_three_heads(grouped, w) for w in workloads}
    header = ["peer", "heads", "n", *(_heading(runs, w) for w in workloads)]
    header += [f"x {FLAG}", "x best other 3-head", "peak RSS MiB", "loaded MiB (anonymous)"]
    header += ["load peak MiB", "load s", "min cos (centred)", "dense", "sparse", "colbert"]
    rows = [header]
    for name, held in grouped.items():
        marked = name if isa == "full" or PEERS[name].limited else f"{name} [not limited]"
        ok = [run for run in held if run.measured]
        row = [marked, str(PEERS[name].heads), str(len(ok))]
        if not ok:
            rows.append([*row, f"{held[0].status}: {held[0].detail}"])
            continue
        row += [str(spread(ok, w) or _failed(held)) for w in workloads]
        row.append(_joined(_ratio(grouped, name, FLAG, w) for w in workloads))
        row.append(_joined(_ratio(grouped, name, best[w], w) for w in workloads))
        rows.append([*row, *_memory(ok, workloads), *_parity(parities.get(name))])
    return rows


def best_line(runs: Sequence[Run], workloads: Sequence[str]) -> str:
    """Which peers the last ratio is to."""
    grouped = by_peer(runs)
    return ", ".join(f"{w}: {best_three_heads(grouped, w)}" for w in workloads)


def plain(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned with spaces; a row that is shorter ends in free text."""
    whole = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[i]) for row in whole) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; a shorter row is filled up with empty cells."""
    filled = [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in filled]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def _heading(runs: Sequence[Run], workload: str) -> str:
    return f"{workload} {'p50 ms' if _single(runs, workload) else 'tok/s'}"


def _single(runs: Sequence[Run], workload: str) -> bool:
    return any(m.single for run in runs for m in run.measured if m.workload == workload)


def _failed(runs: Sequence[Run]) -> str:
    return next((run.detail for run in runs if run.status != "ok"), _NONE)


def _ratio(
    grouped: Mapping[str, Sequence[Run]], name: str, other: str | None, workload: str
) -> str:
    if other is None or not all(spread(grouped.get(n, ()), workload) for n in (name, other)):
        return "-"
    return f"{_speed(grouped[name], workload) / _speed(grouped[other], workload):.2f}"


def _speed(runs: Sequence[Run], workload: str) -> float:
    """Tokens per second, or calls: more is better."""
    held = spread(runs, workload)
    if held is None:
        return 0.0
    return 1 / held.median if _single(runs, workload) else held.median


def _joined(cells: Iterable[str]) -> str:
    return " / ".join(cells)


def _memory(runs: Sequence[Run], workloads: Sequence[str]) -> list[str]:
    peaks = (
        [m.peak for run in runs for m in run.measured if m.workload == name] for name in workloads
    )
    loaded = [run.loaded for run in runs if run.loaded]
    total, anonymous = (median(getattr(m, n) for m in loaded) for n in ("total", "anonymous"))
    return [
        _joined(f"{median(peak):.0f}" if peak else "-" for peak in peaks),
        f"{total:.0f} ({anonymous:.0f})",
        f"{median(run.load_peak for run in runs):.0f}",
        f"{median(run.load_seconds for run in runs):.1f}",
    ]


def _parity(parity: Parity | None) -> list[str]:
    if parity is None:
        return [_NONE] * 4
    cosines = f"{parity.cosine:.6f} ({parity.centred:.4f})"
    rest = (parity.dense, parity.sparse, parity.colbert)
    return [cosines, *(_NONE if value is None else f"{value:.1e}" for value in rest)]


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def filled(page: str, content: str, *, mark: str) -> str:
    """A page with what is between two markers replaced.

    Args:
        page: The page's text.
        content: What goes between.
        mark: The markers' name: `<!-- mark -->` and `<!-- end of mark -->`.

    Returns:
        The new text.

    Raises:
        ValueError: The page has not both markers, in this order.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
    before, first, rest = page.partition(begin)
    _, last, after = rest.partition(end)
    if not first or not last:
        raise ValueError(f"the page needs the markers {begin} and {end}, in this order")
    return f"{before}{begin}\n{content}\n{end}{after}"


def fill(path: Path, content: str, *, mark: str) -> None:
    """Replace what is between two markers of a file; see `filled`."""
    page = path.read_text(encoding="utf-8")
    path.write_text(filled(page, content, mark=mark), encoding="utf-8")
