"""Finds the slot that a model call outside every run takes.

Does not see the calls: the gate asks about each one that carries no mark. Such a call is a job of its own.
Of the schedulers that gate such calls and serve the model, the one with the oldest active run gives the slot.
Without an active run the decision costs one look at a dict.

A thread that outlives the run that started it takes slots of that run's scheduler, but only while no run is
active there: it may serve such a run, which would hold the slot that the thread waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.call import Call, current_call
from llmsched_langgraph._runtime.context import left_run
from llmsched_langgraph._runtime.routing import Requested, Router
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.slot import Terms
from llmsched_langgraph._runtime.unmarked import Serving, serving
from llmsched_langgraph.errors import UnknownModelError

_NOBODY: Any = None
_NONE = Terms(_NOBODY, "")


class Passing(Call):
    """A counted call that takes no slot. Of the calls inside it, the first one at a time is part of it.

    One that runs beside another one is counted, as it would take a slot of its own.

    Attributes:
        counting: the schedulers that count it.
        passed: the call that it is part of; None if there is none.
        taken: one element per call inside.
    """

    def __init__(self, counting: Sequence[Serving], around: Passing | None = None) -> None:
        super().__init__(_NONE)
        self.counting = counting
        self.passed = around
        self.taken: list[None] = []
        self._counts_in: list[None] | None = None  # the list of the call around that has its element

    def acquire(self) -> None:
        """Take part in the call around, if there is one."""
        if self.passed is None:
            return
        self._counts_in = self.passed.taken
        self._counts_in.append(None)
        if len(self._counts_in) > 1:
            for active in self.counting:
                active.unmarked.count()

    async def aacquire(self) -> None:
        """Take part in the call around, if there is one."""
        self.acquire()

    def _finish(self, outcome: Outcome) -> None:
        taken, self._counts_in = self._counts_in, None
        if taken:
            taken.pop()
        super()._finish(outcome)


def call(names: Callable[[Router], Requested | None], model: object) -> Call | None:
    """Return the context manager to enter around a model call outside every run; None for none.

    Such a call is counted, unless it is one of a thread that outlives its run and gets a slot.

    Args:
        names: returns what the call asks for, as far as a router needs it.
        model: the model object.
    """
    around = current_call()
    if isinstance(around, Passing):
        return Passing(around.counting, around)
    left, schedulers = left_run(), serving()
    if left is None and not schedulers:
        return None
    found = None
    # A call inside a call that took a slot takes one, too.
    if left is not None and (around is not None or all(own.driver is not left.driver for own in schedulers)):
        found = _call_on(left, names)
    if found is None:
        if not schedulers:
            return None
        if around is None:
            for active in schedulers:
                active.unmarked.count()
        gating = (_call_on(active, names) for active in schedulers if active.unmarked.outside == "gate")
        found = next((one for one in gating if one is not None), None)
    if found is None:
        return Passing(schedulers)
    found.model = model
    return found


def _call_on(on: Run | Serving, names: Callable[[Router], Requested | None]) -> Call | None:
    """Return the call on that scheduler; None if the scheduler is closed or does not serve the model."""
    if on.driver.closed:
        return None
    try:
        found: Call = on.scheduler.slot(names(on.router))
    except UnknownModelError:
        return None
    return found
