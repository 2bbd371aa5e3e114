"""A wait is a step of its own in LangSmith's trace, and nowhere else."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.tracers.langchain import LangChainTracer
from langgraph.graph import END, START, MessagesState, StateGraph
from support.seam import auntil, taken

from llmsched_langgraph import ConfigurationError, observe, schedule
from llmsched_langgraph.testing import PlainModel

ASKED = {"messages": [("user", "?")]}


class Client:
    """Keeps what a tracer sends."""

    def __init__(self):
        self.runs, self.ends = {}, {}
        self.tracing_queue = None

    def create_run(self, **run):
        self.runs[run["id"]] = run

    def update_run(self, **run):
        self.ends[run.pop("run_id", None) or run["id"]] = run

    def named(self, name):
        return [run for run in self.runs.values() if run["name"] == name]


def graph_of(model):
    async def ask(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_edge("ask", END)
    return builder.compile(name="agent")


def test_a_wait_is_a_step(make_scheduler):
    """Beside the model's step, below the node's, with its length and the reason of the grant."""
    scheduler, client = make_scheduler(1), Client()
    agent = schedule(graph_of(PlainModel()), scheduler)

    async def main():
        config = {"callbacks": [LangChainTracer(client=client, project_name="p")]}
        await agent.ainvoke(ASKED, config)
        with taken(scheduler):
            task = asyncio.create_task(agent.ainvoke(ASKED, config))
            await auntil(lambda: scheduler.statistics().waiting)
        await task

    with observe.langsmith(scheduler) as observation:
        asyncio.run(main())
        assert observation.flush()
    (wait,) = client.named("waiting for a slot")
    nodes, models = client.named("ask"), client.named("PlainModel")
    assert len(nodes) == len(models) == 2
    assert wait["parent_run_id"] == nodes[1]["id"] == models[1]["parent_run_id"]
    assert wait["trace_id"] == nodes[1]["trace_id"]
    assert wait["dotted_order"].startswith(nodes[1]["dotted_order"] + ".")
    assert wait["inputs"] == {"backend": "default"}
    assert wait["outputs"]["reason"] == "order"
    assert wait["outputs"]["waited_s"] >= 0.0
    assert wait["start_time"] <= wait["end_time"]
    assert wait["session_name"] == "p"


def test_a_wait_in_vain(make_scheduler):
    """It is told as well."""
    scheduler, client = make_scheduler(1), Client()
    agent = schedule(graph_of(PlainModel()), scheduler)

    async def main():
        task = asyncio.create_task(agent.ainvoke(ASKED, {"callbacks": [LangChainTracer(client=client)]}))
        await auntil(lambda: scheduler.statistics().waiting)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with observe.langsmith(scheduler), taken(scheduler):
        asyncio.run(main())
    (wait,) = client.named("waiting for a slot")
    assert wait["outputs"]["outcome"] == "withdrawn"


def test_the_graph_says_the_same(make_scheduler):
    """Its events are those of a graph that nobody watches."""
    scheduler, client = make_scheduler(1), Client()
    agent = schedule(graph_of(PlainModel()), scheduler)

    async def events():
        config = {"callbacks": [LangChainTracer(client=client)]}
        with taken(scheduler):
            slow = asyncio.create_task(collected(agent.astream_events(ASKED, config, version="v2")))
            await auntil(lambda: scheduler.statistics().waiting)
        return [(event["event"], event["name"]) for event in await slow]

    async def collected(stream):
        return [event async for event in stream]

    before = asyncio.run(events())
    with observe.langsmith(scheduler):
        assert asyncio.run(events()) == before
    assert len(client.named("waiting for a slot")) == 1


def test_without_a_trace_there_is_no_step(make_scheduler, spawn):
    """Nothing is kept of calls that LangSmith does not see."""
    scheduler = make_scheduler(1)
    with observe.langsmith(scheduler) as observation:
        with scheduler.slot():
            pass
        assert observation.flush()
        assert observation._spans._asked == {}


def test_wrong_arguments(monkeypatch, make_scheduler):
    """Each is refused with the cure."""
    import sys

    with pytest.raises(ConfigurationError, match="observe a Scheduler"):
        observe.langsmith("scheduler")
    monkeypatch.setitem(sys.modules, "langsmith", None)
    with pytest.raises(ConfigurationError, match="need the package langsmith; install it"):
        observe.langsmith(make_scheduler(1))
