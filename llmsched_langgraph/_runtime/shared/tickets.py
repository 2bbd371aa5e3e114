"""Reads what the mirror of a shared ledger knows of the tickets of this process.

Does not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llmsched_langgraph._ledger.capacity import Capacity
from llmsched_langgraph._ledger.lines import key_of
from llmsched_langgraph._ledger.redis.client import BackendLevel
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import BackendView, Grant, Key, Request, Waiting


def requests(truth: Truth, tickets: Sequence[int], tenant: Callable[[Grant], str]) -> list[Request]:
    """Return requests that bring these tickets back to a server that does not know them."""
    found = []
    for ticket in tickets:
        claim = truth.committed.get(ticket)
        if type(claim) is Waiting:
            key = key_of(truth.committed.get(claim.lane))
            found.append(Request(ticket, claim.lane, key, False, claim.call))
        elif type(claim) is Grant:
            found.append(Request(ticket, claim.lane, Key(tenant=tenant(claim)), True, claim.call))
    return found


def share(view: BackendView, processes: int) -> int:
    """Return how many slots are free of this process's equal share of a backend's, which is at least one."""
    return max(1, view.slots // max(1, processes)) - view.holding


def shown(view: BackendView, level: BackendLevel | None) -> BackendView:
    """Return a backend with the limit and the pause that the server told last; None if it told none."""
    if level is None:
        return view
    found, pause, spent = view.capacity
    if level.slots != found.limit:
        found = found._replace(limit=level.slots)
    return view._replace(capacity=Capacity(found, pause._replace(opens_s=level.opens_s), spent))
