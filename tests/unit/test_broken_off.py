"""Decisions are all or nothing: broken off at any line and made again, they come to the same."""

from __future__ import annotations

import pytest
from support.applications import app
from support.breaking import Breaking, Broken

from llmsched_langgraph import Backend
from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.events import (
    BackendConfigured,
    BeliefFormed,
    CallDismissed,
    CallReleased,
    CallRequested,
    HolderDied,
    JobArrived,
    JobEnded,
    JobPaused,
    ProfileLearned,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._jobs.stages import Began, Ended, Revealed
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph.policies import JobInfo, llmsched

JOB = ("app", ("look", 1.0), ("act", 4.0), ("act", 4.0))


class Holder:
    pass


def died(ticket):
    event = HolderDied(Holder())
    event.ticket = ticket
    return event


def arrived(job, stage_events, resumes=None, priority=0):
    return JobArrived(job, JobInfo(application=app("app"), priority=priority), resumes, stage_events)


def happens(profile):
    """Events with their times and, for some, what is seen of stages just before."""
    one, two, again = [], [], []
    yield 0, arrived(1, one)
    one.append(Revealed(((1, "look"),)))
    yield 0, CallRequested(1, "b", "look", 1, run=1)
    yield 0, arrived(2, two, priority=1)
    yield 0, CallRequested(2, "b", "look", 2)
    yield 1, CallRequested(3, "c", "direct")
    yield 1, CallRequested(4, "b", "direct")
    yield 1, CallRequested(5, "c", "direct")
    yield 1, CallRequested(6, "b", "look", 2, forced=True)
    one += [Began(1), Ended(1, 2.0, at_s=2.0), Revealed(((2, "act"), (3, "act")))]
    yield 2, CallReleased(1, usage=Usage(3, 4))
    for ticket, run in ((7, 2), (8, 3)):
        yield 2, CallRequested(ticket, "b", "act", 1, run=run)
    yield 2, StagesChanged(1)
    yield 3, BackendConfigured(Backend("b", 3))
    yield 3, ProfileLearned(profile, frozenset({"app"}))
    yield 4, CallReleased(6, Outcome.FAILED, failure=Failure(429, 3.0))
    yield 4, CallRequested(9, "b", "act", 1)
    yield 4, CallRequested(10, "b", "direct")
    one += [Began(2), Ended(2, 1.0, False, True, at_s=4.5)]
    yield 5, StagesChanged(1)
    yield 7, Ticked()
    yield 7, CallDismissed(10)
    yield 7, died(3)
    yield 8, JobPaused(1, "thread")
    for ticket in (2, 4, 5, 7):
        yield 8, CallReleased(ticket)
    yield 9, JobEnded(2, Outcome.CANCELLED)
    yield 12, arrived(3, again, "thread")
    again.append(Revealed(((4, "act"),)))
    yield 12, CallRequested(11, "b", "act", 3, run=4)
    again.append(Ended(4, 1.0, at_s=13.0))
    yield 13, JobEnded(3, Outcome.FINISHED)
    for ticket in (8, 9, 10, 11):
        yield 14, CallReleased(ticket)


def seen(entry):
    if entry.kind in ("JobClosed", "CallClosed"):
        return entry._replace(detail=ended(entry.detail))
    if entry.kind == "BeliefWanted":
        detail = entry.detail
        return entry._replace(detail=(detail.job, detail.model, detail.evidence, detail.needs))
    return entry


class Play:
    """All that happens, to one machine; `breaks` gives the lines at which a try of an event is broken off."""

    def __init__(self, policy, profile, at_once, breaks=lambda play, event: ()):
        backends = [Backend("b", 1), Backend("c", 1)]
        self.machine = SchedulerMachine(policy(), backends, profile, at_once=at_once)
        self.events = 0
        self.tried = False  # whether the last try was broken off
        self._breaks = breaks
        for now, event in happens(profile):
            wanted = self._handle(now, event)
            while wanted:
                command = wanted.pop()
                wanted += self._handle(now, BeliefFormed(command.job, command.belief()))
        self.machine.check()
        view = self.machine.ledger.view()
        assert (dict(view.waiting), dict(view.holding), self.machine.jobs) == ({}, {}, 0)
        self.told = [seen(entry) for entry in self.machine.story.after(0)], dict(view.backends)

    def _handle(self, now, event):
        """The beliefs that are wanted after it."""
        machine, before = self.machine, self.machine.story.last
        for line in self._breaks(self, self.events):
            try:
                with Breaking(line):
                    machine.handle(now, event)
                self.tried = False
            except Broken:
                self.tried = True
        self.events += 1
        machine.handle(now, event)
        return [entry.detail for entry in machine.story.after(before) if entry.kind == "BeliefWanted"]


POLICIES = {
    "fair": lambda: as_policy("fair"),
    "justitia": lambda: as_policy("justitia"),
    "gittins": lambda: as_policy("gittins"),
    "llmsched": lambda: llmsched(epsilon=1.0),
}


@pytest.fixture
def profile(learned):
    return learned(*[JOB, ("app", ("look", 3.0), ("act", 9.0))] * 20)


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_decision_breaks_off_again_and_again(profile, policy, at_once):
    """Line by line, each try one line further than the one before, until it comes through."""
    plain = Play(POLICIES[policy], profile, at_once)
    kinds = {entry.kind for entry in plain.told[0]}
    assert {"JobResumed", "JobPaused", "CallWithdrawn", "JobClosed", "StagesChanged"} <= kinds
    lines = 0

    def breaks(play, event):
        nonlocal lines
        play.tried, line = True, 0
        while play.tried:
            line += 1
            yield line
        lines += line

    play = Play(POLICIES[policy], profile, at_once, breaks)
    assert play.told == plain.told
    assert lines > 1_000


@pytest.mark.timeout(300)
def test_a_decision_that_breaks_off_at_any_line(profile):
    """Each line alone: the same grants, records, beliefs and reasons as if nothing had happened."""
    policy = POLICIES["llmsched"]
    plain = Play(policy, profile, at_once=False)
    lines = 0
    for broken in range(plain.events):
        line, tried = 0, True
        while tried:
            line += 1
            at = {broken: [line]}
            play = Play(policy, profile, False, lambda play, event, at=at: at.get(event, ()))
            assert play.told == plain.told, (broken, line)
            tried = play.tried
        lines += line - 1
    assert lines > 1_000
