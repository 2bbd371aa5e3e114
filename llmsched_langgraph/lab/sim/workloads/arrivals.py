"""Assigns arrival times to jobs at a given load: Poisson, bursty, traced, or as recorded.

Does not generate or run jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import inf, isfinite
from typing import Protocol

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import ConfigurationError

_ARRIVALS = 3
"""Random stream of the arrivals, independent of the streams that generate jobs."""


@dataclass(frozen=True, slots=True)
class TimedJob:
    """A job and its arrival time in seconds.

    Attributes:
        arrival_s: when it arrives.
        job: the recorded or generated job.
        deadline_s: seconds from its arrival within which it should end; None for no deadline.
        then: given the time at which the job ended, the next job of the same client, or None. See `closed`.
    """

    arrival_s: float
    job: EndedJob
    deadline_s: float | None = None
    then: Callable[[float], TimedJob | None] | None = field(default=None, compare=False, repr=False)


class Arrivals(Protocol):
    """Draws the gaps between arrivals. Only their ratios matter; the load sets their scale."""

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Return `count` gaps, 0 or more; the first is the time before the first arrival."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Each job arrives independently of the others."""

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Return exponential gaps with mean 1."""
        return [float(gap) for gap in rng.standard_exponential(count)]


@dataclass(frozen=True, slots=True)
class Bursty:
    """The gaps between arrivals have a gamma distribution.

    Attributes:
        cv: Coefficient of variation (standard deviation / mean) of the gaps; 1 is Poisson, more is bursty.
            Measured: 1.1 (Azure conversation 2023), 3.0 (Mooncake conversation), 13.2 (Azure code 2023).

    Raises:
        ConfigurationError: `cv` is not a positive number.
    """

    cv: float

    def __post_init__(self) -> None:
        """Reject an invalid coefficient of variation."""
        if not 0 < self.cv < inf:
            raise ConfigurationError(f"arrivals: the coefficient of variation must be above 0, not {self.cv}")

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Return gamma gaps with shape 1 / cv^2."""
        return [float(gap) for gap in rng.standard_gamma(self.cv**-2, count)]


@dataclass(frozen=True, slots=True)
class Traced:
    """Gaps between arrivals from a recorded trace, starting at a random place and wrapping around.

    Attributes:
        recorded: The recorded gaps, from `read_gaps`.

    Raises:
        ConfigurationError: A gap is negative or not finite, or the gaps do not have a positive sum.
    """

    recorded: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject a trace without usable gaps."""
        if not all(isfinite(gap) and gap >= 0 for gap in self.recorded) or not sum(self.recorded) > 0:
            raise ConfigurationError("arrivals: a trace needs gaps of 0 or more, and not all of them 0")

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Return the recorded gaps in their order."""
        start = int(rng.integers(len(self.recorded)))
        return [self.recorded[(start + at) % len(self.recorded)] for at in range(count)]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Recorded arrival times. At the load that `offered` returns, `arrive` keeps their gaps unchanged.

    Attributes:
        at_s: Arrival time of each job, ascending, in seconds since an arbitrary moment.

    Raises:
        ConfigurationError: The times are not ascending, or all are equal.
    """

    at_s: tuple[float, ...]

    def __post_init__(self) -> None:
        """Reject times that have no load."""
        if any(after < before for before, after in pairwise(self.at_s)):
            raise ConfigurationError("arrivals: recorded times must ascend; sort the jobs by arrival")
        if not self.span_s > 0:
            raise ConfigurationError("arrivals: the jobs must have at least two different arrival times")

    @property
    def span_s(self) -> float:
        """Seconds from the first arrival to the last."""
        return self.at_s[-1] - self.at_s[0] if self.at_s else 0.0

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Return the recorded gaps of the first `count` jobs; the first gap is 0."""
        return [0.0, *(after - before for before, after in pairwise(self.at_s[:count]))]

    def offered(self, jobs: Sequence[EndedJob], slots: int) -> float:
        """Return the offered load of these jobs, work_s / (slots * span_s).

        Raises:
            ConfigurationError: A call has no seconds, or no job has any work.
        """
        return _total_work_s(jobs) / (slots * self.span_s)


def arrive(
    jobs: Sequence[EndedJob], arrivals: Arrivals, *, load: float, slots: int, seed: int
) -> list[TimedJob]:
    """Assign arrival times to jobs, in their order, at an offered load.

    load = (slot-seconds of the jobs' LLM calls) / (slots * seconds from 0 to the last arrival). The load is
    exact: the gaps are drawn and then scaled by one factor. The same seed therefore gives the same pattern at
    every load, and random variation of the load does not blur a comparison.

    Args:
        jobs: Jobs whose calls have seconds, recorded or derived (`fill_seconds`).
        arrivals: The arrival process.
        load: Offered load; 1 keeps all slots busy on average, more is overload.
        slots: Slots of the backend.
        seed: Seed of the gaps, 0 or more.

    Raises:
        ConfigurationError: `load`, `slots` or `seed` is out of range, a call has no seconds, no job has any
            work, or all gaps are 0.
    """
    if not 0 < load < inf or slots < 1 or seed < 0:
        raise ConfigurationError(
            "arrivals: load must be above 0, slots 1 or more and seed 0 or more, "
            f"not {load}, {slots} and {seed}"
        )
    if not jobs:
        return []
    work_s = _total_work_s(jobs)
    rng = np.random.default_rng((seed, _ARRIVALS))
    gaps = arrivals.gaps(len(jobs), rng)
    drawn = sum(gaps)
    if not 0 < drawn < inf:
        raise ConfigurationError(
            "arrivals: all gaps between the arrivals are zero: use more jobs or a lower cv"
        )
    stretch = work_s / (load * slots) / drawn
    return [TimedJob(at * stretch, job) for at, job in zip(accumulate(gaps), jobs, strict=True)]


def _total_work_s(jobs: Sequence[EndedJob]) -> float:
    total = 0.0
    for job in jobs:
        work_s = job.work_s
        if work_s is None:
            raise ConfigurationError(
                f"arrivals: the work of job {job.id!r} is unknown, since a call has no seconds; "
                "fill_seconds() adds them"
            )
        total += work_s
    if not total > 0:
        raise ConfigurationError("arrivals: the jobs need no slot, so no load can be reached")
    return total
