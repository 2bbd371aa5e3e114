"""A provider that counts for itself never sees more than the limits, whenever it counts."""

from __future__ import annotations

import random
from math import floor, inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._ledger.quotas import Quotas, quotas_of
from llmsched_langgraph._ledger.rates import (
    Estimate,
    Rates,
    configured,
    corrected,
    granted,
    ready_s,
    released,
)
from llmsched_langgraph._ledger.reserves import COHORTS
from llmsched_langgraph.lab.sim.metering import Planned, inputs, outputs, play, requests, used, worst

QUIET = settings(deadline=None, database=None, max_examples=60)

TOKENS = st.integers(1, 3000)
CALLS = st.lists(
    st.tuples(TOKENS, TOKENS, TOKENS, st.sampled_from([0.1, 1.0, 1.0, 5.0, 40.0, 70.0])),
    min_size=1,
    max_size=60,
)
"""Estimates of input and output, the truth of one of them, and seconds."""


def planned(calls, true_input, true_output):
    return [
        Planned(Estimate(est_in, est_out), true_input(est_in, truth), true_output(est_out, truth), seconds)
        for est_in, est_out, truth, seconds in calls
    ]


def alone(played, limit, amount):
    """The calls that are not larger than the limit: those that are went alone, each a window of its own."""
    return [call for call in played if amount(call.call) <= limit]


@QUIET
@given(CALLS, st.integers(1, 20), st.integers(2, 40), st.sampled_from([0, 1, 7]))
def test_requests_are_never_more_than_the_limits(calls, minute, day, slots):
    """Whatever calls use, and in whatever order they end."""
    rates = Rates(requests_per_minute=minute, requests_per_day=day)
    played = play(rates, iter(planned(calls, lambda e, t: t, lambda e, t: t)), inf, slots or inf)
    assert len(played) == len(calls)
    assert worst(requests(played)) <= minute
    assert worst(requests(played), 86_400.0) <= day


@QUIET
@given(CALLS, st.integers(500, 20_000), st.booleans())
def test_input_is_never_more_than_the_limit_if_no_estimate_is_too_low(calls, limit, cached):
    """Cached tokens do not count: the use is then a small part of the estimate."""
    true_input = (lambda e, t: min(e, t)) if cached else (lambda e, t: e)
    played = play(Rates(input_tokens_per_minute=limit), iter(planned(calls, true_input, lambda e, t: t)), inf)
    assert len(played) == len(calls)
    fitting = [call for call in played if call.call.estimate.input_tokens <= limit]
    assert worst(inputs(fitting)) <= limit
    # One that is larger than the window shares it with no other call.
    for call in played:
        if call.call.input_tokens > limit:
            assert not [
                other for other in played if other is not call and abs(other.start_s - call.start_s) < 60.0
            ]


@QUIET
@given(CALLS, st.integers(500, 20_000))
def test_output_as_estimated_is_never_more_than_the_limit(calls, limit):
    """Counted at the start, at the end, or evenly in between."""
    played = play(
        Rates(output_tokens_per_minute=limit), iter(planned(calls, lambda e, t: t, lambda e, t: e)), inf
    )
    assert len(played) == len(calls)
    for when in ("start", "even", "end"):
        assert worst(outputs(alone(played, limit, lambda call: call.output_tokens), when)) <= limit + 1e-6


@QUIET
@given(CALLS, st.integers(500, 20_000), st.booleans())
def test_input_and_output_together_are_never_more_than_the_limit(calls, limit, cached):
    true_input = (lambda e, t: min(e, t)) if cached else (lambda e, t: e)
    played = play(Rates(tokens_per_minute=limit), iter(planned(calls, true_input, lambda e, t: e)), inf)
    assert len(played) == len(calls)
    fitting = alone(played, limit, lambda call: call.estimate.input_tokens + call.estimate.output_tokens)
    for when in ("start", "even", "end"):
        assert worst(inputs(fitting) + outputs(fitting, when)) <= limit + 1e-6


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("grant"), TOKENS, TOKENS),
        st.tuples(st.just("release"), st.integers(0, 50), st.one_of(st.none(), st.integers(0, 5000))),
        st.tuples(st.just("wait"), st.floats(0.0, 90.0)),
        st.tuples(st.just("hear"), st.integers(0, 10_000), st.integers(0, 10_000)),
        st.tuples(st.just("configure"), st.one_of(st.none(), st.integers(1, 5000))),
    ),
    max_size=60,
)


