"""The machine under every policy and random events, watched from outside: who is granted, and when.

Beside it runs a twin whose decisions are broken off at random lines and then made again: it must come to the
same grants, the same story and the same records.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from functools import cache
from math import ceil

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
from support.applications import app
from support.breaking import Breaking, Broken
from support.ended import ended
from support.exploring import JOBS as LOOKED_AT
from support.exploring import choice, coin

from llmsched_langgraph import Application, Backend, Profile
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._core import ending
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
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.values import Grant, Waiting
from llmsched_langgraph.policies import POLICIES, JobInfo, Needs, llmsched

# Only a failure takes long: Hypothesis may look for a simpler one for five minutes.
pytestmark = pytest.mark.timeout(400)

QUIET = settings(
    deadline=None,
    database=None,
    max_examples=60,
    stateful_step_count=40,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)

BACKENDS = ("b", "c")
STAGES = st.sampled_from(["plan", "act", "answer"])
TICKETS = st.integers(0, 60)
JOBS = st.integers(0, 4)
WORK_S = st.floats(0.0, 9.0)
THREADS = st.sampled_from(["one", "other"])
APPLICATIONS = st.sampled_from(["x", "y", "z"])
FAILURES = st.sampled_from((None, None, None, Failure(500), Failure(429, 4.0), Failure(429, 0.5)))


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
    """Gives any number at all, no number, or an error, as its seed and the job have it."""

    name = "adversary"

    def __init__(self, seed):
        self._seed = seed

    def order(self, job, now):
        told = (self._seed, job.number, job.work_s, job.holding, job.waiting, job.remaining_s, now)
        chance = random.Random(repr(told))
        match chance.randrange(8):
            case 0:
                return chance.choice([math.inf, -math.inf, math.nan])
            case 1:
                raise ValueError("adversary")
            case 2:
                return "not a number"
            case 3:
                return chance.uniform(-1e9, 1e9)
            case _:
                return chance.randrange(4)


@dataclass
class Watched:
    """A policy that notes what it last said of each job, and breaks off when it is told to."""

    policy: object
    said: dict[int, float] = field(default_factory=dict)
    faults: int = 0
    breaks_in: int = 0

    def __post_init__(self):
        if hasattr(self.policy, "hear"):
            self.hear = self.policy.hear

    @property
    def name(self):
        return self.policy.name

    @property
    def needs(self):
        return getattr(self.policy, "needs", Needs.NOTHING)

    @property
    def exploration(self):
        return getattr(self.policy, "exploration", None)

    def order(self, job, now):
        self.breaks_in -= 1
        if self.breaks_in == 0:
            raise Broken(self.name)
        understood = 0.0  # what counts instead of an error or of what is no number
        try:
            order = self.policy.order(job, now)
            if not isinstance(order, str) and not math.isnan(order):
                understood = float(order)
            else:
                self.faults += 1
        except ValueError:
            self.faults += 1
            raise
        finally:
            self.said[job.number] = understood
        return order


class WatchedLedger(MemoryLedger):
    """A ledger whose every grant is compared with the jobs' last known orders and the tickets' arrivals.

    And, where the coin says so, with what teaches most.
    """

    def watch(self, world):
        self.world = world

    def admit(self, now, request):
        backend = request.lane[0]
        pool = self.backend(backend)
        open_ = not pool.waiting and pool.holding < pool.slots and now >= pool.ready_s
        grant = super().admit(now, request)
        assert (grant is not None) == (request.forced or open_), "overtook, or waits beside a slot"
        return grant

    def settle(self, now):
        expected = {name: self._expected(name, now) for name in BACKENDS}
        news, wake_s = super().settle(now)
        for one in news:
            backend = one.grant.lane[0]
            assert (one.ticket, one.grant.reason) == expected[backend], f"and not {one.ticket} at {backend}"
            if one.grant.reason == "explore":
                at = one.grant.lane[1:]
                self.world.explored[at] = self.world.explored.get(at, 0) + 1
        assert news or expected == dict.fromkeys(BACKENDS)
        return news, wake_s

    def _jobs(self):
        return {job.number: job for job in self.world.machine.known()}

    def sorted(self, backend):
        """Waiting tickets, the next one first: by level and order, and of equal ones the earliest."""
        waiting = {t: claim for t, claim in self.view().waiting.items() if claim.lane[0] == backend}
        jobs, said = self._jobs(), self.world.policy.said

        def place(ticket):
            number = waiting[ticket].lane[1]
            return jobs[number].info.priority, said[number]

        return sorted(waiting, key=place)

    def _expected(self, backend, now):
        """The ticket that is to be granted, and the reason; None if none can be."""
        pool = self.backend(backend)
        line = self.sorted(backend)
        if not line or pool.holding >= pool.slots or now < pool.ready_s:
            return None
        # Whose turn it is among tenants is held against a model by the suite of the ledger.
        jobs, claims = self._jobs(), self.view().waiting
        _, level, tenant = self._turns.next(now, backend)
        assert level == jobs[claims[line[0]].lane[1]].info.priority
        line = [ticket for ticket in line if jobs[claims[ticket].lane[1]].info.tenant == tenant]
        explored = self._explored(line, pool.granted + 1, now)
        return (line[0], "order") if explored is None else (explored, "explore")

    def _explored(self, line, number, now):
        """The ticket that is to be granted for what it teaches, if there is one."""
        exploration = self.world.policy.exploration
        if exploration is None or not coin(exploration.seed, number, exploration.epsilon):
            return None
        jobs, claims = self._jobs(), self.view().waiting
        level = jobs[claims[line[0]].lane[1]].info.priority
        line = [ticket for ticket in line if jobs[claims[ticket].lane[1]].info.priority == level]
        numbers = list(dict.fromkeys(claims[ticket].lane[1] for ticket in line))[:LOOKED_AT]
        ready, intervals, first = {}, {}, {}
        for ticket in sorted(line, key=lambda ticket: claims[ticket].arrival):
            _, job, stage_occurrence = claims[ticket].lane
            known = jobs[job]
            if job not in numbers or known.belief is None:
                continue
            lo, hi = known.belief.bounds
            less = min(max(known.progress.work_s(now) - known.believed_at_s, 0.0), lo)
            intervals[job] = (lo - less, hi - less)
            first.setdefault((job, stage_occurrence), ticket)
            enough = ceil(exploration.sample * known.progress.works[stage_occurrence].calls)
            if self.world.explored.get((job, stage_occurrence), 0) < enough:
                taught = known.belief.uncertainty_reduction(stage_occurrence)
                ready.setdefault((job, stage_occurrence), (taught, claims[ticket].arrival))
        chosen = choice(ready, intervals)
        return None if chosen is None else first[chosen]


def seen(entry):
    """An entry of the story without what is another object in each machine."""
    detail = entry.detail
    match entry.kind:
        case "JobClosed" | "CallClosed":
            detail = ending.ended(detail)
        case "PolicyFailed":
            detail = repr(detail)
        case "BeliefWanted":
            detail = (detail.job, detail.model, detail.evidence, detail.needs)
    return entry._replace(detail=detail)


class MachineWalk(RuleBasedStateMachine):
    """Jobs and calls in any order, released in any state and again, under one policy."""

    policy_name = "fcfs"

    @initialize(
        seed=st.integers(0, 2**32),
        slots=st.integers(1, 3),
        knows=st.sampled_from((True, True, True, False)),
        at_once=st.sampled_from((True, True, False)),
        crowd=st.lists(st.tuples(JOBS, STAGES), max_size=12),
        levels=st.sampled_from(((0,) * 5, (0,) * 5, (0, 0, 1, 1, 0), (1, 0, 2, 0, 2))),
        owners=st.sampled_from(("     ", "     ", "ababc", "a b a")),
        shaken=st.sampled_from((0, 1, 2)),
    )
    def start(self, seed, slots, knows, at_once, crowd, levels, owners, shaken):
        self.profile = history() if knows else Profile()
        self.policy, self.machine = self._made(seed, slots, at_once)
        self.twin_policy, self.twin = self._made(seed, slots, at_once)
        self.machine.ledger.__class__ = WatchedLedger
        self.machine.ledger.watch(self)
        self.lines: list[int] = []  # at which the twin's next decision is broken off
        self.shaken, self.chance = shaken, random.Random(seed)  # how often each decision is, at random lines
        self.explored: dict[tuple, int] = {}  # calls granted to learn from, by job and stage
        self.wanted: list = []  # beliefs that are still to be formed
        self.runs: dict[int, list[int]] = {}  # stage runs under way, by job
        self.stage_events: dict[int, list] = {}
        self.run_numbers = 0
        self.now = 0.0
        self.tickets: dict[int, str] = {}  # ticket -> waiting, holding or released
        self.jobs_of: dict[int, int] = {}
        self.forced: set[int] = set()
        self.unforced_before = dict.fromkeys(BACKENDS, 0)
        self.jobs: dict[int, str] = {}  # those that run, with their applications
        self.paused: set[tuple[str, str]] = set()
        self.arrived = self.direct = self.records = self.faults = 0
        self.last = None
        for job, application in enumerate("xyxyz"):
            self.arrive(job, application, levels[job], owner=owners[job].strip())
        if crowd:  # a backlog, from the first step on
            for backend in BACKENDS:
                self.call(-1, "plan", backend, slots)
        for n, (job, stage) in enumerate(crowd):
            self.call(job, stage, BACKENDS[n % 4 == 3], 1)

    def _made(self, seed, slots, at_once):
        if self.policy_name == "adversary":
            policy = Adversary(seed)
        elif self.policy_name == "explorer":
            policy = llmsched(epsilon=0.7, sample=0.5, seed=seed)
        else:
            policy = as_policy(self.policy_name)
        watched = Watched(policy)
        backends = [Backend(name, slots) for name in BACKENDS]
        return watched, SchedulerMachine(watched, backends, self.profile, at_once=at_once)

    def _handle(self, event):
        """What the story tells of it; the twin tells the same, however often it is disturbed."""
        self.last = event
        before = self.machine.story.last
        self.machine.handle(self.now, event)
        entries = self.machine.story.after(before)
        where, lines = [], self.lines
        self.lines = [int(math.exp(self.chance.uniform(0.0, 5.3))) for _ in range(self.shaken)]
        for line in lines:
            try:
                with Breaking(line) as breaking:
                    self.twin.handle(self.now, event)
            except Broken:
                where.append(breaking.where)
        self._retry(event, where)
        told = self.twin.story.after(before)
        assert [seen(entry) for entry in told] == [seen(entry) for entry in entries], where
        assert self.twin.ledger.view() == self.machine.ledger.view(), where
        assert self.twin.jobs == self.machine.jobs, where
        granted = [entry.ticket for entry in entries if entry.kind == "SlotGranted"]
        for ticket in granted:
            assert self.tickets[ticket] == "waiting"
            self.tickets[ticket] = "holding"
            assert {ticket} <= self.machine.untold.keys() & self.twin.untold.keys()
        for entry in entries:
            if entry.kind in ("JobClosed", "CallClosed"):
                self.profile = self.profile.observe(ending.ended(entry.detail))
                self.records += 1
        self.faults += sum(entry.kind == "PolicyFailed" for entry in entries)
        self.wanted += [entry.detail for entry in entries if entry.kind == "BeliefWanted"]
        assert not (self.wanted and self.machine._at_once)
        return granted

    def _retry(self, event, where):
        while True:
            try:
                self.twin.handle(self.now, event)
            except Broken as broken:  # of the policy
                where.append(str(broken))
            else:
                return

    def _pass(self, passed_s):
        self.now += passed_s
        for machine in (self.machine, self.twin):
            wake_s = machine.wake_s
            if wake_s is not None and wake_s <= self.now:
                self._handle(Ticked())
                return

    @rule(passed_s=WORK_S)
    def pass_time(self, passed_s):
        self._pass(passed_s)

    @rule(lines=st.lists(st.integers(1, 160), min_size=1, max_size=3), calls=st.integers(0, 3))
    def disturb(self, lines, calls):
        """The twin's next decision is broken off at these lines, or by its policy; then it is made again."""
        self.lines = lines
        self.twin_policy.breaks_in = calls

    @rule()
    def again(self):
        """What happened already changes nothing."""
        if isinstance(
            self.last, (CallRequested, CallReleased, CallDismissed, JobEnded, JobPaused, StagesChanged)
        ):
            before = dict(self.machine._committed)
            assert self._handle(self.last._replace()) == []
            assert self.machine._committed == before

    @rule(job=JOBS, application=APPLICATIONS, priority=st.sampled_from((0, 0, 0, -1, 3)))
    def arrive(self, job, application, priority=0, resumes=None, owner=""):
        if job not in self.jobs:
            self.jobs[job] = application
            if (application, resumes) in self.paused:
                self.paused.discard((application, resumes))
            else:
                self.arrived += 1
            self.stage_events[job] = []
            info = JobInfo(application=app(application), priority=priority, tenant=owner)
            self._handle(JobArrived(job, info, resumes, self.stage_events[job]))

    @rule(job=JOBS, application=APPLICATIONS, thread=THREADS)
    def resume(self, job, application, thread):
        self.arrive(job, application, 0, thread)

    @rule(job=JOBS, thread=THREADS)
    def pause(self, job, thread):
        """A pause on the thread of another ends that one for good."""
        if job in self.jobs:
            self.paused.add((self.jobs.pop(job), thread))
            self.runs.pop(job, None)
        self._handle(JobPaused(job, thread))

    @rule(job=JOBS, stage=STAGES, backend=st.sampled_from(BACKENDS), count=st.integers(1, 4))
    def call(self, job, stage, backend, count, forced=False, runs=()):
        for n in range(count):
            ticket = len(self.tickets) + 1
            self.tickets[ticket] = "waiting"
            self.jobs_of[ticket] = job
            self.direct += job not in self.jobs
            if forced:
                self.forced.add(ticket)
            run = runs[n] if n < len(runs) else None
            granted = self._handle(CallRequested(ticket, backend, stage, job, forced, run))
            assert not forced or ticket in granted

    @rule(job=JOBS, stage=STAGES, backend=st.sampled_from(BACKENDS), width=st.integers(1, 5))
    def fan_out(self, job, stage, backend, width):
        """Stage runs side by side, each of which makes a call."""
        if job in self.jobs:
            runs = list(range(self.run_numbers, self.run_numbers + width))
            self.run_numbers += width
            self.runs.setdefault(job, []).extend(runs)
            self.stage_events[job] += (Revealed(tuple((run, stage) for run in runs)), *map(Began, runs))
            self._handle(StagesChanged(job))
            self.call(job, stage, backend, width, runs=runs)

    @precondition(lambda self: any(self.runs.values()))
    @rule(choice=TICKETS, again=st.booleans())
    def end_run(self, choice, again):
        job, run = [(job, run) for job, runs in sorted(self.runs.items()) for run in runs][
            choice % sum(map(len, self.runs.values()))
        ]
        self.runs[job].remove(run)
        self.stage_events[job].append(Ended(run, 1.0, not again, again))
        self._handle(StagesChanged(job))

    @precondition(lambda self: self.wanted)
    @rule(choice=TICKETS)
    def form(self, choice):
        """A belief is there, maybe long after it was asked for, and maybe not the one asked for last."""
        wanted = self.wanted.pop(choice % len(self.wanted))
        self._handle(BeliefFormed(wanted.job, wanted.belief()))

    @rule(job=JOBS, stage=STAGES, backend=st.sampled_from(BACKENDS))
    def force(self, job, stage, backend):
        """A call that cannot wait, of a job that has waiting calls if there is one."""
        waiting = {self.jobs_of[t] for t, state in self.tickets.items() if state == "waiting"}
        crowd = sorted(waiting & self.jobs.keys())
        self.call(crowd[job % len(crowd)] if crowd else job, stage, backend, 1, forced=True)

    @precondition(lambda self: self.tickets)
    @rule(choice=TICKETS, outcome=st.sampled_from(Outcome), failure=FAILURES)
    def release(self, choice, outcome, failure=None):
        ticket = 1 + choice % (len(self.tickets) + 1)  # one of them was never requested
        before = self.tickets.get(ticket, "released")
        granted = self._handle(CallReleased(ticket, outcome, Usage(1, 1), failure))
        assert before != "released" or not granted
        if ticket in self.tickets:
            self.tickets[ticket] = "released"

    @precondition(lambda self: self.tickets)
    @rule(choice=TICKETS)
    def dismiss(self, choice):
        """Only a call that waits is sent away."""
        ticket = 1 + choice % (len(self.tickets) + 1)
        self._handle(CallDismissed(ticket))
        if self.tickets.get(ticket) == "waiting":
            self.tickets[ticket] = "released"

    @precondition(lambda self: self.tickets)
    @rule(choice=TICKETS)
    def die(self, choice):
        """What held the ticket is gone: the same as its release."""

        class Holder:
            pass

        ticket = 1 + choice % len(self.tickets)
        died = HolderDied(Holder())
        died.ticket = ticket
        self._handle(died)
        self.tickets[ticket] = "released"

    @precondition(lambda self: "holding" in self.tickets.values())
    @rule(choice=TICKETS, passed_s=WORK_S)
    def finish(self, choice, passed_s):
        self._pass(passed_s)
        holding = [ticket for ticket, state in self.tickets.items() if state == "holding"]
        self.release(holding[choice % len(holding)] - 1, Outcome.FINISHED)

    @rule(job=JOBS, outcome=st.sampled_from(Outcome))
    def end(self, job, outcome):
        self.jobs.pop(job, None)
        self.runs.pop(job, None)
        self._handle(JobEnded(job, outcome))

    @rule(backend=st.sampled_from(BACKENDS), slots=st.integers(1, 6))
    def resize(self, backend, slots):
        self._handle(BackendConfigured(Backend(backend, slots)))

    @rule(applications=st.frozensets(APPLICATIONS), stage=STAGES, work_s=WORK_S)
    def learn(self, applications, stage, work_s):
        for application in sorted(applications):
            self.profile = self.profile.observe(ended(application, (stage, work_s), (stage, 1.0)))
        self._handle(ProfileLearned(self.profile, applications))

    @invariant()
    def sound(self):
        """What the machine says of itself, and what can be seen from outside, after every step."""
        self.machine.check(self.now)
        self.twin.check(self.now)
        ledger = self.machine.ledger
        view = ledger.view()
        wake_s = math.inf
        for name, pool in view.backends.items():
            unforced = sum(
                grant.lane[0] == name and ticket not in self.forced for ticket, grant in view.holding.items()
            )
            assert unforced <= max(pool.slots, self.unforced_before[name])
            self.unforced_before[name] = unforced
            if pool.waiting and pool.holding < pool.slots:
                assert self.now < pool.ready_s, "a free slot beside a waiting ticket"
                wake_s = min(wake_s, pool.ready_s)
            orders = [ledger._committed[view.waiting[ticket].lane][:2] for ticket in ledger.sorted(name)]
            assert orders == sorted(orders), "the ledger has not heard of an order"
        for machine in (self.machine, self.twin):
            assert wake_s == math.inf or machine.wake_s <= wake_s, "the end of a pause would be missed"
        states = {"waiting": list(view.waiting), "holding": list(view.holding)}
        for state, tickets in states.items():
            assert sorted(tickets) == [t for t, own in self.tickets.items() if own == state]
        for ticket, state in self.tickets.items():
            claim = ledger.claim(ticket)
            assert {"waiting": Waiting, "holding": Grant, "released": type(None)}[state] is type(claim)
        assert self.faults == self.policy.faults
        assert self.machine.jobs == len(self.jobs)

    def teardown(self):
        """Whatever happened, releasing every ticket and ending every job leaves nothing behind."""
        if not hasattr(self, "machine"):
            return
        for ticket in self.tickets:
            self._handle(CallReleased(ticket))
        while self.wanted:
            self.form(0)
        for job in list(self.jobs):
            self.end(job, Outcome.FINISHED)
        for application, thread in sorted(self.paused):
            self.arrive(0, application, 0, thread)
            self.end(0, Outcome.FINISHED)
        self.lines, self.shaken = [], 0
        self.resize("b", 1)  # what a decision that was broken off has left behind goes with the next
        for machine in (self.machine, self.twin):
            view = machine.ledger.view()
            assert (dict(view.waiting), dict(view.holding)) == ({}, {})
            assert (machine.jobs, list(machine.known())) == (0, [])
            assert {type(key) for key in machine._committed} == {str}, "something is left of them"
            machine.check(self.now)
        machine = self.machine
        left = [machine._jobs._jobs, machine._jobs._ids, machine._life._paused, machine.untold]
        assert left == [{}, {}, {}, {}]
        assert machine.ledger._queues.of == {}
        assert self.records == self.arrived + self.direct, "each job is recorded once"


@pytest.mark.parametrize("policy", [*POLICIES, "explorer", "adversary"])
def test_dispatcher(policy):
    """Under this policy no sequence of events breaks an invariant or loses a ticket."""
    machine = type("MachineUnder", (MachineWalk,), {"policy_name": policy})
    run_state_machine_as_test(machine, settings=QUIET)
