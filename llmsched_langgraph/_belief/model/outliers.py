"""Limits the durations in ended jobs, so that a few gross outliers barely change what is learned.

Does not learn, and does not change records: files and histories keep the recorded durations.

An outlier is a single duration, of a call or of a run of a tool: the machine was suspended, a stream was left
open. A job with many calls is no outlier; its calls are judged, not their sum.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from math import ceil, exp, inf, log
from statistics import NormalDist

from llmsched_langgraph._jobs.ended import EndedCall, EndedJob, EndedStage

MIN_COUNT = 5
"""Minimum number of amounts for a fence. Fewer do not show which of them is the outlier."""

FEW = 0.03
"""Share of the amounts, rounded up, that may be outliers. More of them are part of the distribution."""

SPAN = 5
"""The spread is that of the largest amounts: `SPAN` times as many as there may be outliers."""

BEYOND = 1 / 8
"""Expected number of amounts above the fence if the amounts are lognormal."""

MIN_AMOUNT = 1e-9
"""Smaller amounts count as this one, so that they have a logarithm."""

MAX_LOG = 700.0
"""Bound of arguments of `exp`."""

MIN_FACTOR = 2.0
"""The fence is at least this many times the largest amount that cannot be an outlier."""

What = tuple[str, str, str | None]
"""What a duration is of: "llm", "tool" or "run", the name of the stage, the tool."""


def fence(amounts: Sequence[float]) -> float:
    """Return the limit of amounts in estimates; infinity for fewer than `MIN_COUNT` amounts.

    Let x(1) <= ... <= x(n) be the amounts, k = ceil(`FEW` n) the number of possible outliers, and z(i) the
    standard normal quantile at (i - 3/8) / (n + 1/4), the plotting position of rank i (Blom 1958). The line
    through ranks i < j of the normal Q-Q plot of the logarithms is

        L(i, j) = log x(j) + (z* - z(j)) (log x(j) - log x(i)) / (z(j) - z(i))

    at z*, the standard normal quantile at 1 - `BEYOND` / n. The fence is

        max(exp(min(L(q, n + 1 - q), L(n - `SPAN` k, n - k))), `MIN_FACTOR` x(n - k)).

    The first line goes through the quartiles, q = n / 4: Tukey's fence Q3 + c (Q3 - Q1), on a log scale
    (Tukey, "Exploratory Data Analysis", 1977), with c rising with n, as Hoaglin and Iglewicz propose
    ("Fine-tuning some resistant rules for outlier labeling", 1987): c = 1.74 for n = 100, 2.2 for 1000. If
    the amounts fall in two groups, one line may be steep; therefore the lower one counts. The last term keeps
    equal amounts from having a fence at their own size.

    Means of winsorized amounts (Dixon 1960: values above the fence are replaced by it) have these properties,
    which tests/property/test_outliers_properties.py checks:

    - One amount of any size among 99 equal ones raises the mean by 1 %; among 99 lognormal ones with sigma
      0.5 by 4 %, with sigma 1 by about 11 %. Three raise it by three times as much.
    - The mean of lognormal amounts is underestimated on average by 0.1 % for sigma 0.5, 1 % for sigma 1, 4 %
      for sigma 1.5 and 11 % for sigma 2 (n = 100); for n = 1000 by at most 4 %. A fixed fence would not be
      consistent; this one rises with n.
    - A group of more than k amounts is not limited, however far from the others it is.

    Args:
        amounts: nonnegative amounts in any order; those below `MIN_AMOUNT` count as it.
    """
    n = len(amounts)
    if n < MIN_COUNT:
        return inf
    ranked = sorted(amounts)
    few = max(1, ceil(FEW * n))
    top, quarter = n - few, max(1, round(n / 4))
    standard = NormalDist()
    z = standard.inv_cdf(1.0 - BEYOND / n)

    def line(i: int, j: int) -> float:
        (low, z_low), (high, z_high) = (
            (log(max(ranked[rank - 1], MIN_AMOUNT)), standard.inv_cdf((rank - 0.375) / (n + 0.25)))
            for rank in (i, j)
        )
        return high + (z - z_high) * (high - low) / (z_high - z_low)

    lowest = min(line(quarter, min(n + 1 - quarter, top)), line(max(1, n - SPAN * few), top))
    return max(exp(min(lowest, MAX_LOG)), MIN_FACTOR * ranked[top - 1])


def limited(jobs: Sequence[EndedJob]) -> list[EndedJob]:
    """Return the jobs with every duration above its `fence` replaced by the fence: winsorized.

    Durations are compared with those of the same kind, stage name and tool in all of the jobs. Jobs without
    an outlier are returned as they are.
    """
    limits = limits_of(jobs)
    return [_limited(job, limits) if _has_outlier(job, limits) else job for job in jobs]


def limits_of(jobs: Iterable[EndedJob]) -> dict[What, float]:
    """Return the `fence` of the jobs' durations, by what they are of."""
    durations: dict[What, list[float]] = defaultdict(list)
    for job in jobs:
        for stage in job.stages:
            own = durations[stage.kind, stage.name, stage.tool]
            own += [call.seconds for call in stage.calls if call.seconds is not None]
        for run in job.runs:
            durations["run", run.name, run.tool].append(run.seconds)
    return {what: fence(own) for what, own in durations.items()}


def _has_outlier(job: EndedJob, limits: Mapping[What, float]) -> bool:
    for stage in job.stages:
        limit = limits[stage.kind, stage.name, stage.tool]
        for call in stage.calls:
            if call.seconds is not None and call.seconds > limit:
                return True
    return any(run.seconds > limits["run", run.name, run.tool] for run in job.runs)


def _limited(job: EndedJob, limits: Mapping[What, float]) -> EndedJob:
    def call(stage: EndedStage, call: EndedCall) -> EndedCall:
        limit = limits[stage.kind, stage.name, stage.tool]
        return call if call.seconds is None else replace(call, seconds=min(call.seconds, limit))

    runs = [run._replace(seconds=min(run.seconds, limits["run", run.name, run.tool])) for run in job.runs]
    return replace(job.with_calls(call), runs=tuple(runs))
