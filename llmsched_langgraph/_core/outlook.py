"""Estimates what still lies before a running job: its own work and tools, and the work that is served first.

Does not know how well such estimates held: `_observe/forecasts.py` learns that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from llmsched_langgraph._core.job import Job
    from llmsched_langgraph._core.machine import SchedulerMachine
    from llmsched_langgraph._ledger.values import BackendView

SAMPLE = 256
"""Maximum number of other jobs whose work is added up; of more, a part is scaled up."""

SUBJECTS = 64
"""Maximum number of jobs that are looked at together."""


class Outlook(NamedTuple):
    """A running job at one moment.

    Attributes:
        number: the job's number.
        fingerprint: its application's.
        at_s: clock time.
        age_s: seconds since its arrival.
        begun: whether a call of it has ended.
        believes: whether there is a belief about its work.
        alone_s: estimated seconds to its end if it had the backends for itself: expected remaining work times
            (critical path / work) of earlier jobs of its application.
        ahead_s: estimated seconds in which its backends serve what comes before it: the remaining work of the
            jobs that are served first, over the slots.
        queue_s: estimated seconds that its calls wait if each finds as many waiting calls as there are now:
            `alone_s` times waiting calls per slot.
    """

    number: int
    fingerprint: str
    at_s: float
    age_s: float
    begun: bool
    believes: bool
    alone_s: float
    ahead_s: float
    queue_s: float


class _Standing(NamedTuple):
    """What counts of one job.

    Attributes:
        rank: its place: level, policy's order, number.
        left_s: its expected remaining work, in slot-seconds.
        backends: the backends from which it requested slots; empty before its first call.
    """

    rank: tuple[int, float, int]
    left_s: float
    backends: tuple[str, ...]


def outlooks(machine: SchedulerMachine, now: float, only: Iterable[int] = ()) -> list[Outlook]:
    """Return the outlook of active jobs: of those with these numbers, or without any of at most `SUBJECTS`.

    O(active jobs + `SUBJECTS` `SAMPLE`).
    """
    jobs = [job for job in machine.known() if job.active and job.id is not None]
    wanted = set(only)
    subjects = [job for job in jobs if job.number in wanted] if wanted else _some(jobs, SUBJECTS)
    sample = _some(jobs, SAMPLE)
    others = [_standing(machine, job, now) for job in sample]
    scale = len(jobs) / max(len(sample), 1)
    views = machine.ledger.backends
    return [_outlook(machine, job, now, others, views, scale) for job in subjects]


def _some(jobs: Sequence[Job], most: int) -> Sequence[Job]:
    """Return at most this many of the jobs, at equal distances."""
    return jobs[:: -(-len(jobs) // most)] if len(jobs) > most else jobs


def _standing(machine: SchedulerMachine, job: Job, now: float) -> _Standing:
    # A job that has never waited has no order, but slots. The policy, which is user code, is not asked.
    order = job.sent[0] if isinstance(job.sent, tuple) else -inf
    left_s = machine.ordering.left_s(job, now)
    return _Standing((job.info.priority, order, job.number), left_s, job.backends)


def _outlook(
    machine: SchedulerMachine,
    job: Job,
    now: float,
    others: Sequence[_Standing],
    views: Mapping[str, BackendView],
    scale: float,
) -> Outlook:
    own = _standing(machine, job, now)
    ahead_s = sum(
        other.left_s
        for other in others
        if other.rank < own.rank
        and not (own.backends and other.backends and set(own.backends).isdisjoint(other.backends))
    )
    used = [views[name] for name in own.backends or views]
    slots, waiting = max(sum(view.slots for view in used), 1), sum(view.waiting for view in used)
    alone_s = machine.ordering.alone(job) * own.left_s
    return Outlook(
        number=job.number,
        fingerprint=job.fingerprint,
        at_s=now,
        age_s=max(now - job.arrival_s, 0.0),
        begun=bool(job.progress.finished),
        believes=job.belief is not None,
        alone_s=alone_s,
        ahead_s=scale * ahead_s / slots,
        queue_s=alone_s * waiting / slots,
    )
