"""Defines `llmsched bench`: its options, and the jobs, policies and loads of its cells.

Does not simulate the cells or format the result.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from llmsched_langgraph._ledger.overdue import EVERY, Overdue
from llmsched_langgraph.cli.comparing import (
    add_output,
    check_json,
    compare,
    focus_of,
    names_of,
    plots_into,
    read,
    show,
)
from llmsched_langgraph.cli.complaints import SkippedLines
from llmsched_langgraph.cli.paper import studies
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._core.policies import Policy
    from llmsched_langgraph.lab.sim.evaluation import Cell


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched bench` to the parser."""
    parser = subparsers.add_parser(
        "bench",
        help="compare policies on recorded or generated jobs by simulation",
        description=(
            "Simulates the same jobs and arrivals under each policy, with the live scheduler's code. "
            "Profiles learn from one part of the jobs; the rest is measured."
        ),
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--traces",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="files or folders of recorded jobs; each PATH contributes an equal share",
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
        help="run the paper's evaluation on its four mixes; write JSON and plots to DIR (extra plots)",
    )
    parser.add_argument(
        "--train", nargs="+", type=Path, metavar="PATH", help="learn from these recorded jobs"
    )
    parser.add_argument("--policies", metavar="A,B", help="names of policies (default: all)")
    parser.add_argument(
        "--epsilon", metavar="X,Y", help="llmsched: the share of grants that explore (default 0.1)"
    )
    parser.add_argument(
        "--sample", metavar="X,Y", help="llmsched: share of a stage's calls that explore (default 0.3)"
    )
    parser.add_argument("--load", metavar="X,Y", help="offered load (default 0.9)")
    parser.add_argument("--slots", type=int, metavar="K", default=8, help="calls served at once (default 8)")
    parser.add_argument(
        "--jobs", metavar="N,M", default="1000", help="number of measured jobs (default %(default)s)"
    )
    parser.add_argument("--seeds", type=int, metavar="N", default=3, help="seeds, from 0 (default 3)")
    parser.add_argument(
        "--tools", type=int, metavar="N", help="tool stages that run at once (default: no limit)"
    )
    parser.add_argument(
        "--max-wait", type=float, metavar="S", help="seconds after which a job is overdue (default: never)"
    )
    parser.add_argument(
        "--overdue-every",
        type=int,
        metavar="N",
        default=EVERY,
        help="one of N grants may serve an overdue job (default %(default)s)",
    )
    arrivals = parser.add_mutually_exclusive_group()
    arrivals.add_argument(
        "--burstiness", type=float, metavar="CV", help="coefficient of variation of the gaps (default: 1)"
    )
    arrivals.add_argument(
        "--arrivals",
        type=Path,
        metavar="CSV",
        help="gaps between arrivals from this trace (column t_s, t_ms or timestamp), scaled to the load",
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate all cells and show the result.

    Raises:
        ConfigurationError: an option is invalid.
        InvalidDataError: recorded jobs cannot be read.
    """
    if options.paper is not None:
        return studies(options, run)
    for name in ("slots", "seeds", "tools", "overdue_every"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            option = name.replace("_", "-")
            raise ConfigurationError(f"--{option} must be at least 1, not {getattr(options, name)}")
    if options.max_wait is not None and not 0.0 <= options.max_wait < inf:
        raise ConfigurationError(f"--max-wait must be a number of seconds, not {options.max_wait}")
    policies = _policies(options)
    labels = names_of(policies)
    loads, counts = _loads(options.load or "0.9"), _counts(options.jobs)
    focus, draw = focus_of(options.focus, labels), plots_into(options.plots)
    check_json(options)
    about = {
        "policies": labels,
        "focus": focus,
        "slots": options.slots,
        "loads": loads,
        "jobs": counts,
        "seeds": options.seeds,
    }
    if options.max_wait is not None:
        about |= {"max_wait_s": options.max_wait, "overdue_every": options.overdue_every}
    skipped = SkippedLines()
    cells = _cells(options, policies, loads, counts, skipped)
    show(compare(cells, {**about, "skipped": skipped.as_json()}), options, draw)
    return 0


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
        raise ConfigurationError(f"--load must be above 0 and below 100, not {text!r}")
    return loads


def _cells(
    options: argparse.Namespace,
    policies: Sequence[str | Policy],
    loads: Sequence[float],
    counts: Sequence[int],
    skipped: SkippedLines,
) -> list[Cell]:
    from llmsched_langgraph.lab.sim.cells import Grid
    from llmsched_langgraph.lab.sim.workloads import MIXES, Arrivals, Bursty, Poisson, Traced
    from llmsched_langgraph.traces import read_gaps

    arrivals: Arrivals = Poisson() if options.burstiness is None else Bursty(options.burstiness)
    if options.arrivals is not None:
        arrivals = Traced(read_gaps(options.arrivals))
    overdue = Overdue(options.max_wait, options.overdue_every)
    grid = Grid(
        policies=policies,
        arrivals=arrivals,
        loads=loads,
        jobs=counts,
        slots=options.slots,
        seeds=options.seeds,
        tools=options.tools,
        overdue=overdue,
    )
    train = None if options.train is None else [job for path in options.train for job in read(path, skipped)]
    if options.traces is not None:
        return list(grid.recorded([read(path, skipped) for path in options.traces], train))
    return list(grid.generated(options.workload or list(MIXES), train))


def _policies(options: argparse.Namespace) -> list[str | Policy]:
    """Return the selected policies, with `llmsched` once for each pair of epsilon and sample."""
    from llmsched_langgraph._core.policies import POLICIES, as_policy, llmsched

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
