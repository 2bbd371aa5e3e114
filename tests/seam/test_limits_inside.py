"""Limits in runs with subgraphs, parallel branches, interrupts, retries; limits of graphs inside a run."""

from __future__ import annotations

import asyncio
import logging
import operator
from contextlib import suppress
from typing import Annotated, TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from support.seam import auntil
from support.spending import MODEL, PRICES, ROUNDS, WHOLE, configured, loop, priced

from llmsched_langgraph import (
    Backend,
    Budget,
    BudgetExceededError,
    ConfigurationError,
    DeadlineExceededError,
    Overrun,
    Scheduler,
    schedule,
)
from llmsched_langgraph._adapter import executor, job
from llmsched_langgraph.testing import assert_idle

BRANCHES = 3
STEPS = 3


class Outer(TypedDict, total=False):
    n: Annotated[int, operator.add]
    log: Annotated[list, operator.add]


class Branch(TypedDict, total=False):
    branch: int
    done: int
    log: Annotated[list, operator.add]


def branch_of(model):
    """A subgraph of `STEPS` supersteps of one call each."""

    def step(state):
        model.invoke("?")
        return {"done": state.get("done", 0) + 1, "log": [f"{state['branch']}{state.get('done', 0)}"]}

    async def astep(state):
        await model.ainvoke("?")
        return {"done": state.get("done", 0) + 1, "log": [f"{state['branch']}{state.get('done', 0)}"]}

    builder = StateGraph(Branch).add_node("step", RunnableLambda(step, astep)).add_edge(START, "step")
    return builder.add_conditional_edges(
        "step", lambda state: "step" if state["done"] < STEPS else END, ["step", END]
    ).compile()


def fan_out(branch, **options):
    """A graph that sends `BRANCHES` branches, and ends after all of them."""
    builder = StateGraph(Outer).add_node("plan", lambda state: {"n": 1}).add_edge(START, "plan")
    builder.add_node("branch", branch, retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.001))
    builder.add_node("last", lambda state: {"n": 100}, defer=True).add_edge("branch", "last")
    builder.add_conditional_edges(
        "plan", lambda state: [Send("branch", {"branch": number}) for number in range(BRANCHES)], ["branch"]
    )
    return builder.compile(**options)


ALL = sorted(f"{branch}{step}" for branch in range(BRANCHES) for step in range(STEPS))


