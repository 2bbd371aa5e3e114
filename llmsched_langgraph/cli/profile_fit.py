"""Defines `llmsched profile fit`: its options, and the table of the structures that it compares.

Does not search, score or store a structure.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsched_langgraph.cli.complaints import SkippedLines
from llmsched_langgraph.cli.profile_files import action, check_file, count_of, write_profiles
from llmsched_langgraph.errors import ConfigurationError, InvalidDataError

if TYPE_CHECKING:
    from llmsched_langgraph._belief.fit.calibration import Calibration
    from llmsched_langgraph._belief.fit.fitting import Fitted, Search
    from llmsched_langgraph._belief.profile.profile import ApplicationProfile

STRUCTURES = ("own", "hill-climb", "ges", "chow-liu")
"""The structure searches, in the order of the table."""

SCORED = ("hill-climb", "ges")
"""The searches that use `--score`."""

SCORES = ("k2", "bdeu", "bic")
"""The values of `--score`."""

MOST_GES = 12
"""Most variables for GES without `--structure`: one of its six searches takes 1 s at 14, and 20 s at 22."""

_WORDS = (
    " Each application gets the Bayesian network that predicts held-out jobs best, by cross-validation over "
    "five parts of its jobs. Without --structure, pgmpy's searches are tried beside the package's own; with "
    "it, one structure. The network is used only if it predicts held-out jobs better than the independent "
    "marginals. A structure other than own that --structure names stays when a scheduler learns from more "
    "runs, until they drift. LLM calls without recorded seconds get those of the server that "
    "`llmsched bench` simulates."
)


def register(actions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the action `fit` to `llmsched profile`."""
    fit = action(actions, "fit", run_fit, "learn profiles from recorded jobs", _WORDS)
    fit.add_argument("traces", metavar="TRACES", nargs="+", type=Path, help="recorded jobs: files or folders")
    fit.add_argument("out", metavar="OUT", type=Path, help="the file of profiles to write")
    fit.add_argument(
        "--structure",
        metavar="|".join((*STRUCTURES, "FILE.bif")),
        type=_structure,
        help=(
            "own: K2 in stage order, as schedulers learn it. hill-climb: pgmpy's HillClimbSearch in stage "
            f"order. ges: pgmpy's GES; without --structure only up to {MOST_GES} variables. chow-liu: the "
            "tree of Chow and Liu. FILE.bif: the edges of the network in this file, with the variables of "
            "`Profile.to_pgmpy`; for the jobs of one application"
        ),
    )
    fit.add_argument(
        "--score",
        choices=SCORES,
        help="score of hill-climb (default: k2) and ges (bdeu or bic; default: bic); own always uses K2",
    )
    fit.add_argument("--json", action="store_true", help="print one JSON list instead of the table")


