"""Checks that every waiter of a driver belongs to a ticket.

Does not check the machine: `SchedulerMachine.check` does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Mapping
from typing import Any

from llmsched_langgraph._core.events import CallRequested


def check_waiters(
    waiters: Mapping[int, Any], claim: Callable[[int], Any], untold: Container[int], inbox: deque[Any]
) -> None:
    """Raise AssertionError if a waiter's ticket is unknown: not in the ledger, the inbox or `untold`.

    Args:
        waiters: the waiters by ticket. Other threads may change it.
        claim: returns a ticket's state; None if there is none.
        untold: tickets that were granted or dismissed, of which the waiter may not know yet.
        inbox: the events that are not handled yet.
    """
    tickets = tuple(waiters)
    events = (one[1] for one in inbox.copy() if type(one) is tuple)
    asking = {event.ticket for event in events if type(event) is CallRequested}
    for ticket in tickets:
        known = claim(ticket) is not None or ticket in untold or ticket in asking
        assert known or ticket not in waiters, "a waiter without a ticket"
