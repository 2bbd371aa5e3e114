"""Decides which grants explore, and which lane they go to: Algorithm 1 of LLMSched.

Does not hold slots or read clocks, and does not compute information gain: it comes with the lane.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from llmsched_langgraph._arguments import is_number, is_whole
from llmsched_langgraph._ledger.values import Explore, Lane, Line
from llmsched_langgraph.errors import ConfigurationError

PRIME = 67_108_859
"""Largest prime below 2^26 that is 2 mod 3: cubing is a bijection, squares stay below 2^52."""

JOBS = 32
"""Maximum number of jobs considered, in service order. It bounds the cost of a grant."""

LANES = 4 * JOBS
"""Maximum number of lanes considered."""


Rank = tuple[float, int, Lane]
"""A lane's place in its line: order, arrival of its first ticket or a lower bound of it, lane."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """The share of grants that explore, and the share of a stage that may be explored.

    Attributes:
        epsilon: share of grants that explore, 0 to 1.
        sample: share of a stage's calls that may be granted for exploration, above 0 and up to 1. A sample is
            enough to learn from; exploring every call would delay short jobs.
        seed: seed of the random choice.

    Raises:
        ConfigurationError: a share is out of range.
    """

    epsilon: float = 0.1
    sample: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if not (is_number(self.epsilon) and 0.0 <= self.epsilon <= 1.0):
            raise ConfigurationError(f"epsilon must be from 0 to 1, not {self.epsilon!r:.80}")
        if not (is_number(self.sample) and 0.0 < self.sample <= 1.0):
            raise ConfigurationError(f"sample must be above 0 and at most 1, not {self.sample!r:.80}")
        if not is_whole(self.seed):
            raise ConfigurationError(f"seed must be a whole number, not {self.seed!r:.80}")

    def turn(self, number: int) -> bool:
        """Return whether grant `number` explores: a pure function of `seed` and `number`."""
        # Integers below 2^53 throughout, so that any language computes the same values. Cubes, because a
        # linear recurrence of the number would have short periods.
        state = (self.seed % PRIME * 69_621 + 1) % PRIME
        state = (state * state % PRIME * state + number) % PRIME
        for _ in range(3):
            state = (state * state % PRIME * state + 11) % PRIME
        return state < self.epsilon * PRIME


def choose(lanes: Iterable[tuple[float, Lane, int, Explore | None]], now: float) -> Lane | None:
    """Return the lane whose first call has the largest gain; None if none has a gain.

    Jobs whose intervals of remaining work overlap form a set, within which the order is uncertain. Only the
    first set is searched. Ties go to the job with the smaller lower bound, then to the earlier job, then to
    the earlier arrival.

    Args:
        lanes: in service order: the policy's order, the lane, the arrival of its first ticket, and what
            exploration needs (None if the lane is never explored).
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
                continue  # lanes of earlier jobs with equal order may follow
            jobs.add(lane[1])
            last = order
        if explore is not None:
            work_s = explore.done_s + (explore.holding * now - explore.granted_sum_s)
            # Subtract the work received since the interval was formed.
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


def in_order(
    heap: list[Rank],
    line: Line,
    known: Callable[[Lane], Any],
    first: Callable[[Lane], tuple[int, Any]],
) -> Iterator[tuple[float, Lane, int, Explore | None]]:
    """Yield the lanes of a line in service order, with what exploration needs.

    Args:
        heap: the ranks of the line's lanes. It may have outdated ranks, and is not changed.
        line: the line.
        known: returns a lane's `level`, `tenant`, `order` and `explore`; None for a lane where no ticket
            waits.
        first: returns a lane's first ticket and its claim.
    """
    reached = [(heap[0], 0)] if heap else []
    found: set[Lane] = set()
    while reached:
        (order, arrival, lane), at = heapq.heappop(reached)
        own = known(lane)
        if (
            own is not None
            and own.order == order
            and (own.level, own.tenant) == line[1:]
            and lane not in found
        ):
            arrived: int = first(lane)[1].arrival
            if arrived == arrival:
                found.add(lane)
                yield order, lane, arrived, own.explore
            else:
                heapq.heappush(reached, ((order, arrived, lane), len(heap)))
        for below in (2 * at + 1, 2 * at + 2):
            if below < len(heap):
                heapq.heappush(reached, (heap[below], below))
