"""Defines closed loops: clients, each of which submits its next job when its last one has ended.

Does not generate jobs. All random numbers are drawn before the simulation, so that every policy gets the same
jobs and think times from each client, though at other times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob

_THINK = 4
"""Random stream of the think times, independent of the streams that generate jobs and arrivals."""


@dataclass(frozen=True, slots=True)
class Client:
    """One client of a closed loop.

    Attributes:
        jobs: its jobs, in their order; after the last one it begins again with the first.
        until_s: it submits no job at this time or later, in seconds.
        think_s: seconds that it waits before each job; begins again, as `jobs` does.

    Raises:
        ConfigurationError: there is no job or think time, a time is negative or not finite, or the loop would
            never get ahead because no job and no think time takes any time.
    """

    jobs: Sequence[EndedJob]
    until_s: float
    think_s: Sequence[float] = (0.0,)

    def __post_init__(self) -> None:
        """Reject a loop that has nothing to do or never ends."""
        if not self.jobs or not self.think_s:
            raise ConfigurationError("closed loop: a client needs at least one job and one think time")
        if not all(isfinite(think_s) and think_s >= 0.0 for think_s in (*self.think_s, self.until_s)):
            raise ConfigurationError("closed loop: think times and until_s must be finite and 0 or more")
        if not any(self.think_s) and not any(job.critical_path_s for job in self.jobs):
            raise ConfigurationError(
                "closed loop: no job of a client takes any time, so its loop would never end: set think_s"
            )

    def first(self) -> TimedJob | None:
        """Return its first job, which leads to the others by `TimedJob.then`; None if it submits none."""
        return self._next(0, 0.0)

    def _next(self, nth: int, now: float) -> TimedJob | None:
        at_s = now + self.think_s[nth % len(self.think_s)]
        if at_s >= self.until_s:
            return None
        job = self.jobs[nth % len(self.jobs)]
        return TimedJob(at_s, job, then=lambda end_s: self._next(nth + 1, end_s))


def closed_loop(
    jobs: Sequence[EndedJob], *, clients: int, until_s: float, think_s: float = 0.0, seed: int = 0
) -> list[TimedJob]:
    """Return the first job of each client; the jobs are split among the clients round-robin.

    Args:
        jobs: at least one for each client.
        clients: number of clients, 1 or more.
        until_s: no job is submitted at this time or later, in seconds.
        think_s: mean of the exponential think times, in seconds; 0 for none.
        seed: seed of the think times, 0 or more.

    Raises:
        ConfigurationError: a value is out of range, or there are fewer jobs than clients.
    """
    if not 1 <= clients <= len(jobs) or seed < 0 or not 0.0 <= think_s < float("inf"):
        raise ConfigurationError(
            "closed loop: clients must be 1 or more and at most the number of jobs, seed and think_s 0 or "
            f"more, not {clients} clients of {len(jobs)} jobs, seed {seed} and think_s {think_s}"
        )
    found = []
    for number in range(clients):
        own = jobs[number::clients]
        rng = np.random.default_rng((seed, _THINK, number))
        thinks_s = tuple((rng.standard_exponential(len(own)) * think_s).tolist())
        first = Client(own, until_s, thinks_s).first()
        if first is not None:
            found.append(first)
    return found
