"""Rates of a backend, by hand: when the next call is admissible."""

from __future__ import annotations

from math import inf, nan

import pytest

from llmsched_langgraph import ConfigurationError
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._ledger.quotas import Quota, Quotas
from llmsched_langgraph._ledger.rates import (
    INPUT,
    NOTHING_SENT,
    OUTPUT,
    REQUESTS,
    REQUESTS_A_DAY,
    UNKNOWN_INPUT,
    UNKNOWN_OUTPUT,
    Estimate,
    Rates,
    configured,
    corrected,
    estimate_of,
    granted,
    rates_of,
    ready_s,
    released,
)

ONE = Estimate(1, 1)


class Account:
    """One account at one backend, and a clock that the test moves."""

    def __init__(self, **limits):
        self.rates = rates_of("b", **limits)
        self.now = 1000.25
        self.spent = configured(None, self.rates, self.now)

    def ready(self, estimate=ONE):
        return ready_s(self.spent, self.rates, self.now, estimate)

    def grant(self, estimate=ONE):
        assert self.ready(estimate) <= self.now
        self.spent = granted(self.spent, self.now, estimate)
        return self.now, estimate

    def release(self, call, *used):
        usage = Usage(*used) if used else UNKNOWN_USAGE
        self.spent = released(self.spent, self.now, *call, usage)

    def hear(self, **quotas):
        self.spent = corrected(self.spent, self.rates, self.now, Quotas(**quotas))

    def train(self, times=80, ratio=1.0):
        """Calls of a second each, until the reserve of output is what is estimated times `ratio`."""
        for _ in range(times):
            self.spent = granted(self.spent, self.now, Estimate(1, 100))
            call = self.now, Estimate(1, 100)
            self.now += 1.0
            self.release(call, 1, round(100 * ratio))
        self.now += 100.0


# -- settings ---------------------------------------------------------------------------------


def test_without_a_limit_there_is_no_state():
    assert rates_of("b") is None
    assert rates_of("b", tokens_per_minute=None) is None
    assert configured(None, None, 0.0) is None
    assert ready_s(None, None, 5.0, ONE) == 5.0
    assert granted(None, 5.0, ONE) is None
    assert released(None, 5.0, 4.0, ONE) is None
    assert corrected(None, None, 5.0, Quotas(tokens=Quota(1, 0))) is None


def test_whole_numbers_written_as_floats_are_limits():
    assert rates_of("b", tokens_per_minute=30e3) == Rates(tokens_per_minute=30_000)


@pytest.mark.parametrize("limit", [0, -1, 0.5, nan, inf, "100", True, [], 1.5])
@pytest.mark.parametrize("name", Rates._fields)
def test_a_wrong_limit_names_the_backend_and_the_cure(name, limit):
    with pytest.raises(
        ConfigurationError, match=f"'gpu': {name} must be a whole number of at least 1, or None"
    ):
        rates_of("gpu", **{name: limit})


def test_an_unknown_estimate_is_a_constant_one():
    assert estimate_of(None, None) == Estimate(UNKNOWN_INPUT, UNKNOWN_OUTPUT)
    assert estimate_of(7, None) == Estimate(7, UNKNOWN_OUTPUT)
    assert estimate_of(-3, 0) == Estimate(1, 1)


def test_new_limits_keep_what_was_counted():
    account = Account(requests_per_minute=2)
    account.grant()
    account.grant()
    account.rates = rates_of("b", requests_per_minute=3, tokens_per_minute=100)
    account.spent = configured(account.spent, account.rates, account.now)
    account.grant()
    assert account.ready() == 1061.0
    assert configured(account.spent, None, account.now) is None


# -- requests and input ---------------------------------------------------------------------


def test_a_cell_counts_until_a_minute_after_its_end():
    account = Account(requests_per_minute=2)
    account.grant()
    account.now = 1010.5
    account.grant()
    assert account.ready() == 1061.0
    account.now = 1060.999
    assert account.ready() == 1061.0
    account.now = 1061.0
    account.grant()
    assert account.ready() == 1071.0


def test_a_day_slides_in_quarters_of_an_hour():
    account = Account(requests_per_day=1)
    account.grant()
    assert account.ready() == 1800.0 + 86_400.0
    account.now = 1800.0 + 86_400.0
    account.grant()


def test_input_is_corrected_in_the_cell_of_the_grant():
    account = Account(input_tokens_per_minute=100)
    call = account.grant(Estimate(80, 1))
    account.now = 1030.0
    assert account.ready(Estimate(30, 1)) == 1061.0
    account.release(call, 20, 1)  # most of the prompt came from the provider's cache
    account.grant(Estimate(30, 1))
    assert account.ready(Estimate(60, 1)) == 1061.0
    account.now = 1061.0
    account.grant(Estimate(60, 1))


