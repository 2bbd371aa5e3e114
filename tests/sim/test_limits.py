"""Simulated backends with limits: rates, refusals, room that changes, and what becomes of the calls."""

from __future__ import annotations

import random
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph import Auto, Backend
from llmsched_langgraph._core.policies import as_policy
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.rates import Rates
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.backoff import Doubling, at_once
from llmsched_langgraph.lab.sim.latency import LatencyModel
from llmsched_langgraph.lab.sim.limits import LimitedServer
from llmsched_langgraph.lab.sim.metering import used, worst
from llmsched_langgraph.lab.sim.servers import BatchingReplicas, Handover, SlotServer
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import TimedJob
from llmsched_langgraph.traces import EndedCall, EndedJob, EndedStage

FCFS = as_policy("fcfs")


def chain(*calls, named="j"):
    """Calls one after the other: seconds, and output tokens where they matter."""
    made = [call if isinstance(call, EndedCall) else EndedCall(10, 10, call) for call in calls]
    stages = tuple(
        EndedStage(name="s", kind="llm", deps=(n - 1,) if n else (), calls=(call,))
        for n, call in enumerate(made)
    )
    return EndedJob(id=named, app="app", jct_s=None, stages=stages)


def many(count, *calls):
    return [TimedJob(0.0, chain(*calls)) for _ in range(count)]


class Seen:
    """A server that notes what comes to it and what ends, in front of another one."""

    def __init__(self, server):
        self.server, self.began, self.ended, self.calls = server, [], [], {}

    def begin(self, now, ticket, call):
        self.began.append(now)
        self.calls[ticket] = now, call
        self.server.begin(now, ticket, call)

    def next_s(self):
        return self.server.next_s()

    def advance(self, now):
        return self.server.advance(now)

    def refusal(self, ticket):
        found = self.server.refusal(ticket)
        if found is None:
            self.ended.append(self.calls[ticket])
        return found


def periods(seconds, until_s):
    """Whole periods of the window without the first: calls that were granted at once make place at once."""
    period_s = 61.0 + seconds
    return period_s, int((until_s - seconds) / period_s) * period_s


# -- rates of the scheduler's backend -----------------------------------------------------


@pytest.mark.parametrize("seconds", [0.5, 7.0])
def test_requests_of_any_minute_are_within_the_rate(seconds):
    """The server, whose own limit is the same in every sliding minute, refuses nothing."""
    seen = Seen(LimitedServer(SlotServer(), rates=Rates(requests_per_minute=50)))
    backend = Backend("b", 64, requests_per_minute=50)
    run = Simulation(many(400, seconds), backend=backend, policy=FCFS, server=seen).run()
    assert run.refused == ()
    assert len(run.jobs) == 400
    counted = [(at_s, 1.0) for at_s in seen.began]
    assert worst(counted) <= 50
    assert used(counted, *periods(0.0, max(seen.began))) >= 0.97 * 50 * 60 / (61 + seconds)


@pytest.mark.parametrize("seconds", [1.0, 10.0])
def test_output_of_any_minute_is_within_the_rate(seconds):
    """Wherever the server counts it: at the start of a call, or at its end."""
    limit, call = 20_000, EndedCall(10, 200, seconds)
    seen = Seen(LimitedServer(SlotServer(), rates=Rates(output_tokens_per_minute=limit)))
    backend = Backend("b", 64, output_tokens_per_minute=limit)
    run = Simulation(many(1200, call), backend=backend, policy=FCFS, server=seen).run()
    assert run.refused == ()
    for after_s in (0.0, seconds):
        counted = [(began_s + after_s, 200.0) for began_s, _ in seen.ended]
        assert worst(counted) <= limit
    assert used(counted, *periods(seconds, max(seen.began))) >= 0.97 * limit * 60 / (61 + seconds)


def test_a_call_that_a_rate_holds_back_is_woken_by_time_alone():
    """Nothing else happens at that moment: no call ends, no job arrives."""
    run = Simulation(
        [TimedJob(0.0, chain(1.0)), TimedJob(0.5, chain(1.0))],
        backend=Backend("b", 4, requests_per_minute=1),
        policy=FCFS,
    ).run()
    assert [job.jct_s for job in run.jobs] == [1.0, 61.5]


def test_a_server_has_rates_that_the_scheduler_was_not_told():
    """It names when to come again; the pause obeys, and all jobs end."""
    server = LimitedServer(SlotServer(), rates=Rates(requests_per_minute=30), retry_after_s=0.1)
    seen = Seen(server)
    run = Simulation(many(100, 0.5), slots=8, policy=FCFS, server=seen).run()
    assert len(run.jobs) == 100
    assert 0 < len(run.refused) < 40
    assert worst([(at_s, 1.0) for at_s, _ in seen.ended]) <= 30


# -- pauses -------------------------------------------------------------------------------


