"""The deadline of one call of `scheduler.slot`: whose turn it makes it, and what happens when it passes."""

from __future__ import annotations

import asyncio
import math

import pytest
from langgraph.graph import START, StateGraph
from support.seam import auntil

from llmsched_langgraph import ConfigurationError, DeadlineExceededError, QueueTimeoutError, schedule


def order_of(scheduler, *calls):
    """The order of calls with these settings; all come to wait first."""

    async def one(number, settings):
        async with scheduler.slot(**settings):
            order.append(number)

    async def main():
        held, tasks = scheduler.slot(), []
        await held.aacquire()
        for number, settings in enumerate(calls):
            tasks.append(asyncio.create_task(one(number, settings)))
            await auntil(lambda: scheduler.statistics().waiting == len(tasks))
        held.release()
        await asyncio.gather(*tasks)

    order: list[int] = []
    asyncio.run(main())
    return order


@pytest.mark.parametrize("policy", ["fcfs", "srtf", "justitia"])
def test_a_close_deadline_goes_first(make_scheduler, policy):
    """Whichever of these is close, that call is served before all that came earlier and have none."""
    scheduler = make_scheduler(1, policy=policy)
    close = [{"deadline_s": 3.0 * 2**power} for power in range(8)]
    order = order_of(scheduler, {}, {}, *close, {})
    assert order[0] > 1
    grants = [entry.detail for entry in scheduler._driver.story() if entry.kind == "SlotGranted"]
    reasons = [grant.reason for grant in grants][1:]
    assert reasons[0] == "deadline"
    assert reasons.count("deadline") < len(close), "not all of them are close"


def test_it_goes_before_its_own_tenant_only(make_scheduler):
    """Tenants take turns as before."""
    scheduler = make_scheduler(1, policy="fcfs")
    close = [{"deadline_s": 3.0 * 2**power, "tenant": "a"} for power in range(8)]
    assert order_of(scheduler, *close, {"tenant": "b"}).index(8) <= 1


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("queue_timeout_s", [None, 60.0])
def test_a_call_that_waits_past_its_deadline(make_scheduler, asynchronous, queue_timeout_s):
    """It raises, and says what it waited for; it is not there any more."""
    scheduler = make_scheduler(1, queue_timeout_s=queue_timeout_s)

    async def main():
        async with scheduler.slot(deadline_s=0.01):
            raise AssertionError("there was no slot")

    def block():
        with scheduler.slot(deadline_s=0.01):
            raise AssertionError("there was no slot")

    held = scheduler.slot()
    held.acquire()
    with pytest.raises(DeadlineExceededError, match=r"deadline of 0\.01 s has passed") as caught:
        asyncio.run(main()) if asynchronous else block()
    assert caught.value.overrun.reached == ("deadline_s",)
    assert caught.value.deadline_s == 0.01
    assert caught.value.spent.elapsed_s >= 0.01
    assert scheduler.statistics().waiting == 0
    held.release()


def test_the_queue_timeout_is_told_of_if_it_is_shorter(make_scheduler):
    """The error is that of the limit which ended the wait."""
    scheduler = make_scheduler(1, queue_timeout_s=0.01)
    held = scheduler.slot()
    held.acquire()
    with pytest.raises(QueueTimeoutError), scheduler.slot(deadline_s=60):
        pass
    held.release()


def test_inside_a_run_it_ends_the_wait(make_scheduler):
    """The run fails with the call's error, as with any other."""
    scheduler = make_scheduler(1)

    def node(state):
        with scheduler.slot(deadline_s=0.01):
            return state

    graph = StateGraph(dict).add_node("n", node).add_edge(START, "n").compile()
    held = scheduler.slot()
    held.acquire()
    with pytest.raises(DeadlineExceededError):
        schedule(graph, scheduler).invoke({})
    held.release()


@pytest.mark.parametrize("deadline_s", [0, -1.0, math.nan, math.inf, "1", True])
def test_bad_deadlines(make_scheduler, deadline_s):
    """One clear error."""
    with pytest.raises(ConfigurationError, match="deadline_s must be"):
        make_scheduler(1).slot(deadline_s=deadline_s)


def test_a_huge_deadline_is_none(make_scheduler):
    """No lock can wait that long."""
    with make_scheduler(1).slot(deadline_s=1e300):
        pass
