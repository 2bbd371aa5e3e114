"""Stage runs of scheduled graphs are seen before they run, and stopped runs do not wait on for slots."""

from __future__ import annotations

import asyncio
import logging
import operator
import threading
from typing import Annotated, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send, TimeoutPolicy

from llmsched_langgraph import compile_graph, schedule
from llmsched_langgraph._adapter import executor
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed
from llmsched_langgraph.testing import PlainModel


class State(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


def planner(model, width: int = 3):
    async def ask(state: State) -> State:
        return {"answers": [(await model.ainvoke("?")).text]}

    builder = StateGraph(State).add_node("plan", ask).add_node("work", ask).add_node("join", ask)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda _: [Send("work", {})] * width, ["work"])
    builder.add_edge("work", "join")
    builder.add_edge("join", END)
    return builder.compile()


@pytest.fixture
def watched(monkeypatch):
    """Gives the moves that are seen of each job of a scheduler from then on."""

    def watch(scheduler):
        begin, seen = scheduler._driver.start_job, []

        def start_job(info, resumes, stage_events):
            seen.append(stage_events)
            return begin(info, resumes, stage_events)

        monkeypatch.setattr(scheduler._driver, "start_job", start_job)
        return seen

    return watch


def asked(scheduler):
    """The stage of each call, as it was asked for, and how many moves the scheduler had heard of by then."""
    stages: dict[int, tuple[str, int]] = {}
    heard = 0
    for entry in scheduler._driver.story():
        if entry.kind == "StagesChanged":
            heard += entry.detail
        elif entry.kind == "CallQueued":
            stages[entry.ticket] = (entry.detail.stage, heard)
        elif entry.kind == "SlotGranted":
            stages.setdefault(entry.ticket, (entry.detail.call.stage, heard))
    return list(stages.values())


def test_a_dynamic_stage_is_revealed_before_it_runs(make_scheduler, watched):
    """The scheduler knows which stages a plan named, and how often, before the first asks for a slot."""
    scheduler = make_scheduler(1)
    seen = watched(scheduler)
    asyncio.run(schedule(planner(PlainModel()), scheduler).ainvoke({}))
    (stage_events,) = seen
    revealed = [move for move in stage_events if isinstance(move, Revealed)]
    assert [tuple(path for _, path in move.runs) for move in revealed] == [
        ("plan",),
        ("work", "work", "work"),
        ("join",),
    ]
    stages, heard = zip(*asked(scheduler), strict=True)
    assert stages == ("plan", "work", "work", "work", "join")
    assert heard[0] <= stage_events.index(revealed[1]) < heard[1]


def test_stages_are_recorded_as_they_end(make_scheduler, watched):
    """Every execution of a stage is told to the scheduler, with how it ended, before the job's end."""
    scheduler = make_scheduler(1)
    seen = watched(scheduler)
    model = PlainModel()
    model.meter.fail_with = ZeroDivisionError()
    asyncio.run(schedule(planner(PlainModel()), scheduler).ainvoke({}))
    with pytest.raises(ZeroDivisionError):
        asyncio.run(schedule(planner(model), scheduler).ainvoke({}))
    story = scheduler._driver.story()
    kinds = [entry.kind for entry in story if entry.kind != "ProfileLearned"]  # which comes when it comes
    assert kinds[-2:] == ["JobEnded", "JobClosed"]
    stage_events = [move for stage_events in seen for move in stage_events]
    assert sum(entry.detail for entry in story if entry.kind == "StagesChanged") == len(stage_events)
    assert len([move for move in stage_events if isinstance(move, Ended)]) == 6
    begun = [
        move
        for move in stage_events
        if isinstance(move, Began) or (isinstance(move, Revealed) and move.begun)
    ]
    assert len(begun) == 6
    records = [ended(entry.detail) for entry in story if entry.kind == "JobClosed"]
    runs = [run for record in records for run in record.runs]
    assert [(run.name, run.occurrence, run.complete) for run in runs] == [
        ("plan", 1, True),
        *[("work", 1, True)] * 3,
        ("join", 1, True),
        ("plan", 1, False),
    ]
    assert all(run.seconds >= 0 for run in runs)


