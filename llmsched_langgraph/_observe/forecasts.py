"""Forecasts when running jobs end, by what earlier estimates came to.

Does not estimate what lies before a job: `_core/outlook.py` does. Now and then it keeps such estimates of
running jobs; when a job has ended, the seconds that it still took are known. A forecast is one of several
sums of the estimates (`SUMS`), times quantiles of (truth / sum) of earlier jobs: split conformal prediction,
in the groups of `_groups`. Of the sums, the one that had the least error in the group is used.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from math import floor, inf, log2
from statistics import fmean, median
from typing import NamedTuple

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._core.outlook import Outlook

EVERY_S = 1.0
"""Minimum seconds between two samples of the running jobs."""

BEGINS_S = 0.5
"""Minimum seconds between two estimates of jobs that begin."""

NEW = 0.05
"""A job is new while its age is at most this share of the estimate."""

TRUTHS = 200
"""Number of latest truths that each group keeps."""

ENOUGH = 25
"""Minimum number of truths of a group from which a forecast is made; of the last group, `FEWEST`."""

FEWEST = 9
"""With fewer truths no central 80 % interval is known."""

SHARE = 0.8
"""Probability of the interval of a forecast."""

PER_PHASE = 2
"""Maximum number of estimates that are kept of one job in one phase: a random sample of all.

A sample over all phases would lose the first estimates of long jobs, and forecasts of new jobs with them.
"""

GROUPS = 300
"""Maximum number of groups. The one that is unused for longest is forgotten."""

USUAL = 50
"""Number of latest jobs of an application over which their times are averaged."""

LEAST_S = 1e-3
"""Lower bound of an estimate, in seconds."""

Parts = tuple[float, float, float, float]
"""`alone_s`, `ahead_s`, `queue_s` of an `Outlook`, and the mean time of earlier jobs less the job's age."""

SUMS: tuple[Parts, ...] = (
    (1.0, 1.0, 0.0, 0.0),
    (1.0, 0.0, 1.0, 0.0),
    (1.0, 0.0, 0.0, 0.0),
    (0.0, 0.0, 0.0, 1.0),
    (0.5, 0.5, 0.0, 0.5),
    (0.5, 0.0, 0.5, 0.5),
)
"""Weights of the parts. The first are the order of a policy that serves jobs, and one that serves calls."""

_BEGINS = frozenset(["CallQueued", "SlotGranted", "BeliefFormed"])


class Forecast(NamedTuple):
    """When a job will end.

    Attributes:
        seconds: the median of the seconds to its end.
        low: lower bound of the central 80 % interval.
        high: its upper bound.
        jobs: number of earlier estimates from which it is made.
    """

    seconds: float
    low: float
    high: float
    jobs: int


class _Kept(NamedTuple):
    """An estimate of a running job.

    Attributes:
        at_s: clock time.
        groups: the groups that learn from it.
        parts: the estimate.
    """

    at_s: float
    groups: tuple[_Group, ...]
    parts: Parts


class _Truth(NamedTuple):
    """An estimate whose job has ended, and the seconds that it still took."""

    parts: Parts
    seconds: float


_Group = tuple[object, ...]


def _sum_s(weights: Parts, parts: Parts) -> float:
    return max(sum(weight * part_s for weight, part_s in zip(weights, parts, strict=True)), LEAST_S)


def _groups(outlook: Outlook) -> tuple[_Group, ...]:
    """Return the groups of an estimate, the closest first: ratios depend on size and on progress."""
    base_s, own = max(outlook.alone_s + outlook.ahead_s, LEAST_S), outlook.fingerprint
    size, phase = floor(log2(base_s) / 2), "begun"
    if not outlook.begun:
        phase = "new" if outlook.age_s <= NEW * base_s else "waits"
    at = phase, outlook.believes
    return (own, at, size), (own, at), (at, size), (at,)


def quantiles(ended: Sequence[float], running: Sequence[float], shares: Sequence[float]) -> tuple[float, ...]:
    """Return quantiles of a quantity of which some values are only known to be larger than a bound.

    They are those of the Kaplan-Meier estimate (Kaplan and Meier 1958). Without it, jobs that take long would
    be missed: they are the last to end. One more value is counted than there is, for the one that is
    forecast, as in split conformal prediction. Beyond the last value, the quantile is the largest one.

    Args:
        ended: the known values, at least one.
        running: the bounds of the others.
        shares: the levels, ascending.
    """
    found: list[float] = []
    values = sorted([*((value, False) for value in ended), *((bound, True) for bound in running)])
    left, at_risk = 1.0, len(values) + 1
    for value, bound in values:
        if not bound:
            left *= 1.0 - 1.0 / at_risk
            while len(found) < len(shares) and 1.0 - left >= shares[len(found)] - 1e-12:
                found.append(value)
        at_risk -= 1
    return (*found, *[values[-1][0]] * (len(shares) - len(found)))


