"""Defines what the wait-for graph consists of: calls that wait, backends, and states of code.

Does not build the graph: `graph` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from llmsched_langgraph._ledger.values import BackendView, Waiting
from llmsched_langgraph._runtime.cycles.stdlib import Other

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.slot import Slot

Key = tuple[int, str, str]
"""A backend of the process: the id of its driver, its name, and the tenant whose limit it is; else empty."""


class Waiter(NamedTuple):
    """A call that waits for a slot.

    Attributes:
        key: its backend.
        ticket: its ticket.
        slot: the object that owns the ticket.
        age_s: seconds since its request.
        limit: the limit of its tenant, as a backend; that backend itself without one.
    """

    key: Key
    ticket: int
    slot: Slot
    age_s: float
    limit: Key


class Pool(NamedTuple):
    """A backend that calls wait for. `held` is the number of its slots that are held, of `slots`."""

    driver: Driver
    view: BackendView
    slots: int
    held: int
    waiting: list[Waiter]
    holding: list[tuple[int, Slot]]


class Blocked(NamedTuple):
    """The state of code that cannot continue before one of the calls `by` gets its slot.

    It is not `sure` if other code, which is not known, might let it continue.
    """

    by: tuple[Waiter, ...]
    sure: bool = True


State = Blocked | Other


class Stuck(NamedTuple):
    """A holder that cannot continue before one of the calls `by` gets a slot. `why` selects the message."""

    slot: Slot
    by: tuple[Waiter, ...]
    why: str
    sure: bool


def full(pool: Pool) -> bool:
    """Return whether a slot comes free only if one of the known holders releases its own."""
    if len(pool.holding) != pool.held or not pool.holding or not pool.waiting:
        return False
    driver, view, now = pool.driver, pool.view, pool.driver.clock()
    if pool.held >= pool.slots:
        return now >= view.ready_s
    claims = (driver.claim(waiter.ticket) for waiter in pool.waiting)
    return any(type(claim) is Waiting and view.stalled(now, claim.call) for claim in claims)


def together(states: list[State], *, every: bool) -> State:
    """Return the state of code that waits for every one of several others, or for the first one."""
    if any(state in (Other.MOVES, Other.GONE) for state in states):
        return Other.MOVES
    blocked = [state for state in states if isinstance(state, Blocked)]
    if not blocked:
        return Other.WAITS
    by = tuple(dict.fromkeys(waiter for state in blocked for waiter in state.by))
    if every:
        return Blocked(by, any(state.sure for state in blocked))
    return Blocked(by, len(blocked) == len(states) and all(state.sure for state in blocked))
