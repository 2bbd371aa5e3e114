"""Says in words what a recording shows, and what it cannot show because it was not recorded.

Does not compute figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from llmsched_langgraph.traces import Skipped


def sentence(figures: Mapping[str, Any]) -> str:
    """Return the figures that matter most, in one line."""
    jobs = figures["jobs"]
    ends = ", ".join(f"{count:,} {end}" for end, count in figures["ends"].items() if count)
    parts = [f"{jobs:,} {'job' if jobs == 1 else 'jobs'} ({ends})"]
    if (jct_s := figures["jct_s"]) is not None:
        parts.append(f"mean JCT {jct_s['mean']:.1f} s")
    if figures["wait_s"] is not None:
        share = figures["waiting_share"]
        part = "" if share is None else f", {share:.0%} of the JCT"
        parts.append(f"{figures['wait_s']:,.1f} s of waits{part}")
    if figures["backends"] and (name := figures["backends"][0]["name"]):
        parts.append(f"busiest backend {name!r}")
    return "; ".join(parts)


def notes(figures: Mapping[str, Any], skipped: Iterable[Skipped]) -> list[str]:
    """Return what could not be read, and what was not recorded, as sentences."""
    return [*(f"{one}." for one in skipped), *_missing(figures)]


def _missing(figures: Mapping[str, Any]) -> Iterator[str]:
    recorded, jobs, calls = figures["recorded"], figures["jobs"], figures["calls"]
    if not recorded["arrivals"]:
        yield (
            "No arrival was recorded. Each job is drawn from its own arrival; slots over time are not shown."
        )
    elif recorded["arrivals"] < jobs:
        yield f"{jobs - recorded['arrivals']:,} jobs have no recorded arrival. They are not on the time axis."
    if not recorded["jcts"]:
        yield "No JCT was recorded."
    elif recorded["jcts"] < jobs:
        yield f"{jobs - recorded['jcts']:,} jobs have no recorded JCT. The figures of the JCT leave them out."
    if not recorded["times"]:
        yield (
            "The times of calls were not recorded. Waits, slots and reasons of grants are not shown; jobs, "
            "stages, tokens and work are."
        )
    elif recorded["times"] < calls:
        yield f"{calls - recorded['times']:,} calls have no recorded times. No wait of them is counted."
    if not recorded["predictions"]:
        yield (
            "No prediction was recorded. The recorder writes one for each job whose application "
            "had a model when the job arrived."
        )