def run_fit(options: argparse.Namespace) -> int:
    """Learn a profile from the recorded jobs of each application.

    Raises:
        InvalidDataError: the jobs or the .bif file cannot be read, or `--structure` fails on an application.
        ConfigurationError: the file cannot be written, or `--structure` does not take the `--score`.
    """
    from llmsched_langgraph._belief.fit.fitting import fitted
    from llmsched_langgraph._belief.fit.template import template_of
    from llmsched_langgraph._belief.model.outliers import limited
    from llmsched_langgraph._belief.profile.merging import profile_from_jobs
    from llmsched_langgraph._belief.profile.normalising import as_learned, calibrated
    from llmsched_langgraph._jobs.layout import without_code
    from llmsched_langgraph._jobs.observed import numbered, observed
    from llmsched_langgraph.traces import MEASURED_SPEED, by_app, done_jobs, fill_seconds

    check_file(options.out)
    if options.score is not None and options.structure not in (None, *SCORED):
        raise ConfigurationError(
            f"--score {options.score} goes with --structure {' or '.join(SCORED)}, not {options.structure}; "
            "leave it out"
        )
    if (options.structure, options.score) == ("ges", "k2"):
        raise ConfigurationError(
            "--score k2: GES needs a score that is equal for equivalent networks; use bdeu or bic"
        )
    # A profile is looked up by the fingerprint of its graph, and a live scheduler sees nodes only.
    read = [
        without_code(fill_seconds(job, MEASURED_SPEED))
        for job in done_jobs(options.traces, skipped=SkippedLines())
    ]
    apps = by_app(read)
    slowdowns: Mapping[str, Calibration] = {}
    for jobs in apps.values():
        slowdowns = calibrated(slowdowns, jobs)
    if not apps:
        raise InvalidDataError(f"{options.traces[0]}: there are no jobs in it")
    searches = _searches(options, sorted(apps))
    found: list[tuple[ApplicationProfile, Fitted]] = []
    for number, (app, jobs) in enumerate(sorted(apps.items()), 1):
        print(f"[{number}/{len(apps)}] {app}: {len(jobs)} jobs", file=sys.stderr, flush=True)
        template = template_of(app, jobs)
        learned = [as_learned(numbered(job, template), slowdowns) for job in jobs]
        outcomes = [observed(job) for job in limited(learned)]
        own = profile_from_jobs(template, learned)
        try:
            made = fitted(own.template, outcomes, searches, given=options.structure is not None)
        except InvalidDataError as error:
            raise InvalidDataError(f"{app}: --structure {options.structure}: {error}") from None
        for one in made.candidates:
            if one.fault:
                print(f"    {one.structure} left out: {one.fault}", file=sys.stderr)
        found.append((replace(own, model=made.model, modelled=own.jobs), made))
    profiles = [own for own, _ in found]
    write_profiles(profiles, options.out)
    if options.json:
        print(json.dumps([_data(own, made) for own, made in found], indent=2))
    else:
        print("\n".join(_table(found)))
    told = sys.stderr if options.json else sys.stdout
    print(f"{count_of(profiles)} written to {options.out}", file=told)
    return 0


def _searches(options: argparse.Namespace, apps: list[str]) -> dict[str, Search | None]:
    """Return the structure searches to compare, by name; None stands for the package's own."""
    from llmsched_langgraph._belief.fit.fitting import tree
    from llmsched_langgraph._belief.fit.pgmpy_exchange import edges_of, ges, hill_climb, read_bif

    asked, score = options.structure, options.score
    every: dict[str, Search | None] = {
        "own": None,
        "hill-climb": hill_climb(score or "k2"),
        "ges": ges(score or "bic", None if asked else MOST_GES),
        "chow-liu": tree,
    }
    if asked is None:
        return every
    if asked in every:
        return {asked: every[asked]}
    if len(apps) > 1:
        raise InvalidDataError(
            f"--structure {asked} is the network of one application, but the jobs belong to {len(apps)}: "
            f"{', '.join(apps)}; fit them one by one"
        )
    return {asked: edges_of(read_bif(Path(asked)))}


def _data(own: ApplicationProfile, made: Fitted) -> dict[str, Any]:
    return {
        "app": own.application.name,
        "fingerprint": own.application.fingerprint,
        "jobs": own.jobs,
        "structures": [one.to_json() for one in made.candidates],
    }


def _table(found: list[tuple[ApplicationProfile, Fitted]]) -> list[str]:
    rows = [["application", "jobs", "structure", "bits/job", "chosen"]]
    for own, made in found:
        name, jobs = own.application.name, str(own.jobs)
        if not made.candidates:
            rows.append([name, jobs, "-", "-", "prior: too few jobs"])
        for one in made.candidates:
            bits = "left out" if one.bits is None else f"{one.bits:.2f}"
            rows.append([name, jobs, one.structure, bits, "yes" if one.chosen else ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return [*lines, "", "bits/job: mean -log2 of the probability of a held-out job."]


def _structure(text: str) -> str:
    if text in STRUCTURES or text.lower().endswith(".bif"):
        return text
    raise argparse.ArgumentTypeError(
        f"must be {', '.join(STRUCTURES)} or a file that ends in .bif, not {text!r}"
    )
