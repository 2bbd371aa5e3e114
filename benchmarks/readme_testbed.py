"""Writes what `llmsched testbed --json` found on a real engine into the README.

python benchmarks/readme_testbed.py SEED0.json SEED1.json ... [--dry-run]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from marked import table, write

COLUMNS = (
    "mean JCT",
    "foretold",
    "p50 JCT",
    "p95 JCT",
    "makespan",
    "engine's peak running",
    "waiting",
    "mean JCT reduced by",
)


def rows_of(result: dict[str, Any]) -> list[list[str]]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the README alone")
    options = parser.parse_args()
    results = [json.loads(file.read_text()) for file in options.files]
    (runs,) = {result["runs"] for result in results}
    (load,) = {result["load"] for result in results}
    title = f"`llmsched testbed`: {runs} runs, load {load:g}"
    text = table([title, *COLUMNS], [row for result in results for row in rows_of(result)])
    if options.dry_run:
        print(text)
    else:
        write("testbed", text)


if __name__ == "__main__":
    main()
