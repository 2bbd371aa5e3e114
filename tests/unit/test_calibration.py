"""How much longer a token takes on a busy backend."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph.belief.calibration import LEAST_OUTPUT, LEAST_TOKENS, Calibration


def measured(pace):
    """Calls of a hundred tokens at each number of calls side by side, enough of each."""
    count = LEAST_TOKENS // 100
    return Calibration().observe((b, 100 * token_s, 100) for b, token_s in pace.items() for _ in range(count))


def test_nothing_is_known_at_first():
    """And then work counts as it was measured."""
    assert Calibration().token_s(3) is None
    assert Calibration().at_capacity(3) == 1.0


def test_between_measured_points_lies_a_line():
    """Beyond them it is level."""
    pace = measured({1: 0.01, 5: 0.03})
    assert pace.curve() == ((1, pytest.approx(0.01)), (5, pytest.approx(0.03)))
    assert [pace.token_s(b) for b in (0.5, 1, 2, 5, 50)] == pytest.approx([0.01, 0.01, 0.015, 0.03, 0.03])


def test_work_is_counted_as_on_a_busy_backend():
    """A call that had the backend for itself would take three times as long among five."""
    pace = measured({1: 0.01, 5: 0.03})
    assert pace.at_capacity(1) == pytest.approx(3.0)
    assert pace.at_capacity(5) == pytest.approx(1.0)


def test_what_says_little_of_decoding_is_left_out():
    """Short answers, calls whose tokens nobody counted, and too few of anything."""
    assert Calibration().observe([(1, 5.0, None), (1, 5.0, LEAST_OUTPUT - 1)]).seen == {}
    assert Calibration().observe([(1, 5.0, 100)]).curve() == ()


def test_a_backend_does_not_get_faster_for_being_asked_for_more():
    """Where measurements say so, their mean is taken."""
    pace = measured({1: 0.02, 2: 0.01, 4: 0.05})
    assert [token_s for _, token_s in pace.curve()] == pytest.approx([0.015, 0.015, 0.05])


@given(st.dictionaries(st.integers(1, 12), st.floats(0.001, 1.0), min_size=1))
def test_the_curve_never_falls(pace):
    curve = [token_s for _, token_s in measured(pace).curve()]
    assert len(curve) == len(pace)
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(curve))
    assert min(pace.values()) * (1 - 1e-9) <= curve[0]
    assert curve[-1] <= max(pace.values()) * (1 + 1e-9)
