"""Indexes the waiting lanes of each backend by level, tenant and order.

Does not decide which tenant is next. It is an index of the state (`truth.py`): a superset of the current
entries, extended before a commit, and checked against the committed state at each read. A line is one
tenant's waiting lanes in one level of one backend; lines take turns.
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from llmsched_langgraph._ledger.ceilings import Blocked
from llmsched_langgraph._ledger.exploration import Rank
from llmsched_langgraph._ledger.queues import SPARE, Queues
from llmsched_langgraph._ledger.tenants import Turn
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import FIRST_COME, Explore, Key, Lane, Line, Waiting


class WaitingLane(NamedTuple):
    """The state of a lane in which tickets wait. The first fields are those of `Key`.

    Attributes:
        waiting: number of its waiting tickets.
        due_s: when it becomes overdue, on the clock that stops during pauses.
    """

    level: int
    order: float
    explore: Explore | None
    tenant: str
    urgent_s: float
    lost_s: float
    waiting: int
    due_s: float


def key_of(known: WaitingLane | None) -> Key:
    """Return the key of a lane; `FIRST_COME` for one in which no ticket waits."""
    return FIRST_COME if known is None else Key(*known[:6])


class Lines:
    """The indexes of all lines.

    Attributes:
        ranks: by line, a heap of the ranks of its lanes.
    """

    def __init__(self, truth: Truth, queues: Queues) -> None:
        self._truth = truth
        self._committed = truth.committed
        self._first = queues.first
        self.ranks: dict[Line, list[Rank]] = {}
        self._coming: dict[Line, list[tuple[float, int, Lane]]] = {}  # by when they become urgent
        self._urgent: dict[Line, list[Rank]] = {}
        self._turns: dict[tuple[str, int], list[tuple[float, int, int, str]]] = {}
        self._resting: dict[tuple[str, int], list[tuple[float, str]]] = {}
        self._leaving: dict[tuple[str, int], list[tuple[float, str]]] = {}
        self._levels: dict[str, list[int]] = {}

    # -- lanes -------------------------------------------------------------------------

    def add(self, lane: Lane, known: WaitingLane, arrival: int) -> None:
        """Add a lane, or its new rank. `arrival` is at most the arrival of its first ticket."""
        line = (lane[0], known.level, known.tenant)
        heap = self.ranks.get(line)
        if heap is None:
            heap = self.ranks[line] = []
        elif len(heap) > SPARE and len(heap) > 2 * self._lanes(line) + SPARE:
            heap = self.ranks[line] = self._rebuilt(heap, line)
        heapq.heappush(heap, (known.order, arrival, lane))
        if known.urgent_s < inf:
            coming = self._coming.setdefault(line, [])
            if len(coming) > 2 * self._lanes(line) + SPARE:
                coming = self._coming[line] = sorted({own for own in coming if self._comes(own, line)})
            heapq.heappush(coming, (known.urgent_s, arrival, lane))

    def _lanes(self, line: Line) -> int:
        turn = self._truth.get(line)
        return 0 if turn is None else int(turn.lanes)

    def _is(self, lane: Lane, line: Line, order: float | None = None) -> bool:
        """Return whether the lane is in the line, by the committed or by the staged state."""
        for known in (self._committed.get(lane), self._truth.staged.get(lane)):
            if known is not None and (known.level, known.tenant) == line[1:] and order in (None, known.order):
                return True
        return False

    def _comes(self, entry: tuple[float, int, Lane], line: Line) -> bool:
        known = self._committed.get(entry[2]), self._truth.staged.get(entry[2])
        return any(own is not None and own.urgent_s == entry[0] for own in known) and self._is(entry[2], line)

    def _rebuilt(self, heap: list[Rank], line: Line) -> list[Rank]:
        """Return the heap without outdated entries: amortised O(1) per change."""
        kept = {(order, lane): arrival for order, arrival, lane in sorted(heap, reverse=True)}
        found = [
            (order, arrival, lane) for (order, lane), arrival in kept.items() if self._is(lane, line, order)
        ]
        return sorted(found)

    def head(self, line: Line) -> tuple[int, Waiting]:
        """Return the first ticket of the first lane of a line; one must be waiting."""
        found = self._top(self.ranks[line], line)
        assert found is not None, f"line {line} has lost its lanes"
        return found

    def urgent(self, line: Line, now: float) -> tuple[int, Waiting] | None:
        """Return the first ticket of the first lane of a line that is urgent; None if none is."""
        coming = self._coming.get(line)
        if coming is None:
            return None
        heap = self._urgent.setdefault(line, [])
        while coming and coming[0][0] <= now:
            urgent_s, arrival, lane = coming[0]
            known = self._committed.get(lane)
            if known is not None and known.urgent_s == urgent_s and self._is(lane, line):
                # Before the removal, which an interrupt may prevent.
                heapq.heappush(heap, (known.order, arrival, lane))
            heapq.heappop(coming)
        return self._top(heap, line, now)

    def _top(self, heap: list[Rank], line: Line, now: float | None = None) -> tuple[int, Waiting] | None:
        """Return the first ticket of the first lane; with `now`, of the lanes that are not lost."""
        committed, (_, level, tenant) = self._committed, line
        while heap:
            order, arrival, lane = heap[0]
            known: WaitingLane | None = committed.get(lane)
            if known is None or known.order != order or known.level != level or known.tenant != tenant:
                heapq.heappop(heap)
                continue
            if now is not None and not known.urgent_s <= now < known.lost_s:
                heapq.heappop(heap)
                continue
            first = self._first(lane)
            if first[1].arrival == arrival:
                return first
            # The stored arrival was a lower bound.
            heapq.heapreplace(heap, (order, first[1].arrival, lane))
        return None

    # -- turns -------------------------------------------------------------------------

    def take_turns(self, line: Line, virtual_s: float, held: int, number: int) -> None:
        """Let the line take turns, at this place among those of its level."""
        name, level, tenant = line
        heap = self._turns.get((name, level))
        if heap is None:
            levels = self._levels.setdefault(name, [])
            if level not in levels:
                insort(levels, level)
            heap = self._turns[name, level] = []
        elif len(heap) > 2 * len(self.ranks) + SPARE:
            kept = {own for own in heap if self._takes_turns(name, level, own, self._truth.staged.get)}
            kept |= {own for own in heap if self._takes_turns(name, level, own)}
            heap = self._turns[name, level] = sorted(kept)
        heapq.heappush(heap, (virtual_s, held, number, tenant))

    def _takes_turns(
        self,
        name: str,
        level: int,
        place: tuple[float, int, int, str],
        get: Callable[[Any], Any] | None = None,
    ) -> bool:
        turn = (self._committed.get if get is None else get)((name, level, place[3]))
        return turn is not None and turn.lanes > 0 and (turn.virtual_s, turn.held, turn.number) == place[:3]

    def next(self, name: str, blocked: Blocked | None = None) -> Line | None:
        """Return the line of the backend whose turn it is: of the first level, the first one.

        Args:
            name: the backend.
            blocked: returns whether a tenant must not get a slot of a backend. Its lines are removed from
                the index: they must take turns again when that ends.
        """
        for level in self._levels.get(name, ()):
            tenant = self._next_tenant(name, level, blocked)
            if tenant is not None:
                return name, level, tenant
        return None

    def first(self, name: str, level: int, blocked: Blocked | None = None) -> Turn | None:
        """Return the turn of the first line of a level; None if none waits. See `next`."""
        tenant = self._next_tenant(name, level, blocked)
        return None if tenant is None else self._committed[name, level, tenant]

    def _next_tenant(self, name: str, level: int, blocked: Blocked | None) -> str | None:
        heap = self._turns.get((name, level), [])
        while heap:
            tenant = heap[0][3]
            if self._takes_turns(name, level, heap[0]) and not (blocked and blocked(name, tenant)):
                return tenant
            heapq.heappop(heap)
        return None

    def has_place(self, line: Line, place: tuple[float, int, int, str]) -> bool:
        """Return whether the line takes turns at that place."""
        return place in self._turns.get(line[:2], ())

    def levels(self, name: str) -> list[int]:
        """Return the levels in which tickets of the backend have waited."""
        return self._levels.get(name, [])

    def rests(self, line: Line, virtual_s: float) -> None:
        """Record that a line neither waits nor holds a slot, and is kept for its virtual time."""
        heapq.heappush(self._resting.setdefault(line[:2], []), (virtual_s, line[2]))

    def rested(self, name: str, level: int, virtual_s: float) -> list[Line]:
        """Return the resting lines of a level whose virtual time is at most this."""
        heap = self._resting.get((name, level))
        if heap is None:
            return []
        # An entry is stored elsewhere before it leaves the heap, so an interrupted decision loses none.
        leaving = self._leaving.setdefault((name, level), [])
        while heap and heap[0][0] <= virtual_s:
            leaving.append(heap[0])
            heapq.heappop(heap)
        found = {own for own in leaving if self._rests((name, level, own[1]), own[0])}
        while leaving:
            if leaving[-1] in found:  # it stays until the commit, which an interrupt may prevent
                heapq.heappush(heap, leaving[-1])
            leaving.pop()
        return [(name, level, tenant) for _, tenant in sorted(found)]

    def _rests(self, line: Line, virtual_s: float) -> bool:
        turn = self._committed.get(line)
        return turn is not None and turn.lanes == turn.held == 0 and turn.virtual_s == virtual_s

    def forget(self, line: Line) -> None:
        """Remove the indexes of a line that has neither lanes nor a turn."""
        self.ranks.pop(line, None)
        self._coming.pop(line, None)
        self._urgent.pop(line, None)

    # -- what must hold ----------------------------------------------------------------

    def check(self, now: float, lane: Lane, known: WaitingLane, first: int) -> None:
        """Raise AssertionError unless a lane that waits, whose first ticket has this arrival, is found."""
        line = (lane[0], known.level, known.tenant)
        places = [rank for rank in self.ranks.get(line, ()) if rank[2] == lane]
        assert any(rank[0] == known.order and rank[1] <= first for rank in places), (
            "a lane that waits is in no heap"
        )
        assert (
            known.urgent_s == inf
            or now >= known.lost_s
            or any(own[2] == lane for index in (self._coming, self._urgent) for own in index.get(line, ()))
        ), "a lane that waits would never be urgent"
