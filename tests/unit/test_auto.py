"""The limit that finds itself, by hand: what each end of an attempt makes of it."""

from __future__ import annotations

from math import inf
from statistics import median

import pytest

from llmsched_langgraph import Auto, ConfigurationError
from llmsched_langgraph._ledger.auto import (
    MOST_PATIENCE,
    PATIENCE,
    PAUSES,
    SHORTEST,
    Refusal,
    Success,
    configured,
    refused,
    started,
    succeeded,
    too_busy,
)
from llmsched_langgraph._ledger.levels import MOST, Level, Sample, most, slowdown, worthwhile
from llmsched_langgraph._ledger.pauses import Failure


class Bench:
    """A limit, and a clock. A call of 50 tokens takes `seconds(in use)`."""

    def __init__(self, auto=None, seconds=lambda in_use: 1.0, **known):
        self.auto = auto or Auto()
        self.found = started(self.auto)._replace(**known)
        self.seconds, self.now = seconds, 0.0

    def window(self, waiting=True, in_use=None, times=1):
        """Windows of successes, all slots in use."""
        for _ in range(times):
            for _ in range(max(SHORTEST, self.found.limit)):
                used = self.found.limit if in_use is None else in_use
                took = self.seconds(used)
                self.now += took / used
                self.found = succeeded(
                    self.found, self.auto, self.now, Success(self.now, used, waiting, took, 50)
                )
        return self.found.limit

    def refuse(self, concurrency=None, granted_s=None, pause_s=0.0):
        self.now += 0.01
        self.found = refused(
            self.found,
            self.auto,
            self.now,
            Refusal(
                self.now if granted_s is None else granted_s,
                self.found.limit if concurrency is None else concurrency,
                pause_s,
            ),
        )
        return self.found.limit


# -- settings ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"low": 0}, {"high": 1.5}, {"start": True}, {"low": "1"}, {"start": None}, {"high": -3}],
)
def test_a_bound_is_a_whole_number(wrong):
    with pytest.raises(ConfigurationError, match="must be a whole number of at least 1"):
        Auto(**wrong)


@pytest.mark.parametrize("wrong", [{"low": 9}, {"high": 7}, {"low": 300}, {"start": 257}])
def test_bounds_are_in_order(wrong):
    with pytest.raises(ConfigurationError, match="low <= start <= high"):
        Auto(**wrong)


def test_other_bounds_move_the_limit_between_them():
    found = started(Auto(start=32))
    assert configured(found, Auto(start=8), 1.0) is found
    assert configured(found, Auto(high=16), 1.0).limit == 16
    assert configured(found, Auto(low=40, start=40), 1.0).limit == 40


@pytest.mark.parametrize(
    ("failure", "busy"),
    [
        (Failure(429), True),
        (Failure(503), True),
        (Failure(529), True),
        (Failure(504), True),
        (Failure(408), True),
        (Failure(None, None, "ConnectError"), True),
        (Failure(500), False),
        (Failure(409), False),
    ],
)
def test_which_failures_tell_of_too_many_calls(failure, busy):
    assert too_busy(failure) is busy


# -- growth ----------------------------------------------------------------------------------


def test_it_doubles_while_calls_wait_and_throughput_follows():
    bench = Bench(Auto(high=100))
    limits = [bench.window() for _ in range(8)]
    assert limits == [8, 16, 16, 32, 32, 64, 64, 100]


def test_it_does_not_grow_while_no_call_waits():
    bench = Bench()
    assert bench.window(waiting=False, times=50) == 8


def test_it_does_not_grow_while_it_is_not_reached():
    bench = Bench()
    assert bench.window(in_use=5, times=50) == 8


def test_a_success_from_before_a_change_says_nothing():
    bench = Bench()
    bench.window(times=2)
    since_s, found = bench.found.since_s, bench.found
    assert found.limit == 16
    for _ in range(100):
        found = succeeded(found, bench.auto, since_s + 1.0, Success(since_s - 0.1, 16, True, 1.0, 50))
    assert found == bench.found


def test_a_raise_that_brings_only_latency_is_undone():
    """Above 8 calls, each takes its share longer."""
    bench = Bench(seconds=lambda in_use: max(1.0, in_use / 8))
    limits = [bench.window() for _ in range(40)]
    assert max(limits[:6]) == 16
    assert limits.count(8) + limits.count(9) + limits.count(7) > 20
    assert bench.found.ceiling < inf


