"""Knows the options of `llmsched profile`, and how its results are printed.

Does not know how anything is learned or measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

from llmsched_langgraph.belief.evaluation import Evaluation, evaluate
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.traces import TraceJob, read_jobs

SHOWN = 4
"""Figures of R2 in the table: after no, one, two, three finished stages."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = subparsers.add_parser(
        "profile",
        help="what earlier runs teach, and how well it predicts others",
        description="What is learned of applications from their runs.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    measure = actions.add_parser(
        "evaluate",
        help="learn from some recorded jobs and measure the prediction of others",
        description=(
            "For each application in TRACES: learns from some jobs, predicts the work still to come of "
            "others after each stage that ended, and compares. Without --train, jobs are dealt into five "
            "parts, and each part (until 200 jobs are measured) is predicted by what the other four "
            "taught. Jobs that belong together go into one part: ids are taken apart at '/', and the part "
            "with the most different values names the problem or the session. Work is counted in the "
            "seconds of LLM calls if half of the jobs have them recorded, else in seconds of tools, else "
            "in output tokens."
        ),
    )
    measure.add_argument(
        "traces", metavar="TRACES", nargs="+", type=Path, help="files or folders of recorded jobs"
    )
    measure.add_argument(
        "--train", metavar="PATH", type=Path, help="learn from these jobs, and measure all in TRACES"
    )
    measure.add_argument("--seed", metavar="S", type=_seed, default=0, help="deals the jobs (default: 0)")
    measure.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    measure.set_defaults(run=run_evaluate)


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure every application, and print what came out.

    Raises:
        InvalidDataError: the jobs cannot be read, or no application has enough of them.
    """
    apps = _by_app(read_jobs(options.traces))
    train = None if options.train is None else _by_app(read_jobs(options.train))
    results: list[Evaluation] = []
    for number, (app, jobs) in enumerate(sorted(apps.items()), 1):
        print(f"[{number}/{len(apps)}] {app}: {len(jobs)} jobs", file=sys.stderr, flush=True)
        learn_from = None if train is None else train.get(app, [])
        try:
            results.append(evaluate(app, jobs, learn_from, seed=options.seed))
        except InvalidDataError as error:
            print(f"    left out: {error}", file=sys.stderr)
    if not results:
        raise InvalidDataError("no application has enough recorded jobs to be measured")
    if options.json:
        print(json.dumps([result.to_json() for result in results], indent=2))
    else:
        print("\n".join(_table(results)))
    return 0


def _by_app(jobs: Iterable[TraceJob]) -> dict[str, list[TraceJob]]:
    apps: dict[str, list[TraceJob]] = {}
    for job in jobs:
        apps.setdefault(job.app, []).append(job)
    return apps


def _table(results: list[Evaluation]) -> list[str]:
    head = ["application", "jobs", "stages", "unit", "bits/job", "alone", "used", "R2", "R2 alone", "in 80 %"]
    rows = [
        head,
        *(
            [
                one.app,
                str(one.jobs),
                str(one.stages),
                one.unit.value,
                f"{one.logloss_network:.2f}",
                f"{one.logloss_marginals:.2f}",
                one.used,
                _figures(one.r2_log_remaining),
                _figures(one.r2_log_remaining_marginals),
                f"{100 * one.coverage80:.0f}",
            ]
            for one in results
        ),
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return [
        *lines,
        "",
        "bits/job: -log2 of the probability of a job that was not learned from. R2: of the logarithm of",
        f"the work still to come after 0 to {SHOWN - 1} finished stages. alone: the independent marginals.",
    ]


def _figures(r2: tuple[float | None, ...]) -> str:
    return " ".join(f"{'-' if x is None else format(x, '.2f'):>5}" for x in r2[:SHOWN])


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of 0 or more")
    return seed
