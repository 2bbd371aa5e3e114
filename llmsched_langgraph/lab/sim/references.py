"""Knows what any order of service is compared with: a clairvoyant one, and a bound that none can beat.

Does not know how the compared ones decide.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from llmsched_langgraph._core.view import JobView
from llmsched_langgraph._jobs.ended import EndedJob
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.lab.sim.workloads.arrivals import TimedJob


class Clairvoyant:
    """Shortest remaining work first, where the work is known: that of the jobs as they were recorded.

    Args:
        jobs: in the order in which they arrive, as a simulation numbers them.
    """

    name = "clairvoyant"

    def __init__(self, jobs: Sequence[TimedJob]) -> None:
        ordered = sorted(jobs, key=lambda timed: timed.arrival_s)
        self._work_s = {number: work_of(timed.job) for number, timed in enumerate(ordered, 1)}

    def order(self, job: JobView, now: float) -> float:
        """Slot-seconds that the job still needs; see `Policy.order`."""
        return self._work_s[job.number] - job.work_s


def work_of(job: EndedJob) -> float:
    """Slot-seconds of all its calls.

    Raises:
        InvalidDataError: nobody recorded how long one takes.
    """
    work_s = job.work_s
    if work_s is None:
        raise InvalidDataError(f"job {job.id!r} has a call without seconds: fill them in first")
    return work_s


def lower_bound_s(jobs: Sequence[TimedJob], slots: int) -> float:
    """Mean job completion time below which no policy can come on so many equal slots.

    The larger of two means: the flow time under preemptive SRPT on one server that is `slots` times as
    fast, which can do whatever the slots can, and the critical path, tools included. A maximum for each job
    would not be a bound: what delays one job under SRPT need not be what its path delays.

    Raises:
        InvalidDataError: nobody recorded how long a call takes.
    """
    if not jobs:
        return 0.0
    paths = sum(timed.job.critical_path_s or 0.0 for timed in jobs)
    return max(_srpt_flow_s(jobs, slots), paths) / len(jobs)


def _srpt_flow_s(jobs: Sequence[TimedJob], slots: int) -> float:
    """Sum of the flow times under preemptive SRPT on one server, `slots` times as fast."""
    arrivals = sorted((timed.arrival_s, work_of(timed.job) / slots) for timed in jobs)
    left: list[tuple[float, float]] = []  # work left, arrival
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
