"""The dispatcher under every policy and random events, watched from outside: who is granted, and when."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cache

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from llmsched_langgraph.core.dispatcher import Dispatcher
from llmsched_langgraph.core.exploration import LOOKED_AT
from llmsched_langgraph.core.ledger import SlotLedger
from support.applications import app
from support.ended import ended
from support.exploring import choice, coin

from llmsched_langgraph.belief.learning import learn
from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.events import (
    BeliefFormed,
    CallReleased,
    CallRequested,
    CapacityChanged,
    JobArrived,
    JobEnded,
    ProfileLearned,
    StagesMoved,
)
from llmsched_langgraph.core.machine import SchedulerMachine
from llmsched_langgraph.core.policies import POLICIES, Needs, llmsched
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Began, Ended, Revealed
from llmsched_langgraph.dag.progress import Outcome, Usage

# Only a failure takes long: Hypothesis may look for a simpler one for five minutes.
pytestmark = pytest.mark.timeout(400)

QUIET = settings(
    deadline=None,
    database=None,
    max_examples=150,
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

BACKENDS = ("b", "c")
STAGES = st.sampled_from(["plan", "act", "answer"])
TICKETS = st.integers(0, 60)
JOBS = st.integers(0, 4)
WORK_S = st.floats(0.0, 9.0)


TEMPLATES = {
    "x": Application.of("x", ["plan", "act", "answer"], [("plan", "act"), ("act", "answer")], ["plan"]),
    "y": Application.of(
        "y", ["plan", "act", "answer"], [("plan", "act"), ("act", "plan"), ("act", "answer")], ["plan"]
    ),
}


@cache
def history():
    """A profile with models of two of the applications, in which the first stage tells of the others."""
    records = []
    for n in range(60):
        size = 1.0 + n % 3 * 2.0
        works = (("plan", size), ("act", 2 * size + n % 2), *((("answer", size),) if n % 5 else ()))
        rounds = (*works[:2], *works) if n % 4 else works
        for name, did in (("x", works), ("y", rounds)):
            records.append(ended(name, *((stage, work_s, 10 * n, 5) for stage, work_s in did)))
    profile = Profile().observe(*records)
    for name, template in TEMPLATES.items():
        own = profile.applications[name]
        profile = profile.learned(name, learn(template, own.outcomes), own.jobs)
        assert profile.applications[name].model.correlated
    return profile


class Adversary:
    """Gives any number at all, no number, or an error, as its seed has it."""

    name = "adversary"

    def __init__(self, seed):
        self._random = random.Random(seed)

    def priority(self, job, profile, now):
        match self._random.randrange(8):
            case 0:
                return self._random.choice([math.inf, -math.inf, math.nan])
            case 1:
                raise ValueError("adversary")
            case 2:
                return "not a number"
            case 3:
                return self._random.uniform(-1e9, 1e9)
            case _:
                return self._random.randrange(4)


@dataclass
class Watched:
    """A policy that notes what it last said of each job's calls."""

    policy: object
    said: dict[int, float] = field(default_factory=dict)
    faults: int = 0

    @property
    def name(self):
        return self.policy.name

    @property
    def needs(self):
        return getattr(self.policy, "needs", Needs.NOTHING)

    @property
    def exploration(self):
        return getattr(self.policy, "exploration", None)

    def priority(self, job, profile, now):
        understood = 0.0  # what counts instead of an error or of what is no number
        try:
            priority = self.policy.priority(job, profile, now)
            if not isinstance(priority, str) and not math.isnan(priority):
                understood = float(priority)
            else:
                self.faults += 1
        except ValueError:
            self.faults += 1
            raise
        finally:
            self.said.update(dict.fromkeys(job.progress.outstanding, understood))
        return priority


class WatchedLedger(SlotLedger):
    """A ledger whose every grant is compared with the tickets' last known priorities and arrivals.

    And, where the coin says so, with who teaches most.
    """

    def watch(self, name, world):
        self.name, self.world = name, world
        self.queue: list[int] = []  # waiting tickets in the order of their arrival
        return self

    def request(self, ticket, group, priority, *, forced=False):
        free = self.holding < self.capacity
        seated = super().request(ticket, group, priority, forced=forced)
        assert seated == (forced or (free and not self.queue)), f"{ticket} overtook, or waits beside a slot"
        if not seated:
            self.queue.append(ticket)
        return seated

    def release(self, ticket):
        if ticket in self.queue:
            self.queue.remove(ticket)
        return super().release(ticket)

    def sorted(self):
        """Waiting tickets, the next one first: by priority, and of equal ones the earliest."""
        return sorted(self.queue, key=self.world.policy.said.__getitem__)

    def _explored(self):
        """The ticket that is to be granted for what it teaches, if there is one."""
        exploration = self.world.policy.exploration
        if exploration is None or not coin(exploration.seed, self.granted + 1, exploration.epsilon):
            return None
        tickets = self.world.dispatcher.machine._tickets
        jobs = {tickets[ticket].job.arrival: tickets[ticket].job for ticket in self.sorted()}
        jobs = list(jobs.values())[:LOOKED_AT]
        here = {(tickets[ticket].job.arrival, tickets[ticket].call.place) for ticket in self.queue}
        chosen = choice(jobs, exploration.sample, self.world.now, self.world.explored, here)
        if chosen is None:
            return None
        arrival, spot = chosen
        for ticket in self.queue:
            if tickets[ticket].job.arrival == arrival and tickets[ticket].call.place == spot:
                self.world.explored[chosen] = self.world.explored.get(chosen, 0) + 1
                return ticket
        return None

    def grant(self, ticket=None):
        assert self.queue, "nobody is there to be granted"
        assert self.holding < self.capacity, "no slot is there to be granted"
        explored = self._explored()
        assert ticket == explored, f"{ticket} was picked, and {explored} teaches most"
        expected = self.sorted()[0] if explored is None else explored
        granted = super().grant(ticket)
        assert granted == expected, f"{granted} was granted before {expected}"
        self.queue.remove(granted)
        return granted


