"""Measures how long an asynchronous stage run waited for its busy event loop: its lag.

Does not decide what the rest of its time is: the record's layout does (`_jobs/layout.py`).

A node's coroutine runs in steps. Between two steps it is suspended. If the loop is busy with other code,
the node is resumed later than what it awaits was done. `stepped` drives the coroutine and asks the loop's
record (`_runtime/lag.py`), at each step, when the loop was busy meanwhile. The rules:

- The steps of a node are its own time, however long they block the loop. So is the time for which it is
  suspended while the loop is idle: it waits for something else.
- Busy time is lag if the node awaits nothing but its turn. So is the latest busy iteration, in which what
  it awaits was found done, and the first if it awaits tasks, which start in it.
- The busy time between these may be the time that what it awaits takes, such as a timer or a socket. It is
  lag if a call of the node was in flight during the await, because a call has a time of its own. If the
  node awaits tasks, or anything for a few iterations only, it is lag if the node makes a call at all: these
  may be steps on the way to the call and back, such as those of LangChain's handlers.

So a node that only awaits its model has no time of its own, however late the loop came back to it, and one
that awaits a timer of 2 s has 2 s, with an error of one iteration of the loop. Two times are too short: of
tools that a node awaits in tasks beside its calls while the loop is never idle, and of a task that a node
awaits and that blocks the loop itself. The loop does not tell whose code kept it busy.

A synchronous node of an asynchronous graph runs in a thread: its time is that of its function, without the
wait for the thread.

Private names of LangGraph used: `steps` of a `RunnableSeq`; `func` and `afunc` of a `RunnableCallable`.
Where LangGraph does not use them, and in `astream_events` and `astream_log`, the steps of nodes are
unknown: a node counts as one that awaits tasks all the time.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import types
from collections.abc import Callable, Coroutine, Generator
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.runnables.config import run_in_executor

from llmsched_langgraph._jobs.stages import Ended, Lag
from llmsched_langgraph._runtime.context import STAGE
from llmsched_langgraph._runtime.cycles.coroutines import drives
from llmsched_langgraph._runtime.lag import BUSY_S, PERIOD_S, LoopLag

EVER = (-inf, inf)
"""Value of `Lag.around` for an interval that is lag if the stage run makes any call."""

MOST_LAGS = 256
"""Maximum number of lags kept for one stage run: half of them are the first ones, half the latest."""

_UNKNOWN = object()
"""Value of `Meter.awaited` for a node whose steps are not observed."""

_new = tuple.__new__
_put = object.__setattr__  # the task is a frozen dataclass


def _private(name: str, *used: str) -> Any:
    """Return a class of LangGraph's runnables if its `ainvoke` uses these names; otherwise None."""
    try:
        found = getattr(importlib.import_module("langgraph._internal._runnable"), name)
        names = found.ainvoke.__code__.co_names
    except (ImportError, AttributeError):
        return None
    return found if set(used) <= set(names) else None


_Sequence = _private("RunnableSeq", "steps", "ainvoke", "create_task")
_Function = _private("RunnableCallable", "afunc")


