"""What the unit tests share: a manual clock and a machine with short verbs. Nothing here waits."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from support.applications import app
from support.ended import ended

from llmsched_langgraph import Backend, Profile
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._core import ending
from llmsched_langgraph._core.events import (
    BackendConfigured,
    BeliefFormed,
    CallReleased,
    CallRequested,
    Event,
    JobArrived,
    JobEnded,
    JobPaused,
    ProfileLearned,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome
from llmsched_langgraph._jobs.stages import Ended
from llmsched_langgraph.policies import JobInfo


class Clock:
    """A clock that stands still until it is told the time."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


class Led(NamedTuple):
    """What one event led to, read from the story: tickets, records, and the entries of two kinds."""

    granted: list
    records: list
    faults: list
    wanted: list


class Desk:
    """A machine with one verb for each event; it remembers what was granted, recorded and reported.

    Beliefs are formed at once, unless they are to be `wanted` from it.
    """

    def __init__(self, policy, *, slots=1, profile=None, backends=("b",), at_once=True):
        pools = [Backend(name, slots) for name in backends]
        self.machine = SchedulerMachine(as_policy(policy), pools, profile, at_once=at_once)
        self.granted, self.records, self.faults, self.wanted = [], [], [], []
        self._moves = {}

    def handle(self, now, event: Event) -> Led:
        before = self.machine.story.last
        self.machine.handle(now, event)
        self.machine.check(now)
        led = Led([], [], [], [])
        for entry in self.machine.story.after(before):
            match entry.kind:
                case "SlotGranted":
                    led.granted.append(entry.ticket)
                case "JobClosed" | "CallClosed":
                    led.records.append(ending.ended(entry.detail))
                case "PolicyFailed":
                    led.faults.append(entry)
                case "BeliefWanted":
                    led.wanted.append(entry.detail)
        for kept, new in zip((self.granted, self.records, self.faults, self.wanted), led, strict=True):
            kept += new
        return led

    def arrive(self, now, job, application="app", resumes=None):
        given = app(application) if isinstance(application, str) else application
        stage_events = self._moves[job] = []
        return self.handle(now, JobArrived(job, JobInfo(application=given), resumes, stage_events))

    def call(self, now, ticket, job=None, stage="s", *, backend="b", forced=False, run=None):
        return self.handle(now, CallRequested(ticket, backend, stage, job, forced, run))

    def move(self, now, job, *stage_events):
        """What is seen of the job's stages; ends that name no time are of now."""
        for move in stage_events:
            timed = isinstance(move, Ended) and move.at_s is None
            self._moves[job].append(move._replace(at_s=now) if timed else move)
        return self.handle(now, StagesChanged(job))

    def form(self, now):
        """Form all beliefs that were wanted so far."""
        wanted, self.wanted = self.wanted, []
        for command in wanted:
            self.handle(now, BeliefFormed(command.job, command.belief()))

    def believe(self, now, job, belief):
        """What is still to come of the job that goes by that name."""
        return self.handle(now, BeliefFormed(self.job(job).number, belief))

    def release(self, now, ticket, outcome=Outcome.FINISHED, usage=UNKNOWN_USAGE, failure=None):
        return self.handle(now, CallReleased(ticket, outcome, usage, failure))

    def end(self, now, job, outcome=Outcome.FINISHED):
        return self.handle(now, JobEnded(job, outcome))

    def pause(self, now, job, thread="thread"):
        return self.handle(now, JobPaused(job, thread))

    def resize(self, now, slots, backend="b"):
        return self.handle(now, BackendConfigured(Backend(backend, slots)))

    def learn(self, now, profile, *applications):
        return self.handle(now, ProfileLearned(profile, frozenset(applications)))

    def tick(self, now):
        return self.handle(now, Ticked())

    def serve(self, now):
        """Release the first ticket that holds a slot, again and again, until none waits or holds."""
        while holding := self.machine.ledger.view().holding:
            self.release(now, next(iter(holding)))
        return self.granted

    def backlog(self, backend="b"):
        """The tickets that wait there, the next one first."""
        ledger, waiting = self.machine.ledger, self.machine.ledger.view().waiting
        places = {}
        for ticket, claim in waiting.items():
            if claim.lane[0] == backend:
                lane = ledger._committed[claim.lane]
                places[ticket] = (lane.level, lane.order, claim.arrival)
        return sorted(places, key=places.__getitem__)

    def job(self, id_):
        """The job that goes by that name."""
        return self.machine._jobs._jobs[self.machine._jobs._ids[id_]]

    def order(self, id_, backend="b"):
        """The order of the job's lanes at the backend, which is one."""
        number, committed = self.job(id_).number, self.machine.ledger._committed
        lanes = {claim.lane for claim in self.machine.ledger.view().waiting.values()}
        (order,) = {committed[lane].order for lane in lanes if lane[:2] == (backend, number)}
        return order


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def desk():
    return Desk


@pytest.fixture
def record():
    """Make the record of one job from (stage, work) pairs, occurrences counted as they come."""

    return ended


@pytest.fixture
def observed(record):
    """A profile from jobs, each an application followed by its (stage, work) pairs; without any model."""

    def make(*jobs):
        return Profile().observe(*(record(application, *calls) for application, *calls in jobs))

    return make


@pytest.fixture
def learned(observed):
    """The same with what those jobs teach: a model of each application."""

    def make(*jobs):
        profile = observed(*jobs)
        for name, own in profile.applications.items():
            profile = profile.learned(name, learn(own.template, own.outcomes), own.jobs)
        return profile

    return make
