"""Scheduled graphs do what the graphs do, and their model calls never exceed the slots."""

from __future__ import annotations

import asyncio
import contextvars
import operator
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel
from langgraph.types import Command, Send, interrupt

from llmsched_langgraph import (
    Scheduler,
    SchedulerClosedError,
    SchedulerMiddleware,
    UnsupportedGraphError,
    default_scheduler,
    schedule,
    set_default_scheduler,
)
from llmsched_langgraph._adapter import graph as graph_module
from llmsched_langgraph._adapter.graph import application_of
from llmsched_langgraph.testing import PlainModel, StreamingModel, SyncOnlyModel

MODELS = [SyncOnlyModel, PlainModel, StreamingModel]


class State(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


def fan_out(model: Any, width: int = 6, *, asynchronous: bool = True) -> CompiledStateGraph:
    """One call, then `width` calls at once."""

    async def aask(state: State) -> State:
        return {"answers": [(await model.ainvoke("?")).text]}

    def ask(state: State) -> State:
        return {"answers": [model.invoke("?").text]}

    node = aask if asynchronous else ask
    builder = StateGraph(State)
    builder.add_node("first", node)
    builder.add_node("many", node)
    builder.add_edge(START, "first")
    builder.add_conditional_edges("first", lambda _: [Send("many", {})] * width, ["many"])
    builder.add_edge("many", END)
    return builder.compile()


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("how", ["ainvoke", "astream", "messages", "abatch", "astream_events"])
def test_concurrent_async_runs_share_the_slots(make_scheduler, model_class, how):
    """Many runs at once never have more requests in flight than there are slots, however they are run."""
    model = model_class()
    scheduler = make_scheduler(2)
    graph = schedule(fan_out(model), scheduler)

    async def run_one() -> None:
        match how:
            case "ainvoke":
                assert (await graph.ainvoke({}))["answers"] == ["yes"] * 7
            case "astream":
                assert len([step async for step in graph.astream({}, stream_mode="updates")]) == 7
            case "messages":
                pieces = [piece async for piece in graph.astream({}, stream_mode="messages")]
                assert len("".join(message.text for message, _ in pieces)) == len("yes") * 7
            case "abatch":
                assert [len(state["answers"]) for state in await graph.abatch([{}, {}])] == [7, 7]
            case "astream_events":
                kinds = {event["event"] async for event in graph.astream_events({}, version="v2")}
                assert "on_chat_model_end" in kinds

    async def main() -> None:
        await asyncio.gather(*(run_one() for _ in range(4)))

    asyncio.run(main())
    assert 1 <= model.meter.peak <= 2
    assert scheduler.statistics().granted == model.meter.total


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("how", ["invoke", "stream", "messages", "batch"])
def test_concurrent_sync_runs_share_the_slots(make_scheduler, model_class, how):
    """The same for runs in threads."""
    model = model_class()
    scheduler = make_scheduler(2)
    graph = schedule(fan_out(model, asynchronous=False), scheduler)

    def run_one(_: int) -> None:
        match how:
            case "invoke":
                assert graph.invoke({})["answers"] == ["yes"] * 7
            case "stream":
                assert len(list(graph.stream({}, stream_mode="updates"))) == 7
            case "messages":
                answers: dict[str, str] = {}  # two may be streamed at once, piece by piece
                for message, _ in graph.stream({}, stream_mode="messages"):
                    answers[message.id] = answers.get(message.id, "") + message.text
                assert list(answers.values()) == ["yes"] * 7
            case "batch":
                assert [len(state["answers"]) for state in graph.batch([{}, {}])] == [7, 7]

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run_one, range(4)))
    assert 1 <= model.meter.peak <= 2
    assert scheduler.statistics().granted == model.meter.total


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "astream", "batch"])
def test_completion_models_take_slots(make_scheduler, how):
    """Models that complete texts take slots like chat models do, and their tokens are counted."""
    scheduler = make_scheduler(1)
    model = FakeStreamingListLLM(responses=["yes"])

    async def aask(state: State) -> State:
        if how == "ainvoke":
            return {"answers": [await model.ainvoke("four words are here")]}
        return {"answers": ["".join([piece async for piece in model.astream("four words are here")])]}

    def ask(state: State) -> State:
        match how:
            case "invoke":
                return {"answers": [model.invoke("four words are here")]}
            case "stream":
                return {"answers": ["".join(model.stream("four words are here"))]}
        return {"answers": model.batch(["four words are here"])}

    node = aask if how.startswith("a") else ask
    graph = schedule(StateGraph(State).add_node("n", node).add_edge(START, "n").compile(), scheduler)
    state = asyncio.run(graph.ainvoke({})) if how.startswith("a") else graph.invoke({})
    assert state["answers"] == ["yes"]
    now = scheduler.statistics()
    assert (now.granted, now.prompt_tokens, now.output_tokens) == (1, 5, 1)


