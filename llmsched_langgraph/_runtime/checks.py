"""Checks that each waiting thread and coroutine has a ticket.

Does not check tickets, slots or jobs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from llmsched_langgraph._core.events import CallRequested


def check_waiters(waiters: Mapping[int, object], known: Callable[[int], bool], inbox: deque[Any]) -> None:
    """Raise AssertionError if a waiter's ticket is neither known nor requested in the inbox."""
    tickets = tuple(waiters)
    asking = {one[1].ticket for one in inbox.copy() if type(one) is tuple and type(one[1]) is CallRequested}
    for ticket in tickets:
        assert known(ticket) or ticket in asking or ticket not in waiters, "a waiter without a ticket"
