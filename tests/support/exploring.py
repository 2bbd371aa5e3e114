"""LLMSched's Algorithm 1 once more, by its definition and at any price: the coin and the choice."""

from __future__ import annotations

from math import ceil


def coin(seed, number, epsilon):
    """Whether a turn explores, in whole numbers that any language has."""
    prime = 2**26 - 5
    state = (seed % prime) * 69_621 % prime + 1
    state = (state**3 + number) % prime
    for _ in range(3):
        assert state * state < 2**53
        assert (state * state) % prime * state + 11 < 2**53
        state = (state**3 + 11) % prime
    return state < epsilon * prime


def choice(jobs, sample, now, explored, here=None):
    """Arrival of a job of the first set and the stage of it that teaches most, or None if none teaches.

    `explored` counts the calls that were granted to learn from, by arrival and stage; `here` are the stages,
    so named, with a call that can be granted, if not all of them that wait.
    """
    ends = {}
    for job in jobs:
        if job.belief is not None:
            lo, hi = job.belief.bounds
            less = min(max(job.progress.work_s(now) - job.believed_at_s, 0.0), lo)
            ends[job.arrival] = (lo - less, hi - less)
    by_arrival = {job.arrival: job for job in jobs}
    ready = []
    for arrival in next(iter(_sets(ends)), ()):
        job = by_arrival[arrival]
        for place, (spot, work) in enumerate(job.progress.works.items()):
            taught = job.belief.uncertainty_reduction(spot)
            enough = ceil(sample * work.calls)
            if here is not None and (arrival, spot) not in here:
                continue
            if work.waiting and explored.get((arrival, spot), 0) < enough and taught > 0.0:
                ready.append((-taught, ends[arrival][0], arrival, place, spot))
    if not ready:
        return None
    _, _, arrival, _, spot = min(ready)
    return arrival, spot


def _sets(ends):
    """Intervals that overlap, by themselves or by way of others, are of one set; the sets ascend."""
    sets = [{arrival} for arrival in ends]
    for one, (lo, hi) in ends.items():
        for other, (low, high) in ends.items():
            if lo <= high and low <= hi:
                joined = [own for own in sets if own & {one, other}]
                sets = [own for own in sets if own not in joined] + [set().union(*joined)]
    return sorted(sets, key=lambda own: min(ends[arrival] for arrival in own))
