"""Knows when jobs arrive: independently, in bursts, as in a recorded trace, at a stated load, or as they did.

Does not know how jobs are made or run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import inf, isfinite
from typing import Protocol

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import ConfigurationError

_ARRIVALS = 3
"""The stream of random numbers, out of a seed, that jobs are not made from."""


@dataclass(frozen=True, slots=True)
class TimedJob:
    """A job and when it arrives."""

    arrival_s: float
    job: EndedJob


class Arrivals(Protocol):
    """Draws the times between arrivals; only their proportions count, the load sets their length."""

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """That many times, 0 or more; the first is that before the first arrival."""
        ...


@dataclass(frozen=True, slots=True)
class Poisson:
    """Each job arrives independently of the others."""

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Exponential times."""
        return [float(gap) for gap in rng.standard_exponential(count)]


@dataclass(frozen=True, slots=True)
class Bursty:
    """Times between arrivals have a gamma distribution with a given coefficient of variation.

    Attributes:
        cv: Standard deviation over mean; 1 is Poisson, more is bursts. Measured: 1.1 (Azure conversation
            2023), 3.0 (Mooncake conversation), 13.2 (Azure code 2023).

    Raises:
        ConfigurationError: It is not a positive number.
    """

    cv: float

    def __post_init__(self) -> None:
        """Refuse what no distribution has."""
        if not 0 < self.cv < inf:
            raise ConfigurationError(f"arrivals: the coefficient of variation must be above 0, not {self.cv}")

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """Gamma times."""
        return [float(gap) for gap in rng.standard_gamma(self.cv**-2, count)]


@dataclass(frozen=True, slots=True)
class Traced:
    """Times between arrivals as they were recorded: a stretch of them from a random place on, then round.

    Attributes:
        recorded: The times, from `read_gaps`.

    Raises:
        ConfigurationError: There are none, or they are not times.
    """

    recorded: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what nothing can arrive by."""
        if not all(isfinite(gap) and gap >= 0 for gap in self.recorded) or not sum(self.recorded) > 0:
            raise ConfigurationError("arrivals: a trace needs times of 0 or more, and not all of them 0")

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """The recorded times, in their order."""
        start = int(rng.integers(len(self.recorded)))
        return [self.recorded[(start + at) % len(self.recorded)] for at in range(count)]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The very times at which jobs arrived, one after the other; `offered` is the load at which they stay.

    Attributes:
        at_s: When each arrived, in seconds since any moment.

    Raises:
        ConfigurationError: They go back, or all are the same.
    """

    at_s: tuple[float, ...]

    def __post_init__(self) -> None:
        """Refuse what has no load."""
        if any(after < before for before, after in pairwise(self.at_s)):
            raise ConfigurationError("arrivals: recorded times must not go back; sort the jobs by them")
        if not self.span_s > 0:
            raise ConfigurationError("arrivals: needs jobs that arrived at two different times or more")

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last."""
        return self.at_s[-1] - self.at_s[0] if self.at_s else 0.0

    def gaps(self, count: int, rng: np.random.Generator) -> Sequence[float]:
        """The recorded times, of so many jobs; the first is at 0."""
        return [0.0, *(after - before for before, after in pairwise(self.at_s[:count]))]

    def offered(self, jobs: Sequence[EndedJob], slots: int) -> float:
        """The load that these jobs came to: slot-seconds for each that there was.

        Raises:
            ConfigurationError: A job's work is not known, or is none for all of them.
        """
        return _total_work_s(jobs) / (slots * self.span_s)


def arrive(
    jobs: Sequence[EndedJob], arrivals: Arrivals, *, load: float, slots: int, seed: int
) -> list[TimedJob]:
    """Let jobs arrive, in their order, so that they offer `load` of what the slots can do.

    The load is the slot-seconds that the jobs' LLM calls need, over the slots times the seconds from 0 to the
    last arrival. It is exactly what was asked for: the times are drawn and then stretched together. So the
    same seed gives the same pattern at every load, and a pattern's chance excess does not blur a comparison.

    Args:
        jobs: Whose calls have seconds, recorded or derived (`fill_seconds`).
        arrivals: The pattern.
        load: 1 keeps all slots busy on average; more is overload.
        slots: How many there are.
        seed: Where all randomness comes from, 0 or more.

    Raises:
        ConfigurationError: A number cannot be, or a job's work is not known or is none for all of them.
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
            "arrivals: all times between the arrivals are 0; use more jobs or a lower cv"
        )
    stretch = work_s / (load * slots) / drawn
    return [TimedJob(at * stretch, job) for at, job in zip(accumulate(gaps), jobs, strict=True)]


def _total_work_s(jobs: Sequence[EndedJob]) -> float:
    total = 0.0
    for job in jobs:
        work_s = job.work_s
        if work_s is None:
            raise ConfigurationError(
                f"arrivals: the work of job {job.id!r} is not known, a call has no seconds; "
                "fill_seconds() adds them"
            )
        total += work_s
    if not total > 0:
        raise ConfigurationError("arrivals: the jobs need no slot, so there is no load to reach")
    return total
