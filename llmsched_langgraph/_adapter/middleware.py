"""Makes the model calls of a `create_agent` agent take slots without a scheduled graph.

Does not hold slots: the gate does, around each request. Only this module imports langchain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from langgraph.errors import GraphBubbleUp

from llmsched_langgraph._adapter import gate
from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import current_run, inside
from llmsched_langgraph._runtime.default import default_scheduler
from llmsched_langgraph._runtime.scheduler import Scheduler, start_run
from llmsched_langgraph._runtime.slot import outcome_of
from llmsched_langgraph.errors import ConfigurationError

try:
    from langchain.agents.middleware import AgentMiddleware
    from langchain.agents.middleware.types import ModelRequest, ModelResponse
except ImportError as error:
    raise ConfigurationError(
        'SchedulerMiddleware needs langchain: pip install "llmsched-langgraph[agents]"'
    ) from error


class SchedulerMiddleware(AgentMiddleware[Any, Any, Any]):
    """Makes an agent's model calls take slots, if its graph is not scheduled.

    Usage: `create_agent(model, middleware=[SchedulerMiddleware()])`. Each attempt of a call holds a slot
    while it is in flight; waits between retries and fall-backs, of the model or of other middleware, hold
    none. In a scheduled graph the middleware does nothing.

    Each call is a job of its own here, because middleware sees calls, not runs. Prefer `schedule(agent)`,
    which orders calls by the remaining work of the whole run.

    Args:
        scheduler: the scheduler whose slots are used; None for the process-wide one, looked up at each call.
    """

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        super().__init__()
        gate.install()
        self._scheduler = scheduler

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Run the call with the gate active."""
        with self._job():
            return handler(request)

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Run the call with the gate active."""
        with self._job():
            return await handler(request)

    @contextmanager
    def _job(self) -> Iterator[None]:
        if current_run() is not None:
            yield
            return
        scheduler = self._scheduler if self._scheduler is not None else default_scheduler()
        run, outcome = start_run(scheduler, JobInfo(application=DIRECT)), Outcome.FINISHED
        try:
            with inside(run):
                yield
        except BaseException as error:
            outcome = outcome_of(error)
            if not isinstance(error, GraphBubbleUp):  # an interrupt
                run.scope.cancel()
            raise
        finally:
            run.end(outcome)
