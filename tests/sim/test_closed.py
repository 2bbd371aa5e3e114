"""Closed loops: what a client submits depends on what ended; open arrivals beside it stay as they are."""

from __future__ import annotations

import itertools
from math import ceil, inf

import pytest

from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.tenants import Tenants
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Client, Poisson, TimedJob, arrive, closed_loop, generate
from llmsched_langgraph.policies import POLICIES
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage


def chain(app, *seconds, **fields):
    """Calls one after the other."""
    stages = tuple(
        EndedStage(name="s", kind="llm", deps=(n - 1,) if n else (), calls=(EndedCall(None, None, s),))
        for n, s in enumerate(seconds)
    )
    return EndedJob(id=app, app=app, stages=stages, **fields)


FCFS = as_policy("fcfs")
SHORT, LONG = chain("short", 1.0), chain("long", *[1.0] * 20)
KNOWN = [SHORT] * 4 + [LONG] * 4
PROFILE, TEMPLATES = learned_from(KNOWN), templates_of(KNOWN)
CLIENTS, SLOTS = 16, 2
USUAL = Overdue()


def spans(run):
    return [(done.job.app, done.arrival_s, done.end_s) for done in run.jobs]


def test_a_client_has_one_job_at_a_time():
    """It waits for the end, then thinks; begins again after its last job; submits none at `until_s`."""
    client = Client([chain("a", 2.0), chain("b", 1.0, 1.0)], 14.0, (0.5, 1.5))
    run = Simulation([client.first()], slots=3, policy=FCFS).run()
    assert spans(run) == [
        ("a", 0.5, 2.5),
        ("b", 4.0, 6.0),
        ("a", 6.5, 8.5),
        ("b", 10.0, 12.0),
        ("a", 12.5, 14.5),
    ]
    assert Client([chain("a", 2.0)], 0.0).first() is None


