"""Finds the order in which the tickets of a backend would be served if nothing changed.

Does not change the state, and is no promise: new calls, beliefs and ends of calls change the order.
Explorations and the limits of rates are left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import inf
from typing import Any, NamedTuple

from llmsched_langgraph._ledger.lines import WaitingLane
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.tenants import NONE_SERVED, Served, Tenants, Turn
from llmsched_langgraph._ledger.values import FIRST_COME, BackendView, Lane, Waiting


class Next(NamedTuple):
    """A waiting ticket in the order of service.

    Attributes:
        ticket: its number.
        waits: the ticket.
        reason: the tier that would decide: "overdue", "deadline" or "order"; "limit" if its tenant's own
            limit holds it back, so that it comes after all others.
        level: its priority.
        tenant: its tenant; empty for none.
        order: the policy's order of its job.
    """

    ticket: int
    waits: Waiting
    reason: str
    level: int
    tenant: str
    order: float


class _Line:
    """The waiting tickets of one tenant in one level, first the one to serve first."""

    def __init__(self, turn: Turn | None, first: int) -> None:
        self.virtual_s = 0.0 if turn is None else turn.virtual_s
        self.held = 0 if turn is None else turn.held
        self.number = first if turn is None else turn.number
        self.urgent: list[tuple[float, int, Next]] = []
        self.others: list[tuple[float, int, Next]] = []

    @property
    def place(self) -> tuple[float, int, int]:
        """Its place among the lines of its level."""
        return self.virtual_s, self.held, self.number


def order_of_service(
    now: float,
    view: BackendView,
    values: Mapping[Any, Any],
    overdue: Overdue,
    tenants: Tenants,
    served: Served | None = None,
    blocked: Callable[[str], bool] = lambda _: False,
) -> Iterator[Next]:
    """Yield the waiting tickets of a backend. O(n log n) in their number.

    Args:
        now: the clock.
        view: the backend.
        values: a copy of the ledger's state (`truth.py`).
        overdue: the bound of waiting.
        tenants: the settings of the tenants.
        served: the service times of the backend; a tenant is charged with their mean.
        blocked: whether the tenant's own limit holds its calls back.
    """
    name, open_s = view.backend.name, view.pause.open_s(now)
    lines: dict[int, dict[str, _Line]] = {}
    due: list[tuple[float, Lane, int, Next]] = []
    held_back: list[tuple[int, float, int, Next]] = []
    for ticket, waits in _waiting(values, name):
        known: WaitingLane | None = values.get(waits.lane)
        level, order, tenant = FIRST_COME.level, FIRST_COME.order, FIRST_COME.tenant
        urgent, due_s = False, inf
        if known is not None:
            level, order, tenant, due_s = known.level, known.order, known.tenant, known.due_s
            urgent = known.urgent_s <= now < known.lost_s
        own = Next(ticket, waits, "deadline" if urgent else "order", level, tenant, order)
        if tenant and blocked(tenant):
            held_back.append((level, order, waits.arrival, own._replace(reason="limit")))
            continue
        by_tenant = lines.setdefault(level, {})
        line = by_tenant.get(tenant)
        if line is None:
            line = by_tenant[tenant] = _Line(values.get((name, level, tenant)), waits.arrival)
        (line.urgent if urgent else line.others).append((order, waits.arrival, own))
        if due_s <= open_s:
            due.append((due_s, waits.lane, waits.arrival, own))
    mean_s = (served or NONE_SERVED).mean_s
    yield from _merged(view, lines, sorted(due), overdue, lambda own: mean_s / tenants.of(own).weight)
    for *_, own in sorted(held_back):
        yield own


def _waiting(values: Mapping[Any, Any], name: str) -> Iterable[tuple[int, Waiting]]:
    for key, value in values.items():
        if type(value) is Waiting and value.lane[0] == name:
            yield key, value


def _merged(
    view: BackendView,
    lines: Mapping[int, Mapping[str, _Line]],
    due: Iterable[tuple[float, Lane, int, Next]],
    overdue: Overdue,
    charge_s: Callable[[str], float],
) -> Iterator[Next]:
    """Yield the tickets of all lines: levels in turn, tenants by virtual time, overdue ones between them."""
    served: set[int] = set()
    waits = iter(due)
    next_due = next(waits, None)
    granted, last_overdue = view.granted, view.overdue

    def serve(own: Next) -> Next:
        nonlocal granted
        line = lines[own.level][own.tenant]
        line.virtual_s, line.held = line.virtual_s + charge_s(own.tenant), line.held + 1
        granted += 1
        served.add(own.ticket)
        return own

    for level in sorted(lines):
        turns = []
        for tenant, line in lines[level].items():
            heapq.heapify(line.urgent)
            heapq.heapify(line.others)
            turns.append((*line.place, tenant))
        heapq.heapify(turns)
        while turns:
            while next_due is not None and next_due[-1].ticket in served:
                next_due = next(waits, None)
            if next_due is not None and (last_overdue is None or granted + 1 - last_overdue >= overdue.every):
                yield serve(next_due[-1]._replace(reason="overdue"))
                last_overdue = granted
                continue
            *place, tenant = turns[0]
            line = lines[level][tenant]
            for heap in (line.urgent, line.others):
                while heap and heap[0][2].ticket in served:
                    heapq.heappop(heap)
            if not (line.urgent or line.others):
                heapq.heappop(turns)
            elif tuple(place) != line.place:
                heapq.heapreplace(turns, (*line.place, tenant))  # an overdue call of it was served
            else:
                yield serve(heapq.heappop(line.urgent or line.others)[2])
                heapq.heapreplace(turns, (*line.place, tenant))
