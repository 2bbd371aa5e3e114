"""Knows the options of `llmsched bench`, spreads the cells over the cores, and shows what came of them.

Does not know how anything is simulated, nor what tables and plots look like.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched_langgraph import __version__
from llmsched_langgraph.cli.complaints import needs_matplotlib, written
from llmsched_langgraph.cli.paper import studies
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph.core.policies import Policy
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
        "--traces",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="recorded jobs: files or folders of them; of several, equal parts",
    )
    what.add_argument(
        "--workload",
        action="append",
        metavar="NAME",
        help="generated jobs: a mix or an application (repeatable)",
    )
    what.add_argument(
        "--paper",
        type=Path,
        metavar="DIR",
        help="the paper's evaluation on its four mixes, into tables, files and plots (extra plots)",
    )
    parser.add_argument(
        "--train", nargs="+", type=Path, metavar="PATH", help="learn from these recorded jobs"
    )
    parser.add_argument("--policies", metavar="A,B", help="by name (default: all)")
    parser.add_argument(
        "--epsilon", metavar="X,Y", help="llmsched: the share of grants that explore (default 0.1)"
    )
    parser.add_argument(
        "--sample", metavar="X,Y", help="llmsched: the part of a stage that is run to explore (default 0.3)"
    )
    parser.add_argument("--load", metavar="X,Y", default="0.9", help="offered load (default %(default)s)")
    parser.add_argument("--slots", type=int, metavar="K", default=8, help="calls served at once (default 8)")
    parser.add_argument(
        "--jobs", metavar="N,M", default="1000", help="how many are measured (default %(default)s)"
    )
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="seeds, from 0 (default 3)")
    parser.add_argument("--burstiness", type=float, metavar="CV", help="of the arrivals (default: Poisson)")
    parser.add_argument(
        "--focus",
        metavar="POLICY",
        help="what the others are compared with (default: llmsched, else srtf, else the last)",
    )
    parser.add_argument("--deciles", action="store_true", help="also the slowdown of small and large jobs")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="as data, to a file or printed")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw it, into PNG and SVG files")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate all cells and show what came of them.

    Raises:
        ConfigurationError: an option cannot work.
        InvalidDataError: recorded jobs cannot be read.
    """
    if options.paper is not None:
        return studies(options, run)
    from llmsched_langgraph.core.policies import as_policy
    from llmsched_langgraph.sim.evaluation import summary
    from llmsched_langgraph.views.bench_table import tables

    for name in ("slots", "seeds"):
        if getattr(options, name) < 1:
            raise ConfigurationError(f"--{name} must be at least 1, not {getattr(options, name)}")
    policies = _policies(options)
    labels = list(dict.fromkeys(as_policy(policy).name for policy in policies))
    loads, counts, focus = _loads(options.load), _counts(options.jobs), _focus(options.focus, labels)
    draw = None if options.plots is None else _plots_into(options.plots)
    cells = _cells(options, policies, loads, counts)
    began_s = time.perf_counter()
    rows = _measured(cells)
    result = {
        "meta": {
            "version": __version__,
            "policies": labels,
            "focus": focus,
            "slots": options.slots,
            "loads": loads,
            "jobs": counts,
            "seeds": options.seeds,
            "seconds": time.perf_counter() - began_s,
        },
        "rows": rows,
        "summary": summary(rows),
    }
    printed = options.json == "-"
    if printed:
        print(json.dumps(result))
    elif options.json:
        with written("--json", path := Path(options.json)):
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not printed:
        print(tables(result, deciles=options.deciles))
    if draw is not None:
        names = draw(result)
        if not printed:
            print(f"\n{len(names)} plots in {options.plots}, each as .png and .svg")
    return 0


def _plots_into(folder: Path) -> Callable[[Mapping[str, Any]], list[str]]:
    """What draws a result there; whether it can is known before anything is measured."""
    with needs_matplotlib("--plots"):
        from llmsched_langgraph.views.bench_plots import write_figures
    with written("--plots", folder):
        folder.mkdir(parents=True, exist_ok=True)

    def draw(result: Mapping[str, Any]) -> list[str]:
        with written("--plots", folder):
            return write_figures(result, folder)

    return draw


def _focus(asked: str | None, labels: Sequence[str]) -> str:
    """The policy that the others are compared with; one with parameters goes by the name before them."""
    if asked is not None:
        if asked not in labels:
            raise ConfigurationError(f"--focus must be one of {', '.join(labels)}, not {asked!r}")
        return asked
    first = {label.partition("(")[0]: label for label in reversed(labels)}
    return first.get("llmsched") or first.get("srtf") or labels[-1]


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigurationError(f"--jobs must be whole numbers such as 100,300, not {text!r}") from None
    if min(counts) < 1:
        raise ConfigurationError(f"--jobs must be at least 1, not {min(counts)}")
    return list(dict.fromkeys(counts))


def _numbers(option: str, text: str, such: str) -> list[float]:
    try:
        return list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        raise ConfigurationError(f"{option} must be numbers such as {such}, not {text!r}") from None


def _loads(text: str) -> list[float]:
    loads = _numbers("--load", text, "0.7,0.9")
    if not all(0 < load < 100 for load in loads):
        raise ConfigurationError(f"--load must be above 0, and no more than 100, not {text!r}")
    return loads


def _cells(
    options: argparse.Namespace,
    policies: Sequence[str | Policy],
    loads: Sequence[float],
    counts: Sequence[int],
) -> list[Cell]:
    from llmsched_langgraph.sim.cells import Grid
    from llmsched_langgraph.sim.workloads import MIXES, Bursty, Poisson

    arrivals = Poisson() if options.burstiness is None else Bursty(options.burstiness)
    grid = Grid(policies, arrivals, loads, counts, options.slots, options.seeds)
    train = None if options.train is None else [job for path in options.train for job in _read(path)]
    if options.traces is not None:
        return list(grid.recorded([_read(path) for path in options.traces], train))
    return list(grid.generated(options.workload or list(MIXES), train))


def _read(path: Path) -> list[TraceJob]:
    from llmsched_langgraph.traces import MEASURED_SPEED, fill_seconds, read_jobs

    return [fill_seconds(job, MEASURED_SPEED) for job in read_jobs([path])]


def _policies(options: argparse.Namespace) -> list[str | Policy]:
    """The policies that were asked for, `llmsched` once for each epsilon and sample."""
    from llmsched_langgraph.core.policies import POLICIES, as_policy, llmsched

    given: list[str | Policy] = []
    for name in options.policies.split(",") if options.policies else POLICIES:
        as_policy(name)
        if name == "llmsched" and (options.epsilon or options.sample):
            epsilons = _numbers("--epsilon", options.epsilon or "0.1", "0.1,0.3")
            samples = _numbers("--sample", options.sample or "0.3", "0.3,1")
            given += [llmsched(epsilon, sample) for epsilon in epsilons for sample in samples]
        else:
            given.append(name)
    return given


def _measured(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    from llmsched_langgraph.sim.evaluation import measure

    shown = sys.stderr.isatty()
    workers = min(len(cells), os.cpu_count() or 1)
    found: dict[int, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(workers) as pool:
        # The longest first, so that no core is left with one of them while the others have nothing to do.
        numbers = sorted(range(len(cells)), key=lambda n: -len(cells[n].test))
        futures = {pool.submit(measure, cells[n], time.perf_counter): n for n in numbers}
        for done, future in enumerate(as_completed(futures), 1):
            found[futures[future]] = future.result()
            if shown:
                print(f"\r{done} of {len(cells)} cells", end="", file=sys.stderr, flush=True)
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return [row for number in sorted(found) for row in found[number]]
