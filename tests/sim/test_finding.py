"""The limit that finds itself, against servers whose limit is not known to it."""

from __future__ import annotations

import random
from statistics import mean

import pytest

from llmsched_langgraph import Auto
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph.lab.sim.finding import Loop, Served, mixed

PHASES = ((0.0, 400.0, 16), (400.0, 800.0, 6), (800.0, 1200.0, 24))
CLIENTS = 80
KNEE = 12
QUEUEING = Served(batch=KNEE)
SHARING = Served(speed=lambda running: min(1.0, KNEE / running))
SEEDS = [11, 12, 13]


def hidden(now):
    return next(limit for since_s, until_s, limit in reversed(PHASES) if since_s <= now)


def calls(seed, scale=1.0):
    return mixed(random.Random(seed), scale)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_hidden_limit_that_changes(seed):
    """16, then 6, then 24: found within ten windows each, with few refusals and most of the throughput."""
    server = Served(room=hidden)
    own = Loop(server, calls(seed), Auto(), clients=CLIENTS).play(1200.0)
    told = Loop(server, calls(seed), hidden, clients=CLIENTS).play(1200.0)
    assert own.attempts > 2000
    assert told.refusals < 30  # those in flight when it becomes smaller
    assert own.refusals < 0.02 * own.attempts
    for since_s, until_s, right in PHASES:
        windows, share = own.settled(since_s, until_s, right)
        assert windows <= 10
        assert share >= 0.95
        assert own.work(since_s, until_s) >= 0.9 * told.work(since_s, until_s)


@pytest.mark.parametrize("seed", SEEDS)
def test_long_calls(seed):
    """Windows are counted in calls: all is ten times as slow."""
    server = Served(room=lambda now: hidden(now / 10))
    own = Loop(server, calls(seed, 10.0), Auto(), clients=CLIENTS).play(12_000.0)
    assert own.refusals < 0.02 * own.attempts
    for since_s, until_s, right in PHASES:
        windows, share = own.settled(10 * since_s, 10 * until_s, right)
        assert windows <= 10
        assert share >= 0.95


@pytest.mark.parametrize("server", [QUEUEING, SHARING], ids=["queueing", "sharing"])
@pytest.mark.parametrize("seed", SEEDS)
def test_an_engine_that_only_slows(server, seed):
    """Never a refusal; the throughput is that of the best limit, and the engine's own queue is short."""
    until_s = 900.0
    own = Loop(server, calls(seed), Auto(), clients=CLIENTS).play(until_s)
    best = Loop(server, calls(seed), lambda now: KNEE, clients=CLIENTS).play(until_s)
    assert own.refusals == 0
    assert own.work(0.0, until_s) >= 0.9 * best.work(0.0, until_s)
    assert own.queue_s <= 2.0 * until_s
    assert own.busy_s <= 1.25 * KNEE * until_s
    assert abs(own.median_limit(300.0, until_s) - KNEE) <= 0.2 * KNEE


@pytest.mark.parametrize("seed", SEEDS)
def test_an_engine_that_each_call_slows(seed):
    """Throughput n / (1 + (n - 1) / 10): from 36 calls on, a raise brings less than a fifth of itself."""
    server = Served(speed=lambda running: 10.0 / (9.0 + running))
    own = Loop(server, calls(seed), Auto(), clients=CLIENTS).play(1500.0)
    most = Loop(server, calls(seed), lambda now: 36, clients=CLIENTS).play(1500.0)
    assert own.work(300.0, 1500.0) >= 0.8 * most.work(300.0, 1500.0)
    assert own.median_limit(300.0, 1500.0) <= 1.5 * 36


