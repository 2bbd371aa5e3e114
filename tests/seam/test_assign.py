"""A function of the operator says whose a run is, in every way to run a graph; its faults cost no run."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from typing import TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

from llmsched_langgraph import Budget, BudgetExceededError, ConfigurationError, schedule
from llmsched_langgraph._adapter import assigning
from llmsched_langgraph._adapter.assigning import PriorityContext
from llmsched_langgraph.testing import PlainModel


class State(TypedDict, total=False):
    name: str


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    monkeypatch.setattr(assigning, "_told", set())


@pytest.fixture
def make_graph(make_scheduler):
    """A scheduled graph of two calls in a row, and what is known of its jobs."""

    def make(assign, **settings):
        scheduler, jobs, model = make_scheduler(2, assign=assign, **settings), [], PlainModel()
        scheduler.subscribe(lambda entry: jobs.append(entry.detail) if entry.kind == "JobArrived" else None)

        def node(state):
            return {"name": model.invoke("?").text}

        async def anode(state):
            return {"name": (await model.ainvoke("?")).text}

        builder = StateGraph(State).add_node("n", RunnableLambda(node, anode))
        builder.add_node("m", RunnableLambda(node, anode))
        graph = builder.add_edge(START, "n").add_edge("n", "m").compile()
        return scheduler, schedule(graph, scheduler), jobs

    return make


async def through(graph, config):
    return [step async for step in graph.astream({}, config)]


async def in_batch(graph, config):
    return await graph.abatch([{}], config)


WAYS = {
    "invoke": lambda graph, config: graph.invoke({}, config),
    "stream": lambda graph, config: list(graph.stream({}, config)),
    "batch": lambda graph, config: graph.batch([{}], config),
    "invoke on a loop": lambda graph, config: asyncio.run(on_a_loop(graph, config)),
    "ainvoke": lambda graph, config: asyncio.run(graph.ainvoke({}, config)),
    "astream": lambda graph, config: asyncio.run(through(graph, config)),
    "abatch": lambda graph, config: asyncio.run(in_batch(graph, config)),
}


async def on_a_loop(graph, config):
    return graph.invoke({}, config)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_it_is_asked_once_for_each_run(make_graph, way, asynchronous):
    """And what the run says of itself is ignored."""
    asked = []

    def assign(ctx):
        asked.append(ctx)
        return {"priority": -3, "fairness_group": ctx.run_metadata["team"]}

    async def aassign(ctx):
        await asyncio.sleep(0)
        return assign(ctx)

    scheduler, graph, jobs = make_graph(aassign if asynchronous else assign)
    way(graph, {"metadata": {"team": "red", "llmsched_tenant": "blue", "llmsched_priority": 5}})
    scheduler.statistics()
    assert len(asked) == 1
    assert [(job.tenant, job.priority) for job in jobs] == [("red", -3)]


def test_what_it_knows_of_a_run(make_graph):
    """The user is that of the Agent Server, and is read like the one of LangGraph's SDK."""
    asked = []
    _, graph, _ = make_graph(asked.append)
    user = {"identity": "u", "permissions": ["premium"], "org_id": "o", "display_name": "Ursula"}
    configurable = {"thread_id": "t", "assistant_id": "a", "graph_id": "g", "langgraph_auth_user": user}
    graph.invoke({}, {"configurable": configurable, "metadata": {"x": 1}})
    graph.invoke({})
    known, unknown = asked
    assert (known.user.identity, known.user["org_id"], known.user.display_name) == ("u", "o", "Ursula")
    assert (known.user.is_authenticated, list(known.permissions), "org_id" in known.user) == (
        True,
        ["premium"],
        True,
    )
    assert (known.thread_id, known.assistant_id, known.graph_id) == ("t", "a", "g")
    assert known.run_metadata["x"] == 1
    assert (unknown.user.identity, unknown.user.is_authenticated, list(unknown.permissions)) == (
        "",
        False,
        [],
    )
    assert (unknown.thread_id, unknown.cron_id, unknown.thread_metadata) == (None, None, {})


def test_the_context_is_that_of_the_sdk():
    """It has the same fields in the same order."""
    types = pytest.importorskip("langgraph_sdk.priority.types")
    own, theirs = (dataclasses.fields(cls) for cls in (PriorityContext, types.PriorityContext))
    assert [each.name for each in own] == [each.name for each in theirs]


def test_the_function_of_the_sdk(make_graph):
    """Registered as for the Agent Server, it works unchanged."""
    sdk = pytest.importorskip("langgraph_sdk.priority")
    sdk._warn_priority_beta.cache_clear()
    with pytest.warns(match="Priority API is in beta"):
        priority = sdk.Priority()

    @priority.assign
    async def assign(ctx):
        return {
            "priority": -3 if "premium" in ctx.permissions else 0,
            "fairness_group": ctx.user["org_id"],
        }

    _, graph, jobs = make_graph(assign)
    user = {"identity": "u", "permissions": ["premium"], "org_id": "o"}
    graph.invoke({}, {"configurable": {"langgraph_auth_user": user}})
    assert [(job.tenant, job.priority) for job in jobs] == [("o", -3)]


