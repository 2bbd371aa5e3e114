"""Defines `llmsched profile evaluate` and `plot`: their options and output.

Does not learn or measure anything, and does not know the other actions of `llmsched profile`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llmsched_langgraph.cli.complaints import SkippedLines, needs_matplotlib, written
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError
from llmsched_langgraph.traces import by_app, done_jobs

if TYPE_CHECKING:
    from llmsched_langgraph._belief.fit.evaluation import Evaluation

_Result = TypeVar("_Result")

SHOWN = 4
"""Number of R2 values in the table: after 0, 1, 2 and 3 finished stages."""


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the actions `evaluate` and `plot` to `llmsched profile`."""
    measure = actions.add_parser(
        "evaluate",
        help="learn from some recorded jobs and measure the prediction of others",
        description=(
            "For each application in TRACES: learns from some jobs, predicts the remaining work of held-out "
            "jobs after each stage that ended, and compares. Without --train, jobs are split into five "
            "parts, and each part (until 200 jobs are measured) is predicted by a model of the other four. "
            "Jobs of one group stay in one part: ids are split at '/', and the component with the most "
            "distinct values names the group (a problem, a session). Work is counted in seconds of LLM "
            "calls if half of the jobs have them recorded, else in seconds of tools, else in output tokens."
        ),
    )
    measure.add_argument(
        "traces", metavar="TRACES", nargs="+", type=Path, help="files or folders of recorded jobs"
    )
    measure.add_argument(
        "--train", metavar="PATH", type=Path, help="learn from these jobs, and measure all in TRACES"
    )
    measure.add_argument("--seed", metavar="S", type=_seed, default=0, help="seed of the split (default: 0)")
    measure.add_argument("--json", action="store_true", help="print one JSON list instead of a table")
    measure.set_defaults(run=run_evaluate)
    plot = actions.add_parser(
        "plot",
        help="draw predicted against real remaining work of recorded jobs",
        description=(
            "Learns and predicts as `llmsched profile evaluate` does, and draws each prediction against the "
            "real remaining work: a panel for each application, coloured by finished stages. Needs the extra "
            "`plots`."
        ),
    )
    plot.add_argument(
        "traces", metavar="TRACES", nargs="+", type=Path, help="files or folders of recorded jobs"
    )
    plot.add_argument("out", metavar="OUT", type=Path, help="a file that ends in .png or .svg")
    plot.add_argument("--train", metavar="PATH", type=Path, help="learn from these jobs, and draw TRACES")
    plot.add_argument("--seed", metavar="S", type=_seed, default=0, help="seed of the split (default: 0)")
    plot.set_defaults(run=run_plot)


def run_evaluate(options: argparse.Namespace) -> int:
    """Measure the predictions for each application and print the metrics.

    Raises:
        InvalidDataError: the jobs cannot be read, or no application has enough of them.
    """
    from llmsched_langgraph._belief.fit.evaluation import evaluate

    results = _measured(options, evaluate)
    if options.json:
        print(json.dumps([result.to_json() for result in results], indent=2))
    else:
        print("\n".join(_table(results)))
    return 0


def run_plot(options: argparse.Namespace) -> int:
    """Draw each prediction against the real remaining work.

    Raises:
        InvalidDataError: the jobs cannot be read, or no application has enough of them.
        ConfigurationError: the file cannot be written, or matplotlib is missing.
    """
    from llmsched_langgraph._belief.fit.evaluation import guesses

    out: Path = options.out
    if out.suffix.lower() not in (".png", ".svg"):
        raise ConfigurationError(f"OUT {out}: name a file that ends in .png or .svg")
    with needs_matplotlib("profile plot"):
        from llmsched_langgraph._views.profile_plots import write_guesses

    found = _measured(options, guesses)
    with written("OUT", out):
        write_guesses(found, out)
    print(f"{len(found)} application{'s' * (len(found) != 1)} drawn into {out}")
    return 0


def _measured(options: argparse.Namespace, measure: Callable[..., _Result]) -> list[_Result]:
    """Return the results of `measure`; print the applications that it rejects to standard error."""
    skipped = SkippedLines()
    apps = by_app(done_jobs(options.traces, skipped=skipped))
    train = None if options.train is None else by_app(done_jobs(options.train, skipped=skipped))
    results: list[_Result] = []
    for number, (app, jobs) in enumerate(sorted(apps.items()), 1):
        print(f"[{number}/{len(apps)}] {app}: {len(jobs)} jobs", file=sys.stderr, flush=True)
        learn_from = None if train is None else train.get(app, [])
        try:
            results.append(measure(app, jobs, learn_from, seed=options.seed))
        except InvalidDataError as error:
            print(f"    left out: {error}", file=sys.stderr)
    if not results:
        raise InvalidDataError("no application has enough recorded jobs to be measured")
    return results


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
        "bits/job: mean -log2 of the probability of a held-out job. R2: of the logarithm of the",
        f"remaining work after 0 to {SHOWN - 1} finished stages. alone: the independent marginals.",
    ]


def _figures(r2: tuple[float | None, ...]) -> str:
    return " ".join(f"{'-' if x is None else format(x, '.2f'):>5}" for x in r2[:SHOWN])


def _seed(text: str) -> int:
    try:
        seed = int(text)
    except ValueError:
        seed = -1
    if seed < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return seed
