"""Writes a comparison of policies as text, one block for each workload, load and number of jobs.

Does not simulate anything: it reads only what `llmsched bench --json` writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Entry = Mapping[str, Any]
"""One policy at one setting, from the `summary` of a result."""


def tables(result: Mapping[str, Any], *, deciles: bool = False) -> str:
    """Return the tables of a result.

    Args:
        result: what `llmsched bench --json` writes.
        deciles: whether to add the slowdown by tenth of job size.
    """
    meta = result["meta"]
    width = max(15, *(len(entry["policy"]) + 1 for entry in result["summary"]))
    blocks = []
    for about, entries in _settings(result).items():
        lines = [about, *_policies(entries, width), *_saved(entries, meta["focus"], meta["policies"], width)]
        if deciles:
            lines += _tenths(entries, width)
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _settings(result: Mapping[str, Any]) -> dict[str, list[Entry]]:
    """Group the entries by setting; a key names the number of jobs only where it varies."""
    several = len({entry["jobs"] for entry in result["summary"]}) > 1
    found: dict[str, list[Entry]] = {}
    for entry in result["summary"]:
        about = f"{entry['workload']}, load {entry['load']:g}, {entry['slots']} slots"
        found.setdefault(about + f", {entry['jobs']} jobs" * several, []).append(entry)
    return found


def _row(width: int, label: str, cells: Sequence[str], cell: int = 12) -> str:
    return f"{label:{width}}" + "".join(f" {text:>{cell}}" for text in cells)


def _policies(entries: Sequence[Entry], width: int) -> Iterator[str]:
    columns = ("mean JCT", "+-", "p50", "p95", "p99", "/clairvoyant", "/bound", "us/decision")
    yield _row(width, "policy", columns)
    for entry in entries:
        cells = [
            f"{entry['mean_jct_s']:.1f} s",
            "-" if entry["ci95_s"] is None else f"{entry['ci95_s']:.1f}",
            *(f"{entry[f'p{n}_jct_s']:.1f}" for n in (50, 95, 99)),
            f"{entry['vs_clairvoyant']:.2f}",
            f"{entry['vs_lower_bound']:.2f}",
            f"{entry['decision_us_p50']:.0f}",
        ]
        yield _row(width, entry["policy"], cells)


def _saved(entries: Sequence[Entry], focus: str, policies: Sequence[str], width: int) -> Iterator[str]:
    """Yield the reduction of the mean JCT against each other policy, with its paired 95 % interval."""
    others = [name for name in policies if name != focus]
    if not others:
        return
    (own,) = (entry for entry in entries if entry["policy"] == focus)
    yield f"\nreduction of the mean JCT by {focus}"
    yield _row(width, "against", ["mean", "95 % interval"], 16)
    for name in others:
        mean, half = own["vs"][name] * 100, own["vs_ci95"][name]
        between = "-" if half is None else f"{mean - half * 100:.1f} to {mean + half * 100:.1f}"
        yield _row(width, name, [f"{mean:.1f} %", between], 16)


def _tenths(entries: Sequence[Entry], width: int) -> Iterator[str]:
    yield "\nslowdown (JCT / critical path) of each tenth of the jobs, from least to most work, and the worst"
    heads = [str(n) for n, _ in enumerate(entries[0]["slowdown_by_size"], 1)]
    yield _row(width, "policy", [*heads, "worst"], 8)
    for entry in entries:
        yield _row(
            width,
            entry["policy"],
            [f"{x:.2f}" for x in (*entry["slowdown_by_size"], entry["worst_slowdown"])],
            8,
        )
