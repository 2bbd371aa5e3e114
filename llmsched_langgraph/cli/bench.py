"""Knows the options of `llmsched bench`, spreads the cells over the cores, and shows table and JSON.

Does not know how anything is simulated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched_langgraph import __version__
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph.sim.evaluation import Cell
    from llmsched_langgraph.traces import TraceJob


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "bench",
        help="policies compared on recorded or generated jobs, simulated",
        description=(
            "Simulates the same jobs and arrivals under each policy, with the scheduler that runs live. "
            "Profiles learn from one part of the jobs; the rest is measured."
        ),
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--traces", nargs="+", type=Path, metavar="PATH", help="recorded jobs: files or folders of them"
    )
    what.add_argument(
        "--workload",
        action="append",
        metavar="NAME",
        help="generated jobs: a mix or an application (repeatable)",
    )
    parser.add_argument(
        "--train", nargs="+", type=Path, metavar="PATH", help="learn from these recorded jobs"
    )
    parser.add_argument("--policies", metavar="A,B", help="by name (default: all)")
    parser.add_argument("--load", metavar="X,Y", default="0.9", help="offered load (default %(default)s)")
    parser.add_argument("--slots", type=int, metavar="K", default=8, help="calls served at once (default 8)")
    parser.add_argument("--jobs", type=int, metavar="N", default=1000, help="jobs a cell (default 1000)")
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="seeds, from 0 (default 3)")
    parser.add_argument("--burstiness", type=float, metavar="CV", help="of the arrivals (default: Poisson)")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="as data, to a file or printed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate all cells and show what came of them.

    Raises:
        ConfigurationError: an option cannot work.
        InvalidDataError: recorded jobs cannot be read.
    """
    from llmsched_langgraph.core.policies import POLICIES, as_policy
    from llmsched_langgraph.sim.evaluation import summary

    for name in ("slots", "jobs", "seeds"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name} must be at least 1, not {getattr(options, name)}")
    policies = options.policies.split(",") if options.policies else list(POLICIES)
    for policy in policies:
        as_policy(policy)
    cells = list(_cells(options, policies, _loads(options.load)))
    began_s = time.perf_counter()
    rows = _measured(cells)
    entries = summary(rows)
    result = {
        "meta": {
            "version": __version__,
            "policies": policies,
            "slots": options.slots,
            "jobs": options.jobs,
            "seeds": options.seeds,
            "seconds": time.perf_counter() - began_s,
        },
        "rows": rows,
        "summary": entries,
    }
    if options.json == "-":
        print(json.dumps(result))
        return 0
    if options.json:
        try:
            Path(options.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--json {options.json}: {error.strerror}") from None
    _print_table(entries, rows)
    return 0


def _loads(text: str) -> list[float]:
    try:
        loads = [float(part) for part in text.split(",")]
    except ValueError:
        loads = []
    if not loads or not all(0 < load < 100 for load in loads):
        raise ConfigurationError(f"--load must be numbers above 0 such as 0.7,0.9, not {text!r}")
    return loads


def _cells(options: argparse.Namespace, policies: Sequence[str], loads: Sequence[float]) -> Iterator[Cell]:
    from llmsched_langgraph.sim.evaluation import Cell
    from llmsched_langgraph.sim.workloads import MIXES, Bursty, Poisson, generate, resample

    arrivals = Poisson() if options.burstiness is None else Bursty(options.burstiness)
    recorded = None if options.traces is None else _read(options.traces)
    train = None if options.train is None else _read(options.train)
    for seed in range(options.seeds):
        if recorded is not None:
            learn, rest = (train, recorded) if train is not None else _halves(recorded, seed)
            parts = {"traces": (learn, resample(rest, options.jobs, seed))}
        else:
            # Seeds of what is learned from lie where no seed of what is measured can be.
            parts = {
                name: (
                    train if train is not None else generate(name, options.jobs, 1_000_000 + seed),
                    generate(name, options.jobs, seed),
                )
                for name in options.workload or MIXES
            }
        for name, (learn, test) in parts.items():
            for load in loads:
                yield Cell(name, learn, test, arrivals, load, options.slots, seed, policies)


def _read(paths: Sequence[Path]) -> list[TraceJob]:
    from llmsched_langgraph.traces import MEASURED_SPEED, fill_seconds, read_jobs

    return [fill_seconds(job, MEASURED_SPEED) for job in read_jobs(paths)]


def _halves(jobs: Sequence[TraceJob], seed: int) -> tuple[list[TraceJob], list[TraceJob]]:
    """Jobs to learn from and jobs to measure; runs of one problem and turns of one session stay together."""
    import numpy as np

    from llmsched_langgraph.belief.evaluation import groups_of

    by_app: dict[str, list[TraceJob]] = {}
    for job in jobs:
        by_app.setdefault(job.app, []).append(job)
    halves: tuple[list[TraceJob], list[TraceJob]] = ([], [])
    rng = np.random.default_rng((seed, 1))
    for own in by_app.values():
        groups: dict[str, list[TraceJob]] = {}
        for job, name in zip(own, groups_of(own), strict=True):
            groups.setdefault(name, []).append(job)
        counts = [0, 0]
        members = list(groups.values())
        for at in rng.permutation(len(members)).tolist():
            side = int(counts[0] > counts[1])
            halves[side].extend(members[at])
            counts[side] += len(members[at])
    if not halves[1]:
        raise ConfigurationError("--traces: one job is too few to learn from a part and measure the rest")
    return halves


def _measured(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    from llmsched_langgraph.sim.evaluation import measure

    shown = sys.stderr.isatty()
    workers = min(len(cells), os.cpu_count() or 1)
    found: dict[int, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(workers) as pool:
        futures = {pool.submit(measure, cell, time.perf_counter): n for n, cell in enumerate(cells)}
        for done, future in enumerate(as_completed(futures), 1):
            found[futures[future]] = future.result()
            if shown:
                print(f"\r{done} of {len(cells)} cells", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return [row for number in sorted(found) for row in found[number]]


def _print_table(entries: Sequence[dict[str, Any]], rows: Sequence[dict[str, Any]]) -> None:
    import statistics

    def mean(entry: dict[str, Any], field: str) -> float:
        keys = ("workload", "load", "policy")
        return statistics.fmean(row[field] for row in rows if all(row[key] == entry[key] for key in keys))

    columns = ("mean JCT", "+-", "p50", "p95", "p99", "/clairvoyant", "/bound", "us/decision")
    before = None
    for entry in entries:
        about = f"{entry['workload']}, load {entry['load']:g}, {entry['slots']} slots"
        if about != before:
            print(
                f"{'' if before is None else chr(10)}{about}\n{'policy':15}", *(f"{c:>12}" for c in columns)
            )
            before = about
        cells = [
            f"{entry['mean_jct_s']:.1f} s",
            "-" if entry["ci95_s"] is None else f"{entry['ci95_s']:.1f}",
            *(f"{mean(entry, f'p{n}_jct_s'):.1f}" for n in (50, 95, 99)),
            f"{entry['vs_clairvoyant']:.2f}",
            f"{entry['vs_lower_bound']:.2f}",
            f"{mean(entry, 'decision_us_p50'):.0f}",
        ]
        print(f"{entry['policy']:15}", *(f"{cell:>12}" for cell in cells))
