"""Observes every stage run of scheduled runs, by a subclass of LangGraph's superstep runner.

Acquires no slots, and never delays a stage run: a node may wait for another node, so delaying one could
deadlock. Slots belong to calls.

LangGraph has no public API for this. `langgraph.pregel.main.PregelRunner` is replaced by a function that
returns the stock runner, or, for scheduled runs only, a subclass. The subclass executes the stock code with
`run_with_retry` and `arun_with_retry` bound to the functions of this module. Only this module uses these
private names. `why_not` checks them; if one has changed, the stock runner is used throughout: stages are then
named by the calls' own metadata, and slots are not affected.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import logging
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from langgraph.constants import START
from langgraph.errors import GraphBubbleUp, GraphInterrupt, ParentCommand
from langgraph.pregel import Pregel

from llmsched_langgraph._adapter.landing import Boundary, land, stage_interrupted
from llmsched_langgraph._adapter.stage_runs import is_call, stage_run_of, tool_of
from llmsched_langgraph._adapter.steps import Meter, observe
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed
from llmsched_langgraph._runtime.context import (
    RUN,
    STAGE,
    current_run,
    inside_stage,
    unmark,
)
from llmsched_langgraph._runtime.lag import lag_of
from llmsched_langgraph._runtime.run import Run, StageRun
from llmsched_langgraph._runtime.slot import outcome_of

logger = logging.getLogger("llmsched_langgraph")


_new = tuple.__new__


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        return None  # `why_not` reports it


main = _module("langgraph.pregel.main")
stock = _module("langgraph.pregel._runner")

_lock = threading.Lock()
_installed: bool | None = None


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def install() -> bool:
    """Install the runner once; return whether it is installed. If not, log the reason once."""
    global _installed
    with _lock:
        if _installed is None:
            reason = why_not()
            if reason is None:
                main.PregelRunner = _dispatcher()
            else:
                logger.warning(
                    "this LangGraph's runner is not supported by llmsched-langgraph (%s): its stock runner "
                    "is used, and stages are named by their calls; slots work as before",
                    reason,
                )
            _installed = reason is None
        return _installed


def why_not() -> str | None:
    """Return what differs from the expected runner of LangGraph; None if nothing does."""
    runner = getattr(stock, "PregelRunner", None)
    if runner is None or getattr(main, "PregelRunner", None) is not runner:
        return "langgraph.pregel.main has no PregelRunner of langgraph.pregel._runner"
    expected: list[tuple[Any, str]] = [
        (Pregel.stream, "PregelRunner"),
        (Pregel.astream, "PregelRunner"),
        (getattr(runner, "tick", None), "run_with_retry"),
        (getattr(runner, "tick", None), "_call"),
        (getattr(runner, "__init__", None), "submit"),
        (getattr(runner, "atick", None), "submit"),
        (getattr(runner, "atick", None), "arun_with_retry"),
        (getattr(runner, "atick", None), "_acall"),
        (getattr(stock, "_call", None), "run_with_retry"),
        (getattr(stock, "_call", None), "_call"),
        (getattr(stock, "_acall", None), "_acall_impl"),
        (getattr(stock, "_acall_impl", None), "arun_with_retry"),
        (getattr(stock, "_acall_impl", None), "_acall"),
    ]
    for function, name in expected:
        code = getattr(function, "__code__", None)
        if code is None or name not in _names(code):
            return f"{getattr(function, '__qualname__', 'a function')} does not use {name}"
    for name in ("run_with_retry", "arun_with_retry"):
        code = getattr(getattr(stock, name, None), "__code__", None)
        if code is None or code.co_varnames[:1] != ("task",):
            return f"{name} does not take a task first"
    return None


def _names(code: types.CodeType) -> set[str]:
    """Return the names of the globals that a code object and the code objects nested in it use."""
    inner = (const for const in code.co_consts if isinstance(const, types.CodeType))
    return set(code.co_names).union(*(_names(const) for const in inner))


def _rebound(function: Any, **names: Any) -> Any:
    """Return a copy of the function with some global names rebound; its module is unchanged."""
    new = types.FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    new.__kwdefaults__ = function.__kwdefaults__
    return functools.update_wrapper(new, function)


def _run_with_retry(task: Any, *args: Any, **kwargs: Any) -> Any:
    run = current_run()
    if run is None or task.name == START:
        return stock.run_with_retry(task, *args, **kwargs)
    stage, began_s, ending = _begin(run, task), run.driver.clock(), None
    try:
        with inside_stage(stage):
            return stock.run_with_retry(task, *args, **kwargs)
    except BaseException as error:
        ending = error
        raise
    finally:
        _end(run, stage, began_s, ending)


async def _arun_with_retry(task: Any, *args: Any, **kwargs: Any) -> Any:
    run = RUN.get()
    if run is None or task.name == START:
        return await stock.arun_with_retry(task, *args, **kwargs)
    lag = lag_of(asyncio.get_running_loop(), run.driver)  # which may be another than `run.loop`
    stage = _begin(run, task)
    stage.meter = meter = Meter(lag)
    stage.loop = run.loop
    mark = STAGE.set(stage)
    lag.watched += 1
    lag.measure()
    if not kwargs.get("stream"):  # `astream_events` iterates over the node's output
        observe(task)
    try:
        result = await stock.arun_with_retry(task, *args, **kwargs)
        stage.over = True
        run.seen.stage_events.append(meter.ended(stage.number))
        return result
    except BaseException as error:
        if outcome_of(error) is Outcome.CANCELLED:
            stage.cancel()
        stage.over = True
        run.seen.stage_events.append(meter.ended(stage.number, *_how(run, stage, error)))
        raise
    finally:
        lag.watched -= 1
        unmark(STAGE, mark)


def _begin(run: Run, task: Any) -> StageRun:
    """Return the stage run of this execution; announce it if `_reveal` has not."""
    seen = run.seen
    stage = seen.coming.pop(task.id, None) if seen.coming else None
    if stage is not None:
        seen.stage_events.append(Began(stage.number))
        return stage
    stage = stage_run_of(task)
    _note(run, stage)
    tool = tool_of(task, seen.tools)
    runs, tools = ((stage.number, stage.name),), () if tool is None else (tool,)
    around, called = (None, False) if stage.around is None else (stage.around.number, is_call(task))
    seen.stage_events.append(_new(Revealed, (runs, around, called, True, tools)))
    return stage


def _note(run: Run, *stages: StageRun) -> None:
    for limit in run.limits:
        limit.note([stage.number for stage in stages])


def _limited(run: Run | None, tasks: tuple[Any, ...]) -> bool:
    """Return whether the run may have to stop before this superstep. START only passes on the input."""
    return run is not None and bool(run.limits and tasks) and tasks[0].name != START


def _end(run: Run, stage: StageRun, began_s: float, error: BaseException | None) -> None:
    now, stage.over = run.driver.clock(), True
    run.seen.stage_events.append(Ended(stage.number, now - began_s, *_how(run, stage, error), now))


def _how(run: Run, stage: StageRun, error: BaseException | None) -> tuple[bool, bool]:
    """Return (whether a stage run that ended with this error is complete, whether it will be repeated)."""
    if stage.around is None and isinstance(error, GraphInterrupt):
        run.seen.interrupted = True
    # A command for the graph around this one leaves the node as an exception, but is a success.
    return error is None or isinstance(error, ParentCommand), stage_interrupted(error)


def _reveal(tasks: tuple[Any, ...]) -> tuple[StageRun, ...]:
    """Announce the parallel stage runs of the next superstep; none has started."""
    run = current_run()
    if run is None or not tasks or tasks[0].name == START:  # START only passes on the input
        return ()
    stages = tuple([stage_run_of(task) for task in tasks])
    _note(run, *stages)
    run.seen.coming.update((task.id, stage) for task, stage in zip(tasks, stages, strict=True))
    around = stages[0].around
    runs = tuple([(stage.number, stage.name) for stage in stages])
    tools = tuple([tool_of(task, run.seen.tools) for task in tasks])
    if not any(tools):
        tools = ()
    run.seen.stage_events.append(Revealed(runs, None if around is None else around.number, tools=tools))
    if len(stages) > 1:
        run.tell()
    return stages


class _Submit:
    """Takes the place of a runner's `submit`; the run keeps each node task that it starts."""

    __slots__ = ("_owner", "_scope", "_stock")

    def __init__(self, runner: Any, run: Run) -> None:
        self._stock, self._scope, self._owner = runner.submit, run.scope, weakref.ref(runner)

    def __call__(self) -> Any:
        submit = self._stock()
        return None if submit is None else functools.partial(self._submit, submit)

    def _submit(self, submit: Any, *args: Any, **kwargs: Any) -> Any:
        task = submit(*args, **kwargs)
        self._scope.keep(task, self._owner)
        return task