def test_a_raise_that_brings_a_third_stays():
    """It may be the engine's own queue that lets only a third come of it: the limit without one is tried."""
    bench = Bench(seconds=lambda in_use: 1.0 if in_use <= 8 else 1.5)
    bench.window(times=2)
    assert bench.found.limit == 16
    bench.window(times=2)
    assert bench.found.limit == 11  # which would be as much with 1 s for each call, but is not
    bench.window(times=2)
    assert bench.found.limit == 16
    bench.window()
    assert bench.found.limit == 32


def test_a_raise_above_the_knee_ends_at_the_knee():
    """24 are served at a time; 36 at once have the throughput of 24."""
    bench = Bench(Auto(start=18), seconds=lambda in_use: max(1.0, in_use / 24))
    limits = [bench.window() for _ in range(20)]
    assert limits[1] == 36
    assert limits[3] == 24
    assert median(limits[3:]) == 24


@pytest.mark.parametrize("knee", [9, 13, 20, 30, 31])
def test_a_raise_that_is_not_worth_it_shows_the_knee(knee):
    bench = Bench(seconds=lambda in_use: max(1.0, in_use / knee))
    limits = [bench.window() for _ in range(12)]
    assert abs(limits[-1] - knee) <= 0.2 * knee


# -- refusals --------------------------------------------------------------------------------


def test_a_refusal_cuts_below_what_was_in_flight():
    bench = Bench()
    bench.window(times=4)
    assert bench.found.limit == 32
    assert bench.refuse(concurrency=21) == 20
    assert bench.found.ceiling == 20


def test_a_cascade_is_one_cut():
    bench = Bench()
    bench.window(times=4)
    granted_s = bench.now
    assert bench.refuse(25, granted_s) == 24
    for concurrency in range(26, 33):
        assert bench.refuse(concurrency, granted_s) == 24


def test_refusals_of_attempts_after_the_cut_cut_deeper():
    bench = Bench(Auto(start=16))
    bench.window()
    assert [bench.refuse() for _ in range(4)] == [15, 11, 8, 6]


def test_one_refusal_of_a_quiet_hour_does_not_cut_to_nothing():
    bench = Bench(Auto(start=64))
    bench.window(waiting=False)
    assert bench.refuse(concurrency=2) == 32


def test_constant_timeouts_lead_to_the_least():
    bench = Bench()
    for _ in range(8):
        bench.refuse()
    assert bench.found.limit == 1


def test_a_refusal_at_the_minimum_does_not_pin_it():
    bench = Bench(Auto(low=2, start=2))
    for _ in range(20):
        assert bench.refuse() == 2
    assert bench.window(times=2) == 4
    assert max(bench.window() for _ in range(20)) == 256


def test_after_a_cut_it_grows_by_a_sixteenth_up_to_the_ceiling():
    bench = Bench(Auto(start=64))
    bench.window()
    bench.refuse(64)
    bench.refuse(60)
    assert (bench.found.limit, bench.found.ceiling) == (47, 59)
    limits = [bench.window() for _ in range(6)]
    assert limits[:5] == [49, 52, 55, 58, 59]


# -- tries -------------------------------------------------------------------------------------


def at_ceiling(limit=20, **known):
    bench = Bench(Auto(start=limit + 1))
    bench.window()
    bench.refuse()
    bench.found = bench.found._replace(down_at=10**9, **known)
    assert bench.found.limit == bench.found.ceiling == limit
    return bench


def test_one_more_is_tried_and_then_a_few_more():
    """The cut came from far above, and the ceiling may be a little too low."""
    bench = at_ceiling()
    assert bench.window(times=PATIENCE - 1) == 20
    assert not bench.found.trying
    assert bench.window() == 21
    assert bench.found.trying
    assert bench.window() == 23
    assert not bench.found.trying
    raised = [limit for _ in range(12) if (limit := bench.window()) != 23]
    assert list(dict.fromkeys(raised))[:4] == [27, 35, 51, 83]


def test_a_ceiling_that_was_confirmed_and_is_served_is_left_far_behind():
    """The backend became larger."""
    bench = at_ceiling()
    bench.window(times=PATIENCE)
    assert bench.refuse() == 20
    assert bench.window(times=PATIENCE) == 21
    assert bench.window() == 42
    assert not bench.found.trying


def test_a_try_that_fails_costs_one_window():
    bench = at_ceiling()
    for _ in range(5):
        assert bench.window(times=PATIENCE) == 21
        assert bench.refuse() == 20


