"""LLMSched's Algorithm 1 once more, by its definition and at any price: the coin and the choice."""

from __future__ import annotations

from dataclasses import dataclass, field

JOBS = 32
LANES = 128


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


@dataclass
class Said:
    """A belief that says what it is told to: an interval, and what each stage teaches, by its name."""

    lo: float
    hi: float
    informative: dict = field(default_factory=dict)
    expected = {}

    def __post_init__(self):
        self.mean = self.after = self.index = self.median = (self.lo + self.hi) / 2

    @property
    def bounds(self):
        return self.lo, self.hi

    def uncertainty_reduction(self, stage, tool=None):
        return self.informative.get(stage.path, 0.0)


def choice(ready, intervals):
    """The job of the first set and the stage of it that teaches most; None if none teaches.

    Args:
        ready: what the stages teach whose calls may be granted to explore them, and the arrival of the first
            of those calls, by job and stage.
        intervals: of the remaining work, by job.
    """
    first = next(iter(_sets(intervals)), ())
    found = [
        (-taught, intervals[job][0], job, arrival, stage)
        for (job, stage), (taught, arrival) in ready.items()
        if job in first and taught > 0.0
    ]
    if not found:
        return None
    _, _, job, _, stage = min(found)
    return job, stage


def choice_of_lanes(lanes, now):
    """The lane that should go next, as `choice` has it, of lanes in the order of service.

    Args:
        lanes: order, lane, arrival of its first ticket, and its `Explore` or None.
        now: the clock.
    """
    ready, intervals, stages = {}, {}, {}
    for lane, arrival, explore in _looked_at(lanes):
        if explore is None:
            continue
        lo, hi = explore.information.bounds
        received = explore.done_s + (explore.holding * now - explore.granted_sum_s)
        less = min(max(received - explore.formed_s, 0.0), lo)
        intervals[lane[1]] = (lo - less, hi - less)
        stages[lane[1], lane[2]] = lane
        if explore.left > 0:
            ready[lane[1], lane[2]] = (explore.information.uncertainty_reduction(lane[2]), arrival)
    chosen = choice(ready, intervals)
    return None if chosen is None else stages[chosen]


def _looked_at(lanes):
    """Lanes of the jobs that are next in line; of jobs in a tie with the last of them, all that come."""
    lanes = lanes[:LANES]
    firsts = {}
    for order, lane, _, _ in lanes:
        firsts.setdefault(lane[1], order)
    jobs = list(firsts)[:JOBS]
    for order, lane, arrival, explore in lanes:
        if lane[1] in jobs:
            yield lane, arrival, explore
        elif order != firsts[jobs[-1]]:
            return


def _sets(ends):
    """Intervals that overlap, by themselves or by way of others, are of one set; the sets ascend."""
    sets = [{job} for job in ends]
    for one, (lo, hi) in ends.items():
        for other, (low, high) in ends.items():
            if lo <= high and low <= hi:
                joined = [own for own in sets if own & {one, other}]
                sets = [own for own in sets if own not in joined] + [set().union(*joined)]
    return sorted(sets, key=lambda own: min(ends[job] for job in own))
