"""Defines how long a job may wait, and how often a job that waited longer is served first.

Does not know the other tickets: the ledger does.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from llmsched_langgraph._arguments import is_number, whole_number
from llmsched_langgraph._ledger.queues import SPARE, Queues
from llmsched_langgraph._ledger.truth import Truth
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
        if limit_s is not None and not (is_number(limit_s) and 0.0 <= limit_s < inf):
            raise ConfigurationError(
                f"max_wait_s must be a number of seconds of at least 0, or None for no bound, not {limit_s!r}"
            )
        meaning = "16: one grant in 16 may serve a call that waited longer than max_wait_s"
        whole_number(self.every, "overdue_every", meaning)

    def due_s(self, view: BackendView, now: float, waited_s: float) -> float:
        """Return when a lane that begins to wait becomes overdue, on the clock that stops during pauses."""
        return inf if self.max_wait_s is None else view.pause.open_s(now) + self.max_wait_s - waited_s

    def turn(self, view: BackendView) -> bool:
        """Return whether the next grant of the backend may serve an overdue lane."""
        return view.overdue is None or view.granted + 1 - view.overdue >= self.every


UNBOUNDED = Overdue(None)


class Dues:
    """Indexes when the waiting lanes of each backend become overdue. Entries may be outdated.

    The lanes of each tenant with a limit of slots have a heap of their own, because they may have to be
    passed over.
    """

    def __init__(self, truth: Truth, queues: Queues, limited: Callable[[str], bool]) -> None:
        self._truth = truth
        self._queues = queues
        self._limited = limited
        self._heaps: dict[str, dict[str, list[tuple[float, Lane]]]] = {}

    def add(self, lane: Lane, tenant: str, due_s: float) -> None:
        """Add a lane of the tenant that becomes overdue at `due_s` (see `Overdue.due_s`)."""
        if due_s == inf:
            return
        by_tenant = self._heaps.setdefault(lane[0], {})
        heap = by_tenant.setdefault(self._group(tenant), [])
        if len(heap) > 2 * len(self._queues.of) + SPARE:
            heap = by_tenant[self._group(tenant)] = sorted({own for own in heap if self._waits(*own)})
        heapq.heappush(heap, (due_s, lane))

    def _group(self, tenant: str) -> str:
        return tenant if self._limited(tenant) else ""

    def _waits(self, due_s: float, lane: Lane) -> bool:
        known = self._truth.committed.get(lane), self._truth.staged.get(lane)
        return any(own is not None and own.due_s == due_s for own in known)

    def first(self, name: str, open_s: float, blocked: Callable[[str, str], bool]) -> Lane | None:
        """Return the lane that is overdue for longest; None if none is.

        Args:
            name: the backend.
            open_s: the backend's clock that stands during pauses.
            blocked: returns whether a tenant must not get a slot of a backend.
        """
        found = None
        for group, heap in self._heaps.get(name, {}).items():
            while heap and heap[0][0] <= open_s:
                known = self._truth.committed.get(heap[0][1])
                if known is None or known.due_s != heap[0][0] or self._group(known.tenant) != group:
                    heapq.heappop(heap)
                    continue
                if not (group and blocked(name, group)) and (found is None or heap[0] < found):
                    found = heap[0]
                break
        return None if found is None else found[1]

    def has(self, lane: Lane, tenant: str, due_s: float) -> bool:
        """Return whether the lane of the tenant is indexed."""
        return (due_s, lane) in self._heaps.get(lane[0], {}).get(self._group(tenant), ())
