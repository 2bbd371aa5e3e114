"""Runs `llmsched demo` over several seeds and writes its table into the README.

python benchmarks/readme_demo.py [--seeds 0 1 2] [--dry-run]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from marked import table, write


def demo(seed: int) -> dict[str, object]:
    command = [sys.executable, "-m", "llmsched_langgraph", "demo", "--json", "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, object] = json.loads(done.stdout)
    print(done.stdout, end="")
    return result


def demos(seeds: list[int]) -> str:
    columns = ("mean JCT", "p50 JCT", "p95 JCT", "makespan", "backend peak", "mean JCT reduced by")
    rows = []
    for seed in seeds:
        result = demo(seed)
        for name in ("stock", "scheduled"):
            part = result[name]
            assert isinstance(part, dict)
            figures = [f"{part[key]:.1f} s" for key in part if key != "backend_peak"]
            reduction = f"**{result['mean_jct_reduction']:.0%}**" if name == "scheduled" else ""
            rows.append([f"seed {seed}, {name}", *figures, str(part["backend_peak"]), reduction])
    title = f"`llmsched demo`: {result['runs']} runs, {result['slots']} slots"
    return table([title, *columns], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dry-run", action="store_true", help="print the table and leave the README alone")
    options = parser.parse_args()
    text = demos(options.seeds)
    if options.dry_run:
        print(text)
    else:
        write("demo", text)


if __name__ == "__main__":
    main()
