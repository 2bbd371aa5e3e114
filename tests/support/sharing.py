"""Fair sharing of slots, played through exactly."""

from __future__ import annotations

from fractions import Fraction


def ends(arrivals, slots):
    """When each job ends if all that are there share all slots equally, from one event to the next.

    By way of exact fractions: at each step everybody receives the same until somebody ends or arrives.
    """
    left, end = {}, {}
    now = Fraction(0)
    coming = [(Fraction(at), n, Fraction(work)) for n, (at, work) in enumerate(arrivals)]
    while coming or left:
        if coming and (not left or coming[0][0] <= now):
            now = max(now, coming[0][0])
            _, n, work = coming.pop(0)
            left[n] = work
        else:
            pace = Fraction(slots, len(left))
            step = min(left.values()) / pace
            if coming:
                step = min(step, coming[0][0] - now)
            left = {n: work - step * pace for n, work in left.items()}
            now += step
        for n in [n for n, work in left.items() if work <= 0]:
            del left[n]
            end[n] = now
    return end
