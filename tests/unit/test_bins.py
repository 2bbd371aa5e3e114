"""Bins: cuts, what is left of what has begun, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from llmsched_langgraph._belief.model.bins import POINTS, Bins
from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError

TWELVE = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


def test_bins_hold_equally_many():
    """Cut in the gaps' middles on a log scale."""
    bins = Bins.fit([*TWELVE, None], 3)
    assert [(own.lo, own.hi, own.count) for own in bins.bins] == [(1, 4, 4), (5, 8, 4), (9, 12, 4)]
    assert bins.absent == 1
    assert bins.states == 4
    assert [bins.index(x) for x in (None, 0, 4.47, 4.48, 8.4, 8.5, 1e9)] == [0, 1, 1, 2, 2, 3, 3]
    assert bins.means.tolist() == [0.0, 2.5, 6.5, 10.5]
    assert bins.range == (0.0, 12.0)
    assert Bins.fit(TWELVE, 3).range == (1.0, 12.0)


def test_equal_values_share_a_bin():
    """Even if that leaves fewer bins, or uneven ones."""
    assert [own.count for own in Bins.fit([1.0] * 9 + [2.0], 6).bins] == [9, 1]
    assert [own.count for own in Bins.fit([0.0] * 5, 6).bins] == [5]


def test_few_values_get_few_bins():
    """`least_count` values to each."""
    assert len(Bins.fit(TWELVE, 6, least_count=5).bins) == 2
    assert len(Bins.fit(TWELVE[:4], 6, least_count=5).bins) == 1


def test_a_quantity_that_never_happened():
    """One state, and every value is in it."""
    bins = Bins.fit([None, None])
    assert (bins.states, bins.absent, bins.range) == (1, 2, (0.0, 0.0))
    assert bins.index(3.0) == 0
    assert bins.present().tolist() == [1.0]
    assert bins.at_least(3.0).weights.tolist() == [1.0]
    assert bins.values(np.array([0, 0]), np.array([0.1, 0.9])).tolist() == [0.0, 0.0]
    assert bins.left(1.0, np.array([0]), np.array([0.5])).tolist() == [0.0]


def test_what_is_left_of_what_has_begun():
    """Worked by hand on a bin that keeps all its values."""
    bins = Bins.fit(TWELVE, 3)
    known = bins.at_least(6.5)
    assert known.weights.tolist() == [0.0, 0.0, 0.5, 1.0]
    assert known.left == pytest.approx([0.0, 0.0, 1.0, 4.0])
    assert bins.at_least(12.0).left.tolist() == [0.0, 0.0, 0.0, 0.0]


def test_what_outlasts_everything_is_not_about_to_end():
    """First as much more as the last bin's mean is over its start, then as much as it has overrun."""
    bins = Bins.fit(TWELVE, 3)
    assert bins.at_least(12.5).weights.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert [bins.at_least(e).left[-1] for e in (12.5, 13.5, 20.0)] == [1.5, 1.5, 8.0]
    assert bins.left(20.0, np.array([3, 0]), np.array([0.3, 0.3])).tolist() == [8.0, 0.0]


def test_a_large_bin_keeps_a_few_points():
    """The means of equally long runs."""
    (own,) = Bins.fit(np.arange(1.0, 81.0), 1).bins
    assert len(own.points) == POINTS
    assert own.weights == (10,) * POINTS
    assert own.points[0] == 5.5


def test_a_value_has_a_place_in_its_bin():
    """Between its bin's mean and the next one's, in quarters, on a log scale; past the last, backwards."""
    bins = Bins.fit([1.0, 10.0, 100.0], 3)
    assert bins.place(10.0) == (1, 0.0)
    assert bins.place(10.0 * 10**0.2) == (3, 0.25)
    assert bins.place(10.0 / 10**0.3) == (1, 0.25)
    assert bins.place(100.0 * 10**0.45) == (2, -0.5)
    assert bins.place(1e9) == (2, -1.0)
    assert bins.place(None) is None
    assert bins.place(0.0) is None
    assert Bins.fit([1.0]).place(2.0) is None


