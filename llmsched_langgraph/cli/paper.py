"""Lists the studies of the paper's evaluation, as options of `llmsched bench`.

Does not run a study: it calls `bench` with the options.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmsched_langgraph.cli.complaints import written
from llmsched_langgraph.errors import ConfigurationError

STUDIES: dict[str, tuple[str, dict[str, Any]]] = {
    "workloads": (
        "Mean JCT by workload, load and policy; srtf does not explore, srtf_marginal has no network",
        {"load": "0.7,0.9,1.1"},
    ),
    "jobs": (
        "Mean JCT against the number of jobs",
        {
            "jobs_over": (0.1, 0.3, 1.0),
            "policies": "fcfs,app_fifo,fair,sjf,plas,srtf_marginal,srtf,llmsched,gittins",
        },
    ),
    "sensitivity": (
        "LLMSched's epsilon and sampling ratio",
        {
            "policies": "srtf,llmsched",
            "epsilon": "0.05,0.1,0.2,0.4",
            "sample": "0.1,0.3,1",
            "focus": "srtf",
        },
    ),
}
"""Title and options of each study, by name; `jobs_over` holds fractions of the largest `--jobs` value."""


FIXED = ("load", "policies", "epsilon", "sample", "focus", "json", "plots")
"""Options that the studies set themselves."""


def studies(options: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """Run all studies; each writes a JSON file and a folder of plots under its name.

    Args:
        options: the parsed options of `llmsched bench`.
        run: runs one `llmsched bench`.

    Raises:
        ConfigurationError: an option is invalid, or the studies set it themselves.
    """
    folder: Path = options.paper
    for name in FIXED:
        if getattr(options, name) is not None:
            raise ConfigurationError(f"--{name}: the studies of --paper choose their own; leave it out")
    with written("--paper", folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, (what, one) in _studies(options):
        print(f"\n== {name}: {what}\n", flush=True)
        run(one)
    print(f"\nThe same as data and pictures: {folder}")
    return 0


def _studies(options: argparse.Namespace) -> Iterator[tuple[str, tuple[str, argparse.Namespace]]]:
    for name, (what, changes) in STUDIES.items():
        one = argparse.Namespace(**vars(options))
        one.paper, one.json, one.plots = None, str(options.paper / f"{name}.json"), options.paper / name
        for option, value in changes.items():
            if option == "jobs_over":
                most = max(int(count) for count in options.jobs.split(","))
                one.jobs = ",".join(str(max(1, round(most * part))) for part in value)
            else:
                setattr(one, option, value)
        yield name, (what, one)