def test_it_may_limit_a_run(make_graph):
    """With a budget, which goes before that of the graph, and a deadline."""
    _, graph, jobs = make_graph(lambda ctx: {"budget": {"calls": 1}, "deadline_s": 60.0})
    with pytest.raises(BudgetExceededError):
        schedule(graph, budget=Budget(calls=9)).invoke({})
    assert [job.deadline_s for job in jobs] == [60.0]


async def slow(ctx):
    await asyncio.sleep(3600)


def fails(ctx):
    raise KeyError("org_id")


@pytest.mark.parametrize("way", ["invoke", "invoke on a loop", "ainvoke"])
@pytest.mark.parametrize(
    ("assign", "words"),
    [
        (fails, "KeyError: 'org_id'"),
        (slow, "TimeoutError"),
        (lambda ctx: {"priority": 9}, "its answer's priority must be a whole number from -5 to 5"),
        (lambda ctx: {"tenant": 7}, "its answer's tenant must be the name of a tenant"),
        (lambda ctx: {"urgent": True}, "its answer must be None or a dict with some of 'tenant'"),
        (lambda ctx: 5, "its answer must be None or a dict with some of 'tenant'"),
    ],
    ids=["fails", "too slow", "a priority", "a tenant", "a key", "a number"],
)
def test_its_faults_cost_no_run(make_graph, caplog, monkeypatch, assign, words, way):
    """The run begins without an answer; that is said once."""
    monkeypatch.setattr(assigning, "PATIENCE_S", 0.01 if assign is slow else 60.0)
    _, graph, jobs = make_graph(assign)
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        for _ in range(2):
            WAYS[way](graph, {"metadata": {"llmsched_tenant": "a"}})
    assert [(job.tenant, job.priority) for job in jobs] == [("", 0)] * 2
    said = [record.getMessage() for record in caplog.records if "assign" in record.getMessage()]
    assert len(said) == 1
    assert words in said[0]


def test_a_run_that_is_cancelled_while_it_is_asked_begins_not(make_graph):
    """The cancellation is that of the run."""
    begun = threading.Event()

    async def assign(ctx):
        begun.set()
        await asyncio.sleep(3600)

    scheduler, graph, jobs = make_graph(assign)

    async def main():
        run = asyncio.create_task(graph.ainvoke({}))
        while not begun.is_set():
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert (jobs, scheduler.statistics().jobs_running) == ([], 0)


@pytest.mark.parametrize("wrong", ["assign", 5, {"priority": 1}])
def test_a_function_that_is_none(make_scheduler, wrong):
    with pytest.raises(ConfigurationError, match="assign must be a function of one argument"):
        make_scheduler(1, assign=wrong)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "astream"])
@pytest.mark.parametrize("kind", ["blocks", "awaits", "returns a coroutine"])
def test_it_is_given_up_after_a_time_and_the_loop_goes_on(make_graph, monkeypatch, caplog, way, kind):
    """Also one that blocks its thread; the words say what happened."""
    monkeypatch.setattr(assigning, "PATIENCE_S", 0.05)
    free = threading.Event()

    def blocks(context):
        free.wait(20)

    async def awaits(context):
        await asyncio.sleep(20)

    function = {"blocks": blocks, "awaits": awaits, "returns a coroutine": lambda context: awaits(context)}
    _, graph, jobs = make_graph(function[kind])
    with caplog.at_level(logging.WARNING):
        WAYS[way](graph, {})
    assert [job.tenant for job in jobs] == [""]
    assert "TimeoutError: it took longer than 0.05 s" in caplog.text
    free.set()


def test_a_blocking_function_does_not_block_the_loop(make_graph):
    """Two runs are asked about side by side."""
    both = threading.Barrier(2)
    _, graph, jobs = make_graph(lambda context: {"tenant": "a"} if both.wait(20) >= 0 else None)

    async def main():
        await asyncio.gather(graph.ainvoke({}), graph.ainvoke({}))

    asyncio.run(main())
    assert [job.tenant for job in jobs] == ["a", "a"]


@pytest.mark.parametrize("answer", [{"tenant": 0}, {"tenant": False}, {"fairness_group": 0}, {"tenant": []}])
def test_a_tenant_that_is_no_text(make_graph, caplog, answer):
    """It is an error, and not nothing."""
    _, graph, jobs = make_graph(lambda context: answer)
    with caplog.at_level(logging.WARNING):
        graph.invoke({})
    assert [job.tenant for job in jobs] == [""]
    assert "must be the name of a tenant" in caplog.text


def test_an_error_without_words(make_graph, caplog):
    """Its name is said, and nothing is said to follow."""

    def fails(context):
        raise ZeroDivisionError

    _, graph, _ = make_graph(fails)
    with caplog.at_level(logging.WARNING):
        graph.invoke({})
    assert caplog.messages[0].endswith("): ZeroDivisionError")