def test_the_correction_of_a_long_call_is_void_with_its_cell():
    account = Account(input_tokens_per_minute=100)
    call = account.grant(Estimate(80, 1))
    account.now = 1100.0
    account.release(call, 1000, 1)
    account.grant(Estimate(100, 1))


def test_inputs_above_their_estimates_are_expected_again():
    """Once prompts were twice as long as estimated, calls in flight count twice."""
    account = Account(input_tokens_per_minute=1000)
    for _ in range(80):
        call = account.grant(Estimate(100, 1))
        account.now += 1.0
        account.release(call, 200, 1)
        account.now += 61.0
    account.grant(Estimate(100, 1))
    account.grant(Estimate(100, 1))
    assert account.ready(Estimate(299, 1)) <= account.now < account.ready(Estimate(301, 1))


def test_a_refused_attempt_keeps_its_input_unless_told_otherwise():
    account = Account(input_tokens_per_minute=100)
    account.release(account.grant(Estimate(60, 1)), *[NOTHING_SENT.prompt_tokens, NOTHING_SENT.output_tokens])
    assert account.ready(Estimate(60, 1)) == 1061.0
    account = Account(input_tokens_per_minute=100)
    account.release(account.grant(Estimate(60, 1)), 0, 0)
    assert account.ready(Estimate(60, 1)) <= account.now


# -- output ----------------------------------------------------------------------------------


def test_output_is_reserved_in_flight_and_counts_from_its_end():
    account = Account(output_tokens_per_minute=1000)
    account.train()
    start_s = account.now
    calls = [account.grant(Estimate(1, 250)) for _ in range(4)]
    assert account.ready(Estimate(1, 250)) == start_s + 61.0  # nothing but a release helps: ask again
    account.now += 30.0
    account.release(calls[0], 1, 250)
    assert account.ready(Estimate(1, 250)) == int(account.now) + 61.0
    account.release(calls[1], 1, 100)
    assert account.ready(Estimate(1, 150)) <= account.now < account.ready(Estimate(1, 151))


def test_the_reserve_follows_what_estimates_were_worth():
    account = Account(output_tokens_per_minute=10_000)
    account.train(ratio=3.0)
    account.grant(Estimate(1, 1000))
    account.grant(Estimate(1, 1000))
    assert account.ready(Estimate(1, 1333)) <= account.now < account.ready(Estimate(1, 1400))


def test_an_attempt_without_a_token_counts_no_output():
    account = Account(output_tokens_per_minute=1000)
    account.train()
    account.release(account.grant(Estimate(1, 900)), None, 0)
    account.grant(Estimate(1, 900))


def test_an_unknown_output_counts_what_is_expected():
    account = Account(output_tokens_per_minute=1000)
    account.train(ratio=2.0)
    account.release(account.grant(Estimate(1, 300)))
    assert account.ready(Estimate(1, 199)) <= account.now < account.ready(Estimate(1, 201))


def test_combined_tokens_are_input_and_output():
    account = Account(tokens_per_minute=1000)
    account.train()
    call = account.grant(Estimate(300, 400))
    assert account.ready(Estimate(100, 200)) <= account.now < account.ready(Estimate(101, 200))
    account.now += 10.0
    account.release(call, 100, 400)
    assert account.ready(Estimate(150, 350)) <= account.now < account.ready(Estimate(151, 350))


@pytest.mark.parametrize("later_s", [0.0, 5.0])
def test_calls_from_before_the_limits_are_not_in_flight(later_s):
    """Their tokens count once they are known."""
    account = Account(requests_per_minute=10)
    before = account.grant(Estimate(1, 900))
    account.now += later_s
    account.rates = rates_of("b", output_tokens_per_minute=1000)
    account.spent = configured(account.spent, account.rates, account.now, holding=1)
    account.now += 1.0
    after = account.grant(Estimate(1, 500))
    account.release(before, 1, 100)
    assert account.spent.output_flight.calls == 1
    assert sum(account.spent.output.amounts) == 100
    account.release(after, 1, 500)
    assert account.spent.output_flight.calls == account.spent.input_flight.calls == 0


def test_requests_alone_need_no_tokens():
    account = Account(requests_per_minute=1)
    account.release(account.grant(Estimate(1, 900)), 1, 900)
    assert not account.spent.output.numbers
    assert account.ready() == 1061.0


