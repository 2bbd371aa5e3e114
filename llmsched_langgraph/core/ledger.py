"""Knows who holds a slot of one backend and who waits, and grants in (priority, arrival) order.

Does not know jobs, policies, time, locks or IO. Tickets that always share a priority come as a group.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

Group = int
"""Whatever the tickets that share one priority have in common: the arrival of their job."""

Key = tuple[float, int, Group]
"""A line's place among the lines: its priority, the arrival of its first ticket, and its group."""


@dataclass(slots=True)
class _Line:
    """The waiting tickets of one group. They share its priority and go in order of arrival.

    Attributes:
        arrivals: its tickets, the earliest first, each with its arrival.
        key: its one live entry in the heap.
    """

    group: Group
    priority: float
    arrivals: OrderedDict[int, int] = field(default_factory=OrderedDict)
    key: Key | None = None


@dataclass(slots=True)
class SlotLedger:
    """Slots of one backend. Free slots are derived from who holds one, never counted twice.

    A ticket that finds a slot free and nobody waiting gets it at once. Every other change is followed by
    `grant()` until it gives None; then no slot is free while a ticket waits. Between two grants the
    caller may reprioritise, so that a grant can change the order of the next. All operations are
    O(log n) in the number of groups that wait, amortised, however many tickets a group has.

    Attributes:
        capacity: slots of the backend. Lowering it drains: no ticket is ever revoked.
        granted: slots given since the beginning, forced ones included.
        released: slots given back since the beginning.
    """

    capacity: int
    granted: int = 0
    released: int = 0
    _arrivals: int = 0
    _heap: list[Key] = field(default_factory=list)
    _lines: dict[Group, _Line] = field(default_factory=dict)  # none of them is empty
    _waiting: dict[int, _Line] = field(default_factory=dict)
    _holding: dict[int, bool] = field(default_factory=dict)  # ticket -> was it forced

    def request(self, ticket: int, group: Group, priority: float, *, forced: bool = False) -> bool:
        """Put a new ticket into a free slot, or else into the backlog; whether it holds a slot now.

        A `forced` one goes into a slot whatever happens, over the capacity if need be. In the backlog
        `priority` is from then on that of all tickets of the group.

        Raises:
            ValueError: the ticket already waits or holds.
        """
        if ticket in self._waiting or ticket in self._holding:
            raise ValueError(f"ticket {ticket} was requested twice")
        if forced or not (self._waiting or len(self._holding) >= self.capacity):
            self._holding[ticket] = forced
            self.granted += 1
            return True
        self._arrivals += 1
        line = self._lines.get(group)
        if line is None:
            line = self._lines[group] = _Line(group, priority)
        line.priority = priority
        line.arrivals[ticket] = self._arrivals
        self._waiting[ticket] = line
        self._rank(line)
        return False

    def reprioritise(self, group: Group, priority: float) -> None:
        """Move the group's waiting tickets; their arrivals stay. If it has none, nothing happens."""
        line = self._lines.get(group)
        if line is not None:
            line.priority = priority
            self._rank(line)

    def release(self, ticket: int) -> None:
        """Take the ticket out, whether it waits, holds or is unknown."""
        line = self._waiting.pop(ticket, None)
        if line is not None:
            del line.arrivals[ticket]
            self._rank(line)
        elif self._holding.pop(ticket, None) is not None:
            self.released += 1

    def resize(self, capacity: int) -> None:
        """Set the number of slots. Fewer than are held: the surplus drains."""
        self.capacity = capacity

    @property
    def grants(self) -> bool:
        """Whether a slot is free and a ticket waits for it."""
        return bool(self._waiting) and len(self._holding) < self.capacity

    def grant(self, ticket: int | None = None) -> int | None:
        """Move a waiting ticket into a free slot; None when there is no such ticket or slot.

        It is the first in line, or the one that is named, if that waits.
        """
        if not self._waiting or len(self._holding) >= self.capacity:
            return None
        if ticket is not None:
            line = self._waiting.pop(ticket, None)
            if line is None:
                return None
            del line.arrivals[ticket]
            self._holding[ticket] = False
            self.granted += 1
            self._rank(line)
            return ticket
        while True:
            key = heapq.heappop(self._heap)
            line = self._lines.get(key[2])
            if line is not None and line.key is key:
                break
        ticket, _ = line.arrivals.popitem(last=False)
        del self._waiting[ticket]
        self._holding[ticket] = False
        self.granted += 1
        self._rank(line)
        return ticket

    def _rank(self, line: _Line) -> None:
        """Give the line the place that its priority and its first ticket make; an empty one has none."""
        if not line.arrivals:
            del self._lines[line.group]
        else:
            arrival = line.arrivals[next(iter(line.arrivals))]
            if line.key is not None and line.key[0] == line.priority and line.key[1] == arrival:
                return
            line.key = (line.priority, arrival, line.group)
            heapq.heappush(self._heap, line.key)
        # Keys that are a line's no more stay in the heap until they surface. Rebuilding once they are
        # the majority keeps memory within twice the lines, at O(1) a change, amortised.
        if len(self._heap) > 2 * len(self._lines) + 16:
            self._heap = [line.key for line in self._lines.values() if line.key is not None]
            heapq.heapify(self._heap)

    def line(self, most: int) -> Iterator[int]:
        """The groups next in line, at most so many. O(most log most), beside what is dead in the heap."""
        reached = [(self._heap[0], 0)] if self._heap else []
        found = 0
        while reached and found < most:
            key, at = heapq.heappop(reached)
            line = self._lines.get(key[2])
            if line is not None and line.key is key:
                found += 1
                yield key[2]
            for below in (2 * at + 1, 2 * at + 2):
                if below < len(self._heap):
                    heapq.heappush(reached, (self._heap[below], below))

    @property
    def holding(self) -> int:
        """Tickets in a slot, forced ones included."""
        return len(self._holding)

    @property
    def waiting(self) -> int:
        """Tickets in the backlog."""
        return len(self._waiting)

    def backlog(self) -> Iterator[int]:
        """Waiting tickets, the next one first. O(n log n): for people, not for decisions."""
        places = ((line.priority, line.arrivals[ticket], ticket) for ticket, line in self._waiting.items())
        return (ticket for _, _, ticket in sorted(places))

    def holders(self) -> Iterator[int]:
        """Tickets in a slot, in the order in which they got it."""
        return iter(self._holding)

    def check(self, *, held_before: int = 0) -> None:
        """Raise AssertionError unless every invariant holds.

        Args:
            held_before: tickets that held a slot before the capacity was lowered, if it was.
        """
        assert self.granted - self.released == len(self._holding), "a slot was lost"
        unforced = sum(not forced for forced in self._holding.values())
        assert unforced <= max(self.capacity, held_before), "more tickets hold than there are slots"
        assert not self._waiting.keys() & self._holding.keys(), "a ticket both waits and holds"
        assert not (self._waiting and len(self._holding) < self.capacity), "a slot is free, a ticket waits"
        assert len(self._heap) <= 2 * len(self._lines) + 17, "dead keys pile up"
        live = {id(key) for key in self._heap}
        for group, line in self._lines.items():
            assert line.group == group, "a line stands under another group's name"
            first = min(line.arrivals.items(), key=lambda item: item[1])
            assert next(iter(line.arrivals.items())) == first, "a line is out of order"
            assert line.key == (line.priority, first[1], group), "a line has not the place that is its own"
            assert id(line.key) in live, "a waiting group was lost"
        lined = {ticket: line for line in self._lines.values() for ticket in line.arrivals}
        assert self._waiting == lined, "a waiting ticket was lost"
