"""Defines a policy's view of a job, and the parts of it that a policy can request.

Does not store jobs, or decide how a policy uses the view.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import NamedTuple

from llmsched_langgraph._core.events import JobInfo


class Needs(Flag):
    """The parts of a `JobView` that a policy reads; each costs time, so a policy declares them.

    NOTHING: no belief is formed.
    MEAN: `remaining_s`.
    MEDIAN: `remaining_median_s`.
    INTERVAL: `remaining_interval_s`.
    INDEX: `index_s`.
    GAIN: the information gain of the job's ready stages, for `exploration`.
    MARGINALS: beliefs treat stages as independent, without the Bayesian network.
    """

    NOTHING = 0
    MEAN = auto()
    MEDIAN = auto()
    INTERVAL = auto()
    INDEX = auto()
    GAIN = auto()
    MARGINALS = auto()


class JobView(NamedTuple):
    """A job at one moment, as a policy sees it. Work is in slot-seconds.

    Attributes:
        number: the job's number in arrival order, from 1.
        info: its properties at arrival.
        arrival_s: clock time of its arrival.
        work_s: work that it has received, including that of running calls.
        holding: slots that it holds.
        waiting: number of its waiting calls.
        runs: number of known ended jobs of its application.
        mean_total_work_s: prior mean of the total work of a job of its application.
        total_work_s: total work of each remembered ended job of its application, ascending.
        remaining_s: expected remaining work; `mean_total_work_s - work_s` without a belief.
        remaining_median_s: median remaining work; None without a belief.
        remaining_interval_s: approximate central 80 % interval of the remaining work; None without a belief.
        index_s: Gittins index: the minimum, over stopping rules at ends of stages, of expected work per
            probability of completion; `remaining_s` without a belief.
        believes: whether there is a belief.
    """

    number: int
    info: JobInfo
    arrival_s: float
    work_s: float
    holding: int
    waiting: int
    runs: int
    mean_total_work_s: float
    total_work_s: tuple[float, ...]
    remaining_s: float
    remaining_median_s: float | None = None
    remaining_interval_s: tuple[float, float] | None = None
    index_s: float = 0.0
    believes: bool = False


class PolicyEvent(NamedTuple):
    """The event that a policy's `hear` gets.

    Attributes:
        kind: "JobArrived", or "JobClosed" when the job has ended and its last call is released.
        at_s: clock time.
        job: the job's number.
        mean_total_work_s: as in `JobView`.
        slots: total slots of all backends.
    """

    kind: str
    at_s: float
    job: int
    mean_total_work_s: float
    slots: int
