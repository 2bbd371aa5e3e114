"""How much longer a token takes on a busy backend."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph._belief.fit.calibration import BatchSums, Calibration, ServedCall

MANY = 20_000
"""Calls that outweigh the prior."""


def measured(pace, stage="s", own=1.0, prompt_s=0.7, times=MANY // 4):
    """Calls of one stage with 50 to 200 tokens at each number of calls side by side, and a prompt each."""
    found = Calibration()
    for b, token_s in pace.items():
        lengths = (50, 80, 140, 200)
        found = found.observe(ServedCall(stage, b, prompt_s + n * own * token_s, n) for n in lengths)
    return Calibration({at: BatchSums(*(times * x for x in tally)) for at, tally in found.seen.items()})


def test_nothing_is_known_at_first():
    """And then work counts as it was measured."""
    assert Calibration().slowdown(3) == 1.0
    assert Calibration().at_capacity(3) == 1.0
    assert measured({4: 0.03}).at_capacity(1) == 1.0


def test_between_measured_points_lies_a_line():
    """Beyond them it is level."""
    found = measured({1: 0.01, 5: 0.03})
    assert [found.slowdown(b) for b in (0.5, 1, 2, 5, 50)] == pytest.approx([1, 1, 1.5, 3, 3], rel=1e-2)


def test_work_is_counted_as_on_a_busy_backend():
    """A call that had the backend for itself would take three times as long among five."""
    found = measured({1: 0.01, 5: 0.03})
    assert found.at_capacity(1) == pytest.approx(3.0, rel=1e-2)
    assert found.at_capacity(5) == pytest.approx(1.0)


def test_stages_are_compared_with_themselves_only():
    """A slow stage that is always served among many says nothing of how many were served."""
    slow = measured({8: 0.5}, "slow")
    quick = measured({1: 0.01, 2: 0.01}, "quick")
    found = Calibration({**slow.seen, **quick.seen})
    assert found.at_capacity(1) == pytest.approx(1.0)
    both = Calibration(
        {**measured({1: 0.01, 8: 0.02}, "a").seen, **measured({2: 0.03, 8: 0.04}, "b", own=7.0).seen}
    )
    assert [both.slowdown(b) for b in (1, 2, 8)] == pytest.approx([1, 1.5, 2], rel=2e-2)


def test_what_a_prompt_takes_is_no_slowdown():
    """Short answers take longer for each token, wherever they are served among many."""
    short = [ServedCall("s", 8, 1.0 + n * 0.01, n) for n in (10, 12, 14, 16)]
    long = [ServedCall("s", 1, 1.0 + n * 0.01, n) for n in (500, 600, 700, 800)]
    assert Calibration().observe(short + long).at_capacity(1) == pytest.approx(1.0)


def test_what_says_nothing_is_left_out():
    """Calls whose tokens nobody counted, too few, all of one length, or faster the longer."""
    assert Calibration().observe([ServedCall("s", 1, 5.0, None)]).seen == {}
    for calls in ([(1.0, 50)] * 2, [(1.0, 50)] * 9, [(9.0, 50), (5.0, 90), (1.0, 150)]):
        tallies = Calibration().observe(ServedCall("s", 1, *call) for call in calls).seen.values()
        assert [tally.token_s() for tally in tallies] == [None]


def test_a_few_calls_change_little():
    """Chance is no slow-down."""
    deal = random.Random(0)
    lengths = [deal.randrange(50, 200) for _ in range(40)]
    calls = [ServedCall("s", 1 + n % 4, t * deal.lognormvariate(0.0, 0.2), t) for n, t in enumerate(lengths)]
    assert 1.0 <= Calibration().observe(calls).at_capacity(1) < 1.2


def test_a_backend_does_not_get_faster_for_being_asked_for_more():
    """Where measurements say so, their mean is taken."""
    found = measured({1: 0.02, 2: 0.01, 4: 0.05})
    assert found.slowdown(1) == found.slowdown(2) < found.slowdown(4)


@given(st.dictionaries(st.integers(1, 12), st.floats(0.001, 1.0), min_size=2))
def test_the_curve_never_falls(pace):
    curve = [value for _, value in measured(pace).curve]
    assert len(curve) == len(pace)
    assert curve[0] == 1.0
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(curve))
    assert curve[-1] <= max(pace.values()) / min(pace.values()) * (1 + 1e-9)
