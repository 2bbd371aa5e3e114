"""The tenant of a run: how tenants share slots, what limits them, and who may say whose a run is."""

from __future__ import annotations

import asyncio
import logging
import math
import threading

import pytest
from langchain_core.language_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph
from support.cycles import ends, went_ahead
from support.seam import auntil, until
from support.turns import State, as_user, graph_of_one_call, order_of

from llmsched_langgraph import Backend, ConfigurationError, Tenant, schedule
from llmsched_langgraph._adapter import claims
from llmsched_langgraph.testing import PlainModel, StreamingModel, VirtualClock
from llmsched_langgraph.traces import read_jobs


def of(tenant, part="metadata", **more):
    return {part: {"llmsched_tenant": tenant, **more}}


@pytest.fixture
def make_graph(make_scheduler):
    def make(slots=1, **settings):
        return graph_of_one_call(make_scheduler(slots, policy="fcfs", **settings))

    return make


@pytest.mark.parametrize("part", ["metadata", "configurable"])
def test_tenants_take_turns(make_graph, part):
    """Whoever has received less is next; the order of arrival decides inside a tenant."""
    configs = [of(tenant, part) for tenant in "aaaab"]
    assert order_of(make_graph(), *configs).index("4") <= 1


def test_a_priority_goes_before_every_tenant(make_graph):
    """Tenants share inside a level only."""
    configs = [of("a"), of("a"), of("a", llmsched_priority=-1), of("b")]
    assert order_of(make_graph(), *configs)[0] == "2"


def test_runs_without_a_tenant_share_with_the_others(make_graph):
    """They count as one more tenant."""
    order = order_of(make_graph(), None, None, None, None, of("b"))
    assert order.index("4") <= 1


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "user", [{"langgraph_auth_user_id": "u"}, {"langgraph_auth_user": {"identity": "u"}}]
)
def test_the_tenant_is_the_authenticated_user(make_graph, tmp_path, trust, user):
    """What a run says of itself counts only with `trust_config`; an empty identity is none."""
    scheduler, graph, _ = make_graph(trust_config=trust, record=tmp_path / "jobs.jsonl")
    for config in (as_user({}, **user), as_user(of("v"), **user), of("w"), of("")):
        graph.invoke({"name": "a"}, config)
    graph.invoke({"name": "a"}, as_user(of("x"), langgraph_auth_user_id=""))
    scheduler.close()
    found = [job.tenant for job in read_jobs(tmp_path / "jobs.jsonl")]
    assert found == ["u", "v" if trust else "u", "w", None, "x"]


@pytest.mark.parametrize(
    "claim", [{"langgraph_auth_user_id": "v"}, {"langgraph_auth_user": {"identity": "v"}}]
)
def test_a_client_cannot_name_another_user(make_graph, tmp_path, claim):
    """The server writes the user to `configurable`; metadata may be the word of a client."""
    scheduler, graph, _ = make_graph(record=tmp_path / "jobs.jsonl")
    graph.invoke({"name": "a"}, as_user({"metadata": claim}, langgraph_auth_user_id="u"))
    scheduler.close()
    assert [job.tenant for job in read_jobs(tmp_path / "jobs.jsonl")] == ["u"]


