"""Defines how long a job may wait, and how often one that waited longer is served before all others.

Does not know the other tickets: the ledger does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from llmsched_langgraph._ledger.values import BackendView, Lane
from llmsched_langgraph.errors import ConfigurationError

MAX_WAIT_S = 300.0
"""Default of `Overdue.max_wait_s`."""

EVERY = 16
"""Default of `Overdue.every`."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """The bound of waiting. A lane is overdue when its job has waited for more than `max_wait_s` seconds.

    The wait is the sum over the job's waits; pauses of the backend during the current one do not count, and
    waits of several calls at once count once. Of the lanes of a backend, the one that is overdue for longest
    is served next if none of the last `every - 1` grants served an overdue one.

    Bound: a job of m calls in a row, each of at most S seconds, on a backend of k slots where q lanes are
    overdue for longer, completes within

        work + tools + max_wait_s + m ceil(every (1 + q) / k) S + pauses.

    Outside pauses all slots are busy while a call waits, so each S seconds bring at least k grants, and each
    `every` grants serve one overdue call. A pause counts with the time in which calls come back after it. The
    bound holds for every policy and every priority.

    Attributes:
        max_wait_s: seconds; None for no bound.
        every: of this many consecutive grants, at most one serves an overdue lane; at least 1.

    Raises:
        ConfigurationError: a value is out of range.
    """

    max_wait_s: float | None = MAX_WAIT_S
    every: int = EVERY

    def __post_init__(self) -> None:
        limit_s = self.max_wait_s
        number = isinstance(limit_s, int | float) and not isinstance(limit_s, bool)
        if limit_s is not None and not (number and 0.0 <= limit_s < inf):
            raise ConfigurationError(
                f"max_wait_s must be a number of seconds of at least 0, or None for no bound, not {limit_s!r}"
            )
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ConfigurationError(
                f"overdue_every must be a whole number of at least 1 (16: one grant in 16 may serve a call "
                f"that waited longer than max_wait_s), not {self.every!r}"
            )

    def due_s(self, view: BackendView, now: float, waited_s: float) -> float:
        """Return when a lane that begins to wait becomes overdue, on the clock that stands during pauses."""
        return inf if self.max_wait_s is None else view.pause.open_s(now) + self.max_wait_s - waited_s

    def turn(self, view: BackendView) -> bool:
        """Return whether the next grant of the backend may serve an overdue lane."""
        return view.overdue is None or view.granted + 1 - view.overdue >= self.every


UNBOUNDED = Overdue(None)


def first_due(dues: list[tuple[float, Lane]], open_s: float, known: Callable[[Lane], Any]) -> Lane | None:
    """Return the lane that is overdue for longest; None if none is.

    Args:
        dues: a heap of when each of the backend's lanes becomes overdue, and the lane. Its outdated entries
            at the top are removed.
        open_s: the backend's clock that stands during pauses.
        known: returns what has a lane's `due_s`; None for a lane where no ticket waits.
    """
    while dues and dues[0][0] <= open_s:
        due_s, lane = dues[0]
        own = known(lane)
        if own is not None and own.due_s == due_s:
            return lane
        heapq.heappop(dues)
    return None
