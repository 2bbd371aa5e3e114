"""Compares how a backend serves at two limits.

Does not choose limits. Throughput at a limit is calls in flight over seconds for the same work (Little's
law). The seconds that a call should take follow from its tokens: a change of what clients ask for is no
change of the backend. Calls whose prompt was cached are compared only with their like.
"""

from __future__ import annotations

from math import exp, hypot, log, sqrt
from statistics import fmean, median, quantiles
from typing import NamedTuple

WORTH = 0.2
"""Minimum relative gain in throughput per relative raise of the limit."""

SURE = 1.5
"""Difference at which a comparison is decided, in standard deviations."""

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
    cached = min(_cached(low), _cached(high)) > min(_cached(low, False), _cached(high, False))
    one, other = ([own for own in level.samples if own.cached is cached] for level in (low, high))
    if min(len(one), len(other)) < FEWEST or not _overlap(one, other):
        return None
    use = fmean(own.in_use for own in one)
    more = fmean(own.in_use for own in other) / use - 1.0
    if more <= 0.0:
        return None
    slower = 1.0
    for _ in range(8):  # one line for both; the other's seconds are multiplied by `slower`
        start, pace = _line([*one, *(own._replace(seconds=own.seconds / slower) for own in other)])
        before, error = _centre([log(own.seconds / (start + pace * own.tokens)) for own in one])
        after, error2 = _centre([log(own.seconds / (start + pace * own.tokens)) for own in other])
        last, slower = slower, exp(after - before)
        if abs(slower - last) < 0.01 * slower:
            break
    gain = (1.0 + more) / slower - 1.0
    deviation = (1.0 + gain) * hypot(error, error2)
    over = gain - WORTH * more
    return over > 0.0 if abs(over) > sure * deviation else None


def _cached(level: Level, cached: bool = True) -> int:
    return sum(own.cached is cached for own in level.samples)


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
