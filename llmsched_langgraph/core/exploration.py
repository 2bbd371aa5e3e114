"""Knows when a turn goes to the call that teaches most, and which call that is: LLMSched's Algorithm 1.

Does not know slots or clocks, nor what a call teaches: that is a belief's `uncertainty_reduction`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import ceil, inf

from llmsched_langgraph.core.job import Job
from llmsched_langgraph.dag.position import Spot
from llmsched_langgraph.errors import ConfigurationError

_PRIME = 67_108_859
"""The largest under 2^26: squares stay under 2^52. 3 does not divide it less 1, so no cube comes twice."""

LOOKED_AT = 32
"""Jobs next in line among which the one to explore is looked for. It bounds what a turn costs."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """How often to explore, and how much of a stage.

    Attributes:
        epsilon: the share of grants that explore, 0 to 1.
        sample: the part of a stage's calls that may be granted to explore it, above 0 and up to 1. Some are
            enough to learn from, and all of them would hold up short jobs.
        seed: of the coin.

    Raises:
        ConfigurationError: a share is out of range.
    """

    epsilon: float = 0.1
    sample: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1.0:
            raise ConfigurationError(f"epsilon must be from 0 to 1, not {self.epsilon!r}")
        if not 0.0 < self.sample <= 1.0:
            raise ConfigurationError(f"sample must be above 0 and at most 1, not {self.sample!r}")

    def turn(self, number: int) -> bool:
        """Whether the grant of this number explores. The coin depends on seed and number alone."""
        # Whole numbers under 2^53 all the way, so that any language draws the same. Cubes, for sums and
        # multiples of the number alone would come round again and again.
        state = (self.seed % _PRIME * 69_621 + 1) % _PRIME
        state = (state * state % _PRIME * state + number) % _PRIME
        for _ in range(3):
            state = (state * state % _PRIME * state + 11) % _PRIME
        return state < self.epsilon * _PRIME

    def choose(
        self, jobs: Iterable[Job], now: float, *, grantable: Callable[[Job, Spot], bool]
    ) -> tuple[Job, Spot] | None:
        """The job and the stage of it whose call should go next, for what it teaches; None if none does.

        Jobs whose intervals of remaining work overlap are of one set: their order is not certain. Of the
        first set, it is the stage that teaches most; later sets come later, whatever they would teach. A
        stage is out of the question once `sample` of its calls were granted so, or if none is `grantable`.
        """
        found: list[tuple[float, float, Job]] = []
        for job in jobs:
            if job.belief is not None:
                lo, hi = job.belief.bounds
                # What it has received since then is not to come any more.
                less = min(max(job.progress.work_s(now) - job.believed_at_s, 0.0), lo)
                found.append((lo - less, hi - less, job))
        found.sort(key=lambda own: (own[0], own[2].arrival))
        best: tuple[Job, Spot] | None = None
        most, reach = 0.0, found[0][1] if found else -inf
        for lo, hi, job in found:
            if lo > reach:
                break
            reach = max(reach, hi)
            for spot, taught in self._ready(job):
                if taught > most and grantable(job, spot):
                    most, best = taught, (job, spot)
        return best

    def _ready(self, job: Job) -> Iterable[tuple[Spot, float]]:
        for spot, work in job.progress.works.items():
            if work.waiting and job.explored.get(spot, 0) < ceil(self.sample * work.calls):
                yield spot, job.belief.uncertainty_reduction(spot) if job.belief is not None else 0.0
