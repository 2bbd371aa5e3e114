"""Defines the ledger protocol. The ledger is the sole owner of grants.

Does not implement the protocol. `tests/support/conformance.py` tests every implementation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.exploration import Exploration
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.preview import Next
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import (
    BackendView,
    Change,
    Crowd,
    Grant,
    LedgerView,
    News,
    Request,
    Waiting,
)


class Ledger(Protocol):
    """Stores waiting tickets, held slots and free slots. It calls no callback between two grants.

    Invariant: no admissible ticket waits while a slot that it could use is free. A ticket is admissible
    unless its backend is paused, or the backend's rates hold back the ticket that is next. Changes are
    idempotent: one that is submitted again, after an interrupted decision, counts once.
    """

    overdue: Overdue
    """The bound of waiting."""

    tenants: Tenants
    """The settings of the tenants."""

    more: bool
    """Whether `settle` may have another result after the last one."""

    @property
    def refusal(self) -> Exception | None:
        """Why calls may not wait now; None if they may. A call that would wait gets a copy of it."""

    def attach(self, ready: Callable[[], None], fail: Callable[[Exception], None]) -> None:
        """Register `ready`, called from any thread when `settle` has news from another process.

        `fail` ends all waits with an error; it is called from any thread if tickets cannot be granted.
        """

    def submit(self, now: float, *changes: Change) -> None:
        """Apply the changes in order. Never waits for IO."""

    def settle(self, now: float) -> tuple[Sequence[News], float | None]:
        """Return new grants, losses and refusals; if there are none, also when to call again.

        The second value is the clock time at which a grant becomes possible by time alone; None for never.
        Call until the first value is empty. An implementation may return one grant at a time, so that
        dependent keys can change before the next.
        """

    def admit(self, now: float, request: Request) -> Grant | None:
        """Grant at once if forced, or if a slot is free and no ticket waits at the backend.

        Return None, without a change, if neither holds or the implementation cannot decide locally; then
        `submit` the request.
        """

    @property
    def claim(self) -> Callable[[int], Waiting | Grant | None]:
        """Function from a ticket to its committed state; None for an unknown or released ticket."""

    def backend(self, name: str) -> BackendView:
        """Return the backend's current state. Raises KeyError for an unknown name."""

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """The current state of all backends, by name."""

    def unmeasured(self, ticket: int) -> bool:
        """Return whether the ticket was released, and the ledger needs its tokens (`Measure`)."""

    def expire(self, now: float) -> None:
        """Stop waiting for tokens that have not become known for a minute."""

    def close(self) -> None:
        """Give back what the ledger itself holds, such as a lease, when no ticket is left. Does not wait."""

    def crowd(self, now: float, name: str, tenant: str) -> Crowd | None:
        """Return why a further call of the tenant may not wait at the backend, by `max_queued`.

        None if it may, or need not wait.
        """

    def limits(self, name: str) -> list[tuple[str, int, int]]:
        """Return each tenant with a limit of slots: its name, the limit, the slots that it holds there."""

    def tenant(self, claim: Waiting | Grant) -> str:
        """Return the tenant of a ticket; empty for none, or for one that was not charged for its slot."""

    def preview(self, now: float, name: str) -> list[Next]:
        """Return the waiting tickets of a backend in the order in which they would be served now.

        O(n log n) in the tickets: for display. A ledger that several processes share has those of this one.
        """

    def view(self) -> LedgerView:
        """Return the whole state. O(tickets): for display and checks."""

    def check(self, now: float) -> None:
        """Raise AssertionError unless every invariant holds."""


Home = Callable[[Iterable[Backend], Exploration | None, Truth, Overdue, Tenants], Ledger]
"""Returns a ledger of these backends and settings, whose values are in the given store."""