def test_a_tenant_that_is_not_in_a_closed_list(make_graph):
    """One clear error, and no run began."""
    scheduler, graph, _ = make_graph(tenants={"a": 1}, closed_tenants=True)
    graph.invoke({"name": "a"}, of("a"))
    graph.invoke({"name": "a"})
    with pytest.raises(ConfigurationError, match="llmsched_tenant: no tenant 'b'; add it"):
        graph.invoke({"name": "a"}, of("b"))
    with pytest.raises(ConfigurationError, match="tenant: no tenant 'b'; add it"):
        scheduler.slot(tenant="b")
    assert (scheduler.statistics().jobs_running, scheduler.statistics().jobs_ended) == (0, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tenants": {"a": 0}}, "'a': the weight of a tenant must be a number above 0"),
        ({"tenants": {"a": float("nan")}}, "'a': the weight of a tenant must be a number above 0"),
        ({"tenants": {"a": "much"}}, "'a': the weight of a tenant must be a number above 0"),
        ({"tenants": {"": 1}}, "tenants has the name ''"),
        ({"tenants": {1: 1}}, "tenants has the name 1"),
        ({"tenants": ["a"]}, "tenants must be a dict of weights by name"),
        ({"closed_tenants": True}, "closed_tenants refuses tenants that tenants does not name"),
        ({"tenants": {"a": 1}, "closed_tenants": 1}, "closed_tenants must be True or False"),
    ],
)
def test_settings_that_are_none(make_scheduler, settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make_scheduler(1, **settings)


@pytest.mark.parametrize("slots", [0, -1, 1.5, True])
def test_a_limit_that_is_none(slots):
    with pytest.raises(ConfigurationError, match="max_slots of a tenant must be a whole number"):
        Tenant(1.0, slots)
    with pytest.raises(ConfigurationError, match="tokens_per_minute of a tenant must be a whole number"):
        Tenant(tokens_per_minute=slots)


@pytest.mark.parametrize("wrong", [1, ["a"], "x" * 257])
def test_a_tenant_that_is_none(make_graph, wrong):
    """The error names the key."""
    scheduler, graph, _ = make_graph()
    with pytest.raises(ConfigurationError, match="llmsched_tenant must be the name of a tenant"):
        graph.invoke({"name": "a"}, of(wrong))
    assert scheduler.statistics().jobs_running == 0


def test_a_limited_tenant_leaves_slots_free(make_scheduler):
    """Others take them, also while its calls wait; a slot that it gives back is its own again."""
    scheduler = make_scheduler(3, tenants={"a": Tenant(max_slots=1)})
    first = scheduler.slot(tenant="a")
    first.acquire()
    waits, entered = threading.Event(), threading.Event()

    def second():
        with scheduler.slot(tenant="a"):
            entered.set()
            waits.wait(20)

    thread = threading.Thread(target=second)
    thread.start()
    until(lambda: scheduler.statistics().waiting == 1)
    with scheduler.slot(tenant="b"), scheduler.slot():
        assert scheduler.statistics().holding >= 2
        assert not entered.is_set()
    scheduler.check()
    first.release()
    assert entered.wait(20)
    waits.set()
    thread.join()
    scheduler.check()


def test_the_tokens_of_a_tenant(make_scheduler):
    """Its calls wait for the minute to pass; others overtake them, also those that hold nothing back."""
    clock = VirtualClock()
    tenants = {"a": Tenant(tokens_per_minute=1_000)}
    scheduler, order = make_scheduler(1, tenants=tenants, policy="fcfs", clock=clock), []
    usage = {"input_tokens": 900, "output_tokens": 100, "total_tokens": 1_000}
    model = FakeMessagesListChatModel(responses=[AIMessage("", usage_metadata=usage)])

    async def node(state):
        await model.ainvoke("?")
        order.append(state["name"])

    builder = StateGraph(State).add_node("n", node)
    graph = schedule(builder.add_edge(START, "n").compile(), scheduler)

    async def main():
        await graph.ainvoke({"name": "0"}, of("a"))
        waits = asyncio.create_task(graph.ainvoke({"name": "1"}, of("a")))
        await auntil(lambda: scheduler.statistics().waiting == 1)
        await graph.ainvoke({"name": "2"}, of("b"))
        await graph.ainvoke({"name": "3"})
        clock.advance(59.0)
        scheduler.check()
        assert scheduler.statistics().waiting == 1
        clock.advance(2.0)
        await waits

    asyncio.run(main())
    assert order == ["0", "2", "3", "1"]
    scheduler.check()


def test_a_tenant_with_tokens_never_waits_for_itself(make_scheduler):
    """A run whose call holds a slot inside another: what it uses is no reason to stand still."""
    clock = VirtualClock()
    tenants = {"a": Tenant(tokens_per_minute=1)}
    scheduler = make_scheduler(4, tenants=tenants, clock=clock)
    with scheduler.slot(tenant="a"):
        inner = scheduler.slot(tenant="a")
        done = threading.Event()

        def ask():
            with inner:
                done.set()

        thread = threading.Thread(target=ask)
        thread.start()
        until(lambda: scheduler.statistics().waiting == 1)
        clock.advance(62.0)
        scheduler.check()
        assert done.wait(20)
        thread.join()


@pytest.mark.parametrize("slots", [1, 4])
def test_a_limited_tenant_never_waits_for_itself(make_scheduler, slots):
    """A node has a stream open and waits for the call of a task, which the limit holds back."""
    scheduler = make_scheduler(backends=[Backend("b", slots)], tenants={"a": Tenant(max_slots=1)})
    model, other = StreamingModel(), PlainModel()

    async def ask():
        return (await other.ainvoke("?")).text

    async def node(state):
        stream = model.astream("?")
        out = [(await anext(stream)).text]
        out.append(await asyncio.create_task(ask()))
        return {"name": "".join(out + [chunk.text async for chunk in stream])}

    graph = schedule(StateGraph(State).add_node("n", node).add_edge(START, "n").compile(), scheduler)
    bare = StateGraph(State).add_node("n", node).add_edge(START, "n").compile()
    expected = asyncio.run(bare.ainvoke({}))
    assert ends(lambda: asyncio.run(graph.ainvoke({}, of("a"))), scheduler) == expected
    assert went_ahead(scheduler)


def test_many_subagents_are_one_tenant(make_scheduler):
    """A run of many parallel calls and a run of one call each get their turns."""
    scheduler, order = make_scheduler(1, policy="fcfs"), []

    async def one(name):
        async with scheduler.slot():
            order.append(name)

    async def many(state):
        await asyncio.gather(*(one("a") for _ in range(200)))

    async def few(state):
        await one("b")

    def graph(node):
        return schedule(StateGraph(State).add_node("n", node).add_edge(START, "n").compile(), scheduler)

    async def main():
        held = scheduler.slot()
        await held.aacquire()
        tasks = [asyncio.create_task(graph(many).ainvoke({}, of("a")))]
        await auntil(lambda: scheduler.statistics().waiting == 200)
        tasks.append(asyncio.create_task(graph(few).ainvoke({}, of("b"))))
        await auntil(lambda: scheduler.statistics().waiting == 201)
        held.release()
        await asyncio.gather(*tasks)

    asyncio.run(main())
    assert order.index("b") <= 1


@pytest.mark.parametrize("part", ["metadata", "configurable"])
@pytest.mark.parametrize("outer", ["runnable", "graph"])
def test_the_configuration_of_the_code_around(make_graph, outer, part):
    """LangChain passes it on to a graph that is invoked without one; what is said there goes before."""
    scheduler, graph, _ = make_graph()
    entries = []
    scheduler.subscribe(entries.append)

    async def start(state):
        await graph.ainvoke({"name": "inner"})
        await graph.ainvoke({"name": "inner"}, of("silver", part))
        return {}

    around = RunnableLambda(start)
    if outer == "graph":
        around = StateGraph(State).add_node("n", start).add_edge(START, "n").compile()
    asyncio.run(around.ainvoke({"name": "outer"}, of("gold", part)))
    scheduler.check()
    arrived = [entry.detail for entry in entries if entry.kind == "JobArrived"]
    assert [info.tenant for info in arrived] == ["gold", "silver"]


def test_the_user_of_the_code_around(make_graph):
    """A graph that it invokes is that user's, whatever is said."""
    scheduler, graph, _ = make_graph()
    entries = []
    scheduler.subscribe(entries.append)

    async def start(state):
        await graph.ainvoke({"name": "inner"}, of("gold"))
        return {}

    asyncio.run(RunnableLambda(start).ainvoke({}, as_user({}, langgraph_auth_user_id="ann")))
    scheduler.check()
    assert [entry.detail.tenant for entry in entries if entry.kind == "JobArrived"] == ["ann"]


@pytest.mark.parametrize("part", ["metadata", "configurable"])
def test_a_misspelt_key_is_told_of_once(make_graph, caplog, monkeypatch, part):
    """With the nearest right one; keys of others are their own business."""
    monkeypatch.setattr(claims, "_told", set())
    _, graph, _ = make_graph()
    said = {"llmsched_tennant": "a", "LLMSCHED_PRIORITY": 1, "llmsched_frobnicate": 1, "llmsched": 1, "x": 1}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            graph.invoke({"name": "a"}, {part: {**said, "llmsched_priority": 1}})
    told = [message for message in caplog.messages if "which means nothing" in message]
    assert len(told) == 3
    assert "'llmsched_tennant'" in told[0]
    assert "did you mean 'llmsched_tenant'?" in told[0]
    assert "did you mean 'llmsched_priority'?" in told[1]


@pytest.mark.parametrize("tenant", [0, False, 1.5, []])
def test_a_tenant_of_a_run_that_is_no_text(make_graph, tenant):
    """It is an error, and not nothing."""
    _, graph, _ = make_graph()
    with pytest.raises(ConfigurationError, match="llmsched_tenant must be the name of a tenant"):
        graph.invoke({"name": "a"}, of(tenant))


@pytest.mark.parametrize("weight", [1e300, 5e-324, 10**400, math.inf, 1e-7, 2e6])
def test_weights_beyond_the_bounds(make_graph, weight):
    """Virtual times of such tenants could not be compared."""
    with pytest.raises(ConfigurationError, match=r"'a': the weight of a tenant must be .* from 1e-06 to 1e"):
        make_graph(tenants={"a": weight})
