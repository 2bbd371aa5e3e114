"""Stops a run between two supersteps, when a limit of it is reached.

Does not decide whether: `Limit` does.

The stop is one of the exceptions with which LangGraph unwinds nested graphs without a failure
(`GraphBubbleUp`): no stage run is marked as failed, retried, or routed to an error handler, what parallel
stage runs have written is kept, and the checkpoint of the last superstep is saved. A run that yields is ended
by an empty `GraphInterrupt`, as by a breakpoint: the outermost graph ends normally, with the state so far.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, NoReturn

from langgraph.errors import GraphBubbleUp, GraphInterrupt

from llmsched_langgraph import errors
from llmsched_langgraph._core.budgets import DEADLINE, Overrun
from llmsched_langgraph._runtime.context import current_stage_run, inside
from llmsched_langgraph._runtime.limits import Limit
from llmsched_langgraph._runtime.run import Run


class RunLanded(GraphBubbleUp):
    """A run stopped at one of its limits."""


class BudgetExceededError(RunLanded, errors.BudgetExceededError):
    """A run has spent its budget."""


class DeadlineExceededError(RunLanded, errors.DeadlineExceededError):
    """A run has passed its deadline."""


def land(run: Run) -> None:
    """Raise an exception that stops the run before its next superstep, if it has reached a limit.

    Raises:
        RunLanded: the run stops with an error.
        GraphInterrupt: it stops without one.
        Exception: the user's function `on_budget` failed.
    """
    for limit in run.limits:
        if limit.stops():
            if limit.yields and current_stage_run() is None:
                run.seen.interrupted = True
            _raise(limit)


def _raise(limit: Limit) -> NoReturn:
    overrun = limit.landed
    assert overrun is not None
    if limit.yields:
        raise GraphInterrupt  # ends the outermost graph normally
    kind = DeadlineExceededError if overrun.reached == (DEADLINE,) else BudgetExceededError
    cure = _cure(overrun, whole=limit.parts is None)
    error = kind(f"{_what(overrun)}; {cure}")
    error.overrun, error.cure = overrun, cure
    raise error


def _what(overrun: Overrun) -> str:
    limits = {
        **{name: getattr(overrun.budget, name) for name in overrun.reached if name != DEADLINE},
        **({DEADLINE: overrun.deadline_s} if DEADLINE in overrun.reached else {}),
    }
    said = ", ".join(f"{name}={limit:,}" for name, limit in limits.items())
    expected = "" if overrun.forecast is None else f" (expected at its end: {overrun.forecast})"
    return (
        f"the run of graph {overrun.graph!r} stopped before its next superstep, because it has reached "
        f"{said}; so far it has spent {overrun.spent}{expected}"
    )


def _cure(overrun: Overrun, *, whole: bool) -> str:
    if not whole:
        return "give schedule(graph, budget=..., deadline_s=...) of this inner graph more, or catch the error"
    keys = [
        *(["llmsched_budget"] if set(overrun.reached) - {DEADLINE} else []),
        *(["llmsched_deadline_s"] if DEADLINE in overrun.reached else []),
    ]
    more = f"a larger {' and '.join(keys)} in its metadata"
    if overrun.thread_id is None:
        return (
            f"it cannot be resumed, because it has no checkpointer or no thread_id; run it again with a "
            f"config with {more}"
        )
    return (
        f"its state is saved: to go on, invoke the graph with None and the config of thread "
        f"{overrun.thread_id!r} with {more}"
    )


def yielded(error: BaseException, limit: Limit | None) -> bool:
    """Return whether the error is the stop at this limit that lets its graph end normally."""
    return (
        limit is not None
        and limit.landed is not None
        and limit.yields
        and isinstance(error, GraphInterrupt)
        and not error.args[0]
    )


def stage_interrupted(error: BaseException | None) -> bool:
    """Return whether a stage run that ended with this error runs again when its run is resumed."""
    return isinstance(error, GraphInterrupt | RunLanded)


def within(around: Run, limit: Limit, steps: Generator[Any, None, None]) -> Iterator[Any]:
    """Iterate over the steps of a graph inside the run `around`, which has this limit of its own."""
    mark = inside(around._replace(limits=(*around.limits, limit)))
    try:
        while True:
            with mark:
                try:
                    step = next(steps)
                except StopIteration:
                    return
                except GraphInterrupt as stop:
                    if not yielded(stop, limit):
                        raise
                    return
            yield step
    finally:
        steps.close()


class Boundary:
    """Iterates over one superstep of an asynchronous run with limits, after a look at the limits.

    Args:
        run: the run.
        begin: returns the superstep's iterator.
    """

    __slots__ = ("_begin", "_run", "_steps", "_told")

    def __init__(self, run: Run, begin: Callable[[], AsyncIterator[None]]) -> None:
        self._run = run
        self._begin = begin
        self._told = False
        self._steps: AsyncIterator[None] | None = None

    def __aiter__(self) -> Boundary:
        return self

    async def __anext__(self) -> Any:
        if self._steps is None:
            if not self._told:
                self._told = True
                return None  # LangGraph then streams what the last superstep wrote
            land(self._run)
            self._steps = self._begin()
        return await anext(self._steps)