class Meter:
    """Measures one asynchronous stage run. Times are seconds of the scheduler's clock.

    Attributes:
        lag: the record of the loop.
        lags: the intervals in which the run waited for its event loop.
        began_s: when it began; for a synchronous node, when its thread ran it.
        since_s: when its latest step ended.
        awaited: what it awaits since then; None if it only awaits the next iteration of the loop.
        ended_s: when a synchronous node returned; None for a coroutine.
    """

    __slots__ = ("awaited", "began_s", "ended_s", "lag", "lags", "since_s")

    def __init__(self, lag: LoopLag) -> None:
        self.lag = lag
        self.lags: list[Lag] = []
        self.began_s = self.since_s = lag.clock()
        self.awaited: object = _UNKNOWN
        self.ended_s: float | None = None

    def note(self, since_s: float, now: float, awaited: object) -> None:
        """Note that the run was suspended, for what it awaited."""
        busy = self.lag.busy(since_s, now)
        if not busy:
            return
        first_s, done_s, around, begins = since_s, since_s, None, self.lag.begins
        if awaited is not None:
            plain = type(awaited) is asyncio.Future  # tasks are subclasses
            long = begins[0] > since_s or now - since_s - sum([end - begin for begin, end in busy]) > PERIOD_S
            around = (since_s, now) if plain and long else EVER
            if not plain and busy[0][0] - since_s < PERIOD_S + BUSY_S and begins[0] <= since_s:
                first_s = min([begin for begin in begins if begin > busy[0][0]], default=busy[0][1])
            done_s = max(busy[-1][0], begins[-1], first_s) if now - busy[-1][1] < PERIOD_S else now
        for begin_s, end_s in busy:
            for since, until, of in ((-inf, first_s, None), (first_s, done_s, around), (done_s, inf, None)):
                if max(begin_s, since) < min(end_s, until):
                    self._keep(Lag(max(begin_s, since), min(end_s, until), of))

    def _keep(self, lag: Lag) -> None:
        if len(self.lags) == MOST_LAGS:
            del self.lags[MOST_LAGS // 2]  # probably in a call whose pieces are awaited one by one
        self.lags.append(lag)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call the function of a synchronous node, in its thread."""
        if self.ended_s is None:  # the first attempt
            self.began_s = self.lag.clock()
        try:
            return function(*args, **kwargs)
        finally:
            self.ended_s = self.lag.clock()

    def ended(self, run: int, complete: bool = True, again: bool = False) -> Ended:
        """Return the event of the end of this stage run, which is now; see `Ended`."""
        if self.ended_s is not None:
            return Ended(run, self.ended_s - self.began_s, complete, again, self.ended_s)
        lag = self.lag
        now = lag.clock()
        if lag.last_s > self.since_s or now > lag.due_s:
            self.note(self.since_s, now, self.awaited)
        return _new(Ended, (run, now - self.began_s, complete, again, now, tuple(self.lags)))


@types.coroutine
def stepped(steps: Coroutine[Any, Any, Any], meter: Meter) -> Generator[Any, Any, Any]:
    """Await a coroutine, and note where it was suspended."""
    lag = meter.lag
    clock, since_s, awaited = lag.clock, meter.since_s, None
    thrown: list[BaseException] = []  # no variable: it would be a reference cycle with the traceback
    try:
        while True:
            now = clock()
            if lag.last_s > since_s or now > lag.due_s:
                meter.note(since_s, now, awaited)
            awaited = steps.throw(thrown.pop()) if thrown else steps.send(None)
            since_s = clock()
            if not lag.timed:
                lag.measure()
            try:
                yield awaited
            except GeneratorExit:
                steps.close()
                raise
            except BaseException as error:
                thrown.append(error)
    except StopIteration as end:
        return end.value
    finally:
        meter.since_s, meter.awaited = clock(), None


drives(stepped, "steps")


def observe(task: Any) -> None:
    """Replace the node of a LangGraph task by one whose steps the meter of the current stage run measures."""
    whole = task.proc
    if type(whole) is not _Sequence:
        _put(task, "proc", _Observed(whole))
        return
    part = _parts.get(whole)
    if part is None:
        part = object.__new__(_Sequence)
        part.__dict__ = {**whole.__dict__, "steps": [_Observed(whole.steps[0]), *whole.steps[1:]]}
        _parts[whole] = part  # only now: another thread may use it at once
    _put(task, "proc", part)


_parts: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""The observed form of each sequence. It refers to its parts, not to itself, so that it can be collected."""


class _Observed:
    """A node's runnable, with the methods that LangGraph's runner calls."""

    __slots__ = ("_runnable",)

    def __init__(self, runnable: Any) -> None:
        self._runnable = _in_thread(runnable)

    async def ainvoke(self, given: Any, config: Any = None, **kwargs: Any) -> Any:
        stage = STAGE.get()
        steps = self._runnable.ainvoke(given, config, **kwargs)
        return await (steps if stage is None or stage.meter is None else stepped(steps, stage.meter))


def _in_thread(runnable: Any) -> Any:
    """Return the runnable; for a synchronous function, a copy that records when a thread runs it."""
    run = getattr(runnable, "afunc", None)
    if type(runnable) is not _Function or runnable.func is None or type(run) is not functools.partial:
        return runnable
    if run.func is not run_in_executor or len(run.args) != 2:
        return runnable
    executor, function = run.args
    timed = object.__new__(_Function)
    noting = functools.partial(run_in_executor, executor, functools.partial(_called, function))
    timed.__dict__ = {**runnable.__dict__, "afunc": noting}
    return timed


def _called(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    stage = STAGE.get()
    if stage is None or stage.meter is None:
        return function(*args, **kwargs)
    return stage.meter.call(function, *args, **kwargs)