def play(graph, given, config, *, asynchronous):
    return asyncio.run(graph.ainvoke(given, config)) if asynchronous else graph.invoke(given, config)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_durability(asynchronous, durability):
    """The checkpoint of the last superstep is saved, whenever checkpoints are saved."""
    scheduler, model = priced()
    graph = schedule(loop(model, checkpointer=InMemorySaver()), scheduler)
    config = configured({"calls": 3})

    def play(given, config):
        if asynchronous:
            return asyncio.run(graph.ainvoke(given, config, durability=durability))
        return graph.invoke(given, config, durability=durability)

    with pytest.raises(BudgetExceededError):
        play({"n": 0}, config)
    assert graph.get_state(config).values == {"n": 3, "log": [0, 1, 2]}
    assert play(None, configured(None)) == WHOLE
    assert model.meter.total == ROUNDS
    assert_idle(scheduler)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_parallel_subgraphs(asynchronous):
    """Each branch stops before its own next superstep; none is retried, and none does anything twice."""
    scheduler, model = priced()
    graph = schedule(fan_out(branch_of(model), checkpointer=InMemorySaver()), scheduler)
    given = {"n": 0}
    for calls in (1, 4, 4, 6):
        before = model.meter.total
        with pytest.raises(BudgetExceededError) as stop:
            play(graph, given, configured({"calls": calls}), asynchronous=asynchronous)
        assert stop.value.spent.calls >= calls
        assert before <= model.meter.total < max(calls + BRANCHES, before + 1)  # what ran in that superstep
        state = graph.get_state(configured(None))
        assert [task.error for task in state.tasks] == [None] * BRANCHES
        given = None
    found = play(graph, None, configured({"calls": 100}), asynchronous=asynchronous)
    assert (found["n"], sorted(found["log"])) == (101, ALL)
    assert model.meter.total == len(ALL)
    assert_idle(scheduler)
    assert scheduler.statistics().jobs_ended == 1


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_parallel_subgraphs_of_a_run_that_yields(asynchronous):
    scheduler, model = priced(on_budget="yield")
    graph = schedule(fan_out(branch_of(model), checkpointer=InMemorySaver()), scheduler)
    found = play(graph, {"n": 0}, configured({"calls": 4}), asynchronous=asynchronous)
    assert found["n"] == 1
    assert 4 <= model.meter.total < 4 + BRANCHES
    assert scheduler.statistics().jobs_ended == 0
    found = play(graph, None, configured(None), asynchronous=asynchronous)
    assert (found["n"], sorted(found["log"])) == (101, ALL)
    assert model.meter.total == len(ALL)
    assert scheduler.statistics().jobs_ended == 1


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("limit", [{"budget": Budget(calls=2)}, {"deadline_s": 2.0}])
def test_a_graph_inside_a_run_that_yields(asynchronous, limit):
    """Its own calls alone count; the graph around it goes on with its state so far."""
    scheduler, model = priced(on_budget="yield")
    inner = schedule(loop(model), scheduler, **limit)

    def node(state):
        return {"log": [inner.invoke({"n": 0}), inner.invoke({"n": 0})]}

    async def anode(state):
        return {"log": [await inner.ainvoke({"n": 0}), await inner.ainvoke({"n": 0})]}

    builder = StateGraph(Outer).add_node("node", RunnableLambda(node, anode)).add_edge(START, "node")
    graph = schedule(
        builder.add_node("last", lambda _: {"n": 1}).add_edge("node", "last").compile(), scheduler
    )
    found = play(graph, {"n": 0}, None, asynchronous=asynchronous)
    assert found == {"n": 1, "log": [{"n": 2, "log": [0, 1]}] * 2}
    assert model.meter.total == 4
    assert scheduler.statistics().jobs_ended == 1
    assert_idle(scheduler)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_graph_inside_a_run_that_stops(asynchronous):
    """A node that handles the error goes on; otherwise the run stops and can be resumed."""
    scheduler, model = priced()
    inner = schedule(loop(model), scheduler, budget=Budget(calls=2))

    def handles(state):
        with pytest.raises(BudgetExceededError) as stop:
            inner.invoke({"n": 0})
        return {"log": [stop.value.spent.calls]}

    async def ahandles(state):
        with pytest.raises(BudgetExceededError) as stop:
            await inner.ainvoke({"n": 0})
        return {"log": [stop.value.spent.calls]}

    builder = StateGraph(Outer).add_node("first", RunnableLambda(handles, ahandles))
    builder.add_node("second", inner).add_edge(START, "first").add_edge("first", "second")
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
    config = configured({"calls": 100})
    with pytest.raises(BudgetExceededError, match="inner graph") as stop:
        play(graph, {"n": 0}, config, asynchronous=asynchronous)
    assert (stop.value.spent.calls, model.meter.total) == (2, 4)
    assert graph.get_state(config).next == ("second",)
    assert scheduler.statistics().jobs_ended == 0


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_the_outer_budget_counts_the_calls_inside(asynchronous):
    """The limit of the whole run goes before that of a graph inside it."""
    scheduler, model = priced(on_budget="yield")
    inner = schedule(loop(model), scheduler, budget=Budget(calls=3))
    builder = StateGraph(Outer).add_node("one", lambda _: {"n": 0}).add_node("two", inner)
    builder.add_edge(START, "one").add_edge("one", "two").add_node("three", inner).add_edge("two", "three")
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
    play(graph, {"n": 0}, configured({"calls": 4}), asynchronous=asynchronous)
    assert model.meter.total == 4
    assert graph.get_state(configured(None)).next == ("three",)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_run_that_is_interrupted_too(asynchronous):
    """What it spent before the interrupt counts after it; the answer to the interrupt is not lost."""
    scheduler, model = priced()

    def step(state):
        model.invoke("?")
        return {"n": 1}

    def ask(state):
        return {"log": [interrupt("go on?")]}

    builder = StateGraph(Outer).add_node("a", step).add_node("ask", ask).add_node("b", step)
    builder.add_node("c", step).add_edge(START, "a").add_edge("a", "ask").add_edge("ask", "b").add_edge(
        "b", "c"
    )
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
    limited = configured({"calls": 2})
    assert "__interrupt__" in play(graph, {"n": 0}, limited, asynchronous=asynchronous)
    with pytest.raises(BudgetExceededError) as stop:
        play(graph, Command(resume="yes"), limited, asynchronous=asynchronous)
    assert (stop.value.spent.calls, graph.get_state(limited).values) == (2, {"n": 2, "log": ["yes"]})
    assert play(graph, None, configured(None), asynchronous=asynchronous) == {"n": 3, "log": ["yes"]}
    assert model.meter.total == 3
    assert scheduler.statistics().jobs_ended == 1


