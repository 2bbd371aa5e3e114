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
from dataclasses import dataclass
from typing import Any, TypeVar

from langgraph.constants import START
from langgraph.errors import GraphBubbleUp
from langgraph.pregel import Pregel
from langgraph.types import Command

from llmsched_langgraph._adapter import executor, gate
from llmsched_langgraph._adapter.claims import priority_of
from llmsched_langgraph._application.application import Application
from llmsched_langgraph._compiler.compile import compile_graph, not_a_graph
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime import following
from llmsched_langgraph._runtime.context import RUN, current_run, inside
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.hosts import Iteration
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.scheduler import Scheduler, start_run, trusts
from llmsched_langgraph._runtime.slot import outcome_of
from llmsched_langgraph._runtime.threads import learn_pool
from llmsched_langgraph.errors import ConfigurationError, LLMSchedError, UnsupportedGraphError

logger = logging.getLogger("llmsched_langgraph")

G = TypeVar("G", bound="Pregel[Any, Any, Any, Any]")

_BASE = "__llmsched_base__"
_SCHEDULER = "__llmsched_scheduler__"

_lock = threading.Lock()
_classes: weakref.WeakValueDictionary[tuple[type, int], type] = weakref.WeakValueDictionary()
_applications: weakref.WeakKeyDictionary[Any, dict[str, Application]] = weakref.WeakKeyDictionary()


def _forked() -> None:
    global _lock
    _lock = threading.Lock()


in_child(_forked)


def schedule(graph: G, scheduler: Scheduler | None = None) -> G:
    """Return a copy of the graph whose LLM calls take turns on the scheduler's slots.

    The result is a shallow copy with the same interface: it streams, checkpoints, interrupts, nests and is
    served like the original, which is not changed. During a run, each request of a LangChain chat model, at
    any depth, holds one slot. Raw `openai` clients need `wrap_openai`. Scheduling a scheduled graph returns
    it unchanged, unless another scheduler is given.

    A run that is cancelled takes its waiting calls along. A synchronous `stream` that a web framework
    iterates over in threads of AnyIO is cancelled with the task that waits for these threads; elsewhere it
    ends when its generator is closed or collected. A request that a thread has sent keeps its slot until it
    is answered.

    Args:
        graph: a compiled graph (`builder.compile()`, `create_agent(...)`) or an `@entrypoint`.
        scheduler: the scheduler whose slots are used; None for the process-wide one, looked up at each run.

    Raises:
        UnsupportedGraphError: the object is not a compiled graph.
        ConfigurationError: `scheduler` is not a Scheduler, or an annotation in the graph is invalid.
    """
    if not isinstance(graph, Pregel):
        raise UnsupportedGraphError(not_a_graph("schedule", graph))
    if scheduler is not None and not isinstance(scheduler, Scheduler):
        raise ConfigurationError(f"scheduler must be a Scheduler, not {type(scheduler).__name__}")
    gate.install()
    executor.install()
    following.install()
    cls = type(graph)
    base: type = getattr(cls, _BASE, cls)
    if base is not cls and scheduler in (None, getattr(cls, _SCHEDULER)):
        return graph
    application_of(graph)  # raises errors in annotations here, not during a run
    scheduled = copy.copy(graph)
    scheduled.__class__ = _scheduled_class(base, scheduler)
    return scheduled


def _scheduled_class(base: type, scheduler: Scheduler | None) -> type:
    # An attribute of the class: `copy()` and `with_config()` rebuild a graph from its constructor's
    # arguments, which loses other attributes of the object.
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
        job = _Job.begin(self, scheduler, args, kwargs)
        if job is None:
            yield from steps
            return
        mark, iteration = inside(job.run), Iteration(steps, job.desert)
        try:
            while True:
                # Mark each step separately: a generator shares its consumer's context.
                with mark:
                    try:
                        step = iteration.step()
                    except StopIteration:
                        break
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
        job = _Job.begin(self, scheduler, args, kwargs)
        run = RUN.get() if job is None else job.run
        assert run is not None
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
                finally:
                    try:  # `unmark`, inlined because it runs at each step
                        RUN.reset(mark)
                    except ValueError:
                        pass
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

    body = {"stream": stream, "astream": astream, _BASE: base, _SCHEDULER: scheduler}
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


