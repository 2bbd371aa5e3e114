"""Knows what a ledger is: the sole owner of grants, wherever it has its home.

Does not know any home. `tests/support/conformance.py` holds what every home must do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from llmsched_langgraph._ledger.values import (
    BackendView,
    Change,
    Grant,
    Granted,
    LedgerView,
    Lost,
    Request,
    Waiting,
)


class Ledger(Protocol):
    """Who waits, who holds, what is free. A ledger calls nobody back between two grants.

    The invariant of every home: no admissible ticket waits while a slot that it could use is free. A ticket
    is admissible unless its backend is paused. Changes are idempotent: one that was submitted twice, because
    the first decision was broken off, counts once.
    """

    def attach(self, ready: Callable[[], None]) -> None:
        """Call `ready` from any thread when `settle` has news that no `submit` of this process led to."""

    def submit(self, now: float, *changes: Change) -> None:
        """Take these changes in order. Never waits for IO."""

    def settle(self, now: float) -> tuple[Sequence[Granted | Lost], float | None]:
        """What has happened; and, once nothing is left to tell, when to be asked again if time alone matters.

        Ask until the first is empty. A home may tell one grant at a time, so that the keys that depend on it
        can be changed before the next.
        """

    def admit(self, now: float, request: Request) -> Grant | None:
        """The short path: the grant, if no ticket waits at the backend and a slot is free, or if forced.

        Else, or where a home cannot tell at once, None, and nothing has changed: `submit` the request then.
        """

    @property
    def claim(self) -> Callable[[int], Waiting | Grant | None]:
        """Gives what a ticket has now, as it is committed; None if it is not known (any more)."""

    def backend(self, name: str) -> BackendView:
        """One backend now. Raises KeyError for one that there is not."""

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """All backends now, by name."""

    def view(self) -> LedgerView:
        """All that it knows. O(tickets): for people and checks."""

    def check(self, now: float) -> None:
        """Raise AssertionError unless every invariant holds."""