def test_a_new_run_on_the_thread_begins_anew():
    scheduler, model = priced()
    graph = schedule(loop(model, checkpointer=InMemorySaver()), scheduler)
    for _ in range(2):
        with pytest.raises(BudgetExceededError) as stop:
            graph.invoke({"n": 0}, configured({"calls": 2}))
        assert stop.value.spent.calls == 2


def test_an_entrypoint_is_one_superstep():
    """Its graphs have more."""
    scheduler, model = priced()
    inner = loop(model)

    @task
    def ask():
        return model.invoke("?").text

    @entrypoint()
    def flow(given):
        return [ask().result() for _ in range(3)] + ([inner.invoke({"n": 0})] if given else [])

    graph = schedule(flow, scheduler, budget=Budget(calls=2))
    assert graph.invoke(False) == ["yes"] * 3
    with pytest.raises(BudgetExceededError):
        graph.invoke(True)
    assert model.meter.total == 6


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_function_decides(asynchronous):
    """It sees what was spent, and gives more, until it stops the run."""
    seen = []

    def decide(overrun):
        seen.append(overrun)
        return Budget(calls=overrun.spent.calls + 2) if len(seen) < 2 else "stop"

    scheduler, model = priced(on_budget=decide)
    graph = schedule(loop(model, checkpointer=InMemorySaver()), scheduler)
    with pytest.raises(BudgetExceededError):
        play(graph, {"n": 0}, configured({"calls": 1}), asynchronous=asynchronous)
    assert [(one.spent.calls, one.budget.calls, one.thread_id) for one in seen] == [(1, 1, "t"), (3, 3, "t")]
    assert all(isinstance(one, Overrun) for one in seen)


def test_a_function_may_yield_or_lift_the_deadline():
    scheduler, model = priced(on_budget=lambda overrun: "yield")
    assert schedule(loop(model), scheduler, deadline_s=2).invoke({"n": 0}) == {"n": 2, "log": [0, 1]}
    scheduler, model = priced(on_budget=lambda overrun: Budget())
    assert schedule(loop(model), scheduler, deadline_s=2).invoke({"n": 0}) == WHOLE


def test_a_function_that_gives_too_little_stops_the_run():
    scheduler, model = priced(on_budget=lambda overrun: Budget(tokens=1))
    with pytest.raises(BudgetExceededError, match="tokens=1;"):
        schedule(loop(model), scheduler, budget=Budget(calls=2)).invoke({"n": 0})
    assert model.meter.total == 2


