"""Checks what must hold of every ledger at any moment, from its view alone.

Does not know how a ledger stores its tickets.
"""

from __future__ import annotations

from llmsched_langgraph._ledger.values import LedgerView

OVER = ("forced", "cycle")
"""The reasons for which a grant may exceed the limit."""


def check_view(view: LedgerView, now: float) -> None:
    """Raise AssertionError unless totals, limits and the invariant of grants hold at `now`."""
    for name, pool in view.backends.items():
        waiting = sum(claim.lane[0] == name for claim in view.waiting.values())
        assert pool.holding == sum(grant.lane[0] == name for grant in view.holding.values()), "holding"
        assert pool.waiting == waiting, "waiting"
        assert pool.granted - pool.released == pool.holding, "a slot was lost"
        free = pool.holding < pool.backend.slots and now >= pool.ready_s
        assert not (pool.waiting and free), "a slot is free, an admissible ticket waits"
    for grant in view.holding.values():
        assert grant.concurrency <= grant.slots or grant.reason in OVER, "a limit was exceeded"
