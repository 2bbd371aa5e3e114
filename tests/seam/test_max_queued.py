"""Backends and tenants that let only so many calls wait: who is refused, with what words, and who is not."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langgraph.graph import START, StateGraph
from support.seam import auntil, until

from llmsched_langgraph import Backend, ConfigurationError, OverloadedError, Tenant, schedule
from llmsched_langgraph.testing import VirtualClock


def backlog(scheduler, *calls):
    """Hold the only slot, let the calls wait one after the other; return what became of each."""

    async def one(settings):
        async with scheduler.slot(**settings):
            return "served"

    async def main():
        held, tasks = scheduler.slot(), []
        await held.aacquire()
        for settings in calls:
            before = scheduler.statistics().waiting
            task = asyncio.create_task(one(settings))
            tasks.append(task)
            await auntil(lambda: task.done() or scheduler.statistics().waiting > before)  # noqa: B023
        held.release()
        return await asyncio.gather(*tasks, return_exceptions=True)

    return asyncio.run(main())


def kinds(results):
    return ["served" if result == "served" else type(result).__name__ for result in results]


def test_one_more_call_than_may_wait_is_refused(make_scheduler):
    """At once; those that wait are served, and nothing of it stays."""
    scheduler = make_scheduler(backends=[Backend("gpu", 1, max_queued=2)])
    results = backlog(scheduler, {}, {}, {}, {})
    assert kinds(results) == ["served", "served", "OverloadedError", "OverloadedError"]
    message = str(results[2])
    for word in ("backend 'gpu'", "2 do", "max_queued=2", "Backend(max_queued=...)"):
        assert word in message
    told = [entry.detail for entry in scheduler._driver.story() if entry.kind == "CallRefused"]
    assert told == [("gpu", "", 2, 2)] * 2
    assert (scheduler._driver._machine.refused, scheduler._driver._machine.untold) == ({}, {})


def test_a_tenant_has_its_own_limit(make_scheduler):
    """Others wait on; calls without a tenant have no limit but the backend's."""
    scheduler = make_scheduler(1, tenants={"a": Tenant(max_queued=1)})
    results = backlog(scheduler, {"tenant": "a"}, {"tenant": "a"}, {"tenant": "b"}, {"tenant": "b"}, {})
    assert kinds(results) == ["served", "OverloadedError", "served", "served", "served"]
    assert "no more calls of tenant 'a' wait: 1 do (max_queued=1)" in str(results[1])
    assert "Tenant(max_queued=...)" in str(results[1])


def test_calls_of_all_priorities_of_a_tenant_count(make_scheduler):
    """The limit is of the tenant at the backend."""
    scheduler = make_scheduler(1, tenants={"a": Tenant(max_queued=2)})
    results = backlog(scheduler, *({"tenant": "a", "priority": level} for level in (0, -1, 3)))
    assert kinds(results) == ["served", "served", "OverloadedError"]


def test_a_free_slot_is_taken_whoever_waits(make_scheduler):
    """Calls of a tenant at its limit of slots are no crowd for another one."""
    scheduler = make_scheduler(backends=[Backend("gpu", 2, max_queued=1)], tenants={"a": Tenant(max_slots=1)})

    async def wait():
        async with scheduler.slot(tenant="a"):
            pass

    async def main():
        held, other = scheduler.slot(tenant="a"), scheduler.slot(tenant="b")
        await held.aacquire()
        waits = asyncio.create_task(wait())
        await auntil(lambda: scheduler.statistics().waiting == 1)
        await other.aacquire()
        with pytest.raises(OverloadedError):
            await scheduler.slot(tenant="b").aacquire()
        other.release()
        held.release()
        await waits

    asyncio.run(main())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_in_progress_fails_with_the_error(make_scheduler, asynchronous):
    """Which its node may handle; in a thread as on a loop."""
    scheduler = make_scheduler(backends=[Backend("gpu", 1, max_queued=1)])

    async def anode(state):
        async with scheduler.slot():
            return state

    def node(state):
        with scheduler.slot():
            return state

    builder = StateGraph(dict).add_node("n", anode if asynchronous else node).add_edge(START, "n")
    graph = schedule(builder.compile(), scheduler)
    held = scheduler.slot()
    held.acquire()

    def wait():
        with scheduler.slot():
            pass

    first = threading.Thread(target=wait)
    first.start()
    until(lambda: scheduler.statistics().waiting == 1)
    with pytest.raises(OverloadedError):
        asyncio.run(graph.ainvoke({})) if asynchronous else graph.invoke({})
    assert scheduler.statistics().jobs_running == 0
    held.release()
    first.join()


def test_a_call_that_cannot_wait_goes_ahead(make_scheduler):
    """A synchronous call on a loop's thread takes a slot above the limit, as without `max_queued`."""
    scheduler = make_scheduler(backends=[Backend("gpu", 1, max_queued=1)])

    async def main():
        held = scheduler.slot()
        await held.aacquire()
        waits = asyncio.create_task(wait())
        await auntil(lambda: scheduler.statistics().waiting == 1)
        with scheduler.slot():
            assert scheduler.statistics().over_commitments == 1
        held.release()
        await waits

    async def wait():
        async with scheduler.slot():
            pass

    asyncio.run(main())


def test_the_next_attempt_of_a_call_is_not_refused(make_scheduler):
    """It keeps its place in the queue, however many wait."""
    scheduler = make_scheduler(backends=[Backend("gpu", 1, max_queued=1)])
    driver = scheduler._driver
    from llmsched_langgraph._core.events import CallRequested
    from llmsched_langgraph._jobs.calls import PENDING_USAGE, Outcome

    first, again, other, more = (driver.new_ticket() for _ in range(4))
    assert driver.request(CallRequested(first, "gpu"))
    assert not driver.request(CallRequested(other, "gpu"))
    driver.release(first, Outcome.FAILED, PENDING_USAGE)
    assert not driver.request(CallRequested(again, "gpu", again=first))
    assert driver.claim(again) is not None
    assert not driver.request(CallRequested(more, "gpu"))
    assert driver.claim(more) is None
    assert more in driver._machine.refused
    for ticket in (first, again, other, more):
        driver.release(ticket)
        driver.told(ticket)
    assert driver._machine.refused == {}


def test_the_error_says_when_there_may_be_room(make_scheduler):
    """By the rate at which calls were released since the last refusals; unknown at the first."""
    clock = VirtualClock()
    scheduler = make_scheduler(backends=[Backend("gpu", 1, max_queued=1)], clock=clock)
    first = backlog(scheduler, {}, {})[1]
    assert first.retry_after_s is None
    clock.advance(10.0)
    second = backlog(scheduler, {}, {})[1]
    assert second.retry_after_s == pytest.approx(5.0)  # two were released in 10 s
    assert "room in 5.0 s" in str(second)


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3"])
def test_bad_limits(limit):
    """One clear error."""
    with pytest.raises(ConfigurationError, match="backend 'gpu': max_queued must be a whole number"):
        Backend("gpu", max_queued=limit)
    with pytest.raises(ConfigurationError, match="max_queued of a tenant must be a whole number"):
        Tenant(max_queued=limit)
