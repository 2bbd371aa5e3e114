"""Sums up a recording: JCT, waits and slowdown, by application, tenant and priority; backends; grants.

Does not read files, and draws nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from llmsched_langgraph._jobs.ended import ENDS
from llmsched_langgraph._views.report.waits import (
    DIGITS,
    changes,
    held_s,
    slot_calls,
    slowdown,
    total_wait_s,
    wait_s,
    waiting_s,
)
from llmsched_langgraph.traces import EndedJob

PREDICTED_SHARE = 0.8
"""Probability that the work of a job is in its predicted interval, if the model is right."""

BY: dict[str, Callable[[EndedJob], str | int | None]] = {
    "app": lambda job: job.app,
    "tenant": lambda job: job.tenant,
    "priority": lambda job: job.priority or 0,
}
"""What the figures are given by. A job without a recorded priority has the default, 0."""


def figures(jobs: Sequence[EndedJob]) -> dict[str, Any]:
    """Return the figures of a recording as JSON data. None stands for what was not recorded.

    Times are in seconds, work in slot-seconds. `waiting_share` is the time in which a job had a waiting call
    over its JCT, summed over the jobs that have both.
    """
    ends = Counter(job.end for job in jobs)
    calls = [call for job in jobs for _, call in slot_calls(job)]
    times = sum(wait_s(call) is not None for call in calls)
    since_s, until_s = span(jobs)
    return {
        "jobs": len(jobs),
        "calls": len(calls),
        "ends": {end: ends[end] for end in ENDS},
        "first_arrival_s": since_s,
        "span_s": None if since_s is None or until_s is None else _rounded(until_s - since_s),
        "jct_s": spread(job.jct_s for job in jobs),
        "work_s": _total(job.work_s for job in jobs),
        "wait_s": _total(total_wait_s(job) for job in jobs),
        "waiting_share": _waiting_share(jobs),
        "slowdown": spread(map(slowdown, jobs)),
        "tokens": {
            "prompt": _total(call.prompt_tokens for call in calls),
            "output": _total(call.output_tokens for call in calls),
        },
        "backends": _backends(jobs),
        "paid": {word: _by(jobs, key) for word, key in BY.items()},
        "grants": _grants(jobs),
        "prediction": _prediction(jobs),
        "recorded": {
            "arrivals": sum(job.arrival_s is not None for job in jobs),
            "jcts": sum(job.jct_s is not None for job in jobs),
            "times": times,
            "predictions": sum(job.predicted is not None for job in jobs),
        },
    }


def span(jobs: Iterable[EndedJob]) -> tuple[float | None, float | None]:
    """Return the clock times of the first arrival and of the last end; None for both without arrivals."""
    known = [(job.arrival_s, job.ended_at) for job in jobs if job.arrival_s is not None]
    if not known:
        return None, None
    return min(arrival_s for arrival_s, _ in known), max(ended_at for _, ended_at in known)


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return mean, median, 95th percentile and maximum of the known values; None if there is none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    median, p95 = np.percentile(known, [50, 95]).tolist()
    found = {"mean": float(np.mean(known)), "median": median, "p95": p95, "max": float(max(known))}
    return {word: _rounded(value) for word, value in found.items()}


def _rounded(value: float) -> float:
    return round(value, DIGITS)


def _total(values: Iterable[float | None]) -> float | None:
    """Return the sum of the known values; None if there is none."""
    known = [value for value in values if value is not None]
    return _rounded(sum(known)) if known else None


def _waiting_share(jobs: Iterable[EndedJob]) -> float | None:
    both = [(own, job.jct_s) for job in jobs if job.jct_s and (own := waiting_s(job)) is not None]
    if not both:
        return None
    return _rounded(min(sum(own for own, _ in both) / sum(jct_s for _, jct_s in both), 1.0))


def _by(jobs: Iterable[EndedJob], key: Callable[[EndedJob], str | int | None]) -> list[dict[str, Any]]:
    """Return a row for each value of `key`; the row with the largest sum of waits is first."""
    groups: dict[str | int | None, list[EndedJob]] = {}
    for job in jobs:
        groups.setdefault(key(job), []).append(job)
    rows = [
        {
            "name": name,
            "jobs": len(own),
            "jct_s": spread(job.jct_s for job in own),
            "work_s": _total(job.work_s for job in own),
            "wait_s": _total(total_wait_s(job) for job in own),
            "job_wait_s": spread(total_wait_s(job) for job in own),
            "waiting_share": _waiting_share(own),
            "slowdown": spread(map(slowdown, own)),
        }
        for name, own in groups.items()
    ]
    return sorted(rows, key=lambda row: (-(row["wait_s"] or 0.0), -row["jobs"], str(row["name"])))


def _backends(jobs: Sequence[EndedJob]) -> list[dict[str, Any]]:
    """Return a row for each backend; the one with the most slot-seconds, the busiest, is first."""
    rows: dict[str, dict[str, Any]] = {}
    for job in jobs:
        for _, call in slot_calls(job):
            row = rows.setdefault(
                call.backend, {"name": call.backend, "calls": 0, "held_s": 0.0, "wait_s": None}
            )
            row["calls"] += 1
            row["held_s"] = _rounded(row["held_s"] + held_s(call))
            row["wait_s"] = _total((row["wait_s"], wait_s(call)))
    moved = changes(jobs)
    for name, row in rows.items():
        own = moved.get(name, [])
        row["peak_held"] = max((change.held for change in own), default=None)
        row["peak_waiting"] = max((change.waiting for change in own), default=None)
        lasted_s = own[-1].at_s - own[0].at_s if own else 0.0
        area = sum(one.held * (two.at_s - one.at_s) for one, two in pairwise(own))
        row["mean_held"] = _rounded(area / lasted_s) if lasted_s else None
    return sorted(rows.values(), key=lambda row: (-row["held_s"], row["name"]))


def _grants(jobs: Iterable[EndedJob]) -> list[dict[str, Any]]:
    """Return a row for each reason of grants, by number of grants."""
    waits: dict[str, list[float]] = {}
    for job in jobs:
        for _, call in slot_calls(job):
            if (wait := wait_s(call)) is not None and call.reason:
                waits.setdefault(call.reason, []).append(wait)
    rows = [{"name": reason, "grants": len(own), "wait_s": spread(own)} for reason, own in waits.items()]
    return sorted(rows, key=lambda row: (-int(str(row["grants"])), row["name"]))


def _prediction(jobs: Iterable[EndedJob]) -> dict[str, Any] | None:
    """Return how good the predictions at arrival were; None if no completed job has one.

    `inside` is the share of jobs whose work was in the predicted interval, `ratio` the sum of the predicted
    means over the sum of the work, `error_s` the spread of |mean - work|.
    """
    known = [
        (job.predicted, work_s)
        for job in jobs
        if job.end == "done" and job.predicted is not None and (work_s := job.work_s) is not None
    ]
    if not known:
        return None
    real_s = sum(work_s for _, work_s in known)
    return {
        "jobs": len(known),
        "interval": PREDICTED_SHARE,
        "inside": _rounded(sum(low <= work_s <= high for (_, low, high), work_s in known) / len(known)),
        "ratio": _rounded(sum(mean for (mean, _, _), _ in known) / real_s) if real_s >= 1e-6 else None,
        "error_s": spread(abs(mean - work_s) for (mean, _, _), work_s in known),
    }
