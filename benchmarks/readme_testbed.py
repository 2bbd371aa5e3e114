"""Writes what `llmsched testbed --json` found into the README.

python benchmarks/readme_testbed.py SEED0.json SEED1.json ... [--dry-run]
python benchmarks/readme_testbed.py --embedded MIX.json ... [--dry-run]

The first is for a real engine, a table of its seeds; the second for the embedded backend, a table of mixes,
whose names are those of the files up to a hyphen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from marked import table, write

COLUMNS = (
    "mean JCT",
    "predicted",
    "p50 JCT",
    "p95 JCT",
    "makespan",
    "engine's peak running",
    "waiting",
    "mean JCT reduced by",
)


EMBEDDED_COLUMNS = (
    "runs",
    "calls",
    "stock",
    "predicted",
    "scheduled",
    "predicted",
    "mean JCT reduced by",
    "predicted",
)


def rows_of_engine(result: dict[str, Any]) -> list[list[str]]:
    """One for each side."""
    rows = []
    for name in ("stock", "scheduled"):
        part, engine = result[name], result["engine"][name][0]
        seconds = [part["mean_jct_s"], result["predicted"][f"{name}_mean_jct_s"]]
        seconds += [part[key] for key in ("p50_jct_s", "p95_jct_s", "makespan_s")]
        peaks = [str(engine[key]) for key in ("peak_running", "peak_waiting")]
        reduction = f"**{result['mean_jct_reduction']:.0%}**" if name == "scheduled" else ""
        figures = [f"{value:.1f} s" for value in seconds]
        rows.append([f"seed {result['seed']}, {name}", *figures, *peaks, reduction])
    return rows


def row_of_mix(name: str, result: dict[str, Any]) -> list[str]:
    """Its mean job completion times, each beside what was predicted."""
    predicted = result["predicted"]
    seconds = [
        f"{part[key]:.2f} s"
        for side in ("stock", "scheduled")
        for part, key in ((result[side], "mean_jct_s"), (predicted, f"{side}_mean_jct_s"))
    ]
    counts = [f"{count:,}" for count in (result["runs"], result["lengths"]["stock"]["calls"])]
    reductions = [f"**{result['mean_jct_reduction']:.0%}**", f"{predicted['mean_jct_reduction']:.0%}"]
    return [f"`{name.partition('-')[0]}`, seed {result['seed']}", *counts, *seconds, *reductions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--embedded", action="store_true", help="the files are of the embedded backend")
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the README alone")
    options = parser.parse_args()
    results = [json.loads(file.read_text()) for file in options.files]
    (load,) = {result["load"] for result in results}
    if options.embedded:
        mark, title = "embedded", f"`llmsched testbed`: load {load:g}"
        rows = [row_of_mix(file.stem, result) for file, result in zip(options.files, results, strict=True)]
        text = table([title, *EMBEDDED_COLUMNS], rows)
    else:
        (runs,) = {result["runs"] for result in results}
        mark, title = "testbed", f"`llmsched testbed`: {runs:,} runs, load {load:g}"
        text = table([title, *COLUMNS], [row for result in results for row in rows_of_engine(result)])
    if options.dry_run:
        print(text)
    else:
        write(mark, text)


if __name__ == "__main__":
    main()
