"""Outliers: what a fence lets pass, and what a mean of limited amounts is worth."""

from __future__ import annotations

from math import ceil, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ended import ended

from llmsched_langgraph._belief.model.outliers import FEW, MIN_COUNT, MIN_FACTOR, fence, limited

QUIET = settings(deadline=None, database=None, max_examples=100)
AMOUNTS = st.lists(st.floats(1e-6, 1e6), min_size=MIN_COUNT, max_size=60)
DRAWS = 400


def mean(amounts):
    """The mean that an estimate uses."""
    limit = fence(amounts)
    return sum(min(amount, limit) for amount in amounts) / len(amounts)


def lognormal(sigma, count, seed):
    return np.exp(sigma * np.random.default_rng((seed, count)).standard_normal(count)).tolist()


@QUIET
@given(
    st.integers(0, 99),
    st.integers(1, ceil(FEW * 100)),
    st.floats(1e-3, 1e3),
    st.floats(2.0, 1e9),
    st.randoms(),
)
def test_a_few_odd_amounts_among_equal_ones_raise_the_mean_by_a_hundredth_each(at, odd, usual, times, deal):
    """However large they are, and wherever they stand in the order."""
    amounts = [usual] * (100 - odd)
    for _ in range(odd):
        amounts.insert(min(at, len(amounts)), usual * times * deal.uniform(1.0, 10.0))
    assert usual <= mean(amounts) <= usual * (1 + odd / 100 + 1e-9)


@pytest.mark.parametrize(("sigma", "most"), [(0.5, 0.06), (1.0, 0.15)])
def test_an_odd_amount_among_unequal_ones(sigma, most):
    """It raises the mean by 4 % where amounts differ by half of themselves, by 11 % if they differ more."""
    rises = []
    for seed in range(DRAWS):
        amounts = lognormal(sigma, 99, seed)
        rises.append(mean([*amounts, 3600.0 * mean(amounts)]) / mean(amounts) - 1)
    assert 0.0 < np.median(rises) < most
    assert np.quantile(rises, 0.95) < 2 * most


@pytest.mark.parametrize(
    ("sigma", "count", "most"),
    [
        (0.5, 100, 0.003),
        (1.0, 100, 0.02),
        (1.5, 100, 0.06),
        (2.0, 100, 0.13),
        (1.5, 1000, 0.02),
        (2.0, 1000, 0.05),
    ],
)
def test_the_mean_of_heavy_tailed_amounts_is_hardly_underestimated(sigma, count, most):
    """On average, against the plain mean of the same amounts: even where 5 % of them are most of the work."""
    draws = [lognormal(sigma, count, seed) for seed in range(DRAWS)]
    assert 1 - most <= sum(map(mean, draws)) / sum(sum(own) / count for own in draws) <= 1.0


@QUIET
@given(st.integers(20, 200), st.floats(10.0, 1e6), st.randoms())
def test_more_than_a_few_are_no_outliers(count, times, deal):
    """A twentieth of the amounts that is as large as all others together is kept as it is."""
    many = ceil(FEW * count) + 1
    amounts = [1.0] * (count - many) + [times] * many
    deal.shuffle(amounts)
    assert fence(amounts) >= times
    assert mean(amounts) == pytest.approx(np.mean(amounts))


@QUIET
@given(AMOUNTS, st.randoms())
def test_a_fence_depends_on_the_amounts_alone(amounts, deal):
    """Not on their order, nor on their unit; most of them are inside of it."""
    limit = fence(amounts)
    assert fence(deal.sample(amounts, len(amounts))) == limit
    assert fence([1000.0 * amount for amount in amounts]) == pytest.approx(1000.0 * limit)
    few = ceil(FEW * len(amounts))
    assert limit >= MIN_FACTOR * sorted(amounts)[-1 - few]
    assert sum(amount > limit for amount in amounts) <= few


@QUIET
@given(st.lists(st.floats(0.0, 1e9), max_size=MIN_COUNT - 1))
def test_too_few_amounts_have_no_fence(amounts):
    """Nobody can tell the odd one."""
    assert fence(amounts) == inf


def test_amounts_of_zero_have_a_fence_too():
    """What takes no time but once is an outlier then; what does half of the time is none."""
    assert mean([0.0] * 99 + [3600.0]) == pytest.approx(0.0, abs=1e-6)
    assert mean([0.0] * 50 + [1.0] * 50) == 0.5
    assert mean([0.0] * 50 + [1.0] * 49 + [3600.0]) == pytest.approx(0.51)


@QUIET
@given(st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 1e4)), max_size=4), max_size=30))
def test_only_durations_above_the_fence_of_their_stage_are_changed(calls):
    """Jobs without an outlier are the same objects; how often something ran is never changed."""
    jobs = [ended("app", *own) for own in calls]
    seconds = {name: [s for own in calls for stage, s in own if stage == name] for name in "ab"}
    limits = {name: fence(own) for name, own in seconds.items()}
    found = limited(jobs)
    for own, job, new in zip(calls, jobs, found, strict=True):
        assert [call.seconds for call in new.llm_calls()] == [min(s, limits[name]) for name, s in own]
        assert (new is job) == all(s <= limits[name] for name, s in own)
        assert [stage.name for stage in new.stages] == [stage.name for stage in job.stages]