@QUIET
@given(STEPS)
def test_the_state_is_what_was_granted_and_released(steps):
    """Calls in flight are those granted and not released, the state stays small, and a wake is never lost."""
    rates = Rates(tokens_per_minute=5000)
    now, spent, flying = 100.0, configured(None, rates, 100.0), []
    for step in steps:
        if step[0] == "grant":
            estimate = Estimate(step[1], step[2])
            at = ready_s(spent, rates, now, estimate)
            if at > now:
                assert at <= now + 61.0
                continue
            spent = granted(spent, now, estimate)
            flying.append((now, estimate))
        elif step[0] == "release" and flying:
            granted_s, estimate = flying.pop(step[1] % len(flying))
            usage = UNKNOWN_USAGE if step[2] is None else Usage(step[2], step[2])
            spent = released(spent, now, granted_s, estimate, usage)
        elif step[0] == "wait":
            now += step[1]
        elif step[0] == "hear":
            headers = {"x-ratelimit-limit-tokens": str(step[1]), "x-ratelimit-remaining-tokens": str(step[2])}
            spent = corrected(spent, rates, now, quotas_of(headers))
        elif step[0] == "configure":
            rates = Rates(1000, None, step[1])
            spent = configured(spent, rates, now, len(flying))
        since = [estimate for granted_s, estimate in flying if granted_s >= spent.since_s]
        assert spent.output_flight.calls == spent.input_flight.calls == len(since)
        assert spent.output_flight.tokens == sum(estimate.output_tokens for estimate in since)
        assert spent.input_flight.squares == sum(estimate.input_tokens**2 for estimate in since)
        assert len(spent.output_learned.cohorts) <= COHORTS
        for cells in (spent.requests, spent.input, spent.output, *spent.held):
            assert len(cells.numbers) <= 62
            assert list(cells.numbers) == sorted(set(cells.numbers))
            assert all(number <= floor(now) for number in cells.numbers)
    # A call that asks again at the time that it is told is admitted, if calls in flight end.
    for granted_s, estimate in flying:
        spent = released(spent, now, granted_s, estimate, Usage(1, 1))
    for _ in range(200):
        at = ready_s(spent, rates, now, Estimate(10**6, 10**6))
        if at <= now:
            return
        now = at
    raise AssertionError("a call that is larger than the window never gets in")


HEADERS = st.dictionaries(
    st.sampled_from(
        [
            f"x-ratelimit-{what}-{kind}"
            for what in ("limit", "remaining", "reset")
            for kind in ("requests", "tokens")
        ]
        + [
            f"anthropic-ratelimit-{kind}-{what}"
            for what in ("limit", "remaining", "reset")
            for kind in ("requests", "tokens", "input-tokens", "output-tokens")
        ]
        + ["date", "retry-after"]
    ),
    st.one_of(
        st.text(max_size=20),
        st.integers().map(str),
        st.floats().map(str),
        st.sampled_from(["6m0s", "2026-11-27T12:00:45Z", "Fri, 27 Nov 2026 12:00:00 GMT", "-1s", "9e99s"]),
    ),
)

EVERY = Rates(5, 100, 2000, 1000, 1000)


