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
    """Count a model call outside every run; return what the gate enters around it, or None.

    Args:
        names: returns the names that the call goes by.
        model: the model object.
    """
    schedulers = serving()
    if not schedulers:
        return None
    around = current_call()
    if isinstance(around, Passing):
        return None
    if around is None:
        for active in schedulers:
            active.unmarked.count()
    found = _first_call(schedulers, names)
    if found is None:
        return Passing()
    found.model = model
    return found


def _first_call(schedulers: Iterable[Serving], names: Callable[[], Requested]) -> Call | None:
    for active in schedulers:
        if active.unmarked.outside == "gate" and not active.driver.closed:
            try:
                found: Call = active.scheduler.slot(names() if active.router.only is None else None)
            except UnknownModelError:
                continue
            return found
    return None
