"""Builds one LangGraph graph for each application; each run of it replays one job.

Does not schedule, and does not make the calls itself.
"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, TypedDict

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send

from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.lab.testbed.calls import Calls, Made
from llmsched_langgraph.lab.testbed.script import Script, ScriptedRun

# A node must not have the name of a state key. The names of the keys have a colon; node names never have one.
Replay = TypedDict("Replay", {"replay:script": Script, "replay:made": Annotated[list[Made], operator.add]})
"""The graph's state: the script of the job, and the completed calls."""

Given = TypedDict("Given", {"replay:run": ScriptedRun})
"""Input of one run of a node."""

_Stage = Callable[[Given], Awaitable[Command[Any]]]
_Tool = Callable[[float], Awaitable[None]]


def graph_of(app: str, jobs: Sequence[EndedJob], calls: Calls) -> Any:
    """Return a graph with a node for each stage; a node runs once for each call of its stage.

    Args:
        app: the name of the application.
        jobs: all its jobs that the graph replays.
        calls: makes the calls of LLM stages.
    """
    application = template_of(app, jobs)
    # The scheduler learns about tools that it finds in the graph, here in this table.
    tools = {stage.tool: asyncio.sleep for job in jobs for stage in job.stages if stage.tool is not None}
    after: dict[str, list[str]] = {node.path: [] for node in application.nodes}
    for source, target in application.edges:
        after[source].append(target)
    builder = StateGraph(Replay)
    for node in application.nodes:
        said: dict[str, str] = {"kind": str(node.kind)}
        if node.planned_by is not None:
            said["planned_by"] = node.planned_by
        run: Any = _model_stage(calls, tools) if node.calls_llm else _tool_stage(tools)
        builder.add_node(
            node.path,
            run,
            metadata={"llmsched": said},
            destinations=(*after[node.path], END),
            input_schema=Given,
        )
    builder.add_conditional_edges(START, _begin, list(application.entries))
    return builder.compile(name=application.name)


async def replay(graph: Any, script: Script) -> list[Made]:
    """Replay a job on the graph of its application; return the completed calls."""
    if not script.first:
        return []
    state = await graph.ainvoke(
        {"replay:script": script, "replay:made": []}, {"recursion_limit": script.supersteps + 5}
    )
    made: list[Made] = state["replay:made"]
    return made


def _begin(state: Replay) -> list[Send]:
    return _sends(state["replay:script"].begin())


def _sends(runs: list[ScriptedRun]) -> list[Send]:
    # The scheduler learns the tool of a stage run from the key "tool" of its input.
    return [Send(run.stage.name, {"replay:run": run, "tool": run.stage.tool}) for run in runs]


def _model_stage(calls: Calls, tools: Mapping[str, _Tool]) -> _Stage:
    tool_stage = _tool_stage(tools)

    async def stage(given: Given) -> Command[Any]:
        run = given["replay:run"]
        if run.stage.kind == "tool":
            return await tool_stage(given)
        made = [] if run.call is None else [await calls.make(run.stage.name, run.call, run.salt)]
        return Command(update={"replay:made": made}, goto=_sends(run.next()))

    return stage


def _tool_stage(tools: Mapping[str, _Tool]) -> _Stage:
    async def stage(given: Given) -> Command[Any]:
        run = given["replay:run"]
        if run.call is not None and run.call.seconds:
            tool = asyncio.sleep if run.stage.tool is None else tools[run.stage.tool]
            await tool(run.call.seconds)
        return Command(goto=_sends(run.next()))

    return stage
