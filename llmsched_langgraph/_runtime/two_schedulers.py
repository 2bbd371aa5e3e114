"""Says, once for each scheduler, where code that names one scheduler runs inside a run of another one.

Does not change whose slots are taken. Two schedulers in one run are legal: a graph or a client that names
its scheduler takes slots there. What is said are the places where that is surely not what was meant.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import Any

from llmsched_langgraph._runtime.call import current_call
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.scheduler import Scheduler

logger = logging.getLogger("llmsched_langgraph")

_told: weakref.WeakKeyDictionary[Scheduler, set[str]] = weakref.WeakKeyDictionary()


def tell_of_middleware(named: Scheduler | None) -> None:
    """Log that the model calls of an agent take no slot of the scheduler that its middleware names."""
    _tell(
        named,
        "SchedulerMiddleware(...) names %s, but its agent runs inside a run of %s, which takes the calls of "
        "its model: they take no slot of the former (logged once). Give both one scheduler, or schedule the "
        "agent by itself: schedule(agent, scheduler)",
    )


def tell_of_graph(default: Scheduler) -> None:
    """Log that a graph inside a run takes slots of the process-wide scheduler, because it names none."""
    _tell(
        default,
        "a graph that schedule(graph) got without a scheduler runs on the process-wide one, %s, inside a run "
        "of %s: its calls take no slot of the latter (logged once). Give both graphs one scheduler, or the "
        "inner one as it is, unscheduled, to the outer one",
    )


def tell_of_client(named: Scheduler | None) -> None:
    """Log that a model waits for slots of two schedulers, because its client names another one."""

    def inside_model() -> bool:
        call, run = current_call(), current_run()
        return call is not None and run is not None and call.model is not None and not call.over

    _tell(
        named,
        "wrap_openai(client, ...) names %s, and a LangChain model in a run of %s sends requests through that "
        "client: each waits for a slot of the latter, gives it back, and takes one of the former (logged "
        "once). Give the model a client that is not wrapped, or wrap_openai(client) without a scheduler",
        inside_model,
    )


def _tell(named: Scheduler | None, words: str, when: Callable[[], bool] = lambda: True) -> None:
    """Log `words` if the calling code stands in a run of another scheduler than the one that is named."""
    run = current_run()
    if named is None or run is None or run.scheduler is named:
        return
    around: Any = run.scheduler
    told = _told.setdefault(named, set())
    if words in told or not isinstance(around, Scheduler) or not when():
        return
    told.add(words)
    logger.warning(words, repr(named), repr(around))  # now, and not when a handler formats it
