"""Shares code among the commands that compare policies: options, one process per core, output.

Does not simulate a cell, and does not format tables or plots.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched_langgraph import __version__
from llmsched_langgraph.cli.complaints import SkippedLines, needs_matplotlib, written
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError, LLMSchedError

if TYPE_CHECKING:
    from llmsched_langgraph._core.policies import Policy
    from llmsched_langgraph.lab.sim.evaluation import Cell
    from llmsched_langgraph.traces import EndedJob

Draw = Callable[[Mapping[str, Any]], list[str]]
"""Draws a result into files and returns their names."""


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add the options for the output: focus, deciles, JSON and plots."""
    parser.add_argument(
        "--focus",
        metavar="POLICY",
        help="policy that the others are compared with (default: llmsched, else srtf, else the last)",
    )
    parser.add_argument("--deciles", action="store_true", help="also print the slowdown by tenth of job size")
    parser.add_argument("--json", nargs="?", const="-", metavar="FILE", help="write JSON to FILE or print it")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots to DIR, as PNG and SVG files")


def names_of(policies: Sequence[str | Policy]) -> list[str]:
    """Return the distinct names of the policies; parameters are part of a name."""
    from llmsched_langgraph._core.policies import as_policy

    return list(dict.fromkeys(as_policy(policy).name for policy in policies))


def focus_of(asked: str | None, labels: Sequence[str]) -> str:
    """Return the policy that the others are compared with.

    Args:
        asked: the value of `--focus`; None for the default: `llmsched`, with any parameters, else `srtf`,
            else the last policy.
        labels: the names of the compared policies.

    Raises:
        ConfigurationError: `asked` is not one of `labels`.
    """
    if asked is not None:
        if asked not in labels:
            raise ConfigurationError(f"--focus must be one of {', '.join(labels)}, not {asked!r}")
        return asked
    first = {label.partition("(")[0]: label for label in reversed(labels)}
    return first.get("llmsched") or first.get("srtf") or labels[-1]


def plots_into(folder: Path | None) -> Draw | None:
    """Return the function that draws a result into `folder`; None if there is no folder.

    Raises:
        ConfigurationError: matplotlib is missing, or the folder cannot be created.
    """
    if folder is None:
        return None
    with needs_matplotlib("--plots"):
        from llmsched_langgraph.lab.bench_plots import write_figures
    with written("--plots", folder):
        folder.mkdir(parents=True, exist_ok=True)

    def draw(result: Mapping[str, Any]) -> list[str]:
        with written("--plots", folder):
            return write_figures(result, folder)

    return draw


def check_json(options: argparse.Namespace) -> None:
    """Check before the simulation that the `--json` file can be written.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    if options.json in (None, "-"):
        return
    with written("--json", path := Path(options.json)):
        new = not path.exists()
        if not new and not path.is_file() and not path.is_dir():
            return  # a pipe: opening and closing it would end the data for its reader
        path.open("a").close()
        if new:
            path.unlink()


def read(path: Path, skipped: SkippedLines) -> list[EndedJob]:
    """Read recorded jobs and estimate missing seconds of calls from their tokens.

    Args:
        path: a file or a folder.
        skipped: receives the lines that cannot be read.

    Raises:
        InvalidDataError: the jobs cannot be read, or a call has neither seconds nor output tokens.
    """
    from llmsched_langgraph.traces import MEASURED_SPEED, done_jobs, fill_seconds

    jobs = [fill_seconds(job, MEASURED_SPEED) for job in done_jobs([path], skipped=skipped)]
    for job in jobs:
        if any(call.seconds is None for call in job.llm_calls()):
            raise InvalidDataError(
                f"{path}: job {job.id!r} has an LLM call with neither seconds nor output tokens, so its "
                "duration is unknown: leave the job out"
            )
    return jobs


def compare(cells: Sequence[Cell], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Simulate all cells and return the result in the form of `--json`; `meta` joins its `meta` field."""
    from llmsched_langgraph.lab.sim.evaluation import summary

    began_s = time.perf_counter()
    rows = _measured(cells)
    seconds = time.perf_counter() - began_s
    return {
        "meta": {"version": __version__, **meta, "seconds": seconds},
        "rows": rows,
        "summary": summary(rows),
    }


def show(result: Mapping[str, Any], options: argparse.Namespace, draw: Draw | None, about: str = "") -> None:
    """Print, write and draw the result as the options say; `about` is printed above the tables."""
    from llmsched_langgraph.lab.bench_table import tables

    printed = options.json == "-"
    if printed:
        print(json.dumps(result))
    else:
        print(about + tables(result, deciles=options.deciles))
    if options.json and not printed:
        with written("--json", path := Path(options.json)):
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if draw is not None:
        names = draw(result)
        if not printed:
            print(f"\n{len(names)} plots in {options.plots}, each as .png and .svg")


def _measured(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    from llmsched_langgraph.lab.sim.evaluation import measure

    shown = sys.stderr.isatty()
    workers = min(len(cells), os.cpu_count() or 1)
    found: dict[int, list[dict[str, Any]]] = {}
    with ProcessPoolExecutor(workers) as pool:
        # The longest cells start first, so that no core works alone on a long cell at the end.
        numbers = sorted(range(len(cells)), key=lambda n: -len(cells[n].test))
        try:
            futures = {pool.submit(measure, cells[n], time.perf_counter): n for n in numbers}
            for done, future in enumerate(as_completed(futures), 1):
                found[futures[future]] = future.result()
                if shown:
                    print(f"\r{done} of {len(cells)} cells", end="", file=sys.stderr, flush=True)
        except BrokenProcessPool:
            raise LLMSchedError(
                "a simulation process was killed, possibly for lack of memory: try fewer --jobs"
            ) from None
        finally:
            # After an error or Ctrl-C no queued cell starts, so that the command ends soon.
            pool.shutdown(cancel_futures=True)
    if shown:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return [row for number in sorted(found) for row in found[number]]
