"""Makes the model calls of a `create_agent` agent take slots without a scheduled graph, and its tools, too.

Does not hold the slots of model calls: the gate does, for each request. Only this module imports langchain.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatchcase
from typing import Any, Never, Self

from langgraph.errors import GraphBubbleUp

from llmsched_langgraph._adapter import gate
from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._arguments import nearest
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._extras import needs_extra
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import current_run, inside
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.given import as_scheduler, refuse_settings
from llmsched_langgraph._runtime.run import Run
from llmsched_langgraph._runtime.scheduler import Scheduler, start_run
from llmsched_langgraph._runtime.slot import outcome_of
from llmsched_langgraph._runtime.tools import check_backends, tool_slot
from llmsched_langgraph._runtime.two_schedulers import tell_of_middleware
from llmsched_langgraph.errors import ConfigurationError

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ModelRequest, ModelResponse, ToolCallRequest
except ImportError as error:
    raise needs_extra("SchedulerMiddleware", "langchain", "agents") from error


logger = logging.getLogger("llmsched_langgraph")


class SchedulerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Makes an agent's model calls take slots, if its graph is not scheduled, and calls of tools others.

    Usage: `create_agent(model, middleware=[SchedulerMiddleware()])`. Each attempt of a call holds a slot
    while it is in flight; waits between retries and fall-backs, of the model or of other middleware, hold
    none. In a scheduled graph the middleware does nothing about model calls.

    Each call is a job of its own here, because middleware sees calls, not runs. Prefer `schedule(agent)`,
    which orders calls by the remaining work of the whole run.

    `tools={"search": "search-api"}` has each call of the tool `search` hold a slot of the backend
    `search-api` while it runs, in a scheduled graph and in others: its slots and its rates limit the tool.
    In a scheduled graph the call has the priority, the tenant and the order of its run. It is neither an LLM
    call of the run's budget, nor learned from. Meant for tools that call an API: one that calls models keeps
    its own slot meanwhile. Other middleware that repeats a call of a tool belongs before this one; then each
    try takes a slot, and waits between them hold none.

    Args:
        scheduler: the scheduler whose slots are used. None for the process-wide one, looked up at each call;
            calls of tools inside a run use that of the run then.
        tools: names of backends by the name of the tool. The names of tools may be globs, and the first one
            that matches counts. Tools that are not named take no slot. A name that matches no tool of the
            agent is logged at its first model call, with the nearest one.

    Raises:
        ConfigurationError: `tools` is no dict of names, or names a backend that the scheduler does not have.
            Without `scheduler`, the first call of the tool raises the latter.
    """

    def __new__(
        cls,
        scheduler: Scheduler | None = None,
        *args: Any,
        tools: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Return a middleware with the hooks for tools only if there are tools."""
        return super().__new__(_with_tools(cls) if tools else cls)  # type: ignore[return-value, arg-type]

    def __init__(
        self,
        scheduler: Scheduler | None = None,
        *,
        tools: Mapping[str, str] | None = None,
        **settings: Never,
    ) -> None:
        super().__init__()
        refuse_settings("SchedulerMiddleware(", settings)
        as_scheduler(scheduler)
        gate.install()
        self._scheduler = scheduler
        self._backends = _checked(tools)
        self._looked = False
        if scheduler is not None:
            check_backends(scheduler, self._backends.items())

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Run the call with the gate active."""
        self._look(request)
        with self._job(current_run()):
            return handler(request)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Run the call with the gate active."""
        self._look(request)
        with self._job(current_run()):
            return await handler(request)

    def _look(self, request: ModelRequest[Any]) -> None:
        """Say what the settings name in vain: a tool that the agent has not, or a scheduler."""
        if not self._backends:
            tell_of_middleware(self._scheduler)
        elif not self._looked:  # the tools of an agent are known from its first model call on
            self._looked = True
            offered = sorted({name for tool in request.tools or () if (name := _name_of(tool))})
            for glob in self._backends:
                if not any(fnmatchcase(name, glob) for name in offered):
                    logger.warning(
                        "SchedulerMiddleware(tools=...) names the tool %r, which the agent does not offer to "
                        "its model (logged once): %s",
                        glob,
                        nearest(glob, offered),
                    )

    def _backend_of(self, tool: str) -> str | None:
        """Return the name of the backend of a tool; None if it takes no slot."""
        return next((own for glob, own in self._backends.items() if fnmatchcase(tool, glob)), None)

    def _scheduler_of_tools(self) -> Scheduler:
        run = current_run()
        if self._scheduler is None and run is not None and isinstance(run.scheduler, Scheduler):
            return run.scheduler
        return self._scheduler if self._scheduler is not None else default_scheduler()

    @contextmanager
    def _job(self, run: Run | None) -> Iterator[Run]:
        """Give the run in which the code stands, or begin one."""
        if run is not None:
            yield run
            return
        scheduler = self._scheduler if self._scheduler is not None else default_scheduler()
        run, outcome = start_run(scheduler, JobInfo(application=DIRECT)), Outcome.FINISHED
        try:
            # In a run of another scheduler, that one keeps the model calls of a tool.
            with inside(run) if current_run() is None else nullcontext():
                yield run
        except BaseException as error:
            outcome = outcome_of(error)
            if not isinstance(error, GraphBubbleUp):  # an interrupt
                run.scope.cancel()
            raise
        finally:
            run.end(outcome)


class _Tools(SchedulerMiddleware):
    """The hooks around calls of tools. An agent gets a node for tools if its middleware has them."""

    @property
    def name(self) -> str:
        """The name of the middleware, by which agents find duplicates."""
        return self.__class__.__mro__[2].__name__

    def wrap_tool_call(self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Any]) -> Any:
        """Run the tool in a slot of its backend, if it has one."""
        name = str(request.tool_call["name"])
        backend = self._backend_of(name)
        if backend is None:
            return handler(request)
        on = self._scheduler_of_tools()
        with self._job(_run_on(on)) as run, tool_slot(on, run, backend, name):
            return handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[Any]]
    ) -> Any:
        """Run the tool in a slot of its backend, if it has one."""
        name = str(request.tool_call["name"])
        backend = self._backend_of(name)
        if backend is None:
            return await handler(request)
        on = self._scheduler_of_tools()
        with self._job(_run_on(on)) as run:
            async with tool_slot(on, run, backend, name):
                return await handler(request)


@functools.cache
def _with_tools(cls: type[SchedulerMiddleware]) -> type[SchedulerMiddleware]:
    return type(cls.__name__, (_Tools, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__})


def _run_on(scheduler: Scheduler) -> Run | None:
    """Return the run of the calling code, if it is one of this scheduler."""
    run = current_run()
    return run if run is not None and run.scheduler is scheduler else None


def _name_of(tool: Any) -> str:
    """Return the name of a tool of a model call: an object, or a dict in one of the providers' forms."""
    if not isinstance(tool, Mapping):
        return str(getattr(tool, "name", ""))
    function = tool.get("function")
    named = function if isinstance(function, Mapping) else tool
    return str(named.get("name") or tool.get("type") or "")


def _checked(tools: object) -> dict[str, str]:
    """Return the names of backends by the names of tools."""
    if tools is None:
        return {}
    names = [*tools, *tools.values()] if isinstance(tools, Mapping) else [None]
    if not all(isinstance(name, str) and name for name in names):
        raise ConfigurationError(
            f'tools must be a dict of backend names by tool name, such as {{"search": "search-api"}}, '
            f"not {tools!r}"
        )
    return dict(tools)  # type: ignore[call-overload, no-any-return]