@pytest.mark.parametrize("answer", [None, "go", 7])
def test_a_function_that_answers_wrong(answer):
    scheduler, model = priced(on_budget=lambda overrun: answer)
    with pytest.raises(ConfigurationError, match='on_budget must return "stop", "yield" or a Budget'):
        schedule(loop(model), scheduler, budget=Budget(calls=2)).invoke({"n": 0})
    assert_idle(scheduler)


def test_a_coroutine_function_is_refused():
    async def decide(overrun):
        return "stop"

    with pytest.raises(ConfigurationError, match="on_budget must be a synchronous function"):
        priced(on_budget=decide)


def test_a_function_that_fails():
    def decide(overrun):
        raise ZeroDivisionError

    scheduler, model = priced(on_budget=decide)
    with pytest.raises(ZeroDivisionError):
        schedule(loop(model), scheduler, budget=Budget(calls=2)).invoke({"n": 0})
    assert scheduler.statistics().jobs_running == 0
    assert_idle(scheduler)


# -- who sets limits -------------------------------------------------------------------------


def test_the_runs_word_goes_before_the_graphs():
    """Limit by limit."""
    scheduler, model = priced()
    graph = schedule(loop(model), scheduler, budget=Budget(calls=1, tokens=45))
    with pytest.raises(BudgetExceededError, match="tokens=45"):
        graph.invoke({"n": 0}, configured({"calls": 100}))
    assert model.meter.total == 3


def test_limits_survive_copies_and_schedule_again():
    scheduler, model = priced()
    graph = schedule(loop(model), scheduler, budget=Budget(calls=2))
    assert schedule(graph) is graph
    assert schedule(graph, scheduler) is graph
    again = schedule(graph, deadline_s=1)
    for copy in (graph.copy(), graph.with_config(tags=["x"])):
        with pytest.raises(BudgetExceededError):
            copy.invoke({"n": 0})
    with pytest.raises(DeadlineExceededError):
        again.invoke({"n": 0})
    assert schedule(loop(model), scheduler).invoke({"n": 0}) == WHOLE


@pytest.mark.parametrize("part", ["metadata", "configurable"])
@pytest.mark.parametrize("trust", [False, True])
def test_an_authenticated_user_is_trusted_if_the_scheduler_says_so(part, trust):
    """The graph's own limits hold for it."""
    scheduler, model = priced(trust_config=trust)
    graph = schedule(loop(model), scheduler, budget=Budget(calls=2))
    config = {"configurable": {"langgraph_auth_user_id": "u"}}
    config.setdefault(part, {})["llmsched_budget"] = {"calls": 4}
    with pytest.raises(BudgetExceededError):
        graph.invoke({"n": 0}, config)
    assert model.meter.total == (4 if trust else 2)


@pytest.mark.parametrize(
    ("key", "wrong", "words"),
    [
        ("llmsched_budget", 5, "llmsched_budget must be a Budget, or a dict with some of 'tokens', 'calls'"),
        ("llmsched_budget", {"dollars": 5}, "llmsched_budget must be a Budget, or a dict"),
        ("llmsched_budget", {"calls": 0}, "llmsched_budget: a budget's calls must be a whole number"),
        ("llmsched_budget", {"tokens": 1.5}, "llmsched_budget: a budget's tokens must be a whole number"),
        ("llmsched_budget", {"cost": -1}, "llmsched_budget: a budget's cost must be a positive number"),
        ("llmsched_deadline_s", "soon", "llmsched_deadline_s must be a positive number"),
        ("llmsched_deadline_s", 0, "llmsched_deadline_s must be a positive number"),
    ],
)
def test_wrong_limits_of_a_run(key, wrong, words):
    """No run begins."""
    scheduler, model = priced()
    with pytest.raises(ConfigurationError, match=words):
        schedule(loop(model), scheduler).invoke({"n": 0}, {"metadata": {key: wrong}})
    assert (scheduler.statistics().jobs_running, scheduler.statistics().jobs_ended) == (0, 0)


