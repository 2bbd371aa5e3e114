"""Knows when the latest jobs are of another kind than those before, so that those should be forgotten.

Does not know why: another model, another prompt, other users.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import sqrt
from statistics import median

RECENT = 30
"""Jobs that are compared with all before them."""

CERTAIN = 5.0
"""Standard errors of the rank sum that are no chance: once in two million looks, if nothing changed."""


FACTOR = 1.25
"""How far the medians must lie apart to matter."""

MIN_AMOUNT_S = 0.01
"""Amounts under this, in seconds, order no jobs, whatever they do."""


def drifted(works: Sequence[float]) -> bool:
    """Whether the last `RECENT` of these amounts, given in the order of time, are larger or smaller.

    Mann and Whitney's rank test in its normal form with ties: it asks nothing of the distribution. As many
    again must have come before, or there is nothing to compare with; and the medians must lie far enough
    apart to matter, since of a thousand jobs a test sees differences that change no order.
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
