"""Detects a change of the distribution of job work over time.

Does not determine the cause, such as another model, another prompt or other users.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import sqrt
from statistics import median

RECENT = 30
"""Number of latest jobs that are compared with all earlier ones."""

CERTAIN = 5.0
"""Critical value of the rank test, in standard errors: a false alarm in two million tests."""


FACTOR = 1.25
"""Minimum ratio of the larger median to the smaller one that counts as drift."""

MIN_AMOUNT_S = 0.01
"""Minimum of the larger median, in s. Differences between smaller amounts are ignored."""


def drifted(works: Sequence[float]) -> bool:
    """Return whether the last `RECENT` amounts (in order of time) differ from the earlier ones.

    The test is Mann-Whitney's U with the normal approximation and the correction for ties. It needs at
    least `RECENT` earlier amounts. The medians must also differ by `FACTOR`, because with a thousand jobs
    the test detects differences too small to matter.
    """
    if len(works) < 2 * RECENT:
        return False
    before, recent = sorted(works[:-RECENT]), works[-RECENT:]
    low, high = sorted((median(before), median(recent)))
    if high < MIN_AMOUNT_S or high < FACTOR * low:
        return False
    wins = sum(bisect_left(before, x) + bisect_right(before, x) for x in recent) / 2
    counts: dict[float, int] = {}
    for x in works:
        counts[x] = counts.get(x, 0) + 1
    n, m = len(before), len(recent)
    ties = sum(count**3 - count for count in counts.values()) / ((n + m) * (n + m - 1))
    spread = sqrt(n * m / 12 * (n + m + 1 - ties))
    return spread > 0.0 and abs(wins - n * m / 2) > CERTAIN * spread
