"""Nothing that a model wrote reaches a record, a profile or the story; tools have the graph's own names."""

from __future__ import annotations

import asyncio
import operator
import uuid
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import StructuredTool, tool
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, Send

from llmsched_langgraph import compile_graph, schedule
from llmsched_langgraph.testing import PlainModel
from llmsched_langgraph.traces import read_jobs

TEXT = "mail jane.doe@example.org her HIV result"


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]


class Planner(PlainModel):
    """A chat model that asks for tools with its first answer, and for none afterwards."""

    wanted: list[str]

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        calls = [] if messages[-1].type == "tool" else self.wanted
        tools = [{"name": name, "args": {}, "id": uuid.uuid4().hex} for name in calls]
        message = AIMessage(TEXT, tool_calls=tools)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return self._generate(messages)


@tool
def search() -> str:
    """Search."""
    return "found"


@tool
def add() -> str:
    """Add."""
    return "2"


def fan_out(*steps: Any, step: Any = None, name: str = "planned") -> Any:
    """A graph whose plan sends each of the steps to the node `step`, which asks the model."""
    model = PlainModel()

    async def ask(state: Any) -> State:
        await model.ainvoke(TEXT)
        return {"done": [TEXT]}

    builder = StateGraph(State)
    builder.add_node("plan", ask).add_node("step", step or ask)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda _: [Send("step", given) for given in steps], ["step"])
    return builder.compile(name=name)


def by_commands(*steps: Any) -> Any:
    """The same plan as a `Command` of the node itself."""
    model = PlainModel()

    async def plan(state: State) -> Command[Any]:
        await model.ainvoke(TEXT)
        return Command(goto=[Send("step", given) for given in steps])

    async def step(state: Any) -> State:
        await model.ainvoke(TEXT)
        return {"done": [TEXT]}

    builder = StateGraph(State)
    builder.add_node("plan", plan, destinations=("step",)).add_node("step", step)
    return builder.add_edge(START, "plan").compile(name="commanded")


def inside(graph: Any, state: type = State) -> Any:
    """The graph as a node of another."""
    return StateGraph(state).add_node("outer", graph).add_edge(START, "outer").compile(name="around")


def functional() -> Any:
    """An entrypoint with a task that gets the text."""
    model = PlainModel()

    @task
    async def step(text: str) -> str:
        return (await model.ainvoke(text)).text

    @entrypoint()
    async def run(state: Any) -> Any:
        await asyncio.gather(step(TEXT), step(TEXT + "!"))
        return {}

    return run


def agent(*wanted: str) -> Any:
    return create_agent(Planner(wanted=list(wanted)), [search, add], name="agent")


CALL = {"name": TEXT, "args": {"to": TEXT}, "id": "1", "type": "tool_call"}

GRAPHS = {
    "one step with the text as its tool": lambda: fan_out({"tool": TEXT}),
    "many steps": lambda: fan_out({"tool": TEXT}, {"tool": TEXT + "!"}, {"tool": "search", "input": TEXT}),
    "a call of an unknown tool": lambda: fan_out(CALL),
    "a call in a list": lambda: fan_out([CALL]),
    "a call with the state": lambda: fan_out({"tool_call": CALL, "state": {"done": [TEXT]}}),
    "arguments without a name": lambda: fan_out({"args": TEXT, "tool": TEXT}),
    "the text as the whole input": lambda: fan_out(TEXT, {TEXT: TEXT}),
    "sent by a command": lambda: by_commands({"tool": TEXT}, CALL),
    "in a subgraph": lambda: inside(fan_out({"tool": TEXT}, CALL)),
    "a functional graph": functional,
    "an agent that asks for a tool that it does not have": lambda: agent(TEXT, "search"),
}


async def everything_kept(graph: Any, make_scheduler: Any, folder: Any) -> str:
    """Run the graph twice; return its record, the profile that is stored and the whole story, as text."""
    entries: list[Any] = []
    scheduler = make_scheduler(2, record=folder / "jobs.jsonl", profiles=str(folder / "profiles"))
    scheduler.subscribe(entries.append)
    scheduled = schedule(graph, scheduler)
    for _ in range(2):
        await scheduled.ainvoke({"messages": [("user", TEXT)]})
    await asyncio.to_thread(scheduler.learn)
    await asyncio.to_thread(scheduler._driver._service.keep)
    kept = [file.read_text() for file in folder.rglob("*.json*")]
    assert len(kept) >= 2
    assert any("JobClosed" in repr(entry) for entry in entries)
    facts = [repr(job) for own in scheduler.profile.applications.values() for job in own.history.jobs]
    return "\n".join([*kept, *facts, *map(repr, entries), repr(scheduler.profile)])


@pytest.mark.parametrize("name", GRAPHS)
def test_no_text_of_a_model_is_kept(name, make_scheduler, tmp_path):
    """However a node is sent what the model wrote."""
    kept = asyncio.run(everything_kept(GRAPHS[name](), make_scheduler, tmp_path))
    assert "jane.doe" not in kept


def tools_in(graph, make_scheduler, tmp_path):
    """The tools in the record of one run, by stage."""
    scheduler = make_scheduler(2, record=tmp_path / "jobs.jsonl")
    asyncio.run(schedule(graph, scheduler).ainvoke({"messages": [("user", TEXT)]}))
    scheduler._driver._service.keep()
    (job,) = read_jobs(tmp_path / "jobs.jsonl")
    return sorted((stage.name, stage.tool) for stage in job.stages if stage.tool is not None)


def test_an_agent_names_the_tools_that_it_has(make_scheduler, tmp_path):
    """What the model asked for beside them is not named."""
    graph = agent("search", "add", TEXT, "serch")
    assert tools_in(graph, make_scheduler, tmp_path) == [("tools", "add"), ("tools", "search")]


def test_tools_inside_subgraphs_are_known(make_scheduler, tmp_path):
    """An agent as a node of another graph."""
    assert tools_in(inside(agent("add"), MessagesState), make_scheduler, tmp_path) == [("outer/tools", "add")]


def test_a_table_of_functions_names_tools(make_scheduler, tmp_path):
    """As a node of one's own has one, whose plan a `Send` names under "tool"."""
    table = {"search": lambda: "found", "add": lambda: "2"}

    async def step(state: Any) -> State:
        return {"done": [table[state["tool"]]() if state["tool"] in table else "unknown"]}

    graph = fan_out({"tool": "search"}, {"tool": "add"}, {"tool": TEXT}, step=step)
    assert tools_in(graph, make_scheduler, tmp_path) == [("step", "add"), ("step", "search")]


LISTED = [StructuredTool.from_function(lambda: "", name="listed", description="It is in a list.")]


@pytest.mark.parametrize(
    ("node", "tools"),
    [
        (lambda state: {"done": [search.invoke({})]}, {"search"}),
        (lambda state: {"done": [tool.invoke({}) for tool in LISTED]}, {"listed"}),
        (ToolNode([search, add]), {"search", "add"}),
        (lambda state: {"done": [str({"a text": "is no tool"})]}, set()),
    ],
)
def test_the_compiler_finds_the_tools(node, tools):
    """Of a tool node, and those that a node's code can reach."""
    builder = StateGraph(State).add_node("node", node).add_edge(START, "node").add_edge("node", END)
    application = compile_graph(builder.compile())
    assert application.tools == application.tools | tools
    assert (not tools) == (not application.tools)
    assert set(application.by_path["node"].tools) == application.tools
