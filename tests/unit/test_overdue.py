"""The bound of waiting: closed loops in which a long job waits for short ones that never end."""

from __future__ import annotations

import heapq
import itertools
from math import ceil, inf

import pytest
from support.applications import app
from support.ended import ended

from llmsched_langgraph import Backend, ConfigurationError, Profile, Scheduler
from llmsched_langgraph._core.events import CallReleased, CallRequested, JobArrived, JobEnded, Ticked
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.pauses import Failure, Pause
from llmsched_langgraph.policies import POLICIES, JobInfo

CALL_S = 1.0
LONG = 20
"""Calls of a long job, one after the other."""

PROFILE = Profile().observe(
    *(ended("short", ("s", CALL_S)) for _ in range(4)),
    *(ended("long", *[("s", CALL_S)] * LONG) for _ in range(4)),
)


class ClosedLoop:
    """Clients of short jobs, each of which begins its next one at once, and long jobs beside them."""

    def __init__(self, policy, slots, clients, overdue, longs=1):
        self.machine = SchedulerMachine(
            as_policy(policy), [Backend("b", slots)], PROFILE, at_once=True, overdue=overdue
        )
        self.now = 0.0
        self.jobs, self.tickets = itertools.count(1), itertools.count(1)
        self.calls = {}  # by ticket: job and calls that are left
        self.ends = []  # (time, ticket)
        self.arrived_s, self.jct_s, self.shorts_s = {}, {}, []
        self.read = 0
        for _ in range(clients):
            self.begin("short", 1)
        for _ in range(longs):
            self.begin("long", LONG)

    def handle(self, event):
        self.machine.handle(self.now, event)
        for entry in self.machine.story.after(self.read):
            self.read = entry.number
            if entry.kind == "SlotGranted":
                heapq.heappush(self.ends, (self.now + CALL_S, entry.ticket))

    def begin(self, name, calls):
        job = next(self.jobs)
        self.arrived_s[job] = self.now
        self.handle(JobArrived(job, JobInfo(application=app(name))))
        self.call(job, calls)

    def call(self, job, left):
        ticket = next(self.tickets)
        self.calls[ticket] = job, left
        self.handle(CallRequested(ticket, "b", "s", job))

    def play(self, until_s):
        """Go on until all long jobs have ended, or until then; return the longest of their JCTs."""
        longs = [job for job, left in self.calls.values() if left > 1]
        while not all(job in self.jct_s for job in longs):
            self.now, ticket = heapq.heappop(self.ends)
            if self.now > until_s:
                return inf
            self.handle(CallReleased(ticket))
            job, left = self.calls.pop(ticket)
            if left > 1:
                self.call(job, left - 1)
                continue
            self.handle(JobEnded(job, Outcome.FINISHED))
            self.jct_s[job] = self.now - self.arrived_s[job]
            if job not in longs:
                self.shorts_s.append(self.jct_s[job])
                self.begin("short", 1)
        self.machine.check(self.now)
        return max(self.jct_s[job] for job in longs)


def bound_s(slots, overdue, before=0):
    """JCT <= work + max_wait_s + m ceil(every (1 + q) / k) S."""
    return LONG * CALL_S + overdue.max_wait_s + LONG * ceil(overdue.every * (1 + before) / slots) * CALL_S


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("slots", "overdue"), [(1, Overdue(10.0, 4)), (2, Overdue(60.0, 4)), (2, Overdue(60.0)), (4, Overdue())]
)
def test_a_long_job_ends_within_the_bound(policy, slots, overdue):
    """Under every policy, beside sixteen clients of short jobs for ever."""
    assert ClosedLoop(policy, slots, 16, overdue).play(2_000.0) <= bound_s(slots, overdue)


@pytest.mark.parametrize("policy", ["srtf", "sjf", "gittins"])
def test_without_a_bound_it_never_ends(policy):
    assert ClosedLoop(policy, 2, 16, UNBOUNDED).play(2_000.0) == inf


@pytest.mark.parametrize("policy", POLICIES)
def test_long_jobs_that_are_overdue_at_once_take_turns(policy):
    """Each within the bound for those before it."""
    overdue = Overdue(30.0, 4)
    assert ClosedLoop(policy, 2, 16, overdue, longs=3).play(5_000.0) <= bound_s(2, overdue, before=2)