@pytest.mark.parametrize("backoff", [at_once, Doubling(1)], ids=["at once", "its own"])
def test_nothing_reaches_the_server_in_a_pause_and_no_herd_afterwards(backoff):
    """40 jobs at once; the server serves none for a moment, and names five seconds."""
    room = [(0.0, 40), (0.5, 0), (1.0, 40)]
    seen = Seen(LimitedServer(SlotServer(), room=room, retry_after_s=5.0, answer_s=0.05))
    timed = [TimedJob(0.0 if n < 30 else 0.6, chain(2.0, 2.0, named=str(n))) for n in range(40)]
    run = Simulation(timed, slots=40, policy=FCFS, server=seen, backoff=backoff).run()
    assert len(run.jobs) == 40
    assert len(run.refused) == 10
    opens_s = 0.6 + 0.05 + 5.0
    assert [at_s for at_s in seen.began if 0.6 < at_s < opens_s] == []
    after = [at_s - opens_s for at_s in seen.began if at_s >= opens_s]
    for quarter in range(5):
        come = sum(own < 0.25 * (quarter + 1) - 1e-9 for own in after)
        assert come <= 2 ** (quarter + 1) - 1
    assert sum(own < 1e-9 for own in after) == 1
    assert sum(own < 2.0 for own in after) >= 40


def test_the_place_of_a_refused_call_is_kept():
    """It goes before calls that came after it, also before those that waited meanwhile."""
    room = [(0.0, 0), (0.5, 1)]
    server = LimitedServer(SlotServer(), room=room)
    timed = [TimedJob(0.1 * n, chain(1.0, named=str(n))) for n in range(4)]
    run = Simulation(timed, slots=1, policy=FCFS, server=server).run()
    assert run.refused == (1,)
    ends_s = [job.end_s for job in run.jobs]
    assert ends_s == sorted(ends_s)


def test_the_clients_own_wait():
    """What the refusal names, if that is not too long; otherwise it doubles, less up to a quarter."""
    waits = Doubling(3)
    assert waits(1, Failure(429, 7.0)) == 7.0
    for attempts, most_s in ((1, 0.5), (2, 1.0), (4, 4.0), (9, 8.0), (5000, 8.0)):
        for failure in (Failure(429), Failure(429, 0.0), Failure(429, 61.0)):
            assert 0.75 * most_s <= waits(attempts, failure) <= most_s


# -- a capacity that changes --------------------------------------------------------------

STEPS = [(0.0, 16), (1200.0, 6), (2400.0, 24)]
END_S = 3600.0


def clients(seed):
    """80 clients in a closed loop, of jobs of one to three calls of 3 s on average."""
    deal = random.Random(seed)

    def job():
        calls = [EndedCall(10, tokens := 1 + int(deal.expovariate(1 / 150)), 0.3 + 0.02 * tokens)]
        return chain(*calls * deal.randint(1, 3))

    def next_(now):
        return None if now >= END_S else TimedJob(now, job(), then=next_)

    return [TimedJob(0.0, job(), then=next_) for _ in range(80)]


def work(seen, since_s, until_s):
    return sum(call.seconds for began_s, call in seen.ended if since_s <= began_s + call.seconds < until_s)


def at(limits, at_s):
    return [limit for since_s, limit in limits if since_s <= at_s][-1]


def share_near(limits, since_s, until_s, right):
    """For what share of this time the limit was within 20 % of right."""
    found, edges = 0.0, [*limits[1:], (inf, 0)]
    for (from_s, limit), (to_s, _) in zip(limits, edges, strict=True):
        if abs(limit - right) <= 0.2 * right:
            found += max(0.0, min(to_s, until_s) - max(from_s, since_s))
    return found / (until_s - since_s)


def test_slots_that_are_found_follow_a_capacity_that_changes():
    """Beside a scheduler that is told: most of its throughput, few refusals, no job lost."""
    own, told = Seen(LimitedServer(SlotServer(), room=STEPS)), Seen(LimitedServer(SlotServer(), room=STEPS))
    found = Simulation(clients(1), backend=Backend("b", Auto()), policy=FCFS, server=own).run()
    changes = [(at_s, Backend("b", slots)) for at_s, slots in STEPS]
    best = Simulation(clients(1), backend=changes[0][1], changes=changes[1:], policy=FCFS, server=told).run()
    assert len(found.grants) > 2000
    assert len(best.refused) < 16  # none but those under way when it becomes smaller
    assert best.limits == tuple(STEPS)
    assert len(found.refused) < 0.02 * len(found.grants)
    for (since_s, right), until_s in zip(STEPS, (1200.0, 2400.0, END_S), strict=True):
        assert share_near(found.limits, since_s + 200.0, until_s, right) > 0.9
        assert work(own, since_s, until_s) >= 0.9 * work(told, since_s, until_s)


