"""Chooses the ticket that a backend grants next.

Does not change the state. The tiers, in order: an overdue lane if it is the turn of one; the first level; the
tenant whose turn it is; its urgent lanes; an exploration now and then; the policy's order.
"""

from __future__ import annotations

from functools import partial

from llmsched_langgraph._ledger.ceilings import Ceilings
from llmsched_langgraph._ledger.exploration import Exploration, choose, in_order
from llmsched_langgraph._ledger.lines import Lines
from llmsched_langgraph._ledger.overdue import Dues, Overdue
from llmsched_langgraph._ledger.queues import Queues
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.turns import Turns
from llmsched_langgraph._ledger.values import BackendView, Line, Waiting

Next = tuple[str, tuple[int, Waiting]]
"""The reason of a grant, and the ticket."""


class Selection:
    """The order of service of all backends, by the indexes of the ledger."""

    def __init__(
        self,
        truth: Truth,
        queues: Queues,
        lines: Lines,
        turns: Turns,
        dues: Dues,
        ceilings: Ceilings,
        overdue: Overdue,
        exploration: Exploration | None,
    ) -> None:
        self._committed = truth.committed
        self._first = queues.first
        self._lines = lines
        self._turns = turns
        self._dues = dues
        self._ceilings = ceilings
        self._overdue = overdue
        self._exploration = exploration

    def next(self, now: float, name: str, view: BackendView) -> Next | None:
        """Return the ticket to grant next, and the reason; None if none may have a slot."""
        if self._overdue.turn(view):
            blocked = partial(self._ceilings.blocked, now)
            lane = self._dues.first(name, view.pause.open_s(now), blocked)
            if lane is not None:
                return "overdue", self._first(lane)
        line = self._turns.next(now, name)
        if line is None:
            return None
        urgent = self._lines.urgent(line, now)
        if urgent is not None:
            return "deadline", urgent
        if self._exploration is not None and self._exploration.turn(view.granted + 1):
            found = self._most_informative(line, now)
            if found is not None:
                return "explore", found
        return "order", self._lines.head(line)

    def _most_informative(self, line: Line, now: float) -> tuple[int, Waiting] | None:
        """Return the first ticket of the lane with the largest gain; None if no lane has a gain."""
        try:
            lanes = in_order(self._lines.ranks[line], line, self._committed.get, self._first)
            lane = choose(lanes, now)
        except Exception:  # a bug in a user's belief costs this exploration, never a slot
            return None
        return None if lane is None else self._first(lane)