def test_a_try_that_brought_a_pause_is_not_repeated_soon():
    bench = at_ceiling()
    bench.window(times=PATIENCE)
    bench.refuse(pause_s=10.0)
    end_s = bench.now + PAUSES * 10.0
    while bench.window() == 20:
        assert bench.now < end_s + 10.0
    assert bench.now >= end_s


def test_a_limit_above_the_knee_comes_down():
    """It drifted to 40; the engine serves 10 at a time."""
    bench = Bench(Auto(start=40), seconds=lambda in_use: max(1.0, in_use / 10))
    bench.found = bench.found._replace(ceiling=40)
    bench.window(times=100)
    assert 8 <= bench.found.limit <= 13


def test_a_limit_that_is_not_reached_comes_down_too():
    """40 calls are in flight, fewer than the limit; the engine serves 10 at a time."""
    bench = Bench(Auto(start=10, high=128), seconds=lambda in_use: max(1.0, in_use / 10))
    bench.found = bench.found._replace(limit=128)
    for _ in range(100):
        bench.window(waiting=bench.found.limit < 40, in_use=min(40, bench.found.limit))
    assert 8 <= bench.found.limit <= 14


def test_tries_that_fail_become_rare():
    """An engine that serves all equally well, at its highest limit: less is tried, and costs throughput."""
    bench = Bench(Auto(start=32, high=32))
    limits = [bench.window() for _ in range(500)]
    assert bench.found.down_patience == MOST_PATIENCE
    assert limits[:100].count(32) >= 75
    assert limits[200:].count(32) >= 0.95 * 300


class Engine:
    """Serves so many calls at a time, each in so many seconds; the others wait in it."""

    def __init__(self, serves, seconds=1.0):
        self.serves, self.seconds = serves, seconds

    def __call__(self, in_use):
        return self.seconds * max(1.0, in_use / self.serves)


def settled(engine, patience=MOST_PATIENCE):
    """The limit has been at the engine's knee for long: tries downwards are rare."""
    bench = Bench(Auto(start=engine.serves, high=engine.serves), seconds=engine)
    bench.window(times=20)
    bench.auto = Auto()
    last = bench.found.clean
    bench.found = bench.found._replace(
        down_at=last + patience, down_patience=patience, up_at=last + 1000, ceiling=engine.serves
    )
    return bench


@pytest.mark.parametrize("serves", [3, 6, 10])
def test_an_engine_that_serves_fewer_is_noticed_soon(serves):
    """Long before the next try downwards is due."""
    engine = Engine(16)
    bench = settled(engine)
    engine.serves = serves
    limits = [bench.window() for _ in range(10)]
    lower = [limit for limit in limits if limit < 16]
    assert serves <= lower[0] <= 1.2 * serves + 1
    assert limits[-1] <= 1.2 * serves + 1


def test_an_engine_that_is_slower_at_every_limit_keeps_its_calls():
    """Fewer in flight are tried, bring nothing, and are not tried again soon."""
    engine = Engine(16)
    bench = settled(engine)
    engine.seconds = 2.0
    limits = [bench.window() for _ in range(20)]
    assert 8 in limits
    assert limits[8:] == [16] * 12


def test_one_odd_window_changes_nothing():
    engine = Engine(16)
    bench = settled(engine)
    for _ in range(5):
        engine.seconds = 3.0
        assert bench.window() == 16
        engine.seconds = 1.0
        assert bench.window(times=3) == 16
    assert bench.found.down_patience == MOST_PATIENCE


def test_a_workload_that_goes_to_and_fro_costs_few_tries():
    """Ten windows of long prompts, then ten of short ones, which is no matter of how many there are."""
    engine = Engine(16)
    bench = settled(engine)
    limits = []
    for turn in range(20):
        engine.seconds = 2.0 if turn % 2 else 1.0
        limits += [bench.window() for _ in range(10)]
    assert sum(limit < 11 for limit in limits) <= 8
    assert sum(limits) >= 0.95 * 16 * len(limits)


def test_an_engine_that_serves_more_is_noticed_soon():
    """Its own queue is gone: more are tried long before the next try upwards is due."""
    engine = Engine(8)
    bench = settled(engine)
    bench.found = bench.found._replace(limit=16, samples=())
    bench.window(times=3)
    assert bench.found.limit == 16
    engine.serves = 32
    limits = [bench.window() for _ in range(5)]
    assert max(limits) >= 32


def test_the_state_stays_small():
    bench = Bench(Auto(high=64))
    for _ in range(300):
        bench.window()
        kept = bench.found.before.samples if bench.found.before else ()
        assert max(len(bench.found.samples), len(kept)) <= most(64)
        assert len(bench.found.window.samples) <= 64
    for _ in range(10_000):  # answers from a cache
        bench.found = succeeded(bench.found, bench.auto, bench.now, Success(bench.now, 64, True, 0.001, 50))
    assert len(bench.found.window.samples) <= 64


