"""What the unit tests share: a manual clock and a dispatcher with short verbs. Nothing here waits."""

from __future__ import annotations

import pytest
from llmsched_langgraph.core.dispatcher import Dispatcher, Settled
from llmsched_langgraph.core.ledger import SlotLedger
from support.applications import app
from support.ended import ended

from llmsched_langgraph.belief.learning import learn
from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.events import (
    BeliefFormed,
    CallReleased,
    CallRequested,
    CapacityChanged,
    Event,
    JobArrived,
    JobEnded,
    ProfileLearned,
    StagesMoved,
)
from llmsched_langgraph.core.machine import SchedulerMachine
from llmsched_langgraph.core.policies import as_policy
from llmsched_langgraph.dag.progress import Outcome


class Clock:
    """A clock that stands still until it is told the time."""

    def __init__(self, now=0.0):
        self.now = now

    def __call__(self):
        return self.now


class Desk:
    """A dispatcher with one verb for each event; it remembers what was granted, recorded and reported.

    Beliefs are formed at once, unless they are to be `wanted` from it.
    """

    def __init__(self, policy, *, slots=1, profile=None, backends=("b",), at_once=True):
        machine = SchedulerMachine(as_policy(policy), profile or Profile())
        self.dispatcher = Dispatcher(machine, {name: SlotLedger(slots) for name in backends}, at_once)
        self.granted, self.records, self.faults, self.wanted = [], [], [], []

    def _handle(self, event: Event) -> Settled:
        held = sum(ledger.holding for ledger in self.dispatcher.ledgers.values())
        settled = self.dispatcher.handle(event)
        self.dispatcher.check(held_before=held)
        self.granted += settled.granted
        self.records += settled.records
        self.faults += settled.faults
        self.wanted += settled.wanted
        return settled

    def arrive(self, now, job, application="app"):
        given = app(application) if isinstance(application, str) else application
        return self._handle(JobArrived(now, job, given))

    def call(self, now, ticket, job=None, stage="s", *, backend="b", forced=False, run=None):
        return self._handle(CallRequested(now, ticket, backend, stage, job, forced, run))

    def move(self, now, job, *moves):
        return self._handle(StagesMoved(now, job, moves))

    def form(self, now):
        """Form all beliefs that were wanted so far."""
        wanted, self.wanted = self.wanted, []
        for command in wanted:
            self._handle(BeliefFormed(now, command.arrival, command.belief()))

    def release(self, now, ticket, outcome=Outcome.FINISHED):
        return self._handle(CallReleased(now, ticket, outcome))

    def end(self, now, job, outcome=Outcome.FINISHED):
        return self._handle(JobEnded(now, job, outcome))

    def resize(self, now, slots, backend="b"):
        return self._handle(CapacityChanged(now, backend, slots))

    def learn(self, now, profile, *applications):
        return self._handle(ProfileLearned(now, profile, frozenset(applications)))

    def serve(self, now):
        """Release whoever holds a slot, again and again, until nobody waits or holds."""
        while holders := [t for ledger in self.dispatcher.ledgers.values() for t in ledger.holders()]:
            self.release(now, holders[0])
        return self.granted


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
