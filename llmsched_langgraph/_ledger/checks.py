"""Checks what must hold of every ledger at any moment, from its view alone.

Does not know how a ledger stores its tickets.
"""

from __future__ import annotations

from collections.abc import Callable

from llmsched_langgraph._ledger.values import LedgerView, Waiting

OVER = ("forced", "cycle")
"""The reasons for which a grant may exceed the limit."""


def check_view(view: LedgerView, now: float, may_hold: Callable[[Waiting], bool] = lambda _: True) -> None:
    """Raise AssertionError unless totals, limits and the invariant of grants hold at `now`.

    Args:
        view: the ledger's view.
        now: the clock.
        may_hold: returns whether the tenant of a waiting ticket may hold one more slot.
    """
    for name, pool in view.backends.items():
        claims = [claim for claim in view.waiting.values() if claim.lane[0] == name]
        waiting = len(claims)
        assert pool.holding == sum(grant.lane[0] == name for grant in view.holding.values()), "holding"
        assert pool.waiting == waiting, "waiting"
        assert pool.granted - pool.released == pool.holding, "a slot was lost"
        free = pool.holding < pool.slots and now >= pool.ready_s
        able = [claim for claim in claims if may_hold(claim)] if free else []
        # Where rates hold back the first ticket, none overtakes it.
        assert not able or any(pool.admits_s(now, own.call) > now for own in able), (
            "a slot is free, an admissible ticket waits"
        )
    for grant in view.holding.values():
        assert grant.concurrency <= grant.slots or grant.reason in OVER, "a limit was exceeded"