def test_odd_answers_are_none_of_our_business(make_scheduler):
    """A model whose answer has no known shape fails as it would unscheduled."""

    class Odd(PlainModel):
        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            return None

    errors = []
    for graph in (fan_out(Odd()), schedule(fan_out(Odd()), make_scheduler(1))):
        with pytest.raises(AttributeError) as error:
            asyncio.run(graph.ainvoke({}))
        errors.append(str(error.value))
    assert errors[0] == errors[1]


def test_outside_scheduled_runs_models_take_no_slot(make_scheduler):
    """A graph that was not scheduled, and a model on its own, are left alone."""
    model = PlainModel()
    scheduler = make_scheduler(1)
    bare = fan_out(model)
    scheduled = schedule(bare, scheduler)
    asyncio.run(bare.ainvoke({}))
    model.invoke("?")
    assert model.meter.peak > 1
    assert scheduler.statistics().granted == 0
    assert scheduled is not bare
    assert type(bare) is CompiledStateGraph


def test_scheduled_graph_is_of_the_same_kind(make_scheduler):
    """The result is a graph of the same class, name and drawing, and scheduling it again changes nothing."""
    bare = fan_out(PlainModel())
    scheduler = make_scheduler(1)
    scheduled = schedule(bare, scheduler)
    assert isinstance(scheduled, CompiledStateGraph)
    assert type(scheduled).__name__ == "CompiledStateGraph"
    assert type(scheduled).__module__ == CompiledStateGraph.__module__
    assert scheduled.get_graph().to_json() == bare.get_graph().to_json()
    assert schedule(scheduled, scheduler) is scheduled
    assert schedule(scheduled) is scheduled


def test_scheduling_on_another_scheduler_moves_the_graph(make_scheduler):
    """A graph that is scheduled again elsewhere takes its slots there, and only there."""
    first, second = make_scheduler(1), make_scheduler(1)
    graph = schedule(schedule(fan_out(PlainModel()), first), second)
    asyncio.run(graph.ainvoke({}))
    assert (first.statistics().granted, second.statistics().granted) == (0, 7)


@pytest.mark.parametrize("copy", ["copy", "update", "with_config"])
def test_copies_stay_scheduled(make_scheduler, copy):
    """Copies, as servers make them, are scheduled on the same scheduler and are the same application."""
    scheduler = make_scheduler(2)
    graph = schedule(fan_out(PlainModel()), scheduler)
    match copy:
        case "copy":
            other = graph.copy()
        case "update":
            other = graph.copy(update={"checkpointer": InMemorySaver()})
        case "with_config":
            other = graph.with_config(tags=["copied"])
    config = {"configurable": {"thread_id": "1"}}
    asyncio.run(other.ainvoke({}, config))
    assert scheduler.statistics().granted == 7
    assert application_of(other) == application_of(graph)


def test_default_scheduler_is_looked_up_at_each_run(make_scheduler):
    """A graph scheduled on the default scheduler follows it when it is replaced."""
    graph = schedule(fan_out(PlainModel()))
    asyncio.run(graph.ainvoke({}))
    assert default_scheduler().statistics().granted == 7
    other = make_scheduler(3)
    set_default_scheduler(other)
    asyncio.run(graph.ainvoke({}))
    assert other.statistics().granted == 7


