"""A run that is interrupted and resumed is one job, and the human's time is not its work."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt

from llmsched_langgraph import schedule
from llmsched_langgraph._adapter.graph import application_of
from llmsched_langgraph._core import lifecycle
from llmsched_langgraph.testing import PlainModel

THREAD = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


def graph_of(model, *, inside: bool = True, **options):
    """Ask, let a human approve (inside the node, or by a breakpoint before it), ask again."""

    async def ask(state: State) -> State:
        return {"answers": [(await model.ainvoke("?")).text]}

    def approve(state: State) -> State:
        return {"answers": [interrupt("sure?") if inside else "approved"]}

    builder = StateGraph(State).add_node("first", ask).add_node("approve", approve).add_node("second", ask)
    builder.add_edge(START, "first").add_edge("first", "approve").add_edge("approve", "second")
    return builder.compile(checkpointer=InMemorySaver(), **options)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("inside", [True, False])
def test_interrupted_and_resumed_is_one_job(make_scheduler, inside):
    """The job is paused, not ended; resumed, it has its old evidence and its old place in line."""
    clock = Clock()
    scheduler = make_scheduler(1, clock=clock)
    options = {} if inside else {"interrupt_before": ["approve"]}
    graph = schedule(graph_of(PlainModel(), inside=inside, **options), scheduler)

    async def main() -> None:
        await graph.ainvoke({}, THREAD)
        assert (scheduler.statistics().jobs_running, scheduler.statistics().jobs_ended) == (0, 0)
        clock.now = 3600.0
        state = await graph.ainvoke(Command(resume="yes") if inside else None, THREAD)
        assert len(state["answers"]) == 3

    asyncio.run(main())
    assert scheduler.statistics().jobs_ended == 1
    story = scheduler._driver.story()
    kinds = [entry.kind for entry in story if entry.kind.startswith("Job")]
    assert kinds == ["JobArrived", "JobPaused", "JobResumed", "JobEnded", "JobClosed"]
    learned = scheduler.profile.applications[application_of(graph).fingerprint]
    (outcome,) = learned.outcomes
    assert {stage.stage_occurrence.path for stage in outcome.stages if stage.calls} == {"first", "second"}
    assert learned.mean_s == 0  # an hour went by, and none of it was work


def test_another_thread_is_another_job(make_scheduler):
    """What was interrupted on one thread is not resumed by a run on another, nor by a new question."""
    scheduler = make_scheduler(1)
    graph = schedule(graph_of(PlainModel()), scheduler)

    async def main() -> None:
        await graph.ainvoke({}, THREAD)
        await graph.ainvoke({}, {"configurable": {"thread_id": "another"}})
        await graph.ainvoke({}, THREAD)
        await graph.ainvoke(Command(resume="yes"), THREAD)

    asyncio.run(main())
    assert scheduler.statistics().jobs_ended == 1
    assert [entry.job for entry in scheduler._driver.story() if entry.kind == "SlotGranted"] == [1, 2, 3, 3]


def test_resumed_elsewhere(make_scheduler):
    """A scheduler that never saw the first part runs the rest, predicted from the stage it stands at."""
    model, saver = PlainModel(), InMemorySaver()
    here, elsewhere = make_scheduler(1), make_scheduler(1)
    graph = graph_of(model).copy({"checkpointer": saver})
    asyncio.run(schedule(graph, here).ainvoke({}, THREAD))
    state = asyncio.run(schedule(graph, elsewhere).ainvoke(Command(resume="yes"), THREAD))
    assert state["answers"] == ["yes", "yes", "yes"]
    (grant,) = [entry.detail for entry in elsewhere._driver.story() if entry.kind == "SlotGranted"]
    assert grant.call.stage == "second"
    assert elsewhere.statistics().jobs_ended == 1


def test_resumed_elsewhere_it_is_predicted_from_where_it_stands(make_scheduler):
    """Another process knows nothing of the job's past, but from the first stage on what may still come."""
    remaining = []

    def look(entry) -> None:
        if entry.kind == "SlotGranted":
            (job,) = there._driver._machine.known()
            position = job.position
            open_ = {own.path for own, runs in position.tallies.items() if runs.revealed > runs.ended}
            remaining.append(open_ | position.coming())

    graph = graph_of(PlainModel())
    here, there = make_scheduler(1), make_scheduler(1)
    there.subscribe(look)

    async def main() -> None:
        await schedule(graph, here).ainvoke({}, THREAD)
        await schedule(graph, there).ainvoke(Command(resume="yes"), THREAD)

    asyncio.run(main())
    assert remaining == [{"second"}]


def test_nothing_is_learned_of_what_cannot_be_resumed(make_scheduler):
    """An interrupted run without a thread is over, and taught nothing."""
    scheduler = make_scheduler(1)
    graph = schedule(graph_of(PlainModel()).copy({"checkpointer": None}), scheduler)
    asyncio.run(graph.ainvoke({}))
    assert scheduler.statistics().jobs_ended == 1
    assert not scheduler.profile.applications


def test_paused_jobs_do_not_pile_up(make_scheduler, monkeypatch):
    """Of interrupted runs that nobody resumes, only so many are remembered; the others start anew."""
    monkeypatch.setattr(lifecycle, "PAUSED_JOBS", 3)
    scheduler = make_scheduler(1)
    graph = schedule(graph_of(PlainModel()), scheduler)
    threads = [{"configurable": {"thread_id": str(n)}} for n in range(5)]

    async def main() -> None:
        for thread in threads:
            await graph.ainvoke({}, thread)
        assert len(scheduler._driver._machine._life._paused) == 3
        for thread in threads:
            await graph.ainvoke(Command(resume="yes"), thread)

    asyncio.run(main())
    assert scheduler.statistics().jobs_ended == 5


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_resumed_on_the_thread_of_the_code_around_it_is_one_job(make_scheduler, asynchronous):
    """A runnable invokes the graph without a configuration; LangGraph takes the thread from around it."""
    scheduler = make_scheduler(1)
    kinds, threads = [], []

    def see(entry):
        if entry.kind.startswith("Job") and entry.kind != "JobClosed":
            kinds.append(entry.kind)
        if entry.kind == "JobArrived":
            threads.append(entry.detail.thread_id)

    scheduler.subscribe(see)
    builder = StateGraph(dict).add_node("ask", lambda state: {"said": interrupt("?")}).add_edge(START, "ask")
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)

    async def around(given):
        return await graph.ainvoke(given)

    runnable = RunnableLambda(lambda given: graph.invoke(given), around)
    config = {"configurable": {"thread_id": "7"}}
    for given in ({}, Command(resume="yes")):
        if asynchronous:
            asyncio.run(runnable.ainvoke(given, config))
        else:
            runnable.invoke(given, config)
    scheduler.statistics()  # has events handled that nobody waits for
    assert kinds == ["JobArrived", "JobPaused", "JobResumed", "JobEnded"]
    assert threads == ["7"]
