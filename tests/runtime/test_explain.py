"""`Scheduler.explain`: where a run stands, what is ahead of its calls and why, and what it waited for."""

import asyncio
import functools
import json
import uuid
from typing import TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from llmsched_langgraph import Backend, Scheduler, Tenant, UnknownRunError, schedule


class State(TypedDict):
    n: int


def graph_of(scheduler, held, name="app", **given):
    """A graph of one node, whose call keeps its slot until the event that `held` has for its thread."""

    async def work(state, config):
        async with scheduler.slot(stage="ask"):
            await held[config["configurable"]["thread_id"]].wait()
        return {"n": 1}

    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_edge("work", END)
    return schedule(builder.compile(name=name, **given), scheduler)


def on_a_loop(test):
    """Run an asynchronous test."""

    @functools.wraps(test)
    def run():
        asyncio.run(asyncio.wait_for(test(), 30))

    return run


async def until(condition):
    while not condition():
        await asyncio.sleep(0.001)


class Runs:
    """Runs of one graph that begin in order, and whose calls end when they are told to."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.held = {}
        self.tasks = {}
        self.graph = graph_of(scheduler, self.held)

    async def begin(self, thread, run_id=None, **metadata):
        self.held[thread] = asyncio.Event()
        config = {"configurable": {"thread_id": thread}, "metadata": metadata}
        if run_id is not None:
            config["run_id"] = run_id
        now = self.scheduler.statistics()
        self.tasks[thread] = asyncio.create_task(self.graph.ainvoke({"n": 0}, config))
        asked = now.holding + now.waiting
        await until(lambda: sum(b.holding + b.waiting for b in self.scheduler.statistics().backends) > asked)

    async def end(self, *threads):
        threads = threads or tuple(self.held)
        for thread in threads:
            self.held[thread].set()
        await asyncio.gather(*[self.tasks[thread] for thread in threads])


def with_thread_ids(scheduler):
    """Runs whose thread ids the scheduler knows: the graph has a checkpointer."""
    runs = Runs(scheduler)
    runs.graph = graph_of(scheduler, runs.held, checkpointer=InMemorySaver())
    return runs


@on_a_loop
async def test_a_waiting_run_is_told_its_place_and_what_is_ahead_and_why():
    with Scheduler(1, policy="fcfs", tenants={"gold": 3.0}) as scheduler:
        runs = with_thread_ids(scheduler)
        run_id = uuid.uuid4()
        await runs.begin("first")
        await runs.begin("second", run_id, llmsched_tenant="gold")
        await runs.begin("third")
        await runs.begin("urgent", llmsched_priority=-2)
        told = scheduler.explain("third")
        assert told.state == "waiting"
        (call,) = told.calls
        assert (call.state, call.place, call.in_line, call.backend) == ("waiting", 3, 3, "default")
        assert [own.why for own in call.ahead] == [
            "its priority is -2, this one's 0",
            "it is the turn of its tenant, which has received less of its share",
        ]
        assert (call.ahead[1].run_id, call.ahead[1].tenant) == (str(run_id), "gold")
        assert "3rd of 3 in line at backend 'default', all 1 slots are held" in str(told)
        assert scheduler.explain("first").state == "running"
        assert scheduler.explain(run_id).thread_id == "second"
        await runs.end("first", "urgent", "second", "third")
        scheduler.check()


@on_a_loop
async def test_the_tier_that_decides_is_named():
    with Scheduler(1, policy="fcfs", max_wait_s=0.0, overdue_every=1) as scheduler:
        runs = with_thread_ids(scheduler)
        for thread in ("first", "second", "third"):
            await runs.begin(thread)
        (call,) = scheduler.explain("third").calls
        assert [own.why for own in call.ahead] == ["its run has waited for longer than max_wait_s"]
        await runs.end()
    with Scheduler(2, policy="fcfs", tenants={"small": Tenant(max_slots=1)}) as scheduler:
        runs = with_thread_ids(scheduler)
        await runs.begin("first", llmsched_tenant="small")
        await runs.begin("second", llmsched_tenant="small")
        assert "its tenant has as much of the backend as it may" in scheduler.explain("second").calls[0].why
        await runs.end()


@on_a_loop
async def test_a_run_that_has_ended_has_the_wait_and_the_reason_of_each_call():
    with Scheduler(1, policy="fcfs") as scheduler:
        runs = with_thread_ids(scheduler)
        await runs.begin("first")
        await runs.begin("second")
        await runs.end()
        told = scheduler.explain("second")
        assert (told.state, told.outcome, told.application) == ("ended", "done", "app")
        (call,) = told.calls
        assert (call.state, call.reason, call.attempts) == ("ended", "order", 1)
        assert call.waited_s > 0.0
        assert told.waited_s == call.waited_s
        assert scheduler.explain(told.number) == scheduler.explain(told.id) == told
        assert json.loads(json.dumps(told.to_dict()))["outcome"] == "done"
        assert "first in the policy's order" in str(told)
        assert str(told) in told._repr_html_().replace("&#x27;", "'")


@on_a_loop
async def test_the_calling_code_can_ask_about_its_own_run():
    with Scheduler(1, policy="fcfs") as scheduler:
        told = []

        async def node(state):
            async with scheduler.slot(stage="ask"):
                told.append(scheduler.explain())
            told.append(scheduler.explain())
            return {"n": 1}

        builder = StateGraph(State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        await schedule(builder.compile(name="own"), scheduler).ainvoke({"n": 0})
        assert [own.state for own in told] == ["running", "working"]
        assert [own.application for own in told] == ["own", "own"]
        with pytest.raises(UnknownRunError, match="in none of this scheduler"):
            scheduler.explain()


@on_a_loop
async def test_an_interrupted_run_is_paused_and_its_end_is_not_told():
    with Scheduler(1, policy="fcfs") as scheduler:

        async def node(state):
            async with scheduler.slot(stage="ask"):
                pass
            interrupt("go on?")
            return {"n": 1}

        builder = StateGraph(State)
        builder.add_node("node", node)
        builder.add_edge(START, "node")
        graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
        await graph.ainvoke({"n": 0}, {"configurable": {"thread_id": "t"}})
        told = scheduler.explain("t")
        assert (told.state, told.outcome, told.eta_s) == ("paused", None, None)
        assert "is interrupted" in str(told)


@on_a_loop
async def test_an_unknown_run_gets_one_clear_error():
    with Scheduler(1) as scheduler:
        with pytest.raises(UnknownRunError, match="knows no run 'nobody': give the run_id or the thread_id"):
            scheduler.explain("nobody")
        with pytest.raises(UnknownRunError):
            scheduler.explain(7)
        with pytest.raises(UnknownRunError):
            scheduler.explain("")


@on_a_loop
async def test_a_paused_backend_is_named_as_the_cause():
    clock = [0.0]
    with Scheduler(1, policy="fcfs", clock=lambda: clock[0]) as scheduler:
        runs = with_thread_ids(scheduler)
        from llmsched_langgraph._core.events import CallReleased, CallRequested
        from llmsched_langgraph._jobs.calls import Outcome
        from llmsched_langgraph._ledger.pauses import Failure

        driver = scheduler._driver
        ticket = driver.new_ticket()
        driver.request(CallRequested(ticket, "default"))
        driver.post(CallReleased(ticket, Outcome.FAILED, failure=Failure(429, 30.0)))
        await runs.begin("first")
        told = scheduler.explain("first")
        assert "which is paused for 30.0 s more, because the provider refused calls" in str(told)
        assert scheduler.statistics().backends[0].paused_s == 30.0
        clock[0] = 31.0
        await runs.end()
        assert scheduler.statistics().backends[0].paused_s == 0.0
        assert scheduler.statistics().backends[0].paused_total_s == 30.0


@on_a_loop
async def test_the_waits_of_tenants_and_priorities_add_up_to_all_waits():
    with Scheduler(backends=[Backend("default", 1)], policy="fcfs") as scheduler:
        runs = with_thread_ids(scheduler)
        for number in range(6):
            own = {"llmsched_tenant": "ab"[number % 2], "llmsched_priority": number % 3}
            await runs.begin(f"t{number}", **own)
        await runs.end()
        now = scheduler.statistics()
        assert {(own.tenant, own.priority) for own in now.waits} == {
            (tenant, level) for tenant in "ab" for level in range(3)
        }
        assert sum(own.calls for own in now.waits) == now.granted == 6
        assert sum(own.total_s for own in now.waits) == pytest.approx(now.waited_s)
        for own in now.waits:
            assert own.p50_s <= own.p95_s <= own.longest_s <= own.total_s