def _best(truths: Sequence[_Truth]) -> tuple[Parts, list[float]]:
    """Return the sum with the least median error, times its median ratio; and its ratios."""
    best, found = inf, (SUMS[0], [1.0])
    for weights in SUMS:
        sums = [_sum_s(weights, truth.parts) for truth in truths]
        ratios = [truth.seconds / own_s for truth, own_s in zip(truths, sums, strict=True)]
        middle = median(ratios)
        error_s = median(
            abs(middle * own_s - truth.seconds) for truth, own_s in zip(truths, sums, strict=True)
        )
        if error_s < best:
            best, found = error_s, (weights, ratios)
    return found


class Forecasts:
    """The kept estimates of running jobs, and what became of those that have ended.

    Args:
        look: returns the estimates of running jobs now: of these numbers, or without any of all or a sample.
        seed: of the sample of a job's estimates.
    """

    def __init__(self, look: Callable[[Sequence[int]], Iterable[Outlook]], seed: int = 0) -> None:
        self._look = look
        self._draw = random.Random(seed)
        self._due_s = self._begins_s = -inf
        self._kept: dict[int, dict[_Group, tuple[int, list[_Kept]]]] = {}  # by job, and by last group
        self._truths: dict[_Group, deque[_Truth]] = {}
        self._times_s: dict[str, deque[float]] = {}

    def see(self, entry: Entry) -> None:
        """Read an entry: learn from a job that ended, and look at the running ones if it is time."""
        kind, at_s = entry.kind, entry.at_s
        if kind == "JobClosed":
            job = entry.detail
            kept = [one for _, own in self._kept.pop(entry.job, {}).values() for one in own]
            if job.paused_since is None and job.id is not None:
                time_s = at_s - job.arrival_s - job.paused_s
                self._learn(at_s, job.fingerprint, time_s, kept)
        elif kind == "JobPaused":
            self._kept.pop(entry.job, None)
        elif kind in _BEGINS and entry.job not in self._kept and at_s >= self._begins_s:
            self._begins_s = at_s + BEGINS_S
            self._note(self._look([entry.job]))
        if at_s >= self._due_s:
            self._due_s = at_s + EVERY_S
            self._note(self._look(()))

    def _parts(self, outlook: Outlook) -> Parts:
        times_s = self._times_s.get(outlook.fingerprint)
        usual_s = max(fmean(times_s) - outlook.age_s, 0.0) if times_s else 0.0
        return outlook.alone_s, outlook.ahead_s, outlook.queue_s, usual_s

    def _note(self, outlooks: Iterable[Outlook]) -> None:
        """Keep estimates of running jobs."""
        for outlook in outlooks:
            groups = _groups(outlook)
            by_phase = self._kept.get(outlook.number, {})
            count, kept = by_phase.get(groups[-1], (0, []))
            made = _Kept(outlook.at_s, groups, self._parts(outlook))
            if len(kept) < PER_PHASE:
                kept = [*kept, made]
            elif (at := self._draw.randrange(count + 1)) < PER_PHASE:
                kept = [*kept[:at], made, *kept[at + 1 :]]
            self._kept[outlook.number] = {**by_phase, groups[-1]: (count + 1, kept)}

    def _learn(self, ended_s: float, fingerprint: str, time_s: float, kept: Iterable[_Kept]) -> None:
        for at_s, groups, parts in kept:
            truth = _Truth(parts, max(ended_s - at_s, 0.0))
            for group in groups:
                truths = self._truths.pop(group, None) or deque(maxlen=TRUTHS)
                truths.append(truth)
                self._truths[group] = truths
        times_s = self._times_s.pop(fingerprint, None) or deque(maxlen=USUAL)
        times_s.append(time_s)
        self._times_s[fingerprint] = times_s
        while len(self._truths) > GROUPS:
            del self._truths[next(iter(self._truths))]
        while len(self._times_s) > GROUPS:
            del self._times_s[next(iter(self._times_s))]

    def forked(self) -> None:
        """Forget the running jobs: they are the parent's."""
        self._kept = {}

    def of(self, outlook: Outlook) -> Forecast | None:
        """Return when the job will end; None if too few jobs have ended to tell."""
        found: deque[_Truth] | None = None
        for group in _groups(outlook):
            found = self._truths.get(group)
            if found is not None and len(found) >= ENOUGH:
                break
        if found is None or len(found) < FEWEST:
            return None
        weights, ratios = _best(tuple(found))
        running = [
            (outlook.at_s - kept.at_s) / _sum_s(weights, kept.parts)
            for by_phase in tuple(self._kept.values())
            for _, own in by_phase.values()
            for kept in own
            if group in kept.groups
        ]
        tail = (1.0 - SHARE) / 2
        low, middle, high = quantiles(ratios, running, (tail, 0.5, 1.0 - tail))
        own_s = _sum_s(weights, self._parts(outlook))
        return Forecast(middle * own_s, low * own_s, high * own_s, len(ratios))
