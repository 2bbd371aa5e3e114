"""Knows which comparisons make up the paper's evaluation, as options of `llmsched bench`.

Does not know how one is carried out.
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
"""By name, what each one shows, and the options that it sets; `jobs_over` are parts of the number of jobs."""


FIXED = ("load", "policies", "epsilon", "sample", "focus", "json", "plots")
"""Options that the studies set themselves."""


def studies(options: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """Carry them out one after the other, each into a file and a folder of its name.

    Raises:
        ConfigurationError: an option cannot work; one that the studies set was given.
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
