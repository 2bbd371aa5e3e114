"""The static prior of work, and shrinkage of observations towards a prior.

Uses only the standard library: profiles are read where numpy is not imported.
"""

from __future__ import annotations

from llmsched_langgraph._jobs.observed import Unit

CALL = {Unit.SECONDS: 1.0, Unit.TOKENS: 100.0, Unit.TOOL_SECONDS: 1.0}
"""Prior mean work of a call or of a stage without calls, in the unit."""

SPREAD = (0.125, 0.25, 0.5, 0.625, 0.75, 1.0, 1.75, 3.0)
"""Prior distribution of a stage's work: eight pseudo-observations, relative to the mean."""

GOES_ON = 0.5
"""Prior probability that a loop continues for another iteration."""

RUNS = 2.0
"""Prior weight of a stage's work per run, in pseudo-runs."""

JOBS = 2
"""Prior weight of a stage's work per job, in pseudo-jobs."""

MEANS = 2.0
"""Prior weight of a mean, in pseudo-observations. It limits the effect of a single outlier."""


def shrunk(total: float, count: float, prior: float, weight: float) -> float:
    """Return the posterior mean (total + w * prior) / (count + w) of `count` observations, w = `weight`."""
    return (total + weight * prior) / (count + weight)


def unshrunk(mean: float, total: float, count: float, weight: float) -> float:
    """Return the prior for which `shrunk(total, count, prior, weight)` is `mean`."""
    return (mean * (count + weight) - total) / weight
