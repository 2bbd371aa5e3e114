"""Gives calls of tools slots of a backend of their own.

Does not run tools: the adapter does.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._jobs.calls import TOOL
from llmsched_langgraph._runtime.call import Call
from llmsched_langgraph._runtime.run import Run, StageRun
from llmsched_langgraph._runtime.slot import Terms
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.scheduler import Scheduler


class ToolCall(Call):
    """One call of a tool: a block that holds a slot of its backend while the tool runs.

    It is part of no stage occurrence of the graph: a node that runs tools is no LLM stage.
    """

    def _ask(self, stage: StageRun | None, forced: bool, loop: weakref.ref[Any] | None = None) -> bool:
        return super()._ask(None, forced, loop)


def tool_slot(scheduler: Scheduler, run: Run, backend: str, tool: str) -> ToolCall:
    """Return a slot of that backend for one call of a tool, as a call of the run, which is the scheduler's.

    Raises:
        ConfigurationError: the scheduler has no such backend.
    """
    check_backends(scheduler, {tool: backend}.items())
    timeout_s = scheduler._timeouts_s[backend]  # noqa: SLF001 (of this package)
    return ToolCall(Terms(run.driver, backend, run.job, TOOL + tool, timeout_s, run.loop))


def check_backends(scheduler: Scheduler, tools: Iterable[tuple[str, str]]) -> None:
    """Do nothing if the scheduler has the backends of the tools, given as pairs of tool and backend.

    Raises:
        ConfigurationError: it has not.
    """
    names = scheduler._router.names  # noqa: SLF001 (of this package)
    for tool, backend in tools:
        if backend not in names:
            raise ConfigurationError(
                f"tools: {tool!r} is on backend {backend!r}, which the scheduler does not have; name one of: "
                f"{', '.join(names)}"
            )
