"""Defines the references of a comparison: the clairvoyant order, and a lower bound on the mean JCT.

Does not define or run the compared policies.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from llmsched_langgraph._core.view import JobView
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob


class Clairvoyant:
    """Shortest remaining work first with the true work of the recorded jobs.

    Args:
        jobs: the jobs of the simulation, which numbers them by arrival. They must not be a closed loop, whose
            order of arrival depends on the policy.
    """

    name = "clairvoyant"

    def __init__(self, jobs: Sequence[TimedJob]) -> None:
        ordered = sorted(jobs, key=lambda timed: timed.arrival_s)
        self._work_s = {number: work_of(timed.job) for number, timed in enumerate(ordered, 1)}

    def order(self, job: JobView, now: float) -> float:
        """Return the job's true remaining work, in slot-seconds; see `Policy.order`."""
        return self._work_s[job.number] - job.work_s


def work_of(job: EndedJob) -> float:
    """Return the slot-seconds of all calls of a job.

    Raises:
        InvalidDataError: a call has no seconds.
    """
    work_s = job.work_s
    if work_s is None:
        raise InvalidDataError(f"job {job.id!r} has a call without seconds: fill them in first")
    return work_s


def lower_bound_s(jobs: Sequence[TimedJob], slots: int) -> float:
    """Return a lower bound on the mean job completion time of every policy, in seconds.

    The bound is max(mean SRPT flow time, mean critical path). SRPT is preemptive and runs on one server that
    is `slots` times as fast, which can emulate the slots. The critical path includes tools. The mean of the
    per-job maximum is not a bound, since SRPT does not minimise the flow time of each single job.

    Args:
        jobs: the jobs with their arrivals.
        slots: number of equal slots.

    Raises:
        InvalidDataError: a call has no seconds.
    """
    if not jobs:
        return 0.0
    paths = sum(timed.job.critical_path_s or 0.0 for timed in jobs)
    return max(_srpt_flow_s(jobs, slots), paths) / len(jobs)


def _srpt_flow_s(jobs: Sequence[TimedJob], slots: int) -> float:
    """Return the sum of flow times, in s, under preemptive SRPT on one server `slots` times as fast."""
    arrivals = sorted((timed.arrival_s, work_of(timed.job) / slots) for timed in jobs)
    left: list[tuple[float, float]] = []  # heap of (remaining work, arrival)
    now, total, next_ = 0.0, 0.0, 0
    while left or next_ < len(arrivals):
        if not left:
            now = max(now, arrivals[next_][0])
        while next_ < len(arrivals) and arrivals[next_][0] <= now:
            heapq.heappush(left, (arrivals[next_][1], arrivals[next_][0]))
            next_ += 1
        work, arrival = heapq.heappop(left)
        until = arrivals[next_][0] if next_ < len(arrivals) else now + work
        if now + work <= until:
            now += work
            total += now - arrival
        else:
            heapq.heappush(left, (work - (until - now), arrival))
            now = until
    return total