def test_slots_that_are_found_follow_a_capacity_that_changes_where_nothing_is_refused():
    """What is more waits at the server. Each limit is found, too."""
    own, told = (Seen(LimitedServer(SlotServer(), room=STEPS, queue=inf)) for _ in range(2))
    found = Simulation(clients(3), backend=Backend("b", "auto"), policy=FCFS, server=own).run()
    changes = [(at_s, Backend("b", slots)) for at_s, slots in STEPS]
    Simulation(clients(3), backend=changes[0][1], changes=changes[1:], policy=FCFS, server=told).run()
    assert found.refused == ()
    for (since_s, right), until_s in zip(STEPS, (1200.0, 2400.0, END_S), strict=True):
        middle = [at(found.limits, since_s + 300.0 + n) for n in range(900)]
        assert abs(sorted(middle)[450] - right) <= 0.2 * right
        assert work(own, since_s, until_s) >= 0.85 * work(told, since_s, until_s)


def test_slots_that_are_found_stay_near_a_knee_where_nothing_is_refused():
    """A server that runs 8 calls at a time and queues the others."""
    server = LimitedServer(SlotServer(), room=8, queue=inf)
    found = Simulation(clients(2), backend=Backend("b", "auto"), policy=FCFS, server=server).run()
    assert found.refused == ()
    assert share_near(found.limits, 600.0, END_S, 9.0) > 0.7  # from 8 to 10


def test_calls_above_the_room_wait_at_the_server():
    """First come, first served; a change of the room starts them, and nothing else needs to happen then."""
    server = LimitedServer(SlotServer(), room=[(0.0, 1), (1.0, 2), (2.5, 3)], queue=2)
    run = Simulation(many(4, 10.0), slots=4, policy=FCFS, server=server).run()
    assert [job.end_s for job in run.jobs][:3] == [10.0, 11.0, 12.5]
    assert run.refused[0] == 4


# -- what must hold -----------------------------------------------------------------------

LATENCY = LatencyModel("test", ((1, 0.02), (8, 0.05)), 0.1, 0.001, "made up")
SERVERS = [
    SlotServer,
    lambda: BatchingReplicas(2, 2, LATENCY),
    lambda: Handover(SlotServer(), 0.25),
]


@settings(deadline=None, max_examples=60)
@given(
    inner=st.sampled_from(SERVERS),
    outside=st.booleans(),
    room=st.lists(st.integers(0, 5), max_size=3),
    queue=st.sampled_from([0, 2, inf]),
    rates=st.sampled_from([None, Rates(requests_per_minute=9), Rates(tokens_per_minute=150)]),
    retry_after_s=st.sampled_from([None, 0.0, 1.5, 200.0]),
    slots=st.sampled_from([1, 3, Auto(1, 16, 4)]),
    told=st.sampled_from([{}, {"requests_per_minute": 7}, {"tokens_per_minute": 200}]),
    own=st.booleans(),
    shape=st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=3), min_size=1, max_size=8),
)
def test_no_job_is_lost(inner, outside, room, queue, rates, retry_after_s, slots, told, own, shape):
    """Whatever the limits of both sides: every call is served once, and each refusal costs one attempt."""
    steps = [(2.0 * n, slots) for n, slots in enumerate((*room, 3))]
    limits = {"room": steps, "queue": queue, "rates": rates, "retry_after_s": retry_after_s}
    server = LimitedServer(inner(), **limits)
    if outside:
        server = Handover(server, 0.1)
    seen = Seen(server)
    timed = [TimedJob(0.3 * n, chain(*map(float, calls), named=str(n))) for n, calls in enumerate(shape)]
    backoff = Doubling(0) if own else at_once
    backend = Backend("b", slots, **told)
    run = Simulation(timed, backend=backend, policy=FCFS, server=seen, backoff=backoff, keep=True).run()
    calls = sum(map(len, shape))
    assert len(run.jobs) == len(timed)
    assert len(seen.ended) == calls
    assert len(run.grants) == calls + len(run.refused)
    made = [call for record in run.records for call in record.llm_calls()]
    assert len(made) == calls
    assert sum(call.attempts for call in made) == len(run.grants)
    assert sum(call.output_tokens for call in made) == 10 * calls


def test_what_makes_no_sense_is_refused():
    """Each error names the argument."""
    for room in ([], [(1.0, 4)], [(0.0, 4), (5.0, 0)], [(0.0, 4), (5.0, 2), (3.0, 2)], 0):
        with pytest.raises(ConfigurationError, match="room must be"):
            LimitedServer(SlotServer(), room=room)
    with pytest.raises(ConfigurationError, match="answer_s must be"):
        LimitedServer(SlotServer(), answer_s=0.0)
    for given_ in ({}, {"slots": 2, "backend": Backend("b", 2)}):
        with pytest.raises(ConfigurationError, match="either slots or a backend"):
            Simulation([], policy=FCFS, **given_)
    with pytest.raises(ConfigurationError, match="changes: each must be of the backend 'b'"):
        Simulation([], policy=FCFS, backend=Backend("b", 2), changes=[(1.0, Backend("c", 2))])
