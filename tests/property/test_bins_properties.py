"""Bins: what any sample leads to."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._fields import Field

QUIET = settings(deadline=None, database=None, max_examples=150)

AMOUNT = st.one_of(
    st.integers(0, 6).map(float), st.floats(0.0, 1e6), st.floats(-12.0, 12.0).map(lambda x: float(np.exp(x)))
)
SAMPLE = st.lists(st.one_of(st.none(), AMOUNT), max_size=80)


def present(values):
    return sorted(value for value in values if value is not None)


@QUIET
@given(SAMPLE, st.integers(1, 8), st.integers(1, 6))
def test_every_value_is_in_its_bin(values, most, least_count):
    """Bins hold all values, do not overlap, and each keeps its own count, mean and range."""
    bins = Bins.fit(values, most, least_count)
    inside = {i: [] for i in range(1, bins.states)}
    for value in present(values):
        inside[bins.index(value)].append(value)
    assert len(bins.bins) <= min(most, max(1, len(present(values)) // least_count))
    assert len(bins.bins) <= len(set(present(values)))
    assert bins.absent == sum(value is None for value in values)
    for own, held in zip(bins.bins, inside.values(), strict=True):
        assert (own.lo, own.hi, own.count) == (held[0], held[-1], len(held))
        assert own.mean == pytest.approx(np.mean(held))
        assert np.dot(own.points, own.weights) / own.count == pytest.approx(own.mean)
        assert own.lo <= own.points[0] <= own.points[-1] <= own.hi
    assert all(a.hi < b.lo for a, b in itertools.pairwise(bins.bins))
    assert bins.index(None) == 0


@QUIET
@given(SAMPLE, st.integers(1, 8))
def test_few_distinct_values_get_a_bin_each(values, most):
    """So counts, such as a fan-out, are kept as they are."""
    distinct = sorted(set(present(values)))
    if len(distinct) <= most:
        assert [own.mean for own in Bins.fit(values, most).bins] == distinct


@QUIET
@given(SAMPLE, AMOUNT, AMOUNT)
def test_states_ascend_with_values(values, a, b):
    """Also those of values that were never seen."""
    bins = Bins.fit(values)
    assert bins.index(min(a, b)) <= bins.index(max(a, b)) < bins.states


@QUIET
@given(SAMPLE.filter(present), st.lists(AMOUNT, min_size=2, max_size=5))
def test_what_has_run_longer_ends_later(values, amounts):
    """Weights fall with the amount reached, and the expected total over all bins rises."""
    bins = Bins.fit(values)
    share = np.array([0.0, *(own.count for own in bins.bins)])
    totals, weights = [], []
    for amount in sorted(amounts):
        known = bins.at_least(amount)
        assert known.weights.shape == known.left.shape == (bins.states,)
        assert known.weights[0] == 0.0
        assert known.weights.max() > 0.0
        assert (known.left >= 0.0).all()
        mass = known.weights * share
        totals.append(amount + float(mass @ known.left) / mass.sum())
        weights.append(known.weights)
    assert all(a <= b + 1e-6 * max(1.0, b) for a, b in itertools.pairwise(totals))
    # Past everything seen, the last bin has all the weight again.
    inside = [
        w for amount, w in zip(sorted(amounts), weights, strict=True) if amount <= bins.bins[-1].points[-1]
    ]
    assert all((a >= b - 1e-12).all() for a, b in itertools.pairwise(inside))


@QUIET
@given(SAMPLE.filter(present))
def test_nothing_run_yet_is_merely_present(values):
    """At least nothing: every bin, with its whole mean still to come."""
    bins = Bins.fit(values)
    known = bins.at_least(0.0)
    assert known.weights == pytest.approx(bins.present())
    assert known.left == pytest.approx(bins.means)


@QUIET
@given(SAMPLE, st.integers(0, 2**32))
def test_draws_come_from_their_bins(values, seed):
    """Every draw lies in its state's range, and their mean is the bin's."""
    bins = Bins.fit(values)
    random = np.random.default_rng(seed)
    states = np.repeat(np.arange(bins.states), 400)
    uniform = (np.tile(np.arange(400), bins.states) + random.random(len(states))) / 400
    drawn = bins.values(states, uniform)
    for i, own in enumerate(bins.bins, 1):
        mine = drawn[states == i]
        assert own.lo <= mine.min() <= mine.max() <= own.hi
        assert mine.mean() == pytest.approx(own.mean, abs=0.02 * (own.hi - own.lo) + 1e-9 * own.hi)
    assert (drawn[states == 0] == 0.0).all()


@QUIET
@given(SAMPLE, AMOUNT)
def test_a_place_points_to_another_bin(values, value):
    """No further than the other bin's mean, and that bin exists."""
    bins = Bins.fit(values)
    place = bins.place(value)
    if place is not None:
        other, share = place
        assert 1 <= other < bins.states
        assert abs(other - bins.index(value)) == 1
        assert -1.0 <= share <= 1.0


@QUIET
@given(SAMPLE)
def test_json(values):
    """What is written is read, through real JSON text."""
    bins = Bins.fit(values)
    assert Bins.from_json(Field(json.loads(json.dumps(bins.to_json())))) == bins
