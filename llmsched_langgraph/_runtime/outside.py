"""Finds the slot that a model call outside every run takes.

Does not see the calls: the gate asks about each one that carries no mark. Such a call is a job of its own.
The schedulers with an active run are asked: if several gate such calls, the one with the oldest active run
whose backends serve the model gives the slot. Without an active run the answer costs one look at a dict.

A thread that outlives the run that started it takes slots of that run's scheduler, while no run is active
there. Otherwise it may be one that serves those runs, which may hold the slots that it would wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmsched_langgraph._runtime.call import Call, current_call
from llmsched_langgraph._runtime.context import left_run
from llmsched_langgraph._runtime.routing import Requested
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.slot import Terms
from llmsched_langgraph._runtime.unmarked import Serving, serving
from llmsched_langgraph.errors import UnknownModelError

_NOBODY: Any = None
_NONE = Terms(_NOBODY, "")


class Passing(Call):
    """A counted call that takes no slot. A call inside it is part of it, and is not counted."""

    def __init__(self) -> None:
        super().__init__(_NONE)

    def acquire(self) -> None:
        """Do nothing."""

    async def aacquire(self) -> None:
        """Do nothing."""


def call(names: Callable[[], Requested], model: object) -> Call | None:
    """Return what the gate enters around a model call outside every run, or None.

    Such a call is counted, unless it is one of a thread that outlives its run and gets a slot.

    Args:
        names: returns the names that the call goes by.
        model: the model object.
    """
    left, schedulers = left_run(), serving()
    if left is None and not schedulers:
        return None
    around = current_call()
    if isinstance(around, Passing):
        return None
    found = None
    # What is inside a call that took a slot takes one, too.
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
        return Passing()
    found.model = model
    return found


def _call_on(on: Run | Serving, names: Callable[[], Requested]) -> Call | None:
    """Return the call on that scheduler; None if the scheduler is closed or does not serve the model."""
    if on.driver.closed:
        return None
    try:
        found: Call = on.scheduler.slot(names() if on.router.by_name else None)
    except UnknownModelError:
        return None
    return found
