"""Compares how a backend serves at two limits.

Does not choose limits. Throughput at a limit is calls in flight over seconds for the same work (Little's
law). The seconds that a call should take follow from its tokens: a change of what clients ask for is no
change of the backend. Calls whose prompt was cached are compared only with their like.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, log, sqrt
from statistics import fmean, median, quantiles
from typing import NamedTuple

WORTH = 0.2
"""Minimum relative gain in throughput per relative raise of the limit."""

SURE = 1.5
"""Difference at which a comparison is decided, in standard deviations."""

CHANGED, CERTAIN = 1.3, 3.0
"""Factor in the seconds of calls from which a backend has changed, and at how many standard deviations."""

KNOWN = 2.0
"""How many standard deviations a knee lies below a limit at least."""

FEWEST, MOST = 8, 128
"""Number of successes that a comparison needs, and maximum number that is kept."""


class Sample(NamedTuple):
    """A success: whether most of its prompt was cached, tokens (0: unknown), seconds, slots in use."""

    cached: bool
    tokens: int
    seconds: float
    in_use: int


class Level(NamedTuple):
    """The measurements at one limit."""

    limit: int
    samples: tuple[Sample, ...]


def most(limit: int) -> int:
    """Return how many successes are kept at a limit."""
    return max(MOST, 2 * limit)


def worthwhile(low: Level, high: Level, sure: float = SURE) -> bool | None:
    """Return whether the higher limit brings at least `WORTH` of its proportion in throughput.

    None if the samples do not tell, by `sure` standard deviations.
    """
    one, other = _alike(low.samples, high.samples)
    if not one:
        return None
    more = _more(one, other)
    if more <= 0.0:
        return None
    slower, error = _slower(one, other)
    gain = (1.0 + more) / slower - 1.0
    over = gain - WORTH * more
    return over > 0.0 if abs(over) > sure * (1.0 + gain) * error else None


def knee(low: Level, high: Level) -> tuple[float, float]:
    """Return how many calls, each as fast as at the lower limit, have the throughput of the higher one.

    This is the number of calls that an engine works on, if the others wait in a queue of its own. The second
    value is the relative standard deviation; infinite if the samples cannot be compared.
    """
    one, other = _alike(low.samples, high.samples)
    if not one:
        return float(high.limit), inf
    longer, error = _longer(one, other)
    return fmean(own.in_use for own in other) / max(1.0, longer), error


def slowdown(before: Sequence[Sample], after: Sequence[Sample]) -> float | None:
    """Return how many times as long the same calls take as before, beside as many others.

    None if that is not certain, or less than `CHANGED` either way.
    """
    one, other = _alike(before, after)
    if not one or abs(_more(one, other)) > 0.1:
        return None
    slower, error = _slower(one, other)
    if abs(log(slower)) <= max(log(CHANGED), CERTAIN * error):
        return None
    return _longer(one, other)[0]


def _alike(one: Sequence[Sample], other: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples of both that can be compared; none if they are too few."""
    cached = min(_cached(one), _cached(other)) > min(_cached(one, False), _cached(other, False))
    alike, alike2 = ([own for own in samples if own.cached is cached] for samples in (one, other))
    if min(len(alike), len(alike2)) < FEWEST or not _overlap(alike, alike2):
        return [], []
    return alike, alike2


def _more(one: list[Sample], other: list[Sample]) -> float:
    """Return by what share more slots were in use in the other ones."""
    return fmean(own.in_use for own in other) / fmean(own.in_use for own in one) - 1.0


def _slower(one: list[Sample], other: list[Sample]) -> tuple[float, float]:
    """Return how many times as long the other calls take for the same work, and the standard deviation."""
    slower = 1.0
    for _ in range(8):  # one line for both; the other's seconds are multiplied by `slower`
        start, pace = _line([*one, *(own._replace(seconds=own.seconds / slower) for own in other)])
        before, error = _centre([log(own.seconds / (start + pace * own.tokens)) for own in one])
        after, error2 = _centre([log(own.seconds / (start + pace * own.tokens)) for own in other])
        last, slower = slower, exp(after - before)
        if abs(slower - last) < 0.01 * slower:
            break
    return slower, sqrt(error * error + error2 * error2)


def _longer(one: list[Sample], other: list[Sample]) -> tuple[float, float]:
    """Return how many times as long all the other calls take as they would have at the first level.

    A wait in a queue adds as much to short calls as to long ones: only the sums tell its share. The second
    value is the relative standard deviation.
    """
    line = _line(one)
    (took, error), (longer, error2) = _ratio(one, line), _ratio(other, line)
    return longer / took, sqrt(error * error + error2 * error2)


def _ratio(samples: list[Sample], line: tuple[float, float]) -> tuple[float, float]:
    """Return the sum of the seconds by that of a line, and its relative standard deviation."""
    start, pace = line
    took = usual = squares = 0.0
    for own in samples:  # `sum` rounds in another way from Python 3.12 on
        took += own.seconds
        usual += start + pace * own.tokens
    ratio, n = took / usual, len(samples)
    for own in samples:
        off = own.seconds - ratio * (start + pace * own.tokens)
        squares += off * off
    return ratio, sqrt(squares * n / (n - 2)) / (ratio * usual)


def _cached(samples: Sequence[Sample], cached: bool = True) -> int:
    return sum(own.cached is cached for own in samples)


def _overlap(one: list[Sample], other: list[Sample]) -> bool:
    """Return whether the interquartile ranges of the calls' tokens overlap."""
    (low, _, high), (low2, _, high2) = (quantiles([own.tokens for own in of], n=4) for of in (one, other))
    return low <= high2 and low2 <= high


def _line(samples: list[Sample]) -> tuple[float, float]:
    """Return seconds before the first token, and for each token: a weighted least-squares fit."""
    n = x = y = xx = xy = 0.0
    for own in samples:
        weight = 1.0 / (own.tokens + 1)
        n += weight
        x += weight * own.tokens
        y += weight * own.seconds
        xx += weight * own.tokens * own.tokens
        xy += weight * own.tokens * own.seconds
    spread = n * xx - x * x
    pace = (n * xy - x * y) / spread if spread > 1e-9 * n * xx else 0.0
    start = (y - pace * x) / n
    if pace <= 0.0:
        return y / n, 0.0
    if start <= 0.0:
        return 0.0 if all(own.tokens for own in samples) else 1e-3, y / x
    return start, pace


def _centre(values: list[float]) -> tuple[float, float]:
    """Return the median, and its standard deviation by the median deviation."""
    middle = median(values)
    return middle, 1.8582 * median(abs(value - middle) for value in values) / sqrt(len(values)) + 1e-9
