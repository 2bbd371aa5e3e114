"""Two schedulers in one run: whose slots are taken, and what is said where that is not what was meant."""

from __future__ import annotations

import asyncio

import openai
import pytest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from llmsched_langgraph import (
    Backend,
    SchedulerMiddleware,
    reset_default_scheduler,
    schedule,
    set_default_scheduler,
    wrap_openai,
)
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend
from llmsched_langgraph.testing import Meter, PlainModel

QUESTION = {"messages": [("user", "?")]}


@pytest.fixture(scope="module")
def client():
    """A client of an OpenAI-compatible server."""
    with (
        running_backend(SimulatedBackend(slots=8, time_scale=1000.0)) as server,
        openai.OpenAI(api_key="x", base_url=server.base_url) as client,
    ):
        yield client


@pytest.fixture
def two(make_scheduler):
    """The scheduler of the run, and another one."""
    yield make_scheduler(backends=[Backend("outer", 2)]), make_scheduler(backends=[Backend("inner", 2)])
    reset_default_scheduler()


def graph_of(node):
    return StateGraph(MessagesState).add_node("n", node).add_edge(START, "n").compile()


def asking(model):
    def ask(state: MessagesState):
        return {"messages": [model.invoke(state["messages"])]}

    return graph_of(ask)


def calling(graph):
    def call(state: MessagesState):
        graph.invoke(state)
        return {}

    async def acall(state: MessagesState):
        await graph.ainvoke(state)
        return {}

    return graph_of(call), graph_of(acall)


def granted(*schedulers):
    return [scheduler.statistics().granted for scheduler in schedulers]


def said(caplog):
    return [record.getMessage() for record in caplog.records]


def run_twice(graph, scheduler, asynchronous=False):
    scheduled = schedule(graph, scheduler)
    for _ in range(2):
        if asynchronous:
            asyncio.run(scheduled.ainvoke(QUESTION))
        else:
            scheduled.invoke(QUESTION)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("tools", [None, {"search": "inner"}])
def test_middleware_that_names_another_scheduler(two, caplog, asynchronous, tools):
    """The run takes the model calls, which is said once; it is not if the middleware is there for tools."""
    outer, inner = two
    model = PlainModel(meter=Meter())
    agent = create_agent(model, [], middleware=[SchedulerMiddleware(inner, tools=tools)])
    run_twice(calling(agent)[asynchronous], outer, asynchronous)
    assert granted(outer, inner) == [2, 0]
    lines = [line for line in said(caplog) if "SchedulerMiddleware(...)" in line]
    assert len(lines) == (tools is None)
    assert all(f"names {inner!r}" in line and "| outer " in line for line in lines)


def test_middleware_that_names_the_scheduler_of_the_run_or_none(two, caplog):
    """Is no reason to say anything."""
    outer, inner = two
    for named in (outer, None):
        agent = create_agent(PlainModel(meter=Meter()), [], middleware=[SchedulerMiddleware(named)])
        run_twice(agent, outer)
    assert (granted(outer, inner), said(caplog)) == ([4, 0], [])


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_graph_without_a_scheduler_inside_a_run_of_another(two, caplog, asynchronous):
    """It runs on the process-wide scheduler, as documented, which is said once."""
    outer, inner = two
    set_default_scheduler(inner)
    sub = schedule(asking(PlainModel(meter=Meter())))
    run_twice(calling(sub)[asynchronous], outer, asynchronous)
    assert granted(outer, inner) == [0, 2]
    (line,) = said(caplog)
    assert "| inner 0/2" in line
    assert "| outer " in line
    assert "Give both graphs one scheduler" in line


def test_a_graph_that_names_another_scheduler(two, caplog):
    """Its calls take slots there, and none of the run around it: it is what it says."""
    outer, inner = two
    sub = schedule(asking(PlainModel(meter=Meter())), inner)
    run_twice(calling(sub)[0], outer)
    assert (granted(outer, inner), said(caplog)) == ([0, 2], [])


def test_a_client_that_names_another_scheduler(two, caplog, client):
    """Its calls take slots there alone."""
    outer, inner = two
    wrapped = wrap_openai(client, inner)

    def ask(state: MessagesState):
        wrapped.chat.completions.create(model="sim-model", messages=[{"role": "user", "content": "?"}])
        return {}

    run_twice(graph_of(ask), outer)
    assert (granted(outer, inner), said(caplog)) == ([0, 2], [])


def test_a_model_whose_client_names_another_scheduler(two, caplog, client):
    """It waits for both, holds one at a time, and that is said once."""
    outer, inner = two
    wrapped = wrap_openai(client, inner)
    model = ChatOpenAI(
        model="sim-model", api_key="x", client=wrapped.chat.completions, root_client=wrapped, max_retries=0
    )
    held = []

    def observe(entry):
        if entry.kind == "SlotGranted":
            held.append(outer.statistics().holding + inner.statistics().holding)

    with outer.subscribe(observe), inner.subscribe(observe):
        run_twice(asking(model), outer)
    assert granted(outer, inner) == [2, 2]
    assert max(held) == 1
    (line,) = said(caplog)
    assert "| inner 0/2" in line
    assert "a run of <Scheduler llmsched | 1 jobs | outer" in line


def test_a_block_of_another_scheduler(two, caplog):
    """A `slot()` block is the program's own: it holds its slot, and the model call inside one of its run."""
    outer, inner = two
    model = PlainModel(meter=Meter())

    def ask(state: MessagesState):
        with inner.slot():
            model.invoke("?")
        return {}

    run_twice(graph_of(ask), outer)
    assert (granted(outer, inner), said(caplog)) == ([2, 2], [])


def test_a_wrapped_client_is_wrapped_for_another_scheduler(two, client):
    """The last one that is named serves it; without a name, or with the same, it stays as it is."""
    outer, inner = two
    first = wrap_openai(client, outer)
    assert wrap_openai(first) is first
    assert wrap_openai(first, outer) is first
    second = wrap_openai(first, inner)
    for wrapped in (second, first, second):
        wrapped.chat.completions.create(model="sim-model", messages=[{"role": "user", "content": "?"}])
    assert granted(outer, inner) == [1, 2]