def test_draws_of_what_is_left():
    """Only from what can still be."""
    bins = Bins.fit(TWELVE, 3)
    states = np.array([2, 2, 3, 3, 1, 0])
    uniform = np.array([0.0, 0.99, 0.0, 0.99, 0.5, 0.5])
    assert bins.values(states, uniform).tolist() == [5.0, 8.0, 9.0, 12.0, 3.0, 0.0]
    assert bins.left(6.5, states, uniform).tolist() == [0.5, 1.5, 2.5, 5.5, 0.0, 0.0]


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_bad_values(value):
    """Told by their place."""
    with pytest.raises(InvalidDataError, match=r"values\[1\]: expected a nonnegative number or None"):
        Bins.fit([1.0, value])


def test_bad_questions():
    """Negative values, and no numbers."""
    bins = Bins.fit(TWELVE)
    for value in (-1.0, float("nan")):
        with pytest.raises(InvalidDataError, match="value: expected a nonnegative number"):
            bins.index(value)


DAMAGE = {
    r"^b: must be an object, not \[\]$": lambda d: [],
    r"^b\.bins: is missing$": lambda d: {"absent": 0},
    r"^b\.absent: must be an integer, 0 to 1,000,000,000,000, not None$": lambda d: {**d, "absent": None},
    r"^b\.bins: must be a list, not 'x'$": lambda d: {**d, "bins": "x"},
    r"^b\.bins\[0\]: must be an object, not 1$": lambda d: {**d, "bins": [1]},
    r"^b\.bins\[1\]\.lo: must be above the previous bin, not 1\.0$": lambda d: {
        **d,
        "bins": [d["bins"][0]] * 2,
    },
    r"^b\.bins\[0\]\.mean: must be between lo and hi, not 99\.0$": lambda d: first(d, mean=99.0),
    r"^b\.bins\[0\]\.hi: must be a number, 0 to .*, not nan$": lambda d: first(d, hi=float("nan")),
    r"^b\.bins\[0\]\.hi: must be a number, 0 to .*, not inf$": lambda d: first(d, hi=float("inf")),
    r"^b\.bins\[0\]\.lo: must be a number, 0 to .*, not -1$": lambda d: first(d, lo=-1),
    r"^b\.bins\[0\]\.count: must be an integer, 1 to .*, not 0$": lambda d: first(d, count=0),
    r"^b\.bins\[0\]\.points: must be ascending numbers between lo and hi, not \[9\.0\]$": lambda d: first(
        d, points=[9.0]
    ),
    r"^b\.bins\[0\]\.points\[0\]: must be a number, 0 to .*, not True$": lambda d: first(d, points=[True]),
    r"^b\.bins\[0\]\.weights: must be one per point with the sum 4, not \[1\]$": lambda d: first(
        d, weights=[1]
    ),
    r"^b\.bins\[0\]\.weights\[0\]: must be an integer, 1 to .*, not True$": lambda d: first(
        d, weights=[True]
    ),
}


def first(data, **fields):
    """The data with some fields of its first bin replaced."""
    return {**data, "bins": [{**data["bins"][0], **fields}, *data["bins"][1:]]}


@pytest.mark.parametrize("told", DAMAGE)
def test_damaged_data(told):
    """One clear error, which names the field."""
    with pytest.raises(InvalidDataError, match=told):
        Bins.from_json(Field({"b": DAMAGE[told](Bins.fit(TWELVE, 3).to_json())})["b"])


def test_any_amount_that_can_be_learned_can_be_read():
    """Also one that is larger than a recorded job may have."""
    bins = Bins.fit([0.0, 1e13, 1e300, None])
    assert Bins.from_json(Field(bins.to_json())) == bins
