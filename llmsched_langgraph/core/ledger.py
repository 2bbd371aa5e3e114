"""Knows who holds a slot of one backend and who waits, and grants in (priority, arrival) order.

Does not know jobs, policies, time, locks or IO.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class SlotLedger:
    """Slots of one backend. Free slots are derived from who holds one, never counted twice.

    Every change is followed by `grant()` until it gives None; then no slot is free while a ticket
    waits. Between two grants the caller may reprioritise, so that a grant can change the order of
    the next. All operations are O(log n) in the number of waiting tickets, amortised.

    Attributes:
        capacity: slots of the backend. Lowering it drains: no ticket is ever revoked.
        granted: slots given since the beginning, forced ones included.
        released: slots given back since the beginning.
    """

    capacity: int
    granted: int = 0
    released: int = 0
    _arrivals: int = 0
    _heap: list[tuple[float, int, int]] = field(default_factory=list)  # (priority, arrival, ticket)
    _waiting: dict[int, tuple[float, int, int]] = field(default_factory=dict)  # its one live entry
    _holding: dict[int, bool] = field(default_factory=dict)  # ticket -> was it forced

    def request(self, ticket: int, priority: float, *, forced: bool = False) -> None:
        """Put a new ticket into the backlog; a `forced` one into a slot at once, over capacity if need be.

        Raises:
            ValueError: the ticket already waits or holds.
        """
        if ticket in self._waiting or ticket in self._holding:
            raise ValueError(f"ticket {ticket} was requested twice")
        if forced:
            self._holding[ticket] = True
            self.granted += 1
            return
        self._arrivals += 1
        self._push((priority, self._arrivals, ticket))

    def reprioritise(self, ticket: int, priority: float) -> None:
        """Move a waiting ticket; its arrival stays. Unknown or holding: nothing happens."""
        entry = self._waiting.get(ticket)
        if entry is not None and entry[0] != priority:
            self._push((priority, entry[1], ticket))
            self._compact()

    def release(self, ticket: int) -> None:
        """Take the ticket out, whether it waits, holds or is unknown."""
        if self._waiting.pop(ticket, None) is not None:
            self._compact()
        elif self._holding.pop(ticket, None) is not None:
            self.released += 1

    def resize(self, capacity: int) -> None:
        """Set the number of slots. Fewer than are held: the surplus drains."""
        self.capacity = capacity

    def grant(self) -> int | None:
        """Move the first waiting ticket into a free slot; None when there is no such ticket or slot."""
        if len(self._holding) >= self.capacity:
            return None
        while self._heap:
            entry = heapq.heappop(self._heap)
            ticket = entry[2]
            if self._waiting.get(ticket) is entry:
                del self._waiting[ticket]
                self._holding[ticket] = False
                self.granted += 1
                self._compact()
                return ticket
        return None

    def _push(self, entry: tuple[float, int, int]) -> None:
        self._waiting[entry[2]] = entry
        heapq.heappush(self._heap, entry)

    def _compact(self) -> None:
        # Entries that were moved or released stay in the heap until they surface. Rebuilding once
        # they are the majority keeps memory within twice the backlog, at O(1) a change, amortised.
        if len(self._heap) > 2 * len(self._waiting) + 16:
            self._heap = list(self._waiting.values())
            heapq.heapify(self._heap)

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
        return (ticket for _, _, ticket in sorted(self._waiting.values()))

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
        assert len(self._heap) <= 2 * len(self._waiting) + 17, "dead entries pile up"
        live = {id(entry) for entry in self._heap}
        assert all(id(entry) in live for entry in self._waiting.values()), "a waiting ticket was lost"