def test_nested_graphs_are_one_job_and_cannot_deadlock(make_scheduler):
    """A graph in a node in a graph, scheduled or not, on one slot: it ends, and it is one job."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    inner = fan_out(model)
    scheduled_inner = schedule(fan_out(model), scheduler)

    async def call_inner(state: State) -> State:
        await scheduled_inner.ainvoke({})
        return await inner.ainvoke({})

    builder = StateGraph(State)
    builder.add_node("declared", inner)
    builder.add_node("called", call_inner)
    builder.add_edge(START, "declared")
    builder.add_edge(START, "called")
    outer = schedule(builder.compile(), scheduler)
    asyncio.run(outer.ainvoke({}))
    assert model.meter.total == 21
    assert model.meter.peak == 1
    assert scheduler.statistics().jobs_ended == 1
    (outcome,) = scheduler.profile.applications[application_of(outer).fingerprint].outcomes
    calling = {stage.stage_occurrence.path for stage in outcome.stages if stage.calls}
    assert {"declared/first", "declared/many", "called/first", "called/many"} == calling


def test_functional_graphs(make_scheduler):
    """`@entrypoint` and `@task` on one slot end, in threads and on a loop."""
    scheduler = make_scheduler(1)
    model = PlainModel()

    @task
    def ask(n: int) -> str:
        return model.invoke("?").text

    @task
    async def aask(n: int) -> str:
        return (await model.ainvoke("?")).text

    @entrypoint()
    def ask_all(count: int) -> list[str]:
        return [future.result() for future in [ask(n) for n in range(count)]]

    @entrypoint()
    async def aask_all(count: int) -> list[str]:
        return list(await asyncio.gather(*(aask(n) for n in range(count))))

    assert schedule(ask_all, scheduler).invoke(5) == ["yes"] * 5
    assert asyncio.run(schedule(aask_all, scheduler).ainvoke(5)) == ["yes"] * 5
    assert type(schedule(ask_all, scheduler)).__name__ == Pregel.__name__
    assert scheduler.statistics().granted == 10
    assert model.meter.peak == 1


def test_agent_with_tools(make_scheduler):
    """A `create_agent` loop calls its tools and its model; each model call takes one slot."""
    scheduler = make_scheduler(1)

    class Scripted(PlainModel):
        turns: list[AIMessage] = []

        async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
            result = await super()._agenerate(messages, stop, run_manager, **kwargs)
            result.generations[0].message = self.turns[sum(m.type == "ai" for m in messages)]
            return result

    @tool
    async def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    call = {"name": "add", "args": {"a": 2, "b": 3}, "id": "1", "type": "tool_call"}
    model = Scripted(turns=[AIMessage("", tool_calls=[call]), AIMessage("five")])
    agent = schedule(create_agent(model, [add]), scheduler)
    state = asyncio.run(agent.ainvoke({"messages": [("user", "2 + 3?")]}))
    assert [message.text for message in state["messages"]] == ["2 + 3?", "", "5", "five"]
    assert scheduler.statistics().granted == 2


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("scheduled", [True, False])
def test_middleware(make_scheduler, asynchronous, scheduled):
    """An agent with the middleware takes slots, and no more of them if its graph is scheduled too."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    agent = create_agent(model, middleware=[SchedulerMiddleware(scheduler)])
    if scheduled:
        agent = schedule(agent, scheduler)
    question = {"messages": [("user", "?")]}

    async def main() -> None:
        await asyncio.gather(*(agent.ainvoke(question) for _ in range(5)))

    if asynchronous:
        asyncio.run(main())
    else:
        with ThreadPoolExecutor(5) as pool:
            list(pool.map(agent.invoke, [question] * 5))
    assert model.meter.peak == 1
    assert scheduler.statistics().granted == model.meter.total == 5
    assert scheduler.statistics().jobs_running == 0


