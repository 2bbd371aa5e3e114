"""Finds the tickets whose owner is gone: its object was collected, or its event loop is closed.

Does not release them: it posts `HolderDied`. A waiting ticket of a closed loop is released at its grant. Runs
whose loop is closed end, too.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from llmsched_langgraph._core.events import HolderDied
from llmsched_langgraph._ledger.values import Grant


class RunOnLoop(Protocol):
    """A run whose code is on an event loop."""

    def end_with_loop(self) -> None:
        """End the run, unless it has ended: its loop is closed."""


class Holders:
    """The owners of all tickets that are not released, and the runs on event loops, by weak references.

    Args:
        inbox: receives `HolderDied`.
        claim: returns what the ledger has of a ticket.
        waiters: the waiters by ticket; those of owners that are gone are removed.

    Attributes:
        watched: the references by ticket. Each is kept until its ticket is released: a collected reference
            calls no callback.
    """

    __slots__ = ("_claim", "_inbox", "_runs", "_waiters", "watched")

    def __init__(self, inbox: deque[Any], claim: Callable[[int], object], waiters: dict[int, Any]) -> None:
        self._inbox = inbox
        self._claim = claim
        self._waiters = waiters
        self.watched: dict[int, HolderDied] = {}
        # By the run's reference, which removes itself when the run is collected.
        self._runs: dict[weakref.ref[RunOnLoop], weakref.ref[Any]] = {}

    def watch(self, holder: Any, ticket: int, loop: weakref.ref[Any] | None = None) -> HolderDied:
        """Return a weak reference to `holder` that releases the ticket when `holder` is collected.

        Args:
            holder: the object that owns the ticket.
            ticket: its number.
            loop: the event loop without which the call cannot go on; None for a call in a thread.
        """
        died = HolderDied(holder, self._inbox.append)
        died.ticket = ticket
        died.loop = loop
        self.watched[ticket] = died
        return died

    def watch_run(self, run: RunOnLoop, loop: Any) -> None:
        """End the run when this event loop is closed before the run has ended."""
        self._runs[weakref.ref(run, self._forget_run)] = weakref.ref(loop)

    def _forget_run(self, run: weakref.ref[RunOnLoop]) -> None:
        self._runs.pop(run, None)

    def post_closed(self) -> None:
        """Post the death of each owner of a slot whose event loop is closed, and end the runs on such loops.

        A task of a closed loop stays suspended for ever. As long as something refers to the task, its
        frames, and the slot in them, are not collected. AnyIO itself refers to each task that was in a scope.
        """
        for run, loop in tuple(self._runs.items()):
            if is_closed(loop):
                self._runs.pop(run, None)
                own = run()
                if own is not None:
                    own.end_with_loop()
        for died in tuple(self.watched.values()):
            if is_closed(died.loop) and type(self._claim(died.ticket)) is Grant:
                self._inbox.append(died)
                self._waiters.pop(died.ticket, None)

    def wake_loops(self) -> None:
        """Wake the event loops of the runs whose calls hold slots or wait.

        A program may cancel a task from another thread without waking its loop, which then sees the
        cancellation at its next event: when the request is answered, in vain. LangGraph's in-memory server
        does so if each run has its own loop.
        """
        owners = [died() for died in tuple(self.watched.values())]
        for loop in {owner.terms.loop for owner in owners if owner is not None} - {None}:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_nothing)


def _nothing() -> None:
    pass


def is_closed(loop: weakref.ref[Any] | None) -> bool:
    """Return whether there is an event loop, and it is closed or was collected."""
    return loop is not None and ((alive := loop()) is None or alive.is_closed())


def running_loop_ref() -> weakref.ref[asyncio.AbstractEventLoop] | None:
    """Return a weak reference to the running asyncio event loop; None if there is none."""
    try:
        return weakref.ref(asyncio.get_running_loop())
    except RuntimeError:
        return None