class DispatcherMachine(RuleBasedStateMachine):
    """Jobs and calls in any order, released in any state and again, under one policy."""

    policy_name = "fcfs"

    @initialize(
        seed=st.integers(0, 2**32),
        slots=st.integers(1, 3),
        knows=st.sampled_from((True, True, True, False)),
        at_once=st.sampled_from((True, True, False)),
        crowd=st.lists(st.tuples(JOBS, STAGES), max_size=12),
    )
    def start(self, seed, slots, knows, at_once, crowd):
        if self.policy_name == "adversary":
            policy = Adversary(seed)
        elif self.policy_name == "explorer":
            policy = llmsched(epsilon=0.7, sample=0.5, seed=seed)
        else:
            policy = POLICIES[self.policy_name]
        self.policy = Watched(policy)
        self.ledgers = {name: WatchedLedger(slots).watch(name, self) for name in BACKENDS}
        self.profile = history() if knows else Profile()
        self.dispatcher = Dispatcher(SchedulerMachine(self.policy, self.profile), self.ledgers, at_once)
        self.explored: dict[tuple, int] = {}  # calls granted to learn from, by job and stage
        self.wanted: list = []  # beliefs that are still to be formed
        self.runs: dict[int, list[int]] = {}  # stage runs under way, by job
        self.run_numbers = 0
        self.now = 0.0
        self.tickets: dict[int, str] = {}  # ticket -> waiting, holding or released
        self.jobs_of: dict[int, int] = {}
        self.forced: set[int] = set()
        self.unforced_before = dict.fromkeys(BACKENDS, 0)
        self.jobs: set[int] = set()  # those that run
        self.arrived = self.direct = self.records = self.faults = 0
        for job, application in enumerate("xyxyz"):
            self.arrive(job, application)
        if crowd:  # a backlog, from the first step on
            for backend in BACKENDS:
                self.call(-1, "plan", backend, slots)
        for n, (job, stage) in enumerate(crowd):
            self.call(job, stage, BACKENDS[n % 4 == 3], 1)

    def _handle(self, event):
        settled = self.dispatcher.handle(event)
        for ticket in settled.granted:
            assert self.tickets[ticket] == "waiting"
            self.tickets[ticket] = "holding"
        for record in settled.records:
            self.profile = self.profile.observe(record)
        self.records += len(settled.records)
        self.faults += len(settled.faults)
        self.wanted += settled.wanted
        assert not (settled.wanted and self.dispatcher.at_once)
        return settled

    @rule(passed_s=WORK_S)
    def pass_time(self, passed_s):
        self.now += passed_s

    @rule(job=JOBS, application=st.sampled_from(["x", "y", "z"]))
    def arrive(self, job, application):
        if job not in self.jobs:
            self.jobs.add(job)
            self.arrived += 1
            self._handle(JobArrived(self.now, job, app(application)))

    @rule(job=JOBS, stage=STAGES, backend=st.sampled_from(BACKENDS), count=st.integers(1, 4))
    def call(self, job, stage, backend, count, forced=False, runs=()):
        for n in range(count):
            ticket = len(self.tickets)
            self.tickets[ticket] = "waiting"
            self.jobs_of[ticket] = job
            self.direct += job not in self.jobs
            if forced:
                self.forced.add(ticket)
            run = runs[n] if n < len(runs) else None
            settled = self._handle(CallRequested(self.now, ticket, backend, stage, job, forced, run))
            assert not forced or ticket in settled.granted

    @rule(job=JOBS, stage=STAGES, backend=st.sampled_from(BACKENDS), width=st.integers(1, 5))
    def fan_out(self, job, stage, backend, width):
        """Stage runs side by side, each of which makes a call."""
        if job in self.jobs:
            runs = list(range(self.run_numbers, self.run_numbers + width))
            self.run_numbers += width
            self.runs.setdefault(job, []).extend(runs)
            moves = (Revealed(tuple((run, stage) for run in runs)), *map(Began, runs))
            self._handle(StagesMoved(self.now, job, moves))
            self.call(job, stage, backend, width, runs=runs)

    @precondition(lambda self: any(self.runs.values()))
    @rule(choice=TICKETS, again=st.booleans())
    def end_run(self, choice, again):
        job, run = [(job, run) for job, runs in sorted(self.runs.items()) for run in runs][
            choice % sum(map(len, self.runs.values()))
        ]
        self.runs[job].remove(run)
        self._handle(StagesMoved(self.now, job, (Ended(run, 1.0, not again, again),)))

    @precondition(lambda self: self.wanted)
    @rule(choice=TICKETS)
    def form(self, choice):
        """A belief is there, maybe long after it was asked for, and maybe not the one asked for last."""
        command = self.wanted.pop(choice % len(self.wanted))
        self._handle(BeliefFormed(self.now, command.arrival, command.belief()))

    @rule(job=JOBS, stage=STAGES, backend=st.sampled_from(BACKENDS))
    def force(self, job, stage, backend):
        """A call that cannot wait, of a job that has waiting calls if there is one."""
        waiting = {self.jobs_of[t] for t, state in self.tickets.items() if state == "waiting"}
        crowd = sorted(waiting & self.jobs)
        self.call(crowd[job % len(crowd)] if crowd else job, stage, backend, 1, forced=True)

    @precondition(lambda self: self.tickets)
    @rule(choice=TICKETS, outcome=st.sampled_from(Outcome))
    def release(self, choice, outcome):
        ticket = choice % (len(self.tickets) + 1)  # one of them was never requested
        before = self.tickets.get(ticket, "released")
        settled = self._handle(CallReleased(self.now, ticket, outcome, Usage(1, 1)))
        assert before != "released" or not settled.granted
        if ticket in self.tickets:
            self.tickets[ticket] = "released"

    @precondition(lambda self: "holding" in self.tickets.values())
    @rule(choice=TICKETS, passed_s=WORK_S)
    def finish(self, choice, passed_s):
        holding = [ticket for ticket, state in self.tickets.items() if state == "holding"]
        self.now += passed_s
        self.release(holding[choice % len(holding)], Outcome.FINISHED)

    @rule(job=JOBS, outcome=st.sampled_from(Outcome))
    def end(self, job, outcome):
        self.jobs.discard(job)
        self.runs.pop(job, None)
        self._handle(JobEnded(self.now, job, outcome))

    @rule(backend=st.sampled_from(BACKENDS), slots=st.integers(1, 6))
    def resize(self, backend, slots):
        self._handle(CapacityChanged(self.now, backend, slots))

    @rule(applications=st.frozensets(st.sampled_from(["x", "y", "z"])), stage=STAGES, work_s=WORK_S)
    def learn(self, applications, stage, work_s):
        for application in sorted(applications):
            self.profile = self.profile.observe(ended(application, (stage, work_s), (stage, 1.0)))
        self._handle(ProfileLearned(self.now, self.profile, applications))

    @invariant()
    def sound(self):
        """What the dispatcher says of itself, and what can be seen from outside, after every step."""
        for name, ledger in self.ledgers.items():
            ledger.check(held_before=self.unforced_before[name])
            unforced = len(set(ledger.holders()) - self.forced)
            assert unforced <= max(ledger.capacity, self.unforced_before[name])
            self.unforced_before[name] = unforced
            assert not (ledger.waiting and ledger.holding < ledger.capacity), (
                "a free slot beside a waiting ticket"
            )
            assert list(ledger.backlog()) == ledger.sorted()
        self.dispatcher.check(held_before=max(self.unforced_before.values()))
        held = [ticket for ledger in self.ledgers.values() for ticket in ledger.holders()]
        waiting = [ticket for ledger in self.ledgers.values() for ticket in ledger.backlog()]
        assert sorted(held) == [t for t, state in self.tickets.items() if state == "holding"]
        assert sorted(waiting) == [t for t, state in self.tickets.items() if state == "waiting"]
        assert self.faults == self.policy.faults

    def teardown(self):
        """Whatever happened, releasing every ticket and ending every job leaves nothing behind."""
        if not hasattr(self, "dispatcher"):
            return
        for ticket in self.tickets:
            self._handle(CallReleased(self.now, ticket))
        while self.wanted:
            self.form(0)
        for job in list(self.jobs):
            self.end(job, Outcome.FINISHED)
        machine = self.dispatcher.machine
        assert all((ledger.holding, ledger.waiting) == (0, 0) for ledger in self.ledgers.values())
        assert (machine.jobs, machine.holding(), machine.waiting()) == (0, set(), set())
        assert machine._tickets == {}
        assert self.records == self.arrived + self.direct, "each job is recorded once"
        self.dispatcher.check()


@pytest.mark.parametrize("policy", [*POLICIES, "explorer", "adversary"])
def test_dispatcher(policy):
    """Under this policy no sequence of events breaks an invariant or loses a ticket."""
    machine = type("DispatcherUnder", (DispatcherMachine,), {"policy_name": policy})
    run_state_machine_as_test(machine, settings=QUIET)
