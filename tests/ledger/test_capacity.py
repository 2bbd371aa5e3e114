"""The capacity of a backend by hand: what the end of an attempt tells of its slots, pauses and rates."""

from __future__ import annotations

import math

import pytest

from llmsched_langgraph import Auto, Backend
from llmsched_langgraph._jobs.calls import PENDING_USAGE, UNKNOWN_USAGE, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.auto import Found
from llmsched_langgraph._ledger.capacity import Capacity, CapacitySettings, EndedAttempt, new_capacity
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.pools import MEASURED_S
from llmsched_langgraph._ledger.quotas import Quota, Quotas
from llmsched_langgraph._ledger.rates import Estimate, rates_of
from llmsched_langgraph._ledger.values import CallInfo, Configure, Measure, Release, Request

AUTO = CapacitySettings(Auto(1, 64, 8))
TOKENS = CapacitySettings(8, rates_of("b", output_tokens_per_minute=1_000))
ONE = Estimate(10, 10)


def attempt(granted_s=1.0, released_s=2.0, concurrency=8, in_use=8, *, waiting=True):
    return EndedAttempt(granted_s, released_s, ONE, concurrency, in_use, waiting)


def served(capacity, settings, times, **more):
    for n in range(times):
        own = attempt(granted_s=n + 100.0, released_s=n + 101.0, **more)
        capacity = capacity.used(settings, n + 101.0, own, Usage(10, 10), well=True)
    return capacity


def test_plain_limits_need_no_tokens():
    """Slots that are told, without a rate."""
    assert CapacitySettings(8).plain
    assert not AUTO.plain
    assert not TOKENS.plain
    assert new_capacity(CapacitySettings(8)) == Capacity(Found(8))


def test_successes_raise_a_found_limit():
    """Where calls wait; cancelled attempts are none."""
    start = new_capacity(AUTO)
    assert served(start, AUTO, 64).found.limit > 8
    assert served(start, AUTO, 64, waiting=False).found.limit <= 8
    none = start
    for n in range(64):
        own = attempt(n + 100.0, n + 101.0)
        none = none.used(AUTO, n + 101.0, own, UNKNOWN_USAGE, well=False)
    assert none.found == start.found


@pytest.mark.parametrize("status", [429, 503, 529, 408, 504, None])
def test_a_refusal_cuts_a_found_limit(status):
    """It pauses the backend too, if it is one of those that do."""
    after = new_capacity(AUTO).failed(AUTO, attempt(), 9, Failure(status))
    assert after.found.limit < 8
    assert (after.pause.opens_s > 2.0) == (status in (429, 503, 529))


@pytest.mark.parametrize("failure", [Failure(500), Failure(409), Failure(429, 3600.0)])
def test_what_is_no_refusal_cuts_nothing(failure):
    """A server's fault, and a quota that is exhausted for the day."""
    assert new_capacity(AUTO).failed(AUTO, attempt(), 9, failure).found == new_capacity(AUTO).found


def test_a_try_that_is_refused_pauses_nothing():
    """It asked for one more than is known to be served; a time that the server names counts."""
    trying = Capacity(Found(9, ceiling=8.0, refused=True))
    assert trying.found.trying
    assert trying.failed(AUTO, attempt(concurrency=9), 9, Failure(429)).pause.opens_s == 0.0
    assert trying.failed(AUTO, attempt(concurrency=9), 9, Failure(429, 5.0)).pause.opens_s == 7.0


@pytest.mark.parametrize(("named_s", "after_s"), [(None, 0.0), (0.0, 0.0), (2.0, 64.0)])
def test_a_refusal_puts_the_next_try_off_if_that_would_pause(named_s, after_s):
    """One that names no time does not: refused so, a try pauses nothing, however long the pause is now."""
    settings, now = CapacitySettings(Auto(start=16)), 100.0
    capacity = new_capacity(settings)
    for _ in range(4):  # 1, 2, 4, 8 s of pause where no time is named
        now += 20.0
        capacity = capacity.failed(settings, attempt(now - 0.1, now), 10, Failure(429, named_s))
    assert capacity.found.refused
    assert max(capacity.found.up_after_s, now) == pytest.approx(now + after_s)


def test_a_told_limit_is_never_cut():
    """Refusals pause, and nothing else."""
    after = new_capacity(TOKENS).failed(TOKENS, attempt(), 9, Failure(429))
    assert (after.found, after.pause.opens_s) == (Found(8), 3.0)


def test_from_told_to_found_and_back():
    """The found limit begins at the told one, within its bounds."""
    told = new_capacity(CapacitySettings(8))
    assert told.configured(CapacitySettings(Auto(1, 64, 20)), 1.0, 0).found.limit == 8
    assert told.configured(CapacitySettings(Auto(16, 64, 20)), 1.0, 0).found.limit == 16
    found = served(new_capacity(AUTO), AUTO, 64)
    assert found.configured(CapacitySettings(3), 1.0, 0) == Capacity(Found(3))