@pytest.mark.parametrize("server", [QUEUEING, SHARING], ids=["queueing", "sharing"])
def test_mild_overload_does_not_make_it_drift(server):
    """Calls arrive at 1.05 of what the engine serves, whatever is still in flight."""
    deal = random.Random(5)
    second = mean(call.seconds for _, call in zip(range(20_000), calls(99), strict=False))

    def arrivals(now=0.0):
        while True:
            now += deal.expovariate(1.05 * KNEE / second)
            yield now

    outcome = Loop(server, calls(5), Auto(high=512), arrivals=arrivals()).play(2400.0)
    for third in range(3):
        assert outcome.median_limit(800.0 * third, 800.0 * (third + 1)) <= 1.5 * KNEE


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("server", [QUEUEING, SHARING], ids=["queueing", "sharing"])
def test_bursts_of_cache_hits_do_not_make_it_drift(server, seed):
    """For a seventh of a second in five, a cache answers everything in 5 ms."""
    loops = []

    def bursts():
        for call in calls(seed):
            yield call._replace(instant=bool(loops) and int(loops[0].now * 7) % 5 == 0)

    loops.append(Loop(server, bursts(), Auto(), clients=CLIENTS))
    outcome = loops[0].play(1200.0)
    assert outcome.median_limit(300.0, 1200.0) <= 1.5 * KNEE
    assert outcome.median_limit(800.0, 1200.0) <= 1.5 * KNEE


@pytest.mark.parametrize("server", [QUEUEING, SHARING], ids=["queueing", "sharing"])
def test_a_burst_of_cache_hits_at_the_very_beginning_is_made_good(server):
    """Nothing else was seen when it doubled, and doubled."""
    loops = []

    def bursts():
        for call in calls(1):
            yield call._replace(instant=not loops or loops[0].now < 0.1)

    loops.append(Loop(server, bursts(), Auto(), clients=CLIENTS))
    outcome = loops[0].play(1200.0)
    assert outcome.limit(1.0) >= 32
    assert outcome.median_limit(900.0, 1200.0) <= 1.5 * KNEE


@pytest.mark.parametrize("server", [QUEUEING, SHARING], ids=["queueing", "sharing"])
def test_bursts_of_cache_hits_from_the_beginning(server):
    """It starts too high, and comes down between the bursts."""
    loops = []

    def bursts():
        for call in calls(1):
            yield call._replace(instant=not loops or int(loops[0].now * 7) % 5 == 0)

    loops.append(Loop(server, bursts(), Auto(), clients=CLIENTS))
    assert loops[0].play(1500.0).median_limit(1000.0, 1500.0) <= 1.5 * KNEE


def test_cached_prompts_in_turns_do_not_make_it_drift():
    """In every other 40 s the prompts are cached, and usage says so: calls are then half as long."""
    loops = []

    def turns():
        for call in calls(7):
            warm = bool(loops) and int(loops[0].now / 40) % 2 == 1
            yield call._replace(cached=True, seconds=call.seconds / 2) if warm else call

    loops.append(Loop(SHARING, turns(), Auto(), clients=CLIENTS))
    outcome = loops[0].play(1500.0)
    assert outcome.median_limit(500.0, 1500.0) <= 1.5 * KNEE


def test_constant_timeouts_lead_down():
    timeouts = Served(fault=lambda now, number: (Failure(504), 5.0))
    outcome = Loop(timeouts, calls(1), Auto(), clients=CLIENTS).play(120.0)
    assert outcome.limit(120.0) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_dropped_connections_are_refusals(seed):
    """Without a status: above 10, connections break."""
    server = Served(room=lambda now: 10, failure=(Failure(None), 0.2))
    outcome = Loop(server, calls(seed), Auto(), clients=40).play(600.0)
    assert abs(outcome.median_limit(60.0, 600.0) - 10) <= 1
    assert outcome.refusals < 0.02 * outcome.attempts


def test_it_comes_back_from_the_minimum():
    """A third of all calls is refused for 100 s, whatever their number; then none."""
    deal = random.Random(3)
    server = Served(
        fault=lambda now, number: (Failure(429), 0.05) if now < 100 and deal.random() < 0.3 else None
    )
    outcome = Loop(server, calls(1), Auto(low=2), clients=40).play(300.0)
    assert outcome.limit(99.0) <= 4
    assert outcome.limit(300.0) >= 36