def test_short_jobs_pay_no_more_than_their_turns():
    """One grant of `every` is what the bound costs."""
    loops = [ClosedLoop("srtf", 2, 16, overdue) for overdue in (Overdue(0.0, 4), Overdue(0.0, 16))]
    for loop, every in zip(loops, (4, 16), strict=True):
        loop.play(500.0)
        granted = loop.machine.ledger.backend("b").granted
        overdue = sum(
            entry.kind == "SlotGranted" and entry.detail.reason == "overdue"
            for entry in loop.machine.entries()
        )
        assert 0 < overdue <= granted / every + 1


def test_earlier_waits_of_a_job_count():
    """A job whose calls each wait less than the bound is overdue all the same."""
    machine = SchedulerMachine(as_policy("sjf"), [Backend("b", 1)], PROFILE, overdue=Overdue(10.0, 1))
    machine.handle(0.0, JobArrived(1, JobInfo(application=app("long"))))
    machine.handle(0.0, CallRequested(1, "b", "s"))
    machine.handle(0.0, CallRequested(2, "b", "s", 1))
    machine.handle(6.0, CallReleased(1))  # the job waited for 6 s
    machine.handle(6.0, CallReleased(2))
    machine.handle(6.0, CallRequested(3, "b", "s"))
    machine.handle(6.0, CallRequested(4, "b", "s", 1))
    machine.handle(9.9, CallRequested(5, "b", "s"))
    machine.handle(10.0, CallReleased(3))
    assert machine.ledger.claim(4).reason == "overdue"


def test_parallel_waits_of_a_job_count_once():
    """Three calls that wait side by side for 6 s are 6 s of waiting."""
    machine = SchedulerMachine(as_policy("fcfs"), [Backend("b", 4)], PROFILE, overdue=Overdue(10.0, 1))
    for ticket in range(1, 5):
        machine.handle(0.0, CallRequested(ticket, "b", "s"))
    machine.handle(0.0, JobArrived(1, JobInfo(application=app("long"))))
    for ticket in range(5, 8):
        machine.handle(0.0, CallRequested(ticket, "b", "s", 1))
    for ticket in range(1, 4):
        machine.handle(4.0 + ticket, CallReleased(ticket))
    (job,) = (job for job in machine.known() if job.id == 1)
    assert job.progress.waited_s == 7.0


def test_a_pause_is_no_wait():
    machine = SchedulerMachine(as_policy("sjf"), [Backend("b", 1)], PROFILE, overdue=Overdue(10.0, 1))
    machine.handle(0.0, CallRequested(1, "b", "s"))
    machine.handle(0.0, JobArrived(1, JobInfo(application=app("long"))))
    machine.handle(0.0, CallRequested(2, "b", "s", 1))
    machine.handle(0.0, JobArrived(2, JobInfo(application=app("short"))))
    machine.handle(0.0, CallRequested(3, "b", "s", 2))
    machine.handle(1.0, CallReleased(1, Outcome.FAILED, failure=Failure(429, 60.0)))
    assert machine.wake_s == 61.0
    machine.handle(61.0, Ticked())
    assert machine.ledger.claim(3).reason == "order"


def test_the_clock_that_stands_during_pauses():
    pause = Pause()
    assert pause.open_s(5.0) == 5.0
    pause = pause.until(5.0, 8.0, 3)
    assert [pause.open_s(now) for now in (5.0, 7.0, 8.0, 9.0)] == [5.0, 5.0, 5.0, 6.0]
    pause = pause.until(7.0, 10.0, 3)
    assert [pause.open_s(now) for now in (7.0, 10.0, 12.0)] == [5.0, 5.0, 7.0]
    assert pause.until(9.0, 9.5, 4) == pause


@pytest.mark.parametrize("wrong", [-1.0, inf, float("nan"), "soon", True])
def test_a_bound_that_is_none(wrong):
    with pytest.raises(ConfigurationError, match="max_wait_s must be a number of seconds"):
        Scheduler(1, max_wait_s=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, None, True])
def test_a_share_that_is_none(wrong):
    with pytest.raises(ConfigurationError, match="overdue_every must be a whole number of at least 1"):
        Scheduler(1, overdue_every=wrong)


def test_the_settings_reach_the_ledger():
    with Scheduler(1, max_wait_s=10.0, overdue_every=1) as scheduler:
        assert scheduler._driver._ledger.overdue == Overdue(10.0, 1)
    with Scheduler(1) as scheduler:
        assert scheduler._driver._ledger.overdue == Overdue(300.0, 16)
