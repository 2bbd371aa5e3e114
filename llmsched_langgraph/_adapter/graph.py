"""Makes a compiled LangGraph graph a scheduled one, whose runs are announced as jobs.

`gate` and `openai_client` acquire the slots; between a run's start and end, LangGraph's own code runs
unchanged.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import sys
import threading
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import suppress
from typing import Any, Never, TypeVar

from langchain_core.runnables.config import var_child_runnable_config
from langgraph.constants import START
from langgraph.errors import GraphInterrupt
from langgraph.pregel import Pregel
from langgraph.types import Command

from llmsched_langgraph._adapter import collected, executor, gate
from llmsched_langgraph._adapter.assigning import aclaim, claim
from llmsched_langgraph._adapter.claims import Claim
from llmsched_langgraph._adapter.job import Arrival, Job, part, start
from llmsched_langgraph._adapter.landing import within, yielded
from llmsched_langgraph._application.application import Application
from llmsched_langgraph._arguments import positive_limit
from llmsched_langgraph._compiler.compile import compile_graph, not_a_graph
from llmsched_langgraph._core.budgets import NO_LIMITS, Budget, Limits, as_budget
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime import following
from llmsched_langgraph._runtime.context import RUN, current_run, inside, marks, restore
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.given import as_scheduler, refuse_settings
from llmsched_langgraph._runtime.hosts import Iteration
from llmsched_langgraph._runtime.limits import check_limits
from llmsched_langgraph._runtime.scheduler import (
    Scheduler,
    aenter,
    clock_of,
    enter,
)
from llmsched_langgraph._runtime.threads import learn_pool
from llmsched_langgraph._runtime.two_schedulers import tell_of_graph
from llmsched_langgraph.errors import LLMSchedError, UnsupportedGraphError

logger = logging.getLogger("llmsched_langgraph")

G = TypeVar("G", bound="Pregel[Any, Any, Any, Any]")

_BASE = "__llmsched_base__"
_SCHEDULER = "__llmsched_scheduler__"
_LIMITS = "__llmsched_limits__"

_lock = threading.Lock()
_classes: weakref.WeakValueDictionary[tuple[type, int, Limits], type] = weakref.WeakValueDictionary()
_applications: weakref.WeakKeyDictionary[Any, dict[str, Application]] = weakref.WeakKeyDictionary()


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def schedule(
    graph: G,
    scheduler: Scheduler | None = None,
    *,
    budget: Budget | None = None,
    deadline_s: float | None = None,
    **settings: Never,
) -> G:
    """Return a copy of the graph whose LLM calls take turns on the scheduler's slots.

    The result is a shallow copy with the same interface: it streams, checkpoints, interrupts, nests and is
    served like the original, which is not changed. During a run, each request of a LangChain chat model, at
    any depth, holds one slot. Raw `openai` clients need `wrap_openai`. Scheduling a scheduled graph returns
    it unchanged, unless another scheduler or a limit is given.

    A run that has spent its budget, or passed its deadline, stops before its next superstep, as
    `Scheduler(on_budget=...)` says. Its checkpoint is whole, and `invoke(None, config)` with larger limits in
    the configuration (`llmsched_budget`, `llmsched_deadline_s`) continues it; what it spent before counts.
    A superstep that has begun goes on, with its waiting calls. A graph that runs inside another run of its
    scheduler counts its own calls alone, from its start.

    A run that is cancelled takes its waiting calls along. A synchronous `stream` that a web framework
    iterates over in threads of AnyIO is cancelled with the task that waits for these threads; elsewhere it
    ends when its generator is closed or collected. A request that a thread has sent keeps its slot until it
    is answered.

    Args:
        graph: a compiled graph (`builder.compile()`, `create_agent(...)`) or an `@entrypoint`.
        scheduler: the scheduler whose slots are used; None for the process-wide one, looked up at each run.
        budget: what each run may spend, where its configuration says nothing.
        deadline_s: seconds from its arrival after which each run stops, where its configuration says
            nothing; None for no deadline.
        settings: none. The settings of slots, backends and order are those of `Scheduler`.

    Raises:
        TypeError: there are other arguments; the message says where they belong.
        UnsupportedGraphError: the object is not a compiled graph.
        ConfigurationError: `scheduler` is not a Scheduler, a limit or an annotation in the graph is invalid.
    """
    if not isinstance(graph, Pregel):
        raise UnsupportedGraphError(not_a_graph("schedule", graph))
    refuse_settings("schedule(graph", settings)
    as_scheduler(scheduler)
    gate.install()
    executor.install()
    collected.install()
    following.install()
    own = Limits(NO_LIMITS.budget if budget is None else as_budget(budget, "budget"), deadline_s)
    positive_limit(deadline_s, "deadline_s")
    cls = type(graph)
    base: type = getattr(cls, _BASE, cls)
    if base is not cls:
        if scheduler in (None, getattr(cls, _SCHEDULER)) and not own.any:
            return graph
        scheduler = getattr(cls, _SCHEDULER) if scheduler is None else scheduler
        own = own.over(getattr(cls, _LIMITS))
    if scheduler is not None:
        check_limits(scheduler, own)
    application_of(graph)  # raises errors in annotations here, not during a run
    scheduled = copy.copy(graph)
    scheduled.__class__ = _scheduled_class(base, scheduler, own)
    return scheduled


def _scheduled_class(base: type, scheduler: Scheduler | None, own: Limits) -> type:
    # An attribute of the class: `copy()` and `with_config()` rebuild a graph from its constructor's
    # arguments, which loses other attributes of the object.
    key = (base, id(scheduler), own)
    with _lock:
        cls = _classes.get(key)
        if cls is None:
            cls = _classes[key] = _subclass(base, scheduler, own)
        return cls


def _subclass(base: Any, scheduler: Scheduler | None, own: Limits) -> type:
    @functools.wraps(base.stream)
    def stream(self: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        steps = base.stream(self, *args, **kwargs)
        on, around = default_scheduler() if scheduler is None else scheduler, current_run()
        if around is not None and around.scheduler is on:
            yield from steps if not own.any else within(around, part(self, on, own, around), steps)
            return
        if scheduler is None:
            tell_of_graph(on)
        job = _begin(self, on, own, args, kwargs)
        mark, iteration = inside(job.run), Iteration(steps, job.desert)
        try:
            while True:
                # Mark each step separately: a generator shares its consumer's context.
                before = marks()
                try:
                    with mark:
                        step = iteration.step()
                except StopIteration:
                    break
                except GraphInterrupt as stop:
                    if not job.yielded(stop):
                        raise
                    break
                except BaseException:
                    restore(before)
                    raise
                if job.entry is not None:
                    job.entry.leave_open()
                yield step
            if job.may_be_paused():
                with suppress(Exception):  # the run itself succeeded
                    job.paused = bool(self.get_state(job.config).next)
        except BaseException as error:
            job.break_off(error)
            # `close` waits for the run's threads, which must not wait for slots any longer.
            job.stop()
            iteration.check(error)
            raise
        finally:
            try:
                iteration.close()
            finally:
                job.end()

    @functools.wraps(base.astream)
    async def astream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        steps = base.astream(self, *args, **kwargs)
        on, run = default_scheduler() if scheduler is None else scheduler, current_run()
        job = limit = None
        if run is None or run.scheduler is not on:
            if scheduler is None:
                tell_of_graph(on)
            job = await _abegin(self, on, own, args, kwargs)
            run, limit = job.run, job.limit
            run.driver.watch_run(job, asyncio.get_running_loop())
        elif own.any:
            limit = part(self, on, own, run)
            run = run._replace(limits=(*run.limits, limit))
        loop = asyncio.get_running_loop()
        learn_pool(loop)
        run = run.on(loop)
        coming = _owned(steps)
        try:
            while True:
                mark = RUN.set(run)
                try:
                    step = await coming
                except StopAsyncIteration:
                    break
                except GraphInterrupt as stop:
                    if not yielded(stop, limit):
                        raise
                    run.seen.interrupted |= job is not None
                    break
                finally:
                    try:  # `unmark`, inlined because it runs at each step
                        RUN.reset(mark)
                    except ValueError:
                        pass
                if job is not None and job.entry is not None:
                    job.entry.leave_open()
                yield step
                coming = anext(steps)
            if job is not None and job.may_be_paused():
                with suppress(Exception):  # the run itself succeeded
                    job.paused = bool((await self.aget_state(job.config)).next)
        except BaseException as error:
            if job is not None:
                job.break_off(error)
            raise
        finally:
            try:
                await steps.aclose()  # cancels the node tasks, before the job's end dismisses their calls
            finally:
                if job is not None:
                    job.end()

    body = {"stream": stream, "astream": astream, _BASE: base, _SCHEDULER: scheduler, _LIMITS: own}
    cls = types.new_class(base.__name__, (base,), exec_body=lambda space: space.update(body))
    # Drawings, traces and serialised graphs contain both names, so they must not change.
    cls.__module__, cls.__qualname__ = base.__module__, base.__qualname__
    return cls


def _owned(steps: AsyncIterator[Any]) -> Awaitable[Any]:
    """Request a generator's first step without the event loop's asyncgen hooks.

    The hooks would close the generator when it is dropped, while the outer generator also closes it. Python
    reads the hooks when the first step is requested.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, lambda _: None)
    try:
        return anext(steps)
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _begin(graph: Any, on: Scheduler, own: Limits, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Job:
    """Start the run of `stream(*args, **kwargs)` of a graph with these limits, once there is room for it."""
    said = claim(on, graph, _config(args, kwargs))
    arrival = _arrival(graph, on, own, said, args, kwargs)
    return start(graph, on, arrival, enter(on, free=arrival.free), kwargs)


async def _abegin(
    graph: Any, on: Scheduler, own: Limits, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Job:
    """Do what `_begin` does, without blocking the event loop."""
    said = await aclaim(on, graph, _config(args, kwargs))
    arrival = _arrival(graph, on, own, said, args, kwargs)
    return start(graph, on, arrival, await aenter(on, free=arrival.free), kwargs)


def _config(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the configuration of `stream(*args, **kwargs)`."""
    return args[1] if len(args) > 1 else kwargs.get("config")


def _arrival(
    graph: Any, on: Scheduler, own: Limits, said: Claim, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Arrival:
    given = args[0] if args else kwargs.get("input")
    config = _config(args, kwargs)
    thread = _thread(graph, config)
    if thread is not None and not config:  # `get_state` needs the thread
        config = {"configurable": {"thread_id": thread}}
    limits = said.limits.over(own)
    check_limits(on, limits)
    info = _info(graph, config, thread, said)
    if limits.deadline_s is not None:
        info = info._replace(deadline_s=limits.deadline_s)
    # Without new input, or with a command, the interrupted run of this thread resumes.
    resumes = thread if given is None or isinstance(given, Command) else None
    free = resumes is not None or current_run() is not None
    return Arrival(info, config, thread, resumes, free, limits, clock_of(on)())


def _info(graph: Any, config: Any, thread: str | None, said: Claim) -> JobInfo:
    """Return the properties of the run at its arrival: plain values only."""
    application = application_of(graph)
    if not config:
        return JobInfo(application, tenant=said.tenant, priority=said.priority)
    given = config
    run_id = given.get("run_id")
    metadata = given.get("metadata")
    return JobInfo(
        application=application,
        run_id="" if run_id is None else str(run_id),
        thread_id=thread or "",
        tenant=said.tenant,
        priority=said.priority,
        tags=tuple(given.get("tags") or ()),
        metadata=tuple([item for item in metadata.items() if isinstance(item[1], _PLAIN)])
        if metadata
        else (),
    )


_PLAIN = (str, int, float, bool)


def _thread(graph: Any, config: Any) -> str | None:
    """Return the thread on which LangGraph saves the run's checkpoints; None if it saves none.

    Without one in the configurations, it is that of the code that starts the run, as in LangGraph.
    """
    if not graph.checkpointer:
        return None
    for source in (config, graph.config, var_child_runnable_config.get()):
        thread = ((source or {}).get("configurable") or {}).get("thread_id")
        if thread is not None:
            return str(thread)
    return None


def application_of(graph: Any) -> Application:
    """Return the application of the graph; all copies of a graph share it.

    Raises:
        ConfigurationError: an annotation in the graph is invalid.
    """
    # Copies share their nodes. Agent Server copies a graph per run; each graph is compiled once.
    known = _applications.setdefault(next(iter(graph.nodes.values())), {})
    name = graph.get_name()
    application = known.get(name)
    if application is None:
        try:
            application = compile_graph(graph)
        except LLMSchedError:
            raise
        except Exception:
            logger.warning(
                "graph %r could not be analysed: its runs are predicted by their nodes alone",
                name,
                exc_info=True,
            )
            application = Application.of(name, (node for node in graph.nodes if node != START))
        known[name] = application
    return application
