"""Knows the story: the log of what happened and what was decided, the one thing that everybody else observes.

Does not know who observes it. Entries stand under their numbers before they count: a decision that is broken
off leaves entries behind that the next one writes over.
"""

from __future__ import annotations

from typing import Any

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._ledger.truth import Truth

LENGTH = 2_000
"""Entries that are kept for those who look back. Those that were not delivered yet are kept beside them."""

_URGENT = frozenset(["BeliefWanted", "JobEnded", "JobClosed", "PolicyFailed"])

_LAST = "#story"

_new = tuple.__new__


class Story:
    """Entries by number, from 1. The number of the last one is committed with the decision it belongs to.

    Attributes:
        urgent: the number of an entry that the package itself should see soon; others can wait for it.
    """

    __slots__ = ("_entries", "_first", "_length", "_truth", "urgent")

    def __init__(self, truth: Truth, length: int = LENGTH) -> None:
        self.urgent = 0
        self._length = length
        self._truth = truth
        self._entries: dict[int, Entry] = {}
        self._first = 1
        truth.committed[_LAST] = 0

    @property
    def last(self) -> int:
        """The number of the latest entry."""
        last: int = self._truth.committed[_LAST]
        return last

    def tell(self, at_s: float, kind: str, job: int, ticket: int, backend: str, detail: Any) -> None:
        """Add an entry to the present decision."""
        staged = self._truth.staged
        number = (staged[_LAST] if _LAST in staged else self._truth.committed[_LAST]) + 1
        self._entries[number] = _new(Entry, (number, at_s, kind, job, ticket, backend, detail))
        staged[_LAST] = number
        if kind in _URGENT:
            self.urgent = number

    def after(self, number: int) -> list[Entry]:
        """The entries behind that number, as far as they are kept."""
        entries = self._entries
        numbers = range(max(number + 1, self._first), self._truth.committed[_LAST] + 1)
        # Another thread may forget some meanwhile.
        return [entry for number in numbers if (entry := entries.get(number)) is not None]

    def trim(self, delivered: int) -> None:
        """Forget entries that are older than the latest, up to the number that was delivered."""
        upto = min(delivered, self._truth.committed[_LAST] - self._length)
        if upto - self._first < self._length // 8:
            return
        for number in range(self._first, upto + 1):
            self._entries.pop(number, None)
            self._first = number + 1
