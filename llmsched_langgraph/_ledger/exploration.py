"""Knows when a grant goes to the call that teaches most, and which lane that is: Algorithm 1 of LLMSched.

Does not know slots or clocks, nor how much a call teaches: that comes with the lane.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from llmsched_langgraph._ledger.values import Explore, Lane
from llmsched_langgraph.errors import ConfigurationError

_PRIME = 67_108_859
"""The largest under 2^26: squares stay under 2^52. 3 does not divide it less 1, so no cube comes twice."""

JOBS = 32
"""Jobs next in line whose lanes are looked at. It bounds what a turn costs."""

LANES = 4 * JOBS
"""Lanes that are looked at, at most."""


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


def choose(lanes: Iterable[tuple[float, Lane, int, Explore | None]], now: float) -> Lane | None:
    """The lane whose first call should go next for what it teaches; None if none does.

    Jobs whose intervals of remaining work overlap are of one set: their order is not certain. Of the first
    set it is the lane with the largest gain; later sets come later, whatever they would teach. Ties go to
    the earlier job, then to the earlier arrival.

    Args:
        lanes: in the order of service: the policy's order, the lane, the arrival of its first ticket, and
            what exploring needs.
        now: the clock.
    """
    jobs: set[int] = set()
    found: list[tuple[float, int, int, float, Lane, Explore]] = []
    last = 0.0
    for order, lane, arrival, explore in islice(lanes, LANES):
        if lane[1] not in jobs:
            if len(jobs) == JOBS:
                if order != last:
                    break
                continue  # in a tie, lanes of the jobs before it may still come
            jobs.add(lane[1])
            last = order
        if explore is not None:
            work_s = explore.done_s + (explore.holding * now - explore.granted_sum_s)
            # What it has received since the interval was formed is not to come any more.
            lo, hi = explore.information.bounds
            less_s = min(max(work_s - explore.formed_s, 0.0), lo)
            found.append((lo - less_s, lane[1], arrival, hi - less_s, lane, explore))
    found.sort(key=lambda own: own[:3])
    best: Lane | None = None
    gain, reach = 0.0, found[0][3] if found else 0.0
    for lo, _, _, hi, lane, explore in found:
        if lo > reach:
            break
        reach = max(reach, hi)
        if explore.left > 0 and (taught := explore.information.uncertainty_reduction(lane[2])) > gain:
            gain, best = taught, lane
    return best
