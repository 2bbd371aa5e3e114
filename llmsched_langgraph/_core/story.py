"""Stores the story: the log of events and decisions that all observers read.

Does not deliver entries to observers. Entries are stored by number before they are committed; the next
decision overwrites the entries of an interrupted one.
"""

from __future__ import annotations

from typing import Any

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._ledger.truth import Truth

LENGTH = 2_000
"""Number of past entries kept for later reads. Undelivered entries are kept in addition."""

_URGENT = frozenset(["BeliefWanted", "JobEnded", "JobClosed", "PolicyFailed"])

_LAST = "#story"

_new = tuple.__new__


class Story:
    """Entries by number, from `last` + 1. The last number is committed with its decision.

    Attributes:
        urgent: number of the latest entry that the package must process soon; 0 if there was none.
        closed: number of the latest call that was a job of its own and ended; 0 if there was none.
    """

    __slots__ = ("_entries", "_first", "_length", "_truth", "closed", "urgent")

    def __init__(self, truth: Truth, length: int = LENGTH, last: int = 0) -> None:
        self.closed = self.urgent = 0
        self._length = length
        self._truth = truth
        self._entries: dict[int, Entry] = {}
        self._first = last + 1
        truth.committed[_LAST] = last

    @property
    def last(self) -> int:
        """The number of the latest entry."""
        last: int = self._truth.committed[_LAST]
        return last

    def tell(self, at_s: float, kind: str, job: int, ticket: int, backend: str, detail: Any) -> None:
        """Stage an entry; it becomes visible when the decision commits."""
        staged = self._truth.staged
        number = (staged[_LAST] if _LAST in staged else self._truth.committed[_LAST]) + 1
        self._entries[number] = _new(Entry, (number, at_s, kind, job, ticket, backend, detail))
        staged[_LAST] = number
        if kind in _URGENT:
            self.urgent = number
        elif kind == "CallClosed":
            self.closed = number

    def after(self, number: int) -> list[Entry]:
        """Return the kept entries with larger numbers."""
        entries = self._entries
        numbers = range(max(number + 1, self._first), self._truth.committed[_LAST] + 1)
        # Another thread may trim concurrently.
        return [entry for number in numbers if (entry := entries.get(number)) is not None]

    def trim(self, delivered: int) -> None:
        """Remove old entries, up to number `delivered`, except the latest `length`."""
        upto = min(delivered, self._truth.committed[_LAST] - self._length)
        if upto - self._first < self._length // 8:
            return
        for number in range(self._first, upto + 1):
            self._entries.pop(number, None)
            self._first = number + 1