@settings(deadline=None, database=None, max_examples=300)
@given(st.lists(HEADERS, max_size=5))
def test_headers_only_ever_tighten_and_their_effect_ends(answers):
    """Whatever they are: no limit becomes larger, and without further calls all is free after a day."""
    now, estimate = 1000.0, Estimate(100, 100)
    bare = granted(configured(None, EVERY, now), now, estimate)
    told = bare
    for headers in answers:
        told = corrected(told, EVERY, now, quotas_of(headers))
    assert ready_s(told, EVERY, now, estimate) >= ready_s(bare, EVERY, now, estimate)
    told = released(told, now, now, estimate, Usage(100, 100))
    later = now + 86_400.0 + 900.0 + 1.0
    assert ready_s(told, EVERY, later, Estimate(1, 1)) <= later
    assert corrected(told, EVERY, now, Quotas()) == told


# -- output that is not as estimated ---------------------------------------------------------------

MEAN = 300


def stream(seed, estimate, lengths, seconds):
    deal = random.Random(seed)
    while True:
        tokens = max(1, int(lengths(deal)))
        yield Planned(Estimate(1, max(1, int(estimate(deal, tokens)))), 1, tokens, seconds(tokens))


def exponential(deal):
    return deal.expovariate(1 / MEAN)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("seconds", [lambda tokens: 2.0, lambda tokens: 20.0, lambda tokens: tokens / 150])
def test_constant_estimates_never_exceed_the_limit(seed, seconds):
    """Nothing is known of a single call, and as many slots as there can be are free."""
    limit = 100_000
    played = play(
        Rates(output_tokens_per_minute=limit), stream(seed, lambda *_: MEAN, exponential, seconds), 600.0
    )
    for when in ("start", "even", "end"):
        assert worst(outputs(played, when)) <= limit


@pytest.mark.parametrize(
    ("estimate", "at_most"),
    [
        (lambda deal, truth: 0.3 * truth * 2 ** deal.gauss(0, 0.5), 1.0),
        (lambda deal, truth: 3.0 * truth * 2 ** deal.gauss(0, 0.5), 1.0),
        (lambda deal, truth: deal.choice((1, 4000)), 1.05),
    ],
    ids=["low", "high", "adversarial"],
)
def test_wrong_estimates_hardly_exceed_the_limit_and_use_it(estimate, at_most):
    limit = 100_000
    played = play(
        Rates(output_tokens_per_minute=limit), stream(1, estimate, exponential, lambda tokens: 2.0), 900.0
    )
    for when in ("start", "even", "end"):
        assert worst(outputs(played, when)) <= at_most * limit
    assert used(outputs(played, "even"), 5 * 63.0, 14 * 63.0) >= 0.9 * 60 / 63 * limit


def test_short_calls_that_end_first_do_not_speak_for_all():
    """Calls in proportion to their tokens: whoever learns as they end admits 50 times the limit at once."""
    limit = 100_000
    calls = stream(4, lambda *_: MEAN, exponential, lambda tokens: tokens / 30)
    played = play(Rates(output_tokens_per_minute=limit), calls, 60.0)
    assert worst(outputs(played, "start")) <= limit


@pytest.mark.parametrize("seconds", [1.0, 2.0, 10.0, 30.0])
def test_what_is_used_of_the_limit(seconds):
    """Nearly all that calls of this length can use."""
    limit, period_s = 30_000, 61.0 + seconds
    for rates, counted, most in (
        (Rates(output_tokens_per_minute=limit), lambda played: outputs(played, "even"), 60 / period_s),
        (Rates(input_tokens_per_minute=limit), inputs, 60 / 61),
        (Rates(requests_per_minute=limit // MEAN), requests, 60 / 61),
    ):
        calls = (Planned(Estimate(MEAN, MEAN), MEAN, MEAN, seconds) for _ in iter(int, 1))
        played = play(rates, calls, 14 * period_s)
        scale = MEAN if rates.requests_per_minute else 1
        since_s = 4 * (period_s if rates.output_tokens_per_minute else 61.0)
        until_s = since_s * 3
        assert scale * used(counted(played), since_s, until_s) >= 0.97 * most * limit
