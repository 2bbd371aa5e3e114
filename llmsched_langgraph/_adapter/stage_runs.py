"""Makes the stage run of a LangGraph task: its path, its idle timeout, the tool that it was sent to use.

Does not execute tasks, or observe them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from langgraph.runtime import get_runtime

from llmsched_langgraph._runtime.context import current_stage_run
from llmsched_langgraph._runtime.run import StageRun

PUSH = "__pregel_push"
"""First element of the path of a stage run created by a `Send`."""


def stage_run_of(task: Any) -> StageRun:
    """Return a new stage run of the task, inside the one that the calling code is part of."""
    around = current_stage_run()
    timeout = getattr(task, "timeout", None)
    if around is None and timeout is None:
        return StageRun(task.name)
    if around is not None and around.idle_timeout_s is not None and not around.carried:
        around.heartbeat = get_runtime().heartbeat  # the outer node's: this code runs in its context
    if timeout is None or timeout.idle_timeout is None:
        return StageRun(_path(around, task), around)
    idle = timeout.idle_timeout
    idle_s = idle.total_seconds() if isinstance(idle, timedelta) else idle
    return StageRun(_path(around, task), around, idle_timeout_s=idle_s, heartbeat=_heartbeat)


def _heartbeat() -> None:
    get_runtime().heartbeat()


def _path(around: StageRun | None, task: Any) -> str:
    """Return the node's path: its name, prefixed by the nodes that contain its graph."""
    if around is None:
        return str(task.name)
    outer = around.name.rpartition("/")[0] if is_call(task) else around.name
    return f"{outer}/{task.name}" if outer else str(task.name)


def is_call(task: Any) -> bool:
    """Return whether it is a `@task`, which is on the same level as the node that calls it."""
    return len(task.path) == 4 and task.path[3] is True


def tool_of(task: Any, tools: frozenset[str]) -> str | None:
    """Return the tool that a stage run was sent to use; None if its input names none of the graph's `tools`.

    Recognised inputs are those of `ToolNode` (a tool call: alone, in a list, or with the state), and any
    `Send` of a dictionary with the tool's name under "tool". A model wrote the input: a name that the graph
    does not have may be any text, and must not reach a record.
    """
    if task.path[0] != PUSH or not isinstance(task.input, dict | list):
        return None
    given = task.input[0] if isinstance(task.input, list) and len(task.input) == 1 else task.input
    if not isinstance(given, dict):
        return None
    call = given.get("tool_call", given)
    named = call.get("name") if isinstance(call, dict) and "args" in call else None
    tool = named if isinstance(named, str) else given.get("tool")
    return tool if isinstance(tool, str) and tool in tools else None