class _Superstep:
    """Iterates over LangGraph's `atick`. If the iteration stops early, its stage runs are cancelled.

    LangGraph then cancels the node tasks and waits for them, and a node may wait for its threads. So their
    calls are dismissed first.
    """

    __slots__ = ("_stages", "_steps")

    def __init__(self, stages: tuple[StageRun, ...], steps: Any) -> None:
        self._stages, self._steps = stages, steps

    def __aiter__(self) -> _Superstep:
        return self

    async def __anext__(self) -> None:
        try:
            await anext(self._steps)
        except (StopAsyncIteration, GraphBubbleUp):
            self._stages = ()  # all have ended
            raise
        except BaseException:
            self._break_off()
            raise

    def _break_off(self) -> None:
        for stage in self._stages:
            stage.cancel()

    __del__ = _break_off  # when the graph's own iterator is closed, it drops this one


def _scheduled_runner() -> type:
    """Return the stock runner with `(a)run_with_retry` replaced, in its methods and their callees."""
    ours: dict[str, Any] = {"run_with_retry": _run_with_retry, "arun_with_retry": _arun_with_retry}
    call = _rebound(stock._call, **ours)
    call.__globals__["_call"] = call
    acall_impl = _rebound(stock._acall_impl, **ours)
    acall = _rebound(stock._acall, _acall_impl=acall_impl)
    acall_impl.__globals__["_acall"] = acall
    stock_tick = _rebound(stock.PregelRunner.tick, **ours, _call=call)
    stock_atick = _rebound(stock.PregelRunner.atick, **ours, _acall=acall)

    base: Any = stock.PregelRunner

    class ScheduledRunner(base):  # type: ignore[misc]  # a private class has no types
        submit: Any

        def tick(self, tasks: Any, **kwargs: Any) -> Iterator[None]:
            tasks, run = tuple(tasks), current_run()
            if run is not None and _limited(run, tasks):
                yield  # LangGraph then streams what the last superstep wrote
                land(run)
            stages = _reveal(tasks)
            try:
                yield from stock_tick(self, tasks, **kwargs)
            except GraphBubbleUp:
                raise  # its other stage runs have ended
            except BaseException:
                # The superstep has ended, but some of its threads may still wait for a slot. A thread cannot
                # be stopped; its call is cancelled, because its result is not needed.
                for stage in stages:
                    stage.cancel()
                raise

        def atick(self, tasks: Any, **kwargs: Any) -> Any:
            tasks = tuple(tasks)
            run = current_run()
            if run is not None and type(self.submit) is not _Submit:
                self.submit = _Submit(self, run)
            alone = len(tasks) == 1 and kwargs.get("get_waiter") is None and kwargs.get("timeout") is None

            def begin() -> Any:
                steps = stock_atick(self, tasks, **kwargs)
                # If it is alone, it runs in this task, and is announced there.
                return steps if alone else _Superstep(_reveal(tasks), steps)

            return begin() if run is None or not _limited(run, tasks) else Boundary(run, begin)

    return ScheduledRunner


def _dispatcher() -> Callable[..., Any]:
    scheduled = _scheduled_runner()

    def runner(**kwargs: Any) -> Any:
        """Return the runner for the graph run that starts: the stock one unless it is scheduled."""
        run = current_run()
        if run is None:
            return stock.PregelRunner(**kwargs)
        made = scheduled(**kwargs)
        if run.scope.root is None:  # the runners of inner graphs are made later
            run.scope.root = weakref.ref(made)
        return made

    return runner
