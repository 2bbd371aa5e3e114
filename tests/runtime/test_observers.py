"""Observers of the story: every entry once and in order, outside the lock, at no cost to calls."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from dataclasses import replace

import pytest

from llmsched_langgraph import Application, Backend, Budget, Overrun, Spending
from llmsched_langgraph._application.application import Node
from llmsched_langgraph._core.events import CallRequested, Direct, Entry, LimitReached, OverrunExpected
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.ordering import BeliefWanted
from llmsched_langgraph._core.story import LENGTH
from llmsched_langgraph._jobs.calls import FinishedCall, Outcome, Usage
from llmsched_langgraph._jobs.stages import Revealed
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.values import CallInfo, Crowd, Grant
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo, Needs

APPLICATION = Application.of("app", (Node("ask", calls_llm=True),))
INFO = JobInfo(application=APPLICATION)


@pytest.fixture
def make_plain(make_scheduler):
    """Make schedulers that learn nothing, which would be told of as well, at any time."""

    def make(*args, **kwargs):
        scheduler = make_scheduler(*args, **kwargs)
        scheduler._driver._service.learner.observe = lambda *news: None
        return scheduler

    return make


def call(scheduler, times=1):
    for _ in range(times):
        with scheduler.slot(stage="s"):
            pass


def run(scheduler, times=1):
    """Runs of one call each."""
    for _ in range(times):
        job = start_run(scheduler, INFO)
        with inside(job):
            call(scheduler)
        job.end(Outcome.FINISHED)


def kinds(entries):
    return [entry.kind for entry in entries]


def consecutive(entries):
    numbers = [entry.number for entry in entries]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))


# -- what is seen -----------------------------------------------------------------------


def test_an_observer_sees_what_happens_from_then_on(make_plain):
    """Entry after entry, with the clock's time, until it is closed."""
    now, seen = [0.0], []
    scheduler = make_plain(1, clock=lambda: now[0])
    call(scheduler)
    now[0] = 3.0
    with scheduler.subscribe(seen.append) as subscription:
        call(scheduler)
    call(scheduler)
    assert kinds(seen) == ["SlotGranted", "CallReleased", "CallClosed"]
    assert {entry.at_s for entry in seen} == {3.0}
    assert {entry.ticket for entry in seen} == {0, 2}
    assert (subscription.missed, subscription.failures) == (0, 0)
    subscription.close()  # once more: no matter


def test_an_observer_sees_jobs_that_make_no_call(make_plain):
    """Without an observer the machine need not know of them; with one, the story is whole."""
    scheduler, seen = make_plain(1), []
    scheduler.subscribe(seen.append)
    job = start_run(scheduler, INFO)
    job.end(Outcome.FINISHED)
    now = scheduler.statistics()
    assert (now.jobs_running, now.jobs_ended) == (0, 1)
    assert kinds(seen) == ["JobArrived", "JobEnded", "JobClosed"]


def test_every_entry_once_and_in_order(make_scheduler, spawn):
    """However many threads make the scheduler decide, and for each of its observers."""
    scheduler, one, other = make_scheduler(2), [], []
    scheduler.subscribe(one.append)
    futures = [spawn(run, scheduler, 50) for _ in range(4)]
    scheduler.subscribe(other.append)
    futures += [spawn(call, scheduler, 50) for _ in range(2)]
    for future in futures:
        future.result(20)
    scheduler.close()
    assert consecutive(one)
    assert consecutive(other)
    assert one[-len(other) :] == other
    assert kinds(one).count("SlotGranted") == kinds(one).count("CallReleased") == 300
    assert scheduler._driver.story()[-1] == one[-1]


def test_a_loop_is_observed_as_threads_are(make_scheduler):
    """The observer is called by the loop's own thread."""
    scheduler, seen = make_scheduler(1), []
    scheduler.subscribe(lambda entry: seen.append((entry.kind, threading.get_ident())))

    async def ask():
        async with scheduler.slot():
            await asyncio.sleep(0)

    async def main():
        await asyncio.gather(ask(), ask())

    asyncio.run(main())
    granted = [thread for kind, thread in seen if kind == "SlotGranted"]
    assert granted == [threading.get_ident()] * 2
    assert "CallQueued" in [kind for kind, _ in seen]


class Particular:
    """A policy that wants beliefs, and fails for one tenant's jobs."""

    name = "particular"
    needs = Needs.MEAN

    def order(self, job, now):
        if job.info.tenant == "bad":
            raise ZeroDivisionError
        return job.remaining_s


DETAILS = {
    "JobArrived": JobInfo,
    "JobResumed": JobInfo,
    "StagesChanged": int,
    "CallQueued": CallInfo,
    "CallRefused": Crowd,
    "SlotGranted": Grant,
    "CallReleased": FinishedCall,
    "CallMeasured": Usage,
    "CallWithdrawn": Outcome,
    "JobPaused": str,
    "OverrunExpected": Overrun,
    "LimitReached": Overrun,
    "JobEnded": Outcome,
    "JobClosed": Job,
    "CallClosed": Direct,
    "BackendConfigured": Backend,
    "BackendPaused": float,
    "BeliefWanted": BeliefWanted,
    "BeliefFormed": object,
    "ProfileLearned": frozenset,
    "PolicyFailed": ZeroDivisionError,
}