def test_wrong_limits_of_a_graph():
    scheduler, model = priced()
    with pytest.raises(ConfigurationError, match="budget must be a Budget"):
        schedule(loop(model), scheduler, budget=3)
    with pytest.raises(ConfigurationError, match="deadline_s must be a positive number"):
        schedule(loop(model), scheduler, deadline_s=-1)


def test_a_cost_without_prices():
    """It would never be reached."""
    scheduler, model = Scheduler(2), priced()[1]
    with pytest.raises(ConfigurationError, match="no backend of the scheduler has prices"):
        schedule(loop(model), scheduler, budget=Budget(cost=1))
    graph = schedule(loop(model), scheduler)
    with pytest.raises(ConfigurationError, match="no backend of the scheduler has prices"):
        graph.invoke({"n": 0}, configured({"cost": 1}))
    assert scheduler.statistics().jobs_running == 0


@pytest.mark.parametrize("wrong", ["halt", None, 3])
def test_a_wrong_on_budget(wrong):
    with pytest.raises(ConfigurationError, match="on_budget must be"):
        Scheduler(2, on_budget=wrong)


# -- which prices count ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backends", "cost", "unpriced"),
    [
        ([Backend(prices=PRICES)], 1.0, 0),
        ([Backend(models=["other"], prices={"*": (9, 9)}), Backend("rest", prices=PRICES)], 1.0, 0),
        ([Backend(models=["other"], prices={"*": (9, 9)}), Backend("rest")], 0.0, 1),
        ([Backend(prices={"small": (1, 1)})], 0.0, 1),
        ([Backend(prices={"*": (100_000, 0), MODEL: (0, 0)})], 1.0, 0),
    ],
    ids=["one backend", "its backend's", "none there", "no glob", "the first glob"],
)
def test_prices(backends, cost, unpriced):
    backends = [Backend(f"b{n}", models=b.models, prices=b.prices) for n, b in enumerate(backends)]
    scheduler, model = Scheduler(backends=backends), priced()[1]
    graph = schedule(loop(model), scheduler, budget=Budget(calls=1, cost=100))
    with pytest.raises(BudgetExceededError) as stop:
        graph.invoke({"n": 0})
    assert (stop.value.spent.cost, stop.value.spent.unpriced_calls) == (cost, unpriced)


def test_calls_without_tokens_are_counted():
    """As calls of unknown cost."""
    scheduler, _ = priced()

    def node(state):
        with scheduler.slot(MODEL):
            pass
        return {"n": 1}

    builder = (
        StateGraph(Outer).add_node("a", node).add_node("b", node).add_edge(START, "a").add_edge("a", "b")
    )
    with pytest.raises(BudgetExceededError) as stop:
        schedule(builder.compile(), scheduler, budget=Budget(calls=1)).invoke({"n": 0})
    spent = stop.value.spent
    assert (spent.tokens, spent.cost, spent.unmeasured_calls, spent.unpriced_calls) == (0, 0.0, 1, 1)


# -- what is told ----------------------------------------------------------------------------


def taught(**settings):
    """A scheduler that has seen ten runs of a graph of `ROUNDS` calls, its graph, and its story."""
    scheduler, model = priced(**settings)
    graph, story = schedule(loop(model, checkpointer=InMemorySaver()), scheduler), []
    for number in range(10):
        graph.invoke({"n": 0}, {"configurable": {"thread_id": f"before {number}"}})
    scheduler.learn()
    scheduler.subscribe(story.append)
    return scheduler, model, graph, story


def told(story, kind):
    return [entry.detail for entry in story if entry.kind == kind]