# -- calls larger than the window --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tokens_per_minute", "input_tokens_per_minute", "output_tokens_per_minute"])
def test_a_call_larger_than_the_window_goes_alone(kind):
    account = Account(**{kind: 1000})
    big, small = Estimate(1400, 1400), Estimate(10, 10)
    first = account.grant(small)
    assert account.now < account.ready(big) < inf
    account.now += 2.0
    account.release(first, 10, 10)
    account.now = account.ready(big)
    assert account.now <= 1063.0
    call = account.grant(big)
    assert account.now < account.ready(small) < inf
    account.now += 2.0
    account.release(call, 1400, 1400)
    assert account.now < account.ready(small) < inf
    account.now = account.ready(small)
    account.grant(small)


def test_a_call_larger_than_the_window_does_not_wait_for_what_was_given_back():
    account = Account(input_tokens_per_minute=1000)
    account.release(account.grant(Estimate(500, 1)), 0, 0)
    account.grant(Estimate(1400, 1))


# -- what providers tell -------------------------------------------------------------------------


def test_a_smaller_limit_of_the_provider_counts_and_a_larger_one_does_not():
    account = Account(requests_per_minute=10)
    account.hear(requests=Quota(3, 3, 0.0))
    for _ in range(3):
        account.grant()
    assert account.ready() == 1061.0
    account.hear(requests=Quota(500, 499, 0.0))
    for _ in range(7):
        account.grant()
    assert account.ready() == 1061.0


def test_a_larger_account_than_the_limit_may_be_used_by_others():
    """The provider has more left than the configured limit has."""
    account = Account(requests_per_minute=10)
    account.hear(requests=Quota(1000, 50, 60.0))
    for _ in range(10):
        account.grant()
    assert account.ready() == 1061.0


def test_what_others_used_comes_back_until_the_reset():
    account = Account(requests_per_minute=60)
    account.hear(requests=Quota(60, 0, 30.0))
    assert account.now < account.ready() <= account.now + 2.0
    account.now += 15.0
    freed = 0
    while account.ready() <= account.now:
        account.grant()
        freed += 1
    assert 25 <= freed <= 31
    account.now += 16.0
    for _ in range(60 - freed):
        account.grant()
    assert account.ready() > account.now


def test_own_use_is_not_counted_twice():
    account = Account(requests_per_minute=10)
    for _ in range(4):
        account.grant()
        account.hear(requests=Quota(10, 10 - len(account.spent.requests.amounts), 60.0))
    before = account.spent
    account.hear(requests=Quota(10, 6, 24.0))
    assert account.spent.held == before.held
    assert sum(sum(cells.amounts) for cells in account.spent.held) == 0


def test_a_reset_beyond_the_minute_holds_all_for_a_minute_and_the_day():
    account = Account(requests_per_minute=10, requests_per_day=1000)
    account.hear(requests=Quota(200, 0, 432.0))
    assert account.ready() == 1800.0 + 86_400.0 or account.ready() >= account.now + 60.0
    day = Account(requests_per_day=1000)
    day.hear(requests=Quota(200, 0, 43_200.0))
    assert day.now < day.ready() <= day.now + 2 * 900.0


def test_headers_of_limits_that_are_not_configured_change_nothing():
    account = Account(requests_per_minute=10)
    account.hear(tokens=Quota(5, 0), input_tokens=Quota(5, 0), output_tokens=Quota(5, 0))
    account.grant(Estimate(10_000, 10_000))


def test_a_reset_that_is_past_holds_nothing():
    account = Account(output_tokens_per_minute=10_000)
    account.hear(output_tokens=Quota(10_000, 0, 0.0))
    account.grant()


def test_the_state_stays_small():
    account = Account(requests_per_minute=10**6, requests_per_day=10**8, tokens_per_minute=10**9)
    calls = []
    for number in range(20_000):
        account.now += 0.37
        account.spent = granted(account.spent, account.now, Estimate(5, 5))
        calls.append((account.now, Estimate(5, 5)))
        if number % 3:
            account.release(calls.pop(0), 5, 5)
        account.hear(tokens=Quota(10**9, number, 40.0))
    spent = account.spent
    for cells in (spent.requests, spent.input, spent.output, *spent.held):
        assert len(cells.numbers) <= 62
    assert len(spent.day.numbers) <= 97
    assert len(spent.output_learned.cohorts) <= 32
    assert REQUESTS == 0
    assert (REQUESTS_A_DAY, INPUT, OUTPUT) == (1, 3, 4)