# -- comparing ----------------------------------------------------------------------------------


def level(limit, *lengths, slower=1.0, cached=False, start_s=0.2):
    """Calls of these lengths: 0.2 s and 0.02 s for each token, and a little more or less."""
    return Level(
        limit,
        tuple(
            Sample(cached, tokens, slower * (start_s + 0.02 * tokens) * (1.0 + 0.05 * (i % 5 - 2)), limit)
            for i, tokens in enumerate(lengths)
        ),
    )


def test_twice_the_calls_at_the_same_pace_are_worth_it():
    assert worthwhile(level(8, *[50] * 20), level(16, *[50] * 20)) is True


def test_twice_the_calls_at_half_the_pace_are_not():
    assert worthwhile(level(8, *[50] * 20), level(16, *[50] * 20, slower=2.0)) is False


def test_longer_answers_are_no_slower_engine():
    """A call takes twice as long, a token less."""
    short, long = [10, 15, 20, 30, 40, 60, 80] * 4, [40, 60, 80, 100, 120] * 5
    assert worthwhile(level(8, *short), level(16, *long)) is True
    assert worthwhile(level(8, *long), level(16, *short)) is True
    assert worthwhile(level(8, *long), level(16, *short, slower=2.0)) is False
    assert worthwhile(level(8, *short), level(16, *long, slower=2.0)) is False


def test_calls_that_are_not_alike_are_not_compared():
    """Whether they are slower because they are longer, nobody can tell."""
    short, long = [10, 12, 15, 20, 25, 30, 35] * 4, [300, 350, 400, 450] * 5
    assert worthwhile(level(8, *long), level(16, *short, slower=2.0)) is None
    assert worthwhile(level(8, *short), level(16, *long)) is None


def test_cached_prompts_are_compared_with_their_like():
    """Most calls above are cached and quick; those that are not show that the engine is slower."""
    low = level(8, *[50] * 30)
    warm = level(16, *[50] * 20, cached=True, start_s=0.0, slower=0.3)
    cold = level(16, *[50] * 20, slower=2.0)
    assert worthwhile(low, Level(16, warm.samples + cold.samples)) is False
    assert worthwhile(low, warm) is None


def test_a_few_answers_from_a_cache_change_nothing():
    hits = tuple(Sample(False, 50, 0.005, 16) for _ in range(5))
    slow = level(16, *[50] * 25, slower=2.0)
    assert worthwhile(level(8, *[50] * 30), Level(16, slow.samples + hits)) is False


def test_calls_that_take_twice_as_long_are_noticed():
    """Beside as many others, and only where that is certain."""
    before, after = level(16, *[50, 90] * 20).samples, level(16, *[50, 90] * 8, slower=2.0).samples
    assert slowdown(before, after) == pytest.approx(2.0, rel=0.1)
    assert slowdown(after, before) == pytest.approx(0.5, rel=0.1)
    for other in (
        level(16, *[50, 90] * 8),
        level(16, *[50, 90] * 8, slower=1.25),
        level(16, *[200, 300] * 8, slower=1.1),
        level(32, *[50, 90] * 8, slower=2.0),  # more in use
        level(16, *[50] * 5, slower=2.0),  # too few
        level(16, *[50, 90] * 8, slower=0.5, cached=True),
    ):
        assert slowdown(before, other.samples) is None


def test_a_wait_in_a_queue_is_seen_in_the_sum():
    """It is as long for short calls: their ratio is far larger, and says nothing of how many are served."""
    before = level(16, *[5, 95] * 20).samples
    after = [own._replace(seconds=own.seconds + 1.2) for own in before[:16]]
    assert slowdown(before, after) == pytest.approx(2.0, rel=0.1)


def test_too_little_is_no_answer():
    assert worthwhile(level(8, *[50] * 3), level(16, *[50] * 30)) is None
    assert worthwhile(level(8, *[50] * 30), level(8, *[50] * 30)) is None
    assert worthwhile(Level(8, ()), Level(16, ())) is None


def test_unknown_tokens_are_compared_by_seconds():
    unknown = [0] * 30
    assert worthwhile(level(8, *unknown), level(16, *unknown)) is True
    assert worthwhile(level(8, *unknown), level(16, *unknown, slower=2.0)) is False
    assert len(unknown) <= MOST
