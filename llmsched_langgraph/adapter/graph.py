"""Knows how a compiled LangGraph graph becomes a scheduled one: its runs are announced as jobs.

Does not know slots or models; between start and end LangGraph's own runner does everything.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import threading
import types
import weakref
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from llmsched_langgraph.adapter import executor, gate
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.progress import Outcome
from llmsched_langgraph.errors import ConfigurationError, UnsupportedGraphError
from llmsched_langgraph.runtime.context import current_run, inside
from llmsched_langgraph.runtime.default import default_scheduler
from llmsched_langgraph.runtime.scheduler import Scheduler
from llmsched_langgraph.runtime.slot import outcome_of

G = TypeVar("G", bound="Pregel[Any, Any, Any, Any]")

_BASE = "__llmsched_base__"
_SCHEDULER = "__llmsched_scheduler__"

_lock = threading.Lock()
_classes: weakref.WeakValueDictionary[tuple[type, int], type] = weakref.WeakValueDictionary()
_applications: weakref.WeakKeyDictionary[Any, Application] = weakref.WeakKeyDictionary()


def schedule(graph: G, scheduler: Scheduler | None = None) -> G:
    """The same graph, whose LLM calls take turns on the scheduler's slots.

    The result is a shallow copy of the same kind: it streams, checkpoints, interrupts, nests and is
    served like the graph that was given, which itself stays as it was. While it runs, each request
    of a LangChain chat model, anywhere inside it, holds one slot. Raw `openai` clients need
    `wrap_openai`. Scheduling a scheduled graph gives the same graph.

    Args:
        graph: a compiled graph (`builder.compile()`, `create_agent(...)`) or an `@entrypoint`.
        scheduler: whose slots to use; None for the process-wide one, looked up at each run.

    Raises:
        UnsupportedGraphError: the object is no compiled graph.
    """
    if not isinstance(graph, Pregel):
        raise UnsupportedGraphError(_not_a_graph(graph))
    if scheduler is not None and not isinstance(scheduler, Scheduler):
        raise ConfigurationError(f"scheduler must be a Scheduler, not {type(scheduler).__name__}")
    gate.install()
    executor.install()
    cls = type(graph)
    base: type = getattr(cls, _BASE, cls)
    if base is not cls and scheduler in (None, getattr(cls, _SCHEDULER)):
        return graph
    scheduled = copy.copy(graph)
    scheduled.__class__ = _scheduled_class(base, scheduler)
    return scheduled


def _not_a_graph(graph: object) -> str:
    if isinstance(graph, StateGraph):
        return "schedule() needs a compiled graph: write schedule(builder.compile())"
    return (
        f"schedule() needs a compiled LangGraph graph (builder.compile(), create_agent(...), or an "
        f"@entrypoint function), not {type(graph).__name__}"
    )


def _scheduled_class(base: type, scheduler: Scheduler | None) -> type:
    # The scheduler is the class's, not the object's: `copy()` and `with_config()` rebuild a graph
    # from its constructor's arguments, and whatever else was set on the object would be gone.
    key = (base, id(scheduler))
    with _lock:
        cls = _classes.get(key)
        if cls is None:
            cls = _classes[key] = _subclass(base, scheduler)
        return cls


def _subclass(base: Any, scheduler: Scheduler | None) -> type:
    @functools.wraps(base.stream)
    def stream(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = base.stream(self, *args, **kwargs)
        on = scheduler or default_scheduler()
        run = current_run()
        if run is not None and run.scheduler is on:
            yield from steps  # nested in a job that is announced already
            return
        run = on.start_job(application_of(self))
        mark, outcome = inside(run), Outcome.FINISHED
        try:
            while True:
                # The mark is set for each step only: a generator shares its consumer's context.
                with mark:
                    try:
                        step = next(steps)
                    except StopIteration:
                        return
                yield step
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            try:
                steps.close()
            finally:
                on.end_job(run, outcome)

    @functools.wraps(base.astream)
    async def astream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        steps = base.astream(self, *args, **kwargs)
        on = scheduler or default_scheduler()
        run = current_run()
        nested = run is not None and run.scheduler is on
        if run is None or not nested:
            run = on.start_job(application_of(self))
        mark = inside(replace(run, loop=asyncio.get_running_loop()))
        outcome = Outcome.FINISHED
        try:
            while True:
                with mark:
                    try:
                        step = await anext(steps)
                    except StopAsyncIteration:
                        return
                yield step
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            try:
                await steps.aclose()
            finally:
                if not nested:
                    on.end_job(run, outcome)

    body = {"stream": stream, "astream": astream, _BASE: base, _SCHEDULER: scheduler}
    cls = types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(body))
    # Drawings, traces and serialised graphs print these two; nothing of them may change.
    cls.__module__, cls.__qualname__ = base.__module__, base.__qualname__
    return cls


def application_of(graph: Any) -> Application:
    """The application that the graph is a run-time form of; the same for all its copies."""
    application = _applications.get(graph)
    if application is None:
        edges = getattr(getattr(graph, "builder", None), "edges", ())
        application = _applications[graph] = Application.of(graph.get_name(), graph.nodes, edges)
    return application