def test_every_kind_of_entry(make_scheduler):
    """Each is told with what the table says, and there is no other one."""
    backends = [Backend("default", 1, max_queued=1)]
    scheduler, seen, believed = (
        make_scheduler(None, backends=backends, policy=Particular()),
        [],
        threading.Event(),
    )
    driver = scheduler._driver

    def see(entry):
        seen.append(entry)
        if entry.kind == "BeliefFormed":
            believed.set()

    scheduler.subscribe(see)
    call(scheduler)
    run(scheduler)
    scheduler.learn()
    scheduler.resize(1)
    with scheduler.slot():
        job = start_run(scheduler, INFO)
        job.seen.stage_events.append(Revealed(((1, "ask"),), begun=True))
        ticket = driver.new_ticket()
        assert not driver.request(CallRequested(ticket, "default", "ask", job.job, False, 1))
        assert believed.wait(20)
        driver.release(ticket, Outcome.CANCELLED)
        job.end(Outcome.FINISHED, paused_on="thread")
        bad = start_run(scheduler, JobInfo(application=APPLICATION, tenant="bad"))
        ticket = driver.new_ticket()
        assert not driver.request(CallRequested(ticket, "default", "ask", bad.job, False, None))
        one_more = CallRequested(driver.new_ticket(), "default", "ask", bad.job, False, None)
        assert not driver.request(one_more)
        driver.told(one_more.ticket)
        driver.release(ticket)
        driver.measured(ticket, Usage(1, 2), bad.job)
        bad.end(Outcome.FAILED)
    job = start_run(scheduler, INFO, resumes="thread")
    overrun = Overrun(reached=(), expected=("calls",), spent=Spending(), budget=Budget(calls=1))
    driver.post(OverrunExpected(job.job, overrun))
    driver.post(LimitReached(job.job, replace(overrun, reached=("calls",))))
    job.end(Outcome.FINISHED)
    refused = scheduler.slot()
    refused.acquire()
    refused.release(Outcome.FAILED, Failure(429))
    scheduler.statistics()

    documented = set()
    for row in re.findall(r"^ *\| (\w.*?) \|", Entry.__doc__, re.MULTILINE):
        documented |= set(row.split(", ")) - {"kind"}
    assert {entry.kind for entry in seen} == documented == DETAILS.keys()
    assert consecutive(seen)
    for entry in seen:
        assert isinstance(entry.detail, DETAILS[entry.kind]), entry
        assert bool(entry.ticket) == (entry.kind.startswith(("Call", "Slot")) and entry.kind != "CallClosed")
        of_a_backend = (entry.ticket and entry.kind != "CallMeasured") or entry.kind.startswith("Backend")
        assert bool(entry.backend) == bool(of_a_backend)
        assert bool(entry.job) == (entry.kind not in ("BackendConfigured", "BackendPaused", "ProfileLearned"))


# -- what an observer may do ------------------------------------------------------------


def test_an_observer_may_use_the_scheduler(make_plain, spawn):
    """It is called outside the lock: it may look, take a slot, resize, subscribe others and end itself."""
    scheduler, seen, later = make_plain(1), [], []

    def see(entry):
        seen.append(entry)
        scheduler.check()
        if len(seen) == 1:
            scheduler.resize(2)
            call(scheduler)
            scheduler.subscribe(later.append)
            assert len(seen) == 1  # its own doing comes after what it is looking at
        elif entry.kind == "BackendConfigured":
            assert scheduler.statistics().slots == 2
        elif entry.ticket == 3:
            subscription.close()

    subscription = scheduler.subscribe(see)
    spawn(call, scheduler, 3).result(20)
    assert consecutive(seen)
    assert kinds(seen)[:2] == ["SlotGranted", "BackendConfigured"]
    assert [entry.ticket for entry in seen if entry.kind == "SlotGranted"] == [1, 2, 3]
    assert consecutive(later)
    assert {entry.ticket for entry in later if entry.kind == "SlotGranted"} == {3, 4}


def test_an_observer_that_fails_costs_nothing(make_plain, caplog):
    """It is told of once, goes on with the next entry, and takes nothing from calls or other observers."""
    scheduler, seen, failed = make_plain(1), [], []

    def fail(entry):
        failed.append(entry)
        raise ZeroDivisionError("my bug")

    subscription = scheduler.subscribe(fail)
    scheduler.subscribe(seen.append)
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        run(scheduler, 3)
        scheduler.statistics()
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == (
        "an observer failed at a JobArrived; the next entry is delivered (logged once): "
        "ZeroDivisionError('my bug')"
    )
    assert failed == seen
    assert subscription.failures == len(seen) == 15
    assert scheduler.statistics().granted == 3


def test_an_observer_that_falls_behind_misses_the_oldest(make_plain):
    """Its entries are kept up to a length; what it was not given is counted."""
    scheduler, seen = make_plain(2), []

    def slow(entry):
        seen.append(entry)
        if len(seen) == 1:
            call(scheduler, LENGTH)  # three entries each

    subscription = scheduler.subscribe(slow)
    call(scheduler)
    assert subscription.missed > 0
    assert subscription.missed + len(seen) == 3 * (LENGTH + 1) == seen[-1].number
    assert consecutive(seen[1:])
    assert len(seen) >= LENGTH
    assert scheduler.statistics().granted == LENGTH + 1  # the package itself missed nothing
    assert scheduler.statistics().jobs_ended == LENGTH + 1


def test_an_observer_that_is_broken_off_is_given_the_entry_again(make_plain):
    """An interrupt goes through to the call; nothing is skipped."""
    scheduler, seen = make_plain(1), []

    def see(entry):
        seen.append(entry.kind)
        if len(seen) == 2:
            raise KeyboardInterrupt

    subscription = scheduler.subscribe(see)
    with pytest.raises(KeyboardInterrupt):
        call(scheduler)
    call(scheduler)
    once = ["SlotGranted", "CallReleased", "CallClosed"]
    assert seen == [*once[:2], *once[1:], *once]
    assert subscription.failures == 0