# -- in the ledger ---------------------------------------------------------------------


class Bench:
    def __init__(self, **settings):
        self.ledger = MemoryLedger([Backend("b", **settings)])
        self.now = 1_000.5
        self.tickets = 0

    def ask(self, output=None):
        self.tickets += 1
        call = CallInfo(output_tokens=output)
        lane = ("b", self.tickets, StageOccurrence("s", 1))
        self.ledger.submit(self.now, Request(self.tickets, lane, call=call))
        return self.settle()

    def do(self, *changes):
        self.ledger.submit(self.now, *changes)
        return self.settle()

    def settle(self):
        granted = []
        while news := self.ledger.settle(self.now)[0]:
            granted += [own.ticket for own in news]
        self.ledger.check(self.now)
        return granted

    @property
    def wake_s(self):
        return self.ledger.settle(self.now)[1]

    @property
    def spent(self):
        return self.ledger.backend("b").capacity.spent


def test_a_call_waits_for_the_rate_and_none_overtakes_it():
    """Not one that would fit; when the minute has passed, both go."""
    b = Bench(slots=8, output_tokens_per_minute=2_000)
    assert b.ask(100) == [1]
    b.do(Release(1, Usage(1, 100)))
    b.now += 1.0
    assert b.ask(1_990) == []
    assert b.ask(1) == []
    assert b.wake_s == 1_061.0
    b.now = math.nextafter(1_061.0, 0.0)
    assert b.settle() == []
    b.now = 1_061.0
    assert b.settle() == [2]


def test_a_reserve_stays_until_the_tokens_are_known():
    """The slot is free before."""
    b = Bench(slots=8, output_tokens_per_minute=2_000)
    assert b.ask(1_000) == [1]
    b.do(Release(1, PENDING_USAGE))
    assert b.ledger.backend("b").holding == 0
    assert b.spent.output_flight.tokens == 1_000
    assert b.ask(10) == []
    assert b.do(Measure(1, Usage(1, 1))) == [2]
    assert b.do(Measure(1, Usage(1, 1))) == []
    assert sum(b.spent.output.amounts) == 1


def test_tokens_that_never_become_known_are_estimated():
    """After a minute, so that no call waits for ever."""
    b = Bench(slots=8, output_tokens_per_minute=2_000)
    b.ask(1_000)
    b.do(Release(1, PENDING_USAGE))
    b.ask(1_000)
    b.now += MEASURED_S - 1.0
    b.ledger._truth.begin()
    b.ledger.expire(b.now)
    b.ledger._truth.commit()
    assert b.spent.output_flight.tokens == 1_000
    b.now += 1.0
    b.ledger._truth.begin()
    b.ledger.expire(b.now)
    b.ledger._truth.commit()
    assert not b.ledger.unmeasured(1)
    assert b.spent.output_flight.tokens == 0


def test_a_backend_without_rates_awaits_no_tokens():
    """There is nothing to forget."""
    b = Bench(slots=8)
    b.ask()
    b.do(Release(1, PENDING_USAGE))
    assert not b.ledger.unmeasured(1)


def test_what_is_told_by_an_answer_holds_calls_back():
    """Until the provider's reset."""
    b = Bench(slots=8, requests_per_minute=100)
    b.ask()
    b.do(Release(1, Usage(1, 1), quotas=Quotas(requests=Quota(100, 0, 30.0))))
    assert b.ask() == []
    assert b.wake_s <= b.now + 31.0


def test_a_found_limit_that_is_cut_drains():
    """No slot is taken away; the next grant is below the limit."""
    b = Bench(slots=Auto(1, 8, 4))
    for _ in range(6):
        b.ask()
    assert b.ledger.backend("b").holding == 4
    assert b.do(Release(4, failure=Failure(408))) == []
    limit = b.ledger.backend("b").slots
    assert limit < 4
    assert b.ledger.backend("b").holding == 3


def test_rates_that_end_let_all_go():
    """So does a larger limit."""
    b = Bench(slots=8, requests_per_minute=1)
    assert [b.ask(), b.ask(), b.ask()] == [[1], [], []]
    assert b.do(Configure(Backend("b", 8, requests_per_minute=2))) == [2]
    assert b.do(Configure(Backend("b", 8))) == [3]


def test_only_a_call_in_flight_can_make_room():
    """As long as it flies; time does it afterwards."""
    b = Bench(slots=8, output_tokens_per_minute=2_000)
    call = CallInfo(output_tokens=1_000)
    assert not b.ledger.backend("b").stalled(b.now, call)
    b.ask(1_000)
    assert b.ledger.backend("b").stalled(b.now, call)
    b.do(Release(1, Usage(1, 1_500)))
    assert not b.ledger.backend("b").stalled(b.now, call)
    assert b.ledger.backend("b").admits_s(b.now, call) > b.now