def test_clients_wait_for_each_other():
    """On one slot, each waits for the other; jobs are in order of arrival, open ones among them."""
    loop = [Client([chain(name, 1.0)], 4.0).first() for name in "ab"]
    run = Simulation([*loop, TimedJob(2.5, chain("open", 1.0))], slots=1, policy=FCFS).run()
    assert spans(run) == [
        ("a", 0.0, 1.0),
        ("b", 0.0, 2.0),
        ("a", 1.0, 3.0),
        ("b", 2.0, 4.0),
        ("open", 2.5, 5.0),
        ("a", 3.0, 6.0),
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_loop_again(policy):
    """The same first jobs can be simulated any number of times, under every policy."""
    jobs = generate("chain", 24, 5)
    loop = closed_loop(jobs, clients=8, until_s=400.0, think_s=3.0, seed=2)
    one, other = (Simulation(loop, slots=3, policy=as_policy(policy), keep=True).run() for _ in range(2))
    assert one == other
    assert len(one.jobs) > 24
    for number in range(8):
        own = [done.job for done in one.jobs if done.job in jobs[number::8]]
        assert own == [jobs[number::8][n % 3] for n in range(len(own))]
    order = [done.arrival_s for done in one.jobs]
    assert order == sorted(order)


def test_open_arrivals_have_no_followers():
    timed = arrive(generate("chain", 20, 1), Poisson(), load=1.0, slots=2, seed=1)
    assert all(one.then is None for one in timed)
    assert len(Simulation(timed, slots=2, policy=FCFS).run().jobs) == 20


@pytest.mark.parametrize(
    ("jobs", "until_s", "think_s", "error"),
    [
        ([], 1.0, (0.0,), "at least one job"),
        ([SHORT], 1.0, (), "one think time"),
        ([SHORT], 1.0, (-1.0,), "finite and 0 or more"),
        ([SHORT], inf, (0.0,), "finite and 0 or more"),
        ([chain("none"), chain("zero", 0.0)], 1.0, (0.0, 0.0), "would never end: set think_s"),
    ],
)
def test_clients_that_are_none(jobs, until_s, think_s, error):
    with pytest.raises(ConfigurationError, match=error):
        Client(jobs, until_s, think_s)


@pytest.mark.parametrize(
    "wrong", [{"clients": 0}, {"clients": 3}, {"seed": -1}, {"think_s": -1.0}, {"think_s": inf}]
)
def test_loops_that_are_none(wrong):
    with pytest.raises(ConfigurationError, match="closed loop: clients must be"):
        closed_loop([SHORT, SHORT], **{"clients": 2, "until_s": 1.0, **wrong})


class Grants:
    """The grants of a simulation: (time, tenant, priority, reason), with the priorities that waited then."""

    def __init__(self, jobs, policy="srtf", overdue=USUAL, slots=SLOTS):
        self.made = []
        run = Simulation(
            jobs,
            slots=slots,
            policy=as_policy(policy),
            profile=PROFILE,
            applications=dict(TEMPLATES),
            overdue=overdue,
            tenants=Tenants(),
        )
        machine, handle = run._machine, run._machine.handle
        waiting, read = {}, 0

        def heard(now, event):
            nonlocal read
            handle(now, event)
            infos = {job.number: job.info for job in machine.known()}
            for entry in machine.story.after(read):
                read = entry.number
                if entry.kind == "CallQueued":
                    waiting[entry.ticket] = infos[entry.job].priority
                elif entry.kind == "SlotGranted":
                    waiting.pop(entry.ticket, None)
                    info = infos[entry.job]
                    self.made.append(
                        (
                            now,
                            info.tenant,
                            info.priority,
                            entry.detail.reason,
                            min(waiting.values(), default=9),
                        )
                    )

        machine.handle = heard
        self.jobs = run.run().jobs


def flood(until_s, clients=CLIENTS, **fields):
    return [Client([chain("short", 1.0, **fields)], until_s).first() for _ in range(clients)]


def bound_s(overdue, slots=SLOTS, before=0):
    """JCT <= work + max_wait_s + m ceil(every (1 + q) / k) S."""
    return 20.0 + overdue.max_wait_s + 20 * ceil(overdue.every * (1 + before) / slots)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_long_job_beside_short_ones_for_ever(policy):
    """By default settings it ends within the bound under every policy; shorts never wait so long: q is 0."""
    until_s = bound_s(USUAL) + 10.0
    jobs = Grants([TimedJob(0.0, LONG), *flood(until_s)], policy, USUAL).jobs
    (long,) = (done for done in jobs if done.job.app == "long")
    assert max(done.jct_s for done in jobs if done is not long) < USUAL.max_wait_s
    assert long.jct_s <= bound_s(USUAL)
    assert max(done.arrival_s for done in jobs) > long.end_s  # the flood went on


@pytest.mark.parametrize("policy", ["srtf", "sjf", "gittins", "llmsched"])
def test_without_the_bound_the_flood_decides(policy):
    """The long job ends only after the last short one was submitted, or after many times its bound."""
    late = [TimedJob(0.5, LONG), *flood(1_500.0)]
    (long,) = (done for done in Grants(late, policy, UNBOUNDED).jobs if done.job.app == "long")
    assert long.jct_s > bound_s(Overdue())


def test_only_overdue_grants_invert_priorities():
    """A smaller priority waits while a larger one is granted: only if that one is overdue."""
    jobs = [*flood(400.0, 8, priority=0), *flood(400.0, 4, priority=-2), *flood(400.0, 4, priority=3)]
    made = Grants(jobs, overdue=Overdue(20.0, 8)).made
    inverted = [reason for _, _, priority, reason, least in made if priority > least]
    assert set(inverted) == {"overdue"}
    assert len(inverted) > 10


def test_deadlines_do_not_invert_priorities():
    """They go first inside their level only."""
    due = [TimedJob(float(n), chain("short", 1.0, priority=3), deadline_s=4.0) for n in range(50)]
    mild = [TimedJob(float(n), chain("short", 1.0, priority=0), deadline_s=2.5) for n in range(50)]
    made = Grants([*due, *mild, *flood(60.0, 4, priority=0)], overdue=UNBOUNDED).made
    assert {"deadline", "order"} <= {reason for _, _, _, reason, _ in made}
    assert not [1 for _, _, priority, _, least in made if priority > least]


@pytest.mark.parametrize("hoarders", [2, 30])
def test_overdue_grants_cannot_be_hoarded(hoarders):
    """A tenant all of whose jobs are overdue gets no more service than its share; the other one no less.

    Its overdue grants are charged to it, so they come out of its own turns.
    """
    hoard = [Client([chain("long", *[1.0] * 20, tenant="hoarder")], 600.0).first() for _ in range(hoarders)]
    fair = flood(600.0, 8, tenant="fair")
    made = [one for one in Grants([*hoard, *fair], overdue=Overdue(0.0, 4)).made if 50.0 < one[0] < 600.0]
    mine = sum(tenant == "hoarder" for _, tenant, *_ in made)
    assert any(reason == "overdue" and tenant == "hoarder" for _, tenant, _, reason, _ in made)
    assert 0.47 <= mine / len(made) <= 0.53
    overdue = [n for n, one in enumerate(made) if one[3] == "overdue"]
    assert min(after - before for before, after in itertools.pairwise(overdue)) >= 4