def test_stages_of_nested_graphs_are_paths(make_scheduler):
    """A stage is named by its node behind the nodes of the graphs around it, tasks beside their caller."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    inner = planner(model, 2)

    async def own_thread(state: State) -> State:
        return await inner.ainvoke({}, {"configurable": {"thread_id": "its own"}})

    builder = StateGraph(State).add_node("declared", inner).add_node("called", own_thread)
    builder.add_edge(START, "declared")
    builder.add_edge("declared", "called")

    @task
    async def ask() -> str:
        return (await model.ainvoke("?")).text

    @entrypoint()
    async def flow(_: str) -> str:
        return await ask()

    asyncio.run(schedule(builder.compile(), scheduler).ainvoke({}))
    asyncio.run(schedule(flow, scheduler).ainvoke(""))
    stages = {stage for stage, _ in asked(scheduler)}
    assert stages == {f"{a}/{b}" for a in ("declared", "called") for b in ("plan", "work", "join")} | {"ask"}


@pytest.mark.parametrize("how", ["failure", "break"])
def test_threads_of_a_stopped_run_do_not_wait_on(make_scheduler, how):
    """When a run is over, its threads that wait for a slot are sent away: the run ends without their turn."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    waiting = threading.Event()

    def ask(state: State) -> State:
        return {"answers": [model.invoke("?").text]}

    def stop(state: State) -> State:
        assert waiting.wait(20)
        if how == "failure":
            raise ZeroDivisionError
        return {"answers": ["stop"]}

    builder = StateGraph(State).add_node("ask", ask).add_node("stop", stop)
    builder.add_edge(START, "stop")
    builder.add_conditional_edges(START, lambda _: [Send("ask", {})] * 3, ["ask"])
    graph = schedule(builder.compile(), scheduler)

    def run() -> None:
        if how == "failure":
            with pytest.raises(ZeroDivisionError):
                graph.invoke({})
        else:
            for _ in graph.stream({}, stream_mode="updates"):
                break

    with scheduler.slot():
        thread = threading.Thread(target=run)
        thread.start()
        while scheduler.statistics().waiting < 3:
            pass
        waiting.set()
        thread.join(20)
        assert not thread.is_alive()
        assert scheduler.statistics().waiting == 0
    assert model.meter.total == 0


def test_cancelled_run_sends_its_threads_away(make_scheduler):
    """A sync node of a cancelled asynchronous run stops waiting, though its thread cannot be cancelled."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    builder = StateGraph(State).add_node("ask", lambda _: {"answers": [model.invoke("?").text]})
    graph = schedule(builder.add_edge(START, "ask").compile(), scheduler)

    async def main() -> None:
        run = asyncio.create_task(graph.ainvoke({}))
        while scheduler.statistics().waiting < 1:
            await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    holder = scheduler.slot()
    holder.acquire()
    try:
        asyncio.run(main())  # its end waits for the loop's threads
        assert scheduler.statistics().waiting == 0
    finally:
        holder.release()
    assert model.meter.total == 0


def test_waiting_is_not_idleness(make_scheduler):
    """A node may wait for its slot longer than its idle timeout, also in a graph inside it."""
    scheduler = make_scheduler(1)
    model = PlainModel()

    async def ask(state: State) -> State:
        return {"answers": [(await model.ainvoke("?")).text]}

    inner = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile()
    builder = StateGraph(State)
    builder.add_node("ask", ask, timeout=TimeoutPolicy(idle_timeout=0.2))
    builder.add_node("nested", inner, timeout=TimeoutPolicy(idle_timeout=0.2))
    builder.add_edge(START, "ask")
    builder.add_edge(START, "nested")
    graph = schedule(builder.compile(), scheduler)

    async def main() -> State:
        run = asyncio.create_task(graph.ainvoke({}))
        await asyncio.sleep(0.8)
        holder.release()
        return await run

    holder = scheduler.slot()
    holder.acquire()
    assert asyncio.run(main())["answers"] == ["yes", "yes"]


def test_langgraph_is_as_expected():
    """The installed LangGraph executes stages the way executor.py knows; if this fails, mend that module."""
    executor.install()
    stock = executor.stock.PregelRunner
    executor.main.PregelRunner, dispatcher = stock, executor.main.PregelRunner
    try:
        assert executor.why_not() is None
    finally:
        executor.main.PregelRunner = dispatcher
    assert dispatcher is not stock


def test_unknown_langgraph_falls_back(make_scheduler, monkeypatch, caplog):
    """With a runner that is not known, LangGraph's own is used, it is said once, and slots are exact."""
    model = PlainModel()
    scheduler = make_scheduler(2)
    monkeypatch.setattr(executor.main, "PregelRunner", executor.stock.PregelRunner)
    monkeypatch.setattr(executor, "_installed", None)
    monkeypatch.setattr(executor.stock, "run_with_retry", lambda renamed, *rest: None)
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        graph = schedule(planner(model), scheduler)
        schedule(planner(model), scheduler)
    (record,) = caplog.records
    assert "(run_with_retry does not take a task first): its stock runner is used" in record.getMessage()
    asyncio.run(graph.ainvoke({}))
    assert model.meter.peak <= 2
    assert asked(scheduler) == [(stage, 0) for stage in ("plan", "work", "work", "work", "join")]


def test_runs_correct_the_template(make_scheduler):
    """A model that only the run's configuration names is not found beforehand, and known after a run."""
    scheduler = make_scheduler(1)

    def ask(state: State, config: RunnableConfig) -> State:
        return {"answers": [config["configurable"]["model"].invoke("?").text]}

    builder = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
    graph = schedule(builder.compile(), scheduler)
    application = compile_graph(graph)
    assert application.by_path["ask"].kind == "regular"
    graph.invoke({}, {"configurable": {"model": PlainModel()}})
    scheduler.learn()
    corrected = scheduler.profile.template(application)
    assert corrected.by_path["ask"].kind == "llm"
    assert scheduler._driver._machine.ordering._templates[application.fingerprint] == corrected