@dataclass(slots=True)
class _Job:
    """One run of a scheduled graph, from its first step to its end.

    Attributes:
        run: the run, with which the code in it is marked.
        config: the caller's configuration.
        thread: the thread on which it can be resumed; None if it cannot.
        breakpoints: whether the graph or the caller configures interrupts before or after nodes.
        paused: whether it was interrupted.
        outcome: how it ended.
        stopped: whether what it left behind ends with it: it failed or was cancelled.
        ended: whether its end was announced.
    """

    run: Run
    config: Any
    thread: str | None
    breakpoints: bool
    paused: bool = False
    outcome: Outcome = Outcome.FINISHED
    stopped: bool = False
    ended: bool = False

    def __del__(self) -> None:
        # An asynchronous generator that outlives its event loop is collected without its `finally`.
        if not self.ended:
            if self.outcome is Outcome.FINISHED:
                self.break_off(GeneratorExit())
            self.end()

    @classmethod
    def begin(
        cls, graph: Any, scheduler: Scheduler | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> _Job | None:
        """Announce the run of `stream(*args, **kwargs)`; return None if it is part of another run."""
        on = default_scheduler() if scheduler is None else scheduler
        around = current_run()
        if around is not None and around.scheduler is on:
            return None
        given = args[0] if args else kwargs.get("input")
        config = args[1] if len(args) > 1 else kwargs.get("config")
        thread = _thread(graph, config)
        # Without new input, or with a command, the interrupted run of this thread resumes.
        resumes = thread if given is None or isinstance(given, Command) else None
        return cls(
            run=start_run(on, _info(graph, config, thread, trust=trusts(on)), resumes),
            config=config,
            thread=thread,
            breakpoints=bool(
                graph.interrupt_before_nodes
                or graph.interrupt_after_nodes
                or kwargs.get("interrupt_before")
                or kwargs.get("interrupt_after")
            ),
        )

    def may_be_paused(self) -> bool:
        """Return whether the graph's state must be read to know if the run was interrupted."""
        self.paused = self.run.seen.interrupted
        return self.breakpoints and not self.paused and self.thread is not None

    def break_off(self, error: BaseException) -> None:
        """Record the error with which the run ends."""
        self.outcome = outcome_of(error)
        # Interrupts, and commands for the graph around this one, are errors to Python alone.
        self.stopped = not isinstance(error, GraphBubbleUp)

    def stop(self) -> None:
        """End what a run that failed or was cancelled has left behind: calls that wait, node tasks."""
        if self.stopped:
            self.run.scope.cancel()

    def desert(self) -> None:
        """End the run, of which nobody reads a result any more; streams that its threads read end, too."""
        self.break_off(GeneratorExit())
        self.run.scope.deserted = True
        self.end()

    def end(self) -> None:
        """Announce the end of the run. Later calls have no effect."""
        if self.ended:
            return
        try:
            self._end()
            self.ended = True
        except BaseException:  # an interrupt: each step may be repeated
            self._end()
            self.ended = True
            raise

    def _end(self) -> None:
        self.stop()
        if not self.paused or self.outcome is not Outcome.FINISHED:
            self.run.end(self.outcome)
        elif self.thread is None:
            self.run.end(Outcome.CANCELLED)  # it cannot be resumed
        else:
            self.run.end(self.outcome, paused_on=self.thread)


def _info(graph: Any, config: Any, thread: str | None, *, trust: bool) -> JobInfo:
    """Return the properties of the run at its arrival: plain values only."""
    application = application_of(graph)
    priority = priority_of(config, graph.config, trust=trust)
    if not config:
        return JobInfo(application, priority=priority)
    given = config
    run_id = given.get("run_id")
    metadata = given.get("metadata")
    return JobInfo(
        application=application,
        run_id="" if run_id is None else str(run_id),
        thread_id=thread or "",
        priority=priority,
        tags=tuple(given.get("tags") or ()),
        metadata=tuple([item for item in metadata.items() if isinstance(item[1], _PLAIN)])
        if metadata
        else (),
    )


_PLAIN = (str, int, float, bool)


def _thread(graph: Any, config: Any) -> str | None:
    if not graph.checkpointer:
        return None
    for source in (config, graph.config):
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
