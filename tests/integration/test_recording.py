"""What a live scheduler writes down of real graphs: stages, what waited for what, tokens and seconds."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import ConfigDict
from support.clock import Clock

from llmsched_langgraph import schedule
from llmsched_langgraph._jobs.observed import Unit, observed
from llmsched_langgraph.traces import read_jobs


class Model(BaseChatModel):
    """Takes as long, and says as much, as its prompt says: "SECONDS TOKENS"."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    clock: Clock

    @property
    def _llm_type(self) -> str:
        return "told"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        self.clock.now += float(messages[-1].text.split()[0])
        return self._answer(messages)

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        await asyncio.sleep(float(messages[-1].text.split()[0]))
        return self._answer(messages)

    def _answer(self, messages: Any) -> ChatResult:
        tokens = messages[-1].text.split()[1]
        usage = {"input_tokens": 100, "output_tokens": int(tokens), "total_tokens": 100 + int(tokens)}
        message = AIMessage("yes", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


class State(TypedDict, total=False):
    rounds: Annotated[int, operator.add]


def newsroom(model: Model, *, sync: bool) -> Any:
    """Plan, a fan-out whose branches each ask twice, then a loop of a tool and a check of it."""

    tools = {"short": lambda: "1 20", "long": lambda: "3 20"}

    def write(state: Any) -> State:
        for _ in range(2):
            model.invoke(tools[state["tool"]]())
        return {}

    async def awrite(state: Any) -> State:
        for _ in range(2):
            await model.ainvoke(tools[state["tool"]]())
        return {}

    def plan(state: State) -> State:
        model.invoke("2 10")
        return {}

    async def aplan(state: State) -> State:
        await model.ainvoke("2 10")
        return {}

    def look_up(state: State) -> State:
        model.clock.now += 1.5
        return {"rounds": 1}

    async def alook_up(state: State) -> State:
        await asyncio.sleep(1.5)
        return {"rounds": 1}

    def check(state: State) -> State:
        model.invoke("0.5 5")
        return {}

    async def acheck(state: State) -> State:
        await model.ainvoke("0.5 5")
        return {}

    builder = StateGraph(State)
    builder.add_node("plan", plan if sync else aplan)
    builder.add_node("write", write if sync else awrite)
    builder.add_node("look_up", look_up if sync else alook_up)
    builder.add_node("check", check if sync else acheck)
    builder.add_edge(START, "plan").add_edge("write", "look_up").add_edge("look_up", "check")
    sends = [Send("write", {"tool": tool}) for tool in tools]
    builder.add_conditional_edges("plan", lambda _: sends, ["write"])
    builder.add_conditional_edges(
        "check", lambda state: "look_up" if state["rounds"] < 2 else END, ["look_up", END]
    )
    return builder.compile(name="newsroom")


@pytest.fixture
def recorded(make_scheduler, tmp_path):
    """Run graphs on a scheduler of one slot that records; gives the model's clock and the recorded jobs."""
    clock = Clock()
    scheduler = make_scheduler(1, clock=clock, record=tmp_path / "jobs.jsonl")

    def run(graph, given, config=None, *, sync=False):
        scheduled = schedule(graph, scheduler)
        if sync:  # with one thread, for what one lets the clock do the other would see
            scheduled.invoke(given, {"max_concurrency": 1})
        else:
            clock.run(scheduled.ainvoke(given, config))
        scheduler._driver._service.keep()
        return list(read_jobs(tmp_path / "jobs.jsonl")) if (tmp_path / "jobs.jsonl").exists() else []

    run.clock = clock
    return run


def shape(job):
    return [(s.name, s.kind, s.deps, [call.seconds for call in s.calls]) for s in job.stages]


@pytest.mark.parametrize("sync", [True, False])
def test_a_fan_out_a_loop_and_a_tool(recorded, sync):
    """Every stage of a superstep waits for all of the one before, every call for those before it."""
    began_s = recorded.clock.now
    (job,) = recorded(newsroom(Model(clock=recorded.clock), sync=sync), {"rounds": 0}, sync=sync)
    branches = sorted(job.stages[1:5], key=lambda stage: (stage.calls[0].seconds, stage.deps))
    assert shape(job)[0] == ("plan", "llm", (), [2.0])
    assert [(s.name, s.kind, s.tool, s.calls[0].seconds) for s in branches] == [
        ("write", "llm", "short", 1.0),
        ("write", "llm", "short", 1.0),
        ("write", "llm", "long", 3.0),
        ("write", "llm", "long", 3.0),
    ]
    places = {stage: index for index, stage in enumerate(job.stages)}
    for first, second in (branches[:2], branches[2:]):
        assert first.deps == (0,)
        assert second.deps == (places[first],)
    assert shape(job)[5:] == [
        ("look_up", "tool", (places[branches[1]], places[branches[3]]), [1.5]),
        ("check", "llm", (5,), [0.5]),
        ("look_up", "tool", (6,), [1.5]),
        ("check", "llm", (7,), [0.5]),
    ]
    tokens = [(c.prompt_tokens, c.output_tokens) for c in job.llm_calls()]
    assert tokens == [(100, 10), *[(100, 20)] * 4, *[(100, 5)] * 2]
    assert job.app == "newsroom"
    assert job.jct_s == recorded.clock.now - began_s == job.work_s + 2 * 1.5
    assert job.critical_path_s == 2 + 2 * 3 + 2 * (1.5 + 0.5)


def test_it_is_counted_like_the_run(recorded):
    """Occurrences and fan-outs of a trace are those that a scheduler learns from, calls one by one or not."""
    (job,) = recorded(newsroom(Model(clock=recorded.clock), sync=False), {"rounds": 0})
    outcome = observed(job)
    assert [(*stage.stage_occurrence, stage.fan_out, stage.calls) for stage in outcome.stages] == [
        ("plan", 1, 1, 1),
        ("write", 1, 2, 4),
        ("check", 1, 1, 1),
        ("check", 2, 1, 1),
        ("look_up", 1, 1, 0),
        ("look_up", 2, 1, 0),
    ]
    assert outcome.amount(Unit.SECONDS) == job.work_s


def test_a_graph_inside_a_graph(recorded):
    """Its stages stand in the place of the node that runs it."""
    model = Model(clock=recorded.clock)

    async def ask(state: State) -> State:
        await model.ainvoke("1 1")
        return {}

    inner = StateGraph(State).add_node("ask", ask).add_node("again", ask)
    inner = inner.add_edge(START, "ask").add_edge("ask", "again").compile(name="inner")
    outer = StateGraph(State).add_node("team", inner).add_node("other", ask).add_node("end", ask)
    outer = outer.add_edge(START, "team").add_edge(START, "other").add_edge(["team", "other"], "end")
    (job,) = recorded(outer.compile(name="outer"), {"rounds": 0})
    deps = {stage.name: [job.stages[dep].name for dep in stage.deps] for stage in job.stages}
    assert deps == {
        "team/ask": [],
        "team/again": ["team/ask"],
        "other": [],
        "end": ["other", "team/again"] if job.stages[0].name == "other" else ["team/again", "other"],
    }


def test_tasks_of_a_function(recorded):
    """What is awaited together ran side by side."""
    model = Model(clock=recorded.clock)

    @task
    async def ask(seconds: int) -> None:
        await model.ainvoke(f"{seconds} 1")

    @entrypoint()
    async def work(given: Any) -> None:
        await ask(1)
        await asyncio.gather(ask(2), ask(3))

    (job,) = recorded(work, {})
    assert sorted((s.name, s.deps, s.calls[0].seconds) for s in job.stages) == [
        ("ask", (), 1.0),
        ("ask", (0,), 2.0),
        ("ask", (0,), 3.0),
    ]


def test_an_interrupted_run_is_one_job_without_the_humans_time(recorded):
    """It is written down when it has ended."""
    model = Model(clock=recorded.clock)

    async def ask(state: State) -> State:
        await model.ainvoke("1 1")
        return {}

    def approve(state: State) -> State:
        interrupt("sure?")
        return {}

    builder = StateGraph(State).add_node("first", ask).add_node("approve", approve).add_node("second", ask)
    builder.add_edge(START, "first").add_edge("first", "approve").add_edge("approve", "second")
    graph = builder.compile(checkpointer=InMemorySaver(), name="careful")
    thread = {"configurable": {"thread_id": "t"}}
    assert recorded(graph, {"rounds": 0}, thread) == []
    recorded.clock.now += 3600
    (job,) = recorded(graph, Command(resume="yes"), thread)
    assert [(stage.name, stage.deps) for stage in job.stages] == [
        ("first", ()),
        ("approve", (0,)),
        ("approve", (1,)),
        ("second", (2,)),
    ]
    assert job.jct_s == 2.0


def test_a_run_that_fails_is_not_written(recorded):
    """What it would still have done, nobody knows."""

    async def fail(state: State) -> State:
        await Model(clock=recorded.clock).ainvoke("1 1")
        raise RuntimeError("lost")

    graph = StateGraph(State).add_node("fail", fail).add_edge(START, "fail").compile()
    with pytest.raises(RuntimeError, match="lost"):
        recorded(graph, {"rounds": 0})
    assert len(recorded(newsroom(Model(clock=recorded.clock), sync=False), {"rounds": 0})) == 1