@pytest.mark.parametrize("policy", ["fcfs", "llmsched"])
@pytest.mark.parametrize(
    ("limit", "name"),
    [
        ({"calls": 4}, "calls"),
        ({"tokens": 60}, "tokens"),
        ({"slot_s": 4.5}, "slot_s"),
        ({"cost": 4.5}, "cost"),
        (4.5, "deadline_s"),
    ],
)
def test_an_overrun_is_told_early(limit, name, policy):
    """Once in a run, before it has spent the half."""
    scheduler, _, graph, story = taught(policy=policy)
    with pytest.raises((BudgetExceededError, DeadlineExceededError)) as stop:
        graph.invoke({"n": 0}, configured(limit))
    (early,) = told(story, "OverrunExpected")
    assert early.expected == (name,)
    assert early.reached == ()
    assert early.spent.calls <= 2
    forecast = early.forecast
    assert forecast.calls == ROUNDS
    assert forecast.tokens == pytest.approx(15 * ROUNDS, rel=0.05)
    assert forecast.slot_s == pytest.approx(ROUNDS, rel=0.05)
    assert forecast.elapsed_s == pytest.approx(ROUNDS, rel=0.05)
    (landed,) = told(story, "LimitReached")
    assert landed == stop.value.overrun
    assert landed.reached == (name,)
    assert_idle(scheduler)


def test_a_run_that_will_make_it():
    """Nothing is told of it; nor of one whose graph is unknown."""
    _, model, graph, story = taught()
    graph.invoke({"n": 0}, configured({"calls": ROUNDS + 1, "tokens": 16 * ROUNDS}))
    assert told(story, "OverrunExpected") == []
    scheduler, model = priced()
    story = []
    with scheduler.subscribe(story.append), pytest.raises(BudgetExceededError) as stop:
        schedule(loop(model), scheduler, budget=Budget(calls=2)).invoke({"n": 0})
    assert told(story, "OverrunExpected") == []
    assert stop.value.forecast is None


def test_an_unsupported_runner_is_told_of(monkeypatch, caplog):
    """Without the runner nothing stops between supersteps."""
    monkeypatch.setattr(executor, "_installed", False)
    monkeypatch.setattr(executor.main, "PregelRunner", executor.stock.PregelRunner)
    monkeypatch.setattr(job, "_told", False)
    scheduler, model = priced()
    with caplog.at_level(logging.WARNING):
        assert schedule(loop(model), scheduler, budget=Budget(calls=2)).invoke({"n": 0}) == WHOLE
        schedule(loop(model), scheduler, deadline_s=2).invoke({"n": 0})
    assert caplog.text.count("budgets and deadlines do not stop runs") == 1


# -- what else may be around -------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_node_that_handles_every_error(asynchronous):
    """The run around it stops before its own next superstep, or ends if there is none."""
    scheduler, model = priced()
    inner = loop(model)

    def node(state):
        with pytest.raises(BudgetExceededError):
            inner.invoke({"n": 0})
        return {"n": 1}

    async def anode(state):
        with pytest.raises(BudgetExceededError):
            await inner.ainvoke({"n": 0})
        return {"n": 1}

    alone = StateGraph(Outer).add_node("a", RunnableLambda(node, anode)).add_edge(START, "a")
    graph = schedule(alone.compile(checkpointer=InMemorySaver()), scheduler)
    assert play(graph, {"n": 0}, configured({"calls": 2}), asynchronous=asynchronous) == {"n": 1, "log": []}
    assert scheduler.statistics().jobs_ended == 1
    more = alone.add_node("b", lambda state: {"n": 10}).add_edge("a", "b")
    graph = schedule(more.compile(checkpointer=InMemorySaver()), scheduler)
    with pytest.raises(BudgetExceededError):
        play(graph, {"n": 0}, configured({"calls": 2}), asynchronous=asynchronous)
    assert graph.get_state(configured(None)).next == ("b",)
    scheduler.learn()


