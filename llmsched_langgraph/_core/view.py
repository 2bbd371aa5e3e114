"""Knows what a policy gets to see of a job: a frozen view, and which parts of it a policy can ask for.

Does not know how jobs are kept, or what a policy makes of it.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import NamedTuple

from llmsched_langgraph._core.events import JobInfo


class Needs(Flag):
    """What a policy reads in a `JobView` beyond what is always there. It costs time, so it is asked for.

    NOTHING: no belief is formed at all.
    MEAN: `remaining_s`.
    MEDIAN: `remaining_median_s`.
    INTERVAL: `remaining_interval_s`.
    INDEX: `index_s`.
    GAIN: with an `exploration`, what the job's stages that are ready would teach.
    MARGINALS: beliefs judge every stage by itself, without the Bayesian network.
    """

    NOTHING = 0
    MEAN = auto()
    MEDIAN = auto()
    INTERVAL = auto()
    INDEX = auto()
    GAIN = auto()
    MARGINALS = auto()


class JobView(NamedTuple):
    """A job at one moment, as a policy sees it. All amounts of work are slot-seconds.

    Attributes:
        number: the job's own, from 1, in the order in which the scheduler came to know of the jobs.
        info: what was known of it at its arrival.
        arrival_s: the clock at its arrival.
        work_s: work that it has received, that of its running calls included.
        holding: slots that it holds.
        waiting: calls of it that wait.
        runs: ended jobs of its application that are known.
        mean_total_work_s: expected work of a whole job of its application, before anything is known of it.
        total_work_s: the whole work of each ended job of its application that is remembered, ascending.
        remaining_s: expected work that is still to come; without a belief `mean_total_work_s - work_s`.
        remaining_median_s: its median; None without a belief.
        remaining_interval_s: about where it lies in the middle 80 % of cases; None without a belief.
        index_s: its Gittins index: the least expected work for each chance to end, over all ways to stop at
            the end of a stage; without a belief `remaining_s`.
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
    """What a policy that keeps state of its own is told, through its `hear`.

    Attributes:
        kind: "JobArrived", or "JobClosed" once it has ended and its last call is back.
        at_s: the clock.
        job: the job's number.
        mean_total_work_s: as in `JobView`.
        slots: slots of all backends.
    """

    kind: str
    at_s: float
    job: int
    mean_total_work_s: float
    slots: int