def test_middleware_retries_hold_no_slot(make_scheduler):
    """A call that fails and is tried again by other middleware takes a slot for each attempt."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    model.meter.fail_with = ConnectionError("try again")
    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0, on_failure="error")
    agent = create_agent(model, middleware=[SchedulerMiddleware(scheduler), retry])
    with pytest.raises(ConnectionError):
        asyncio.run(agent.ainvoke({"messages": [("user", "?")]}))
    assert scheduler.statistics().granted == 3


def test_interrupt_and_resume(make_scheduler):
    """A run that interrupts holds nothing while it waits for a human, and goes on as if not scheduled."""
    scheduler = make_scheduler(1)
    model = PlainModel()

    async def ask(state: State) -> State:
        word = (await model.ainvoke("?")).text
        return {"answers": [f"{word} {interrupt('sure?')}"]}

    builder = StateGraph(State).add_node("ask", ask).add_edge(START, "ask")
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
    config = {"configurable": {"thread_id": "1"}}

    async def main() -> State:
        paused = await graph.ainvoke({}, config)
        assert paused["__interrupt__"][0].value == "sure?"
        assert scheduler.statistics().holding == 0
        return await graph.ainvoke(Command(resume="indeed"), config)

    assert asyncio.run(main())["answers"] == ["yes indeed"]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_errors_come_through_and_give_the_slot_back(make_scheduler, asynchronous):
    """A failing model fails the run with its own error; the slot is back."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    model.meter.fail_with = ZeroDivisionError("the model broke")
    graph = schedule(fan_out(model, asynchronous=asynchronous), scheduler)
    with pytest.raises(ZeroDivisionError, match="the model broke"):
        asyncio.run(graph.ainvoke({})) if asynchronous else graph.invoke({})
    assert scheduler.statistics().jobs_ended == 1


def test_cancelled_run_leaves_nothing(make_scheduler):
    """Runs cancelled while their calls run and wait give everything back, and others go on."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    graph = schedule(fan_out(model), scheduler)

    async def main() -> None:
        model.meter.gate.clear()
        runs = [asyncio.create_task(graph.ainvoke({})) for _ in range(3)]
        while scheduler.statistics().waiting < 2:
            await asyncio.sleep(0)
        runs[0].cancel()  # its call runs
        runs[1].cancel()  # its call waits
        assert [type(result) for result in await asyncio.gather(*runs[:2], return_exceptions=True)] == [
            asyncio.CancelledError
        ] * 2
        model.meter.gate.set()
        assert len((await runs[2])["answers"]) == 7

    asyncio.run(main())


def test_timeout_inside_a_node_that_goes_on(make_scheduler):
    """A node that gives up on a call in the backlog goes on, and its place in the backlog is free."""
    scheduler = make_scheduler(1)
    model = PlainModel()

    async def impatient(state: State) -> State:
        try:
            async with asyncio.timeout(0.01):
                await model.ainvoke("?")
        except TimeoutError:
            return {"answers": ["gave up"]}
        return {"answers": ["got it"]}

    graph = schedule(StateGraph(State).add_node("n", impatient).add_edge(START, "n").compile(), scheduler)

    # The slot is held outside of the run: inside, the call would ride on it.
    holder = scheduler.slot()
    holder.acquire()
    try:
        assert asyncio.run(graph.ainvoke({}))["answers"] == ["gave up"]
    finally:
        holder.release()


def test_abandoned_stream(make_scheduler):
    """Breaking out of a stream ends the job and gives its slot back."""
    scheduler = make_scheduler(1)
    model = StreamingModel()
    graph = schedule(fan_out(model), scheduler)

    async def main() -> None:
        stream = graph.astream({}, stream_mode="messages")
        async for _ in stream:
            break
        await stream.aclose()
        assert scheduler.statistics().jobs_running == 0

    asyncio.run(main())


def test_closed_scheduler_refuses_runs():
    """A run on a closed scheduler is one clear error that names the cure."""
    scheduler = Scheduler(1)
    graph = schedule(fan_out(PlainModel()), scheduler)
    scheduler.close()
    with pytest.raises(SchedulerClosedError, match="make a new Scheduler"):
        asyncio.run(graph.ainvoke({}))


@pytest.mark.parametrize(
    ("thing", "cure"),
    [
        (StateGraph(State), r"schedule\(builder.compile\(\)\)"),
        (lambda state: state, "needs a compiled LangGraph graph"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_graph(thing, cure):
    """What cannot be scheduled is refused at once, with the cure."""
    with pytest.raises(UnsupportedGraphError, match=cure):
        schedule(thing)


def test_sync_nodes_of_async_graphs(make_scheduler):
    """Plain `def` nodes of graphs run with `ainvoke` wait in threads, and the loop goes on meanwhile."""
    scheduler = make_scheduler(2)
    model = PlainModel()
    graph = schedule(fan_out(model, asynchronous=False), scheduler)

    async def main() -> None:
        await asyncio.gather(*(graph.ainvoke({}) for _ in range(4)))

    asyncio.run(main())
    assert model.meter.peak <= 2
    assert scheduler.statistics().over_commitments == 0


def test_sync_call_on_the_event_loop_goes_ahead(make_scheduler):
    """A synchronous call in an async node cannot wait on the loop's thread: it goes over the limit."""
    scheduler = make_scheduler(1)
    model = PlainModel()

    async def blocking(state: State) -> State:
        return {"answers": [model.invoke("?").text]}

    builder = StateGraph(State).add_node("n", blocking).add_edge(START, "n")
    graph = schedule(builder.compile(), scheduler)
    holder = scheduler.slot()
    holder.acquire()
    try:
        assert asyncio.run(graph.ainvoke({}))["answers"] == ["yes"]
    finally:
        holder.release()
    assert scheduler.statistics().over_commitments == 1


