"""Makes every driver of a forked child begin anew, and computes what the child keeps of its parent's machine.

Does not renew locks and threads: their owners do. The child has none of the parent's calls and jobs, because
the code that would end them runs in the parent only. It has the same settings, profile and observers.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from llmsched_langgraph._core.events import BackendConfigured
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._ledger.values import Grant, Waiting
from llmsched_langgraph._runtime.waiter import ThreadWaiter


class Kept(NamedTuple):
    """What a child keeps of its parent's machine.

    Attributes:
        machine: a machine without jobs and tickets, with the parent's settings. Its numbers of jobs and
            entries continue those of the parent, because observers and policies identify them by number.
        changes: the inbox's changes of settings that were not applied.
        tickets: the parent's tickets: those of frames that continue in the child are requested again.
    """

    machine: SchedulerMachine
    changes: list[Any]
    tickets: dict[int, Waiting | Grant]


def keep(machine: SchedulerMachine, inbox: deque[Any], waiters: Iterable[object]) -> Kept:
    """Return what a child keeps of the parent's machine and inbox; the rest of them is not used there.

    The inbox is emptied except for its first event. If a policy forked, its thread is in the middle of the
    decision on this event, and finishes it in the child. If a signal handler forked, its thread may wait: it
    is woken, to request its ticket again. An event loop cannot continue in a child: its waiters are not
    woken, because they would wake the parent's loop.
    """
    changes = [one for one in inbox if type(one) is tuple and type(one[1]) is BackendConfigured]
    while len(inbox) > 1:
        inbox.pop()
    for waiter in waiters:
        if isinstance(waiter, ThreadWaiter):
            waiter.wake()
    view = machine.ledger.view()
    backends = [own.backend for own in view.backends.values()]
    emptied = SchedulerMachine(
        machine.policy,
        backends,
        machine.profile,
        last=machine.last,
        overdue=machine.ledger.overdue,
        tenants=machine.ledger.tenants,
        home=machine.home,
    )
    return Kept(emptied, changes, {**view.waiting, **view.holding})


class Renewable(Protocol):
    """An object with calls, jobs, threads and locks."""

    def forked(self) -> None:
        """Begin anew in the child of a fork; see `_fork` for what is not allowed."""


_all: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_child(owner: Renewable) -> None:
    """Have `owner.forked()` called in the child of each fork, as long as `owner` exists."""
    _all.add(owner)


def _forked() -> None:
    for owner in tuple(_all):
        owner.forked()


in_child(_forked)
