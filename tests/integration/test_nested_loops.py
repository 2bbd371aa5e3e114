"""An agent's loop inside a plan-and-execute loop: what live runs record, and what the profile becomes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt

from llmsched_langgraph import Application, compile_graph, schedule
from llmsched_langgraph._application.nesting import label, number_of
from llmsched_langgraph._jobs.observed import numbered
from llmsched_langgraph.testing import PlainModel, VirtualClock
from llmsched_langgraph.traces import EndedJob

CONFIG = {"configurable": {"thread_id": "1"}, "recursion_limit": 200}
SHAPES = ["nodes", "subgraph", "called", "jumps", "sends"]


class State(TypedDict, total=False):
    plans: list[int]  # the inner rounds of each outer round that is to come
    left: int


class Ticking(PlainModel):
    """A model whose calls take a second of the clock."""

    clock: Any

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        self.clock.advance(1.0)
        return super()._generate(*args, **kwargs)


def builder_of(shape: str, model: Any, *, human: bool = False) -> Any:
    """Plan, let an agent work, review, again.

    The agent is two nodes, a subgraph, or called by a node; or it jumps by commands, or fans out by `Send`.
    """

    def plan(state: State) -> State:
        model.invoke("plan")
        return {"plans": state["plans"][1:], "left": state["plans"][0]}

    def think(state: State) -> State:
        model.invoke("think")
        return {"left": state["left"] - 1}

    def act(state: State) -> State:
        if human and len(state["plans"]) == 1:
            interrupt("may I?")
        return {}

    def review(state: State) -> State:
        model.invoke("review")
        return {}

    def add_agent(builder: Any, end: str) -> Any:
        if shape == "jumps":

            def jump(state: State) -> Command:
                new = think(state)
                return Command(goto="act" if new["left"] else end, update=new)

            builder.add_node("think", jump, destinations=("act", end))
            builder.add_node("act", lambda state: Command(goto="think"), destinations=("think",))
            return builder
        builder.add_node("think", think)
        if shape == "sends":

            def fan(state: State) -> Any:
                return [Send("act", state), Send("act", state)] if state["left"] else end

            builder.add_node("act", act)
            return builder.add_conditional_edges("think", fan, ["act", end]).add_edge("act", "think")
        builder.add_node("act", act)
        builder.add_conditional_edges("think", lambda state: "act" if state["left"] else end, ["act", end])
        return builder.add_edge("act", "think")

    outer = StateGraph(State).add_node("plan", plan).add_node("review", review)
    outer.add_edge(START, "plan")
    outer.add_conditional_edges("review", lambda state: "plan" if state["plans"] else END, ["plan", END])
    if shape in ("nodes", "jumps", "sends"):
        return add_agent(outer, "review").add_edge("plan", "think")
    agent = add_agent(StateGraph(State), END).add_edge(START, "think").compile()
    outer.add_node("agent", agent if shape == "subgraph" else lambda state: agent.invoke(state))
    return outer.add_edge("plan", "agent").add_edge("agent", "review")


def recorded(scheduler: Any, name: str) -> list[str]:
    """The labels of a node's occurrences in the run that was learned last."""
    scheduler.learn()
    (profile,) = scheduler.profile.applications.values()
    runs = profile.history.jobs[-1].runs
    return [label(run.occurrence) for run in runs if run.name.endswith(name) and run.complete]


def counted_on(job: EndedJob) -> EndedJob:
    """The job as it was recorded before inner loops had counters of their own."""
    numbers: dict[str, set[int]] = {}
    for run in job.runs:
        numbers.setdefault(run.name, set()).add(run.occurrence)
    runs = [run._replace(occurrence=sorted(numbers[run.name]).index(run.occurrence) + 1) for run in job.runs]
    return replace(job, runs=tuple(runs))


def without_loops(application: Application) -> Application:
    """The application's nodes alone."""
    return Application.of(application.name, application.by_path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("way", ["thread", "loop"])
def test_the_inner_counter_begins_anew(make_scheduler, shape, way):
    """In each round of the outer loop, however the inner one is built."""
    clock = VirtualClock()
    scheduler = make_scheduler(1, clock=clock)
    graph = schedule(builder_of(shape, Ticking(clock=clock)).compile(), scheduler)
    asked = {"plans": [2, 1, 3]}
    if way == "thread":
        graph.invoke(asked, CONFIG)
    else:
        asyncio.run(graph.ainvoke(asked, CONFIG))
    assert recorded(scheduler, "think") == ["1", "2", "2.1", "3.1", "3.2", "3.3"]
    assert recorded(scheduler, "plan") == recorded(scheduler, "review") == ["1", "2", "3"]
    (profile,) = scheduler.profile.applications.values()
    (job,) = profile.history.jobs
    assert numbered(job, profile.template) == job
    assert numbered(counted_on(job), profile.template) == job
    assert numbered(job, without_loops(profile.template)) == counted_on(job)


def test_an_interrupted_inner_loop_counts_on(make_scheduler):
    """A human's answer in the middle of the second visit does not begin a third one."""
    clock = VirtualClock()
    scheduler = make_scheduler(1, clock=clock)
    builder = builder_of("nodes", Ticking(clock=clock), human=True)
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
    graph.invoke({"plans": [2, 3, 1]}, CONFIG)
    while graph.get_state(CONFIG).next:
        graph.invoke(Command(resume="yes"), CONFIG)
    assert recorded(scheduler, "think") == ["1", "2", "2.1", "2.2", "2.3", "3.1"]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_profile_is_unrolled_by_both_loops(make_scheduler, shape):
    """To the outer rounds, and to the inner rounds of one outer round."""
    clock = VirtualClock()
    scheduler = make_scheduler(1, clock=clock)
    graph = schedule(builder_of(shape, Ticking(clock=clock)).compile(), scheduler)
    for plans in ([2, 2, 2], [4, 2, 3], [3, 4, 2], [2, 3, 4], [3, 3, 3], [4, 4, 4]):
        graph.invoke({"plans": plans}, CONFIG)
    scheduler.learn()
    (profile,) = scheduler.profile.applications.values()
    assert (profile.template.rounds, profile.template.inner_rounds) == ((3,), (4,))
    (think,) = [path for path in profile.template.by_path if path.endswith("think")]
    assert profile.history.nodes[think].occurrences == number_of(3, 4)
    works = {stage.partition("#")[2] for stage in profile.model.stages if stage.startswith(f"{think}#")}
    assert {"1", "2", "2.1", "2.2", "3.1", "3.2"} <= works
    assert {name.rstrip("+").rpartition(".")[2] for name in works} <= {"1", "2", "3", "4"}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_compiled_graph_has_a_loop_in_a_loop(shape):
    """The unrolled graph is a DAG in which each outer round has its own inner rounds."""
    application = compile_graph(builder_of(shape, PlainModel()).compile())
    (inner,) = application.inner_loops
    assert {path.rpartition("/")[2] for path in inner} == {"think", "act"}
    think = next(path for path in inner if path.endswith("think"))
    ids = [stage.id.removeprefix(think) for stage in application.stages if stage.node == think]
    assert ids == ["#1", "#2", "#3+", "#2.1", "#2.2", "#2.3+", "#3.1+"]
    assert ("review#1", "plan#2") in application.stage_edges
    assert {f"{think}#1", f"{think}#2", f"{think}#3+"} <= {
        source for source, target in application.stage_edges if target == "review#1"
    }