def test_many_loops_and_threads(make_scheduler):
    """Runs on several event loops and in several threads at once share one set of slots."""
    scheduler = make_scheduler(3)
    model = StreamingModel()
    asynchronous = schedule(fan_out(model), scheduler)
    threaded = schedule(fan_out(model, asynchronous=False), scheduler)

    async def main() -> None:
        await asyncio.gather(*(asynchronous.ainvoke({}) for _ in range(5)))

    threads = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(3)]
    threads += [threading.Thread(target=threaded.invoke, args=({},)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.meter.total == 18 * 7
    assert model.meter.peak <= 3


def test_waiting_threads_do_not_starve_the_call_in_the_slot(make_scheduler):
    """Sync nodes that wait for slots leave the loop's pool usable: who holds the slot may need a thread."""
    scheduler = make_scheduler(1)
    model = PlainModel()
    builder = StateGraph(State).add_node("n", lambda state: {"answers": [model.invoke("?").text]})
    builder.add_conditional_edges(START, lambda _: [Send("n", {})] * 30, ["n"])
    graph = schedule(builder.compile(), scheduler)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
        async with scheduler.slot():
            run = asyncio.create_task(graph.ainvoke({}), context=contextvars.Context())
            while scheduler.statistics().waiting < 30:
                await asyncio.sleep(0)
            assert await asyncio.to_thread(lambda: "a thread") == "a thread"
        assert len((await run)["answers"]) == 30

    asyncio.run(main())
    assert model.meter.peak == 1


def test_a_graph_that_cannot_be_looked_into_still_runs(make_scheduler, monkeypatch, caplog):
    """A fault of the compiler costs the prediction, never a run; it is logged, once for each graph."""

    def broken(graph):
        raise ZeroDivisionError

    monkeypatch.setattr(graph_module, "compile_graph", broken)
    builder = StateGraph(State).add_node("only", lambda state: {}).add_edge(START, "only")
    with caplog.at_level("WARNING", "llmsched_langgraph"):
        scheduled = schedule(builder.compile(name="odd"), make_scheduler(1))
        scheduled.invoke({})
        scheduled.copy().invoke({})
    (record,) = caplog.records
    assert "graph 'odd' could not be analysed" in record.getMessage()
    assert [node.path for node in graph_module.application_of(scheduled).nodes] == ["only"]
