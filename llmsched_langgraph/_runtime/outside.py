"""Finds the slot that a model call outside every run takes while a run is active.

Does not see the calls: the gate asks about each one that carries no mark. Without an active run the answer
costs one look at a dict. If several schedulers gate such calls, the one with the oldest active run whose
backends serve the model gives the slot, to a job of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from llmsched_langgraph._runtime.call import Call, current_call
from llmsched_langgraph._runtime.routing import Requested
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.slot import Terms
from llmsched_langgraph._runtime.unmarked import running
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
    """Count a model call outside every run; return what the gate enters around it, or None.

    Args:
        names: returns the names that the call goes by.
        model: the model object.
    """
    runs = running()
    if not runs:
        return None
    around = current_call()
    if isinstance(around, Passing):
        return None
    if around is None:
        for run in runs:
            run.unmarked.count()
    found = _first_call(runs, names)
    if found is None:
        return Passing()
    found.model = model
    return found


def _first_call(runs: Iterable[Run], names: Callable[[], Requested]) -> Call | None:
    for run in runs:
        if run.unmarked.outside == "gate" and not run.driver.closed:
            try:
                found: Call = run.scheduler.slot(names() if run.router.only is None else None)
            except UnknownModelError:
                continue
            return found
    return None
