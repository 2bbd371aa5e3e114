"""The simulator: jobs under a virtual clock, by the machine that runs live, against what can be computed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph import Application
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.lab.sim.evaluation import learned_from, templates_of
from llmsched_langgraph.lab.sim.latency import LATENCY_MODELS, LatencyModel
from llmsched_langgraph.lab.sim.references import Clairvoyant, lower_bound_s
from llmsched_langgraph.lab.sim.servers import BatchingReplicas, Handover, SlotServer
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import Poisson, TimedJob, arrive, generate
from llmsched_langgraph.policies import POLICIES
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage


def llm(name, *seconds, deps=()):
    return EndedStage(
        name=name, kind="llm", deps=tuple(deps), calls=tuple(EndedCall(10, 10, s) for s in seconds)
    )


def tool(name, seconds, deps=()):
    return EndedStage(name=name, kind="tool", deps=tuple(deps), calls=(EndedCall(None, None, seconds),))


def job(*stages, named="j"):
    return EndedJob(id=named, app="app", jct_s=None, stages=stages)


def chain(*seconds, named="j"):
    """Calls one after the other."""
    stages = [llm("s", s, deps=(n - 1,) if n else ()) for n, s in enumerate(seconds)]
    return job(*stages, named=named)


def jcts(timed, policy, **options):
    options = {"slots": 1, **options}
    return [done.jct_s for done in Simulation(timed, policy=policy, **options).run().jobs]


FCFS = as_policy("fcfs")


def test_stages_wait_for_what_they_depend_on():
    """Calls of a stage run side by side, a stage begins when all before it are over, tools take no slot."""
    diamond = job(
        llm("plan", 1.0),
        llm("work", 2.0, 3.0, deps=[0]),
        tool("search", 7.0, deps=[0]),
        llm("join", 1.0, deps=[1, 2]),
    )
    assert jcts([TimedJob(5.0, diamond)], FCFS, slots=4) == [9.0]
    assert jcts([TimedJob(5.0, diamond)], FCFS, slots=1) == [9.0]
    assert jcts([TimedJob(0.0, job(llm("s", 2.0, 3.0)))], FCFS, slots=1) == [5.0]


def test_odd_jobs():
    """No stages, a stage without calls, calls and tools that take no time."""
    odd = [
        job(),
        job(llm("s")),
        job(llm("s", 0.0), tool("t", 0.0, deps=[0])),
        job(llm("s"), llm("t", 1.0, deps=[0])),
    ]
    assert jcts([TimedJob(1.0, one) for one in odd], FCFS) == [0.0, 0.0, 0.0, 1.0]


def test_tools_can_be_few():
    """With so many executors only, tool stages wait in the order in which they came."""
    both = [TimedJob(0.0, job(tool("t", 4.0), named="a")), TimedJob(1.0, job(tool("t", 4.0), named="b"))]
    assert jcts(both, FCFS) == [4.0, 4.0]
    assert jcts(both, FCFS, tools=1) == [4.0, 7.0]


def test_priorities_of_jobs_count():
    """Smaller ones first; a recorded priority is that of the job."""
    late = replace(chain(3.0), priority=-1)
    timed = [TimedJob(0.0, chain(1.0)), TimedJob(0.1, chain(1.0)), TimedJob(0.2, late)]
    assert jcts(timed, FCFS) == pytest.approx([1.0, 4.9, 3.8])


def test_long_waits_come_first():
    """A job that waited for longer than the bound goes before shorter ones."""
    timed = [TimedJob(0.0, chain(1.0)), TimedJob(0.0, chain(5.0))]
    timed += [TimedJob(0.1 + n, chain(1.0)) for n in range(9)]
    clairvoyant = Clairvoyant(timed)
    assert jcts(timed, clairvoyant)[1] == pytest.approx(15.0)
    assert jcts(timed, clairvoyant, overdue=Overdue(3.0, 1))[1] == pytest.approx(8.0)


def test_calls_without_seconds_are_refused():
    """What nobody recorded cannot be replayed; the error says so."""
    unknown = [
        TimedJob(
            0.0,
            EndedJob(
                id="j",
                app="app",
                jct_s=None,
                stages=(EndedStage(name="s", kind="llm", deps=(), calls=(EndedCall(1, 1, None),)),),
            ),
        )
    ]
    with pytest.raises(InvalidDataError, match="fill them in first"):
        jcts(unknown, FCFS)
    with pytest.raises(InvalidDataError, match="job 'j' has a call without seconds"):
        Clairvoyant(unknown)


JOBS = st.lists(
    st.tuples(st.integers(0, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3)), min_size=1, max_size=6
)


def brute_force(timed):
    """The least sum of completion times on one slot, over every order in which the calls could be served."""
    jobs = [(at.arrival_s, tuple(stage.calls[0].seconds for stage in at.job.stages)) for at in timed]
    best = {}

    def least(now, done):
        left = [n for n, (_, calls) in enumerate(jobs) if done[n] < len(calls)]
        if not left:
            return 0.0
        state = (now, done)
        if state not in best:
            ready = [n for n in left if jobs[n][0] <= now]
            if not ready:
                return least(min(jobs[n][0] for n in left), done)
            found = []
            for n in ready:  # work conserving: somebody who is there is served
                end = now + jobs[n][1][done[n]]
                after = (*done[:n], done[n] + 1, *done[n + 1 :])
                over = end - jobs[n][0] if after[n] == len(jobs[n][1]) else 0.0
                found.append(over + least(end, after))
            best[state] = min(found)
        return best[state]

    return least(0.0, (0,) * len(jobs))


@settings(max_examples=60, deadline=None)
@given(JOBS)
def test_known_sizes_on_one_slot(made):
    """While all wait, the clairvoyant is optimal; otherwise it is no better than the optimum or the bound."""
    timed = [
        TimedJob(float(at), chain(*map(float, calls), named=f"j{n}")) for n, (at, calls) in enumerate(made)
    ]
    total = sum(jcts(timed, Clairvoyant(timed)))
    optimum = brute_force(timed)
    assert total >= optimum - 1e-9
    assert lower_bound_s(timed, 1) * len(timed) <= optimum + 1e-9
    # Between two calls of a job its slot goes to whoever waits: only jobs of one call are served in one go.
    first = TimedJob(0.0, chain(1.0, named="first"))
    whole = [TimedJob(0.5, chain(at.job.work_s, named=at.job.id)) for at in timed]
    waiting = [first, *whole]
    assert sum(jcts(waiting, Clairvoyant(waiting))) == pytest.approx(brute_force(waiting))


@settings(max_examples=40, deadline=None)
@given(JOBS, st.integers(1, 4), st.sampled_from(sorted(POLICIES)))
def test_any_policy(made, slots, policy):
    """Every call is served, no one beats the bound, and the same inputs give the same grants."""
    timed = [
        TimedJob(float(at), job(llm("s", *map(float, calls)), named=f"j{n}"))
        for n, (at, calls) in enumerate(made)
    ]
    one, other = (Simulation(timed, slots=slots, policy=as_policy(policy), keep=True).run() for _ in range(2))
    assert one == other
    assert one.records == other.records
    assert sorted(one.grants) == list(range(1, 1 + sum(len(calls) for _, calls in made)))
    mean = sum(done.jct_s for done in one.jobs) / len(timed)
    assert mean >= lower_bound_s(timed, slots) - 1e-9
    assert len(one.records) == len(timed)


def test_one_application_of_one_size():
    """Jobs that are all alike: policies that look at sizes equal the clairvoyant."""
    timed = arrive(
        [chain(1.0, 2.0, 3.0, named=f"j{n}") for n in range(60)], Poisson(), load=0.9, slots=2, seed=3
    )
    jobs = [at.job for at in timed]
    profile, templates = learned_from(jobs), templates_of(jobs)
    best = jcts(timed, Clairvoyant(timed), slots=2)
    for policy in ("srtf", "srtf_marginal", "llmsched", "gittins", "hermes"):
        done = Simulation(
            timed, slots=2, policy=as_policy(policy), profile=profile, applications=templates
        ).run()
        mean = sum(job.jct_s for job in done.jobs) / len(timed)
        assert mean == pytest.approx(sum(best) / len(best)), policy
    assert sum(jcts(timed, as_policy("sjf"), slots=2, profile=profile)) >= sum(best) - 1e-9


def test_records_know_stage_runs():
    """A simulation records what a live scheduler would: calls with stages, stages with their runs."""
    application = Application.of("app", ["plan", "work", "join"], [("plan", "work"), ("work", "join")])
    made = job(
        llm("plan", 1.0),
        llm("work", 1.0, deps=[0]),
        llm("work", 2.0, deps=[0]),
        llm("join", 1.0, deps=[1, 2]),
    )
    (record,) = (
        Simulation([TimedJob(0.0, made)], slots=4, policy=FCFS, applications={"app": application}, keep=True)
        .run()
        .records
    )
    assert record.fingerprint == application.fingerprint
    assert [(step.name, record.stage_occurrence(step), step.calls[0].seconds) for step in record.stages] == [
        ("plan", ("plan", 1), 1.0),
        ("work", ("work", 1), 1.0),
        ("work", ("work", 1), 2.0),
        ("join", ("join", 1), 1.0),
    ]
    assert [(run.name, run.occurrence, run.seconds) for run in record.runs] == [
        ("plan", 1, 1.0),
        ("work", 1, 1.0),
        ("work", 1, 2.0),
        ("join", 1, 1.0),
    ]


def test_batching_servers_share_the_calls():
    """Calls take as long as the servers' batches make them, and go to the server that runs the fewest."""
    latency = next(iter(LATENCY_MODELS.values()))
    timed = [TimedJob(0.0, job(llm("s", None), named=f"j{n}")) for n in range(4)]
    alone = Simulation(timed[:1], slots=8, policy=FCFS, server=BatchingReplicas(1, 8, latency)).run()
    crowded = Simulation(timed, slots=8, policy=FCFS, server=BatchingReplicas(1, 8, latency)).run()
    spread = Simulation(timed, slots=8, policy=FCFS, server=BatchingReplicas(4, 2, latency)).run()
    expected_s = latency.prefill_s(10) + 10 * latency.decode_s(1)
    assert alone.jobs[0].jct_s == pytest.approx(expected_s)
    assert [done.jct_s for done in spread.jobs] == pytest.approx([expected_s] * 4)
    assert all(done.jct_s >= expected_s - 1e-9 for done in crowded.jobs)


