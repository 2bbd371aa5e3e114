"""Defines `llmsched replay`: its options, and its summary of the recorded jobs.

Does not simulate the jobs or format the tables.
"""

from __future__ import annotations

import argparse
from math import inf
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

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
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph.lab.sim.evaluation import Cell


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `llmsched replay` to the parser."""
    parser = subparsers.add_parser(
        "replay",
        help="simulate recorded jobs at their recorded arrival times under each policy",
        description=(
            "Simulates recorded jobs at their recorded arrival times under each policy, with the live "
            "scheduler's code. Profiles learn from the earlier half of the jobs; the later half is measured."
        ),
    )
    parser.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help="files of `llmsched record`, or folders of them"
    )
    parser.add_argument("--slots", type=int, metavar="K", default=8, help="calls served at once (default 8)")
    parser.add_argument("--policies", metavar="A,B", help="names of policies (default: all)")
    parser.add_argument(
        "--train",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="learn from these recorded jobs, and measure all the others",
    )
    parser.add_argument(
        "--rate", type=float, metavar="X", default=1.0, help="multiply the arrival rate by X (default 1)"
    )
    add_output(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Simulate the jobs and show the result.

    Raises:
        ConfigurationError: an option is invalid, or the jobs cannot be replayed.
        InvalidDataError: recorded jobs cannot be read.
    """
    from llmsched_langgraph._core.policies import POLICIES
    from llmsched_langgraph.lab.sim.cells import replayed

    if options.slots < 1:
        raise ConfigurationError(f"--slots must be at least 1, not {options.slots}")
    if not 0 < options.rate < inf:
        raise ConfigurationError(f"--rate must be above 0 and finite, not {options.rate}")
    policies = options.policies.split(",") if options.policies else list(POLICIES)
    labels = names_of(policies)
    focus, draw = focus_of(options.focus, labels), plots_into(options.plots)
    check_json(options)
    skipped = SkippedLines()
    cell = replayed(
        [job for path in options.files for job in read(path, skipped)],
        policies,
        options.slots,
        rate=options.rate,
        train=None
        if options.train is None
        else [job for path in options.train for job in read(path, skipped)],
    )
    about = {
        "policies": labels,
        "focus": focus,
        "slots": options.slots,
        "loads": [cell.load],
        "jobs": [len(cell.test)],
        "seeds": 1,
        "rate": options.rate,
        **_seen(cell),
        "skipped": skipped.as_json(),
    }
    show(compare([cell], about), options, draw, _words(about))
    return 0


def _seen(cell: Cell) -> dict[str, Any]:
    """Return the metrics of the recording: jobs learned from, span and mean JCT in seconds."""
    arrivals_s = [job.arrival_s for job in cell.test if job.arrival_s is not None]
    jcts_s = [job.jct_s for job in cell.test if job.jct_s is not None]
    return {
        "learned": len(cell.train),
        "span_s": max(arrivals_s) - min(arrivals_s),
        "recorded_mean_jct_s": fmean(jcts_s) if len(jcts_s) == len(cell.test) else None,
    }


def _words(about: dict[str, Any]) -> str:
    jct_s, rate = about["recorded_mean_jct_s"], about["rate"]
    faster = "" if rate == 1 else f", and now come {rate:g} times as fast"
    took = "" if jct_s is None else f"; their mean JCT was {jct_s:.1f} s then"
    return (
        f"{about['jobs'][0]} jobs that came within {_long(about['span_s'])}{faster}: load "
        f"{about['loads'][0]:.2g} on {about['slots']} slots, learned from {about['learned']} others{took}\n\n"
    )


def _long(seconds: float) -> str:
    for unit, word in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.1f} {word}"
    return f"{seconds:.1f} s"
