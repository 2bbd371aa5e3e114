"""Discretizes a nonnegative quantity that may be absent into a few states, and back.

Does not interpret the quantity or relate it to other quantities.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, log, sqrt
from sys import float_info
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError

ABSENT = 0
"""The state of a quantity that does not occur in a job."""

BINS = 6
"""Default maximum number of bins."""

TINY = 1e-9
"""Lower bound of arguments of logarithms."""

POINTS = 8
"""Maximum number of points that summarize the values in a bin."""

STEPS = 4
"""Steps of `Bins.place` between two bin means. Coarse, so that jobs share cached posteriors."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a quantity, in the quantity's unit.

    Attributes:
        lo: minimum of the observed values.
        hi: maximum of the observed values.
        mean: mean of the observed values.
        count: number of observed values.
        points: summary of the values, ascending: the distinct values if there are at most `POINTS`, else the
            means of `POINTS` equal slices of the sorted values.
        weights: number of values per point; the sum is `count`.
    """

    lo: float
    hi: float
    mean: float
    count: int
    points: tuple[float, ...]
    weights: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Bin:
        """Return the bin of these values, which must be ascending and not empty."""
        distinct, counts = np.unique(values, return_counts=True)
        if len(distinct) > POINTS:
            runs = np.array_split(values, POINTS)
            points, weights = [_mean(run) for run in runs], [len(run) for run in runs]
        else:
            points, weights = distinct.tolist(), counts.tolist()
        lo, hi = float(values[0]), float(values[-1])
        return cls(lo, hi, _mean(values), len(values), tuple(points), tuple(weights))


@dataclass(frozen=True, slots=True, eq=False)
class AtLeast:
    """Evidence that a quantity Q is at least some amount a.

    Attributes:
        weights: likelihood P(Q >= a | state), shape (states,).
        left: E[Q - a | Q >= a, state], shape (states,); 0 where the weight is 0.
    """

    weights: NDArray[np.float64]
    left: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """States of a quantity: 0 is absent, 1..B are its bins in ascending order.

    Attributes:
        bins: the bins, with disjoint ranges; empty if the quantity was always absent.
        absent: number of observations in which the quantity was absent.
        means: E[quantity | state], shape (states,); 0 for absent.
        variances: Var[quantity | state], shape (states,); 0 for absent.
    """

    bins: tuple[Bin, ...]
    absent: int = 0
    _cuts: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _points: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _shares: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _owners: NDArray[np.intp] = field(init=False, repr=False, compare=False)
    _upto: NDArray[np.intp] = field(init=False, repr=False, compare=False)  # cumulative points per state
    _sums: NDArray[np.float64] = field(init=False, repr=False, compare=False)  # cumulative shares, from 0
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)  # log of the bin means
    means: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    variances: NDArray[np.float64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        cuts = tuple(_between(a.hi, b.lo) for a, b in pairwise(self.bins))
        object.__setattr__(self, "_cuts", cuts)
        object.__setattr__(self, "_points", np.array([p for own in self.bins for p in own.points]))
        shares = [w / own.count for own in self.bins for w in own.weights]
        object.__setattr__(self, "_shares", np.array(shares))
        owners = [i for i, own in enumerate(self.bins, 1) for _ in own.points]
        object.__setattr__(self, "_owners", np.array(owners, dtype=np.intp))
        upto = np.cumsum([0, *(len(own.points) for own in self.bins)], dtype=np.intp)
        object.__setattr__(self, "_upto", upto)
        object.__setattr__(self, "_sums", _sums(self._shares))
        object.__setattr__(self, "_logs", tuple(log(max(own.mean, TINY)) for own in self.bins))
        object.__setattr__(self, "means", np.array([0.0, *(own.mean for own in self.bins)]))
        spreads = (
            sum(w * (p - own.mean) ** 2 for p, w in zip(own.points, own.weights, strict=True)) / own.count
            for own in self.bins
        )
        object.__setattr__(self, "variances", np.array([0.0, *spreads]))

    @classmethod
    def fit(cls, values: Iterable[float | None], most: int = BINS, least_count: int = 1) -> Bins:
        """Return bins of equal counts, as far as ties allow.

        Bins are cut at quantiles, in the middle of the gap between neighbouring values on a log scale.

        Args:
            values: the observations; None means absent.
            most: at most this many bins, and at most the number of distinct values.
            least_count: minimum number of values per bin, up to ties.

        Raises:
            InvalidDataError: a value is negative or not finite.
        """
        given = list(values)
        for i, value in enumerate(given):
            if value is not None and not (isfinite(value) and value >= 0.0):
                raise InvalidDataError(f"values[{i}]: expected a nonnegative number or None, got {value!r}")
        present = np.sort(np.array([value for value in given if value is not None], dtype=np.float64))
        absent = len(given) - len(present)
        if not present.size:
            return cls((), absent)
        gaps = np.flatnonzero(np.diff(present) > 0.0) + 1
        wanted = max(1, min(most, len(present) // max(1, least_count)))
        if len(gaps) < wanted:
            cuts = gaps
        else:
            ranks = len(present) * np.arange(1, wanted) / wanted
            cuts = np.unique([gaps[int(np.argmin(np.abs(gaps - rank)))] for rank in ranks])
        return cls(tuple(Bin.of(run) for run in np.split(present, cuts.astype(np.intp))), absent)

    @property
    def states(self) -> int:
        """The number of states, including absent."""
        return len(self.bins) + 1

    @property
    def mean(self) -> float:
        """The mean over the observations that are not absent; 0 without any."""
        count = sum(own.count for own in self.bins)
        return sum(own.mean * own.count for own in self.bins) / count if count else 0.0

    @property
    def range(self) -> tuple[float, float]:
        """The observed minimum and maximum, an absent quantity counting as 0."""
        if not self.bins:
            return 0.0, 0.0
        return 0.0 if self.absent else self.bins[0].lo, self.bins[-1].hi

    def index(self, value: float | None) -> int:
        """Return the state of a value: 0 for None, else its bin or the nearest one.

        Without bins, the state is 0 for every value.

        Raises:
            InvalidDataError: the value is negative or NaN.
        """
        if value is None or not self.bins:
            return ABSENT
        if not value >= 0.0:
            raise InvalidDataError(f"value: expected a nonnegative number or None, got {value!r}")
        return 1 + bisect_right(self._cuts, value)

    def place(self, value: float | None) -> tuple[int, float] | None:
        """Return the position of a value relative to its bin's mean: a neighbour bin and a share.

        The share is (log x - log m) / (log m' - log m) for the mean m of the value's bin and m' of the
        neighbour on the value's side, rounded to 1 / `STEPS`. Beyond the outermost mean, the neighbour is the
        inner bin, and the share is negative, at least -1. None if the value is absent or zero, or if there is
        no neighbour.
        """
        if not value:
            return None
        state = self.index(value)
        if len(self.bins) < 2:
            return None
        own, here = self._logs[state - 1], log(max(value, TINY))
        other = state + 1 if here > own else state - 1
        if not 1 <= other <= len(self.bins):
            other = 2 * state - other
        gap = self._logs[other - 1] - own
        if not gap:
            return None
        return other, round(STEPS * min(max((here - own) / gap, -1.0), 1.0)) / STEPS

    def present(self) -> NDArray[np.float64]:
        """Return the likelihood of "not absent": 0 for absent, 1 for each bin; shape (states,)."""
        weights = np.ones(self.states)
        if self.bins:
            weights[ABSENT] = 0.0
        return weights

    def at_least(self, amount: float) -> AtLeast:
        """Return the evidence that the quantity is present and at least `amount`.

        Above all observed values, the state is the last bin, and the expected remainder is the larger of
        mean - lo of that bin and the overrun amount - hi.
        """
        if not self.bins:
            return AtLeast(np.ones(1), np.zeros(1))
        reached = np.where(self._points >= amount, self._shares, 0.0)
        weights = self._by_state(reached)
        if weights[-1] <= 0.0:
            last = self.bins[-1]
            weights, left = np.zeros(self.states), np.zeros(self.states)
            weights[-1] = 1.0
            left[-1] = max(last.mean - last.lo, amount - last.hi)
            return AtLeast(weights, left)
        left = self._by_state(reached * (self._points - amount))
        np.divide(left, weights, out=left, where=weights > 0.0)
        return AtLeast(np.minimum(weights, 1.0), left)

    def _by_state(self, amounts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the sums of per-point amounts by state. Requires at least one bin."""
        return np.bincount(self._owners, amounts).astype(np.float64, copy=False)

    def passed(self, amount: float) -> int:
        """Return the number of points below `amount`. It determines the weights of `at_least`."""
        return int(self._points.searchsorted(amount))

    def points(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the points of all bins, ascending, and their probabilities."""
        return self._points, weights[self._owners] * self._shares

    def values(self, states: NDArray[np.intp], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sample one amount per state from the points of its bin; 0 for absent.

        Args:
            states: states, shape (n,).
            uniform: samples of U(0, 1) for the inverse transform, shape (n,).
        """
        return self._picked(states, uniform, self._sums, self._points)

    def left(
        self, amount: float, states: NDArray[np.intp], uniform: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Sample quantity - `amount`, given quantity >= `amount`; 0 for impossible states."""
        reached = np.where(self._points >= amount, self._shares, 0.0)
        if not reached.any():
            return self.at_least(amount).left[states]
        return self._picked(states, uniform, _sums(reached), self._points - amount)

    def _picked(
        self,
        states: NDArray[np.intp],
        uniform: NDArray[np.float64],
        sums: NDArray[np.float64],
        points: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        if not points.size:
            return np.zeros(len(states))
        ends = sums[self._upto]
        low, high = np.concatenate((ends[:1], ends[:-1]))[states], ends[states]
        at = sums.searchsorted(low + uniform * (high - low), side="right") - 1
        # Rounding must not move a sample past the end of its bin.
        at = np.minimum(at, (self._upto - 1)[states])
        return np.where(high > low, points[at], 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data, from which `from_json` restores the bins."""
        names = ("lo", "hi", "mean", "count")
        bins = [
            {**{n: getattr(own, n) for n in names}, "points": list(own.points), "weights": list(own.weights)}
            for own in self.bins
        ]
        return {"absent": self.absent, "bins": bins}

    @classmethod
    def from_json(cls, data: Field) -> Bins:
        """Return the bins that `to_json` wrote.

        Raises:
            InvalidDataError: the data is damaged; the message names the field.
        """
        made: list[Bin] = []
        for given in data["bins"].items():
            own = _bin(given)
            if made and own.lo <= made[-1].hi:
                raise given["lo"].fault("above the previous bin")
            made.append(own)
        return cls(tuple(made), data["absent"].count())


def _bin(data: Field) -> Bin:
    # Learned amounts may exceed the limits of recorded jobs (`_fields.MOST`).
    most = float_info.max
    made = Bin(
        lo=data["lo"].number(most),
        hi=data["hi"].number(most),
        mean=data["mean"].number(most),
        count=data["count"].count(least=1),
        points=tuple(point.number(most) for point in data["points"].items()),
        weights=tuple(weight.count(least=1) for weight in data["weights"].items()),
    )
    if not made.lo <= made.mean <= made.hi:
        raise data["mean"].fault("between lo and hi")
    if (
        list(made.points) != sorted(made.points)
        or not made.points
        or made.points[0] < made.lo
        or made.points[-1] > made.hi
    ):
        raise data["points"].fault("ascending numbers between lo and hi")
    if len(made.weights) != len(made.points) or sum(made.weights) != made.count:
        raise data["weights"].fault(f"one per point with the sum {made.count}")
    return made


def _sums(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(shares)))


def _mean(values: NDArray[np.float64]) -> float:
    # Rounding must not move the mean out of the range of the values.
    return float(min(max(values.mean(), values[0]), values[-1]))


def _between(a: float, b: float) -> float:
    """Return a cut in (a, b]: the geometric mean if a > 0, else b / 2, falling back to b."""
    middle = sqrt(a) * sqrt(b) if a > 0.0 else b / 2
    return middle if a < middle <= b else b