def test_a_handover_takes_the_slot_or_the_queue_of_the_server():
    """Where the scheduler keeps the slots nobody has one meanwhile; a server's own queue goes on."""
    latency = LatencyModel("plain", ((1, 0.1),), 0.0, 0.0, "made up")
    timed = [TimedJob(0.0, job(llm("s", None), named=f"j{n}")) for n in range(3)]  # a second's work each

    def served(slots):
        return jcts(timed, FCFS, slots=slots, server=Handover(BatchingReplicas(1, 1, latency), 0.25))

    assert served(1) == pytest.approx([1.25, 2.5, 3.75])
    assert served(3) == pytest.approx([1.25, 2.25, 3.25])


@given(st.integers(0, 100), st.sampled_from(["fcfs", "srtf"]))
@settings(max_examples=20, deadline=None)
def test_no_handover_changes_nothing(seed, policy):
    """A server that is reached at once is that server."""
    latency = next(iter(LATENCY_MODELS.values()))
    timed = arrive(generate("chain", 8, seed), Poisson(), load=1.5, slots=3, seed=seed)

    def run(server):
        done = Simulation(timed, slots=3, policy=as_policy(policy), server=server).run()
        return done.grants, [one.end_s for one in done.jobs]

    assert run(Handover(SlotServer(), 0.0)) == run(SlotServer())
    assert run(Handover(BatchingReplicas(2, 2, latency), 0.0)) == run(BatchingReplicas(2, 2, latency))


def test_a_policys_own_error_is_raised():
    """A simulation is for finding out; it does not go on without the order."""

    class Broken:
        name = "broken"

        def order(self, job, now):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        jcts([TimedJob(0.0, chain(1.0)), TimedJob(0.0, chain(1.0))], Broken(), slots=1)


def test_generated_workloads_run():
    """Every application of the paper, from generator to the last completion, at a load."""
    timed = arrive(generate("mixed", 30, seed=1), Poisson(), load=0.8, slots=4, seed=1)
    ticks = itertools.count()
    done = Simulation(timed, slots=4, policy=as_policy("plas"), stopwatch=lambda: float(next(ticks))).run()
    assert len(done.jobs) == 30
    assert len(done.decisions_s) == 2 * len(done.grants)
    assert set(done.decisions_s) == {1.0}
    for finished in done.jobs:
        assert finished.jct_s >= (finished.job.critical_path_s or 0.0) - 1e-6
