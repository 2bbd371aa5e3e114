"""Knows how a nonnegative quantity that may be absent becomes a few states, and what each state means.

Does not know which quantity it is, nor how the states of several quantities hang together.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import isfinite, log, sqrt
from sys import float_info
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError

ABSENT = 0
"""The state of what does not happen in a job."""

BINS = 6
"""Bins of a quantity, at most, unless asked otherwise."""

TINY = 1e-9
"""Stands for zero where a logarithm is taken."""

POINTS = 8
"""Points that a bin keeps of the values it was made of, at most."""

STEPS = 4
"""Steps between two bins' means that are told apart: few, so that jobs can share what was worked out."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a quantity, in the quantity's own unit.

    Attributes:
        lo: the smallest value seen in it.
        hi: the largest.
        mean: their mean.
        count: how many there were.
        points: the bin's content in small: its distinct values if they are at most `POINTS`, else the
            means of that many runs of its sorted values, equally long to within one. Ascending.
        weights: the values that each point stands for; they sum to `count`.
    """

    lo: float
    hi: float
    mean: float
    count: int
    points: tuple[float, ...]
    weights: tuple[int, ...]

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Bin:
        """The bin of these values, which are ascending and at least one."""
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
    """What is known of a quantity that has reached some amount and goes on.

    Attributes:
        weights: P(it got so far | state), shape (states,): a likelihood for a network.
        left: E[what is still to come | it got so far, state], shape (states,); 0 where the weight is 0.
    """

    weights: NDArray[np.float64]
    left: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bins:
    """States of a quantity: 0 is absent, 1..B are its bins in ascending order.

    Attributes:
        bins: the bins; their ranges do not overlap. None at all if the quantity never happened.
        absent: how often it was absent.
        means: E[quantity | state], shape (states,); 0 for absent.
        variances: Var[quantity | state], shape (states,); 0 for absent.
    """

    bins: tuple[Bin, ...]
    absent: int = 0
    _cuts: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _points: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _shares: NDArray[np.float64] = field(init=False, repr=False, compare=False)
    _owners: NDArray[np.intp] = field(init=False, repr=False, compare=False)
    _upto: NDArray[np.intp] = field(init=False, repr=False, compare=False)  # points up to each state's last
    _sums: NDArray[np.float64] = field(init=False, repr=False, compare=False)  # of shares, from 0 on
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)  # of the bins' means
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
        """Bins of equally many values, as far as equal values allow; None is absent.

        Bins are cut at quantiles, and in the middle (on a log scale) of the gap found there, so that
        they follow the values over any number of magnitudes. Never more bins than `most`, than
        distinct values, or than leaves `least_count` values to each.

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
        """How many states there are, absence included."""
        return len(self.bins) + 1

    @property
    def mean(self) -> float:
        """The mean of the amounts seen, where it was not absent; 0 if it always was."""
        count = sum(own.count for own in self.bins)
        return sum(own.mean * own.count for own in self.bins) / count if count else 0.0

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest amount seen; 0 counts if it was ever absent."""
        if not self.bins:
            return 0.0, 0.0
        return 0.0 if self.absent else self.bins[0].lo, self.bins[-1].hi

    def index(self, value: float | None) -> int:
        """The state of a value: 0 for None, else the bin it falls in. What was never seen is in the nearest.

        Of a quantity that never happened before, every value is absent: there is no other state.

        Raises:
            InvalidDataError: the value is negative or NaN.
        """
        if value is None or not self.bins:
            return ABSENT
        if not value >= 0.0:
            raise InvalidDataError(f"value: expected a nonnegative number or None, got {value!r}")
        return 1 + bisect_right(self._cuts, value)

    def indices(self, values: Iterable[float | None]) -> list[int]:
        """The states of many values, as `index`."""
        return [self.index(value) for value in values]

    def place(self, value: float | None) -> tuple[int, float] | None:
        """Where a value lies besides its bin: another bin, and how far towards it, from -1 to 1.

        0 is at its own bin's mean and 1 at the other's, on a log scale, in steps of 1 / `STEPS`. The other
        bin is the neighbour on the value's side; a value beyond the outermost mean lies away from the inner
        one, at -1 at most. None if there is nothing to be said: the value is absent or zero, or its bin has
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
        """The likelihood of "it happens": 0 for absent, 1 for every bin; shape (states,)."""
        weights = np.ones(self.states)
        if self.bins:
            weights[ABSENT] = 0.0
        return weights

    def at_least(self, amount: float) -> AtLeast:
        """What is known once the quantity has reached `amount` and goes on: it is not absent, for one.

        Past everything ever seen it is in the last bin, and the expectation of what is left grows with
        the time by which it has overrun, so that it never looks as if about to end for ever.
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
        """Amounts of the points, summed up by state. There is a bin, so there is a point in the last one."""
        return np.bincount(self._owners, amounts).astype(np.float64, copy=False)

    def passed(self, amount: float) -> int:
        """How many points lie under the amount: `at_least` gives the same weights for the same number."""
        return int(self._points.searchsorted(amount))

    def points(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The points that are there, ascending, and the probability of each, given that of each state."""
        return self._points, weights[self._owners] * self._shares

    def quantiles(self, weights: ArrayLike, levels: Sequence[float]) -> list[float]:
        """Quantiles of the mixture that gives each state this weight; absent counts as 0.

        Raises:
            InvalidDataError: there are not as many weights as states, or none is positive.
        """
        given = np.asarray(weights, dtype=np.float64)
        if given.shape != (self.states,) or not given.min() >= 0.0 or not given.sum() > 0.0:
            raise InvalidDataError(f"weights: expected {self.states} nonnegative weights, not all zero")
        mass = np.concatenate(([given[ABSENT]], given[self._owners] * self._shares))
        some = mass > 0.0
        points, mass = np.concatenate(([0.0], self._points))[some], mass[some]
        reached = np.cumsum(mass) / mass.sum()
        at = np.searchsorted(reached, np.asarray(levels) - 1e-12, side="left")
        return [float(points[min(int(i), len(points) - 1)]) for i in at]

    def values(self, states: NDArray[np.intp], uniform: NDArray[np.float64]) -> NDArray[np.float64]:
        """An amount for each state, as a draw from its bin's content; 0 for absent.

        Numbers in [0, 1) pick it, one a state: the same numbers give the same amounts.
        """
        return self._picked(states, uniform, self._sums, self._points)

    def left(
        self, amount: float, states: NDArray[np.intp], uniform: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """As `values`, of what is still to come once `amount` is reached; 0 for a state that cannot be."""
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
        # Rounding must not carry a draw over its bin's end.
        at = np.minimum(at, (self._upto - 1)[states])
        return np.where(high > low, points[at], 0.0)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` of it is equal to these bins."""
        names = ("lo", "hi", "mean", "count")
        bins = [
            {**{n: getattr(own, n) for n in names}, "points": list(own.points), "weights": list(own.weights)}
            for own in self.bins
        ]
        return {"absent": self.absent, "bins": bins}

    @classmethod
    def from_json(cls, data: Field) -> Bins:
        """The bins that `to_json` wrote.

        Raises:
            InvalidDataError: the data is damaged; the message names the field.
        """
        made: list[Bin] = []
        for given in data["bins"].items():
            own = _bin(given)
            if made and own.lo <= made[-1].hi:
                raise given["lo"].fault("above the bin before it")
            made.append(own)
        return cls(tuple(made), data["absent"].count())


def _bin(data: Field) -> Bin:
    # A learned amount may be any that a float can be, not only one that a recorded job may have.
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
        raise data["weights"].fault(f"one a point, {made.count} in all")
    return made


def _sums(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(shares)))


def _mean(values: NDArray[np.float64]) -> float:
    # Rounding must not carry a mean out of its values' range.
    return float(min(max(values.mean(), values[0]), values[-1]))


def _between(a: float, b: float) -> float:
    """A cut above `a` and at most `b`: their middle on a log scale, where there is one."""
    middle = sqrt(a) * sqrt(b) if a > 0.0 else b / 2
    return middle if a < middle <= b else b
