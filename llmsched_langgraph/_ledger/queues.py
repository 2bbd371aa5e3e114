"""Indexes the waiting tickets of each lane in arrival order.

Does not choose a lane. It is an index of the state (`truth.py`): a superset of the waiting tickets, extended
before a commit, cleaned after it, and checked against the state at each read.
"""

from __future__ import annotations

from collections import deque

from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import Lane, Waiting

SPARE = 64
"""An index is rebuilt if its outdated entries exceed the current ones by more than this number."""


class Queues:
    """The queue of each lane with a waiting ticket.

    Attributes:
        of: `(arrival, ticket)` pairs by lane. A pair is outdated if the ticket does not wait any more.
    """

    __slots__ = ("_committed", "_truth", "of")

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._committed = truth.committed
        self.of: dict[Lane, deque[tuple[int, int]]] = {}

    def add(self, lane: Lane, arrival: int, ticket: int, waiting: int, *, sort: bool) -> None:
        """Add a ticket to a lane in which `waiting` tickets wait, with this one.

        Args:
            lane: the lane.
            arrival: the ticket's arrival number.
            ticket: its number.
            waiting: number of waiting tickets.
            sort: whether tickets in the queue may have arrived later.
        """
        queue = self.of.get(lane)
        if queue is None:
            queue = self.of[lane] = deque()
        elif len(queue) > 2 * waiting + 14:
            queue = self.of[lane] = deque(own for own in queue if self._lives(*own))
        queue.append((arrival, ticket))
        if sort:
            self.of[lane] = deque(sorted(queue))

    def first(self, lane: Lane) -> tuple[int, Waiting]:
        """Return the first waiting ticket of a lane. A lane exists only while a ticket waits in it."""
        queue, committed, staged = self.of[lane], self._committed, self._truth.staged
        while True:
            arrival, ticket = queue[0]
            if ticket in staged:
                break
            claim = committed.get(ticket)
            if type(claim) is Waiting and claim.arrival == arrival:
                return ticket, claim
            queue.popleft()
        for arrival, ticket in queue:
            claim = staged[ticket] if ticket in staged else committed.get(ticket)
            if type(claim) is Waiting and claim.arrival == arrival:
                return ticket, claim
        raise AssertionError(f"lane {lane} has lost its tickets")

    def forget(self, lane: Lane) -> None:
        """Remove the queue of a lane in which no ticket waits."""
        self.of.pop(lane, None)

    def _lives(self, arrival: int, ticket: int) -> bool:
        """Return False if the pair is outdated. True does not prove that the ticket waits."""
        claim = self._committed.get(ticket)
        return ticket in self._truth.staged or (type(claim) is Waiting and claim.arrival == arrival)