MODES = [["messages", "values"], ["updates", "custom", "values"], ["tasks", "values"]]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("on_budget", ["stop", "yield"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_streams_show_all_until_the_stop(asynchronous, on_budget, mode):
    """In every mode, with subgraphs: what a run without limits shows of these supersteps."""

    def shown(limit):
        scheduler, model = priced(on_budget=on_budget)
        graph, seen = schedule(loop(model), scheduler), []
        settings = {"stream_mode": mode, "subgraphs": True}

        async def read():
            async for step in graph.astream({"n": 0}, configured(limit), **settings):
                seen.append(step)

        with suppress(BudgetExceededError):
            if asynchronous:
                asyncio.run(read())
            for step in () if asynchronous else graph.stream({"n": 0}, configured(limit), **settings):
                seen.append(step)
        assert_idle(scheduler)
        return [step for _, kind, step in seen if kind == "values"], [kind for _, kind, _ in seen]

    values, kinds = shown({"calls": 2})
    all_values, all_kinds = shown(None)
    assert values == all_values[: len(values)]
    assert values[-1] == {"n": 2, "log": [0, 1]}
    if on_budget == "stop":
        assert kinds == all_kinds[: len(kinds)]


@pytest.mark.parametrize("handled", [False, True])
def test_a_tool_that_is_an_agent(handled):
    """LangGraph's tool node takes the stop for no error of the tool: the run stops, and goes on with more."""
    from langchain_core.messages import AIMessage
    from langchain_core.tools import tool
    from langgraph.graph import MessagesState
    from langgraph.prebuilt import ToolNode

    scheduler, model = priced()
    inner = schedule(loop(model), scheduler, budget=Budget(calls=2))

    @tool
    def research(question: str) -> str:
        """Ask an agent."""
        if not handled:
            return str(inner.invoke({"n": 0})["n"])
        try:
            return str(inner.invoke({"n": 0})["n"])
        except BudgetExceededError as stop:
            return f"no more after {stop.spent.calls} calls"

    call = {"name": "research", "args": {"question": "?"}, "id": "1"}
    builder = StateGraph(MessagesState).add_node("tools", ToolNode([research], handle_tool_errors=True))
    graph = schedule(builder.add_edge(START, "tools").compile(checkpointer=InMemorySaver()), scheduler)
    given = {"messages": [AIMessage(content="", tool_calls=[call])]}
    if handled:
        assert graph.invoke(given, configured(None))["messages"][-1].content == "no more after 2 calls"
        return
    with pytest.raises(BudgetExceededError):
        graph.invoke(given, configured(None))
    assert graph.get_state(configured(None)).next == ("tools",)


def test_the_wait_at_the_door_counts_for_the_deadline():
    """The deadline runs from the arrival."""
    scheduler, model = priced(max_jobs=1, at_door="defer")
    graph, held = schedule(loop(model), scheduler, deadline_s=10), scheduler._door.enter(free=False)

    async def main():
        run = asyncio.create_task(graph.ainvoke({"n": 0}))
        await auntil(lambda: scheduler.statistics().jobs_deferred == 1)
        scheduler._driver.clock.advance(11)
        held.leave()
        with pytest.raises(DeadlineExceededError) as stop:
            await run
        assert (stop.value.spent.elapsed_s, stop.value.spent.calls) == (11, 0)

    asyncio.run(main())


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_two_schedulers(asynchronous):
    """The limits of the run around hold inside a run of another scheduler; its calls are counted there."""
    one, model = priced()
    other, _ = priced()
    inner = schedule(loop(model), other)
    builder = StateGraph(Outer).add_node("a", lambda _: {"n": 0}).add_edge(START, "a").add_node("b", inner)
    graph = schedule(builder.add_edge("a", "b").compile(checkpointer=InMemorySaver()), one)
    with pytest.raises(DeadlineExceededError):
        play(graph, {"n": 0}, configured(2.0), asynchronous=asynchronous)
    assert model.meter.total == 2
    assert (one.statistics().jobs_running, other.statistics().jobs_running) == (0, 0)
    for scheduler in (one, other):
        assert_idle(scheduler)
