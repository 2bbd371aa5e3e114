"""The clock of fair sharing, against sharing itself in steps."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.sharing import ends

from llmsched_langgraph._core.fair_clock import FairClock

QUIET = settings(deadline=None, database=None, max_examples=200)

ARRIVALS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 15)), min_size=1, max_size=9)
"""Time since the arrival before, and work, in quarters."""


@QUIET
@given(ARRIVALS, st.integers(1, 5))
@example([(0, 4), (0, 4), (2, 1)], 1)
def test_tags_stand_in_the_order_of_the_ends_under_fair_sharing(gaps, slots):
    """Whoever ends first has the smaller tag; who end together, the same."""
    arrivals, now = [], Fraction(0)
    for gap, work in gaps:
        now += Fraction(gap, 4)
        arrivals.append((now, Fraction(work, 4)))
    clock = FairClock()
    tags = [clock.arrive(float(at), float(work), slots) for at, work in arrivals]
    end = ends(arrivals, slots)
    for one in range(len(tags)):
        for other in range(len(tags)):
            if end[one] < end[other]:
                assert tags[one] <= tags[other] + 1e-9
            if tags[one] < tags[other] - 1e-9:
                assert end[one] <= end[other]


@QUIET
@given(ARRIVALS, st.integers(1, 5))
def test_the_virtual_time_is_what_one_job_would_have_received(gaps, slots):
    """A job that is there from the beginning and never ends receives it, step by small step."""
    steps = 64
    clock, endless = FairClock(), 1e9
    clock.arrive(0.0, endless, slots)
    received, now, left = Fraction(0), Fraction(0), []
    for gap, work in gaps:
        at = now + Fraction(gap, 4)
        while now < at:
            # A step ends where somebody ends: nobody receives more than was left.
            pace = Fraction(slots, len(left) + 1)
            step = min([Fraction(1, steps), at - now, *(own / pace for own in left)])
            left = [own - step * pace for own in left if own > step * pace]
            received += step * pace
            now += step
        tag = clock.arrive(float(at), work / 4, slots)
        assert tag == pytest.approx(float(received) + work / 4, abs=1e-6)
        if work:
            left.append(Fraction(work, 4))


def test_by_hand():
    """Two jobs of 4 s and one of 1 s that comes after 2 s, on one slot."""
    clock = FairClock()
    assert clock.arrive(0.0, 4.0, 1) == 4.0
    assert clock.arrive(0.0, 4.0, 1) == 4.0
    assert clock.arrive(2.0, 1.0, 1) == 2.0  # each of two has received 1 s by then
    # It ends at 5 s, when three have received 1 s each; then 2 s are left of each of the others.
    assert clock.arrive(6.0, 1.0, 1) == pytest.approx(2.0 + 0.5 + 1.0)


def test_an_idle_clock_stands_still():
    """Where nobody is there, nobody receives anything, however long that takes."""
    clock = FairClock()
    assert clock.arrive(0.0, 3.0, 2) == 3.0
    assert clock.arrive(1_000.0, 1.0, 2) == 4.0


def test_time_does_not_go_back():
    """Events of several clocks may be out of order by a little; work that is less than nothing is none."""
    clock = FairClock()
    clock.arrive(5.0, 10.0, 1)
    assert clock.arrive(4.0, 2.0, 1) == 2.0
    assert clock.arrive(5.0, -1.0, 1) == 0.0
    assert clock.arrive(7.0, 0.0, 1) == pytest.approx(1.0)
