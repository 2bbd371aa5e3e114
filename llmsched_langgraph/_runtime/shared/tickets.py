"""Reads what the mirror of a shared ledger knows of the tickets of this process.

Does not change it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import FIRST_COME, BackendView, Grant, Key, Request, Waiting


class WaitingLane(NamedTuple):
    """A lane in which tickets wait: its key, and how many."""

    key: Key
    waiting: int


def in_order(truth: Truth, backend: str) -> list[int]:
    """Return the tickets that wait at a backend, first the one to serve first."""
    places = []
    for ticket in tuple(truth.committed.copy()):  # `copy` runs no Python code, and no other thread
        claim = truth.get(ticket)
        if type(claim) is Waiting and claim.lane[0] == backend:
            known: WaitingLane | None = truth.get(claim.lane)
            key = FIRST_COME if known is None else known.key
            places.append((key.level, key.order, ticket))
    return [ticket for _, _, ticket in sorted(places)]


def requests(truth: Truth, tickets: Sequence[int], tenant: Callable[[Grant], str]) -> list[Request]:
    """Return requests that bring these tickets back to a server that does not know them."""
    found = []
    for ticket in tickets:
        claim = truth.committed.get(ticket)
        if type(claim) is Waiting:
            known: WaitingLane | None = truth.committed.get(claim.lane)
            key = FIRST_COME if known is None else known.key
            found.append(Request(ticket, claim.lane, key, False, claim.call))
        elif type(claim) is Grant:
            found.append(Request(ticket, claim.lane, Key(tenant=tenant(claim)), True, claim.call))
    return found


def share(view: BackendView, processes: int) -> int:
    """Return how many slots are free of this process's equal share of a backend's, which is at least one."""
    return max(1, view.slots // max(1, processes)) - view.holding
