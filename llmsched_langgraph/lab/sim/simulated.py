"""Defines the result of a simulation: the jobs with their ends, the grants, what was refused.

Does not simulate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from llmsched_langgraph._core.ending import ended
from llmsched_langgraph._core.events import Direct
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._jobs.ended import EndedJob


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """One simulated job. Times are seconds of the virtual clock.

    Attributes:
        job: the recorded or generated job.
        arrival_s: when the job arrived.
        end_s: when its last stage ended.
    """

    job: EndedJob
    arrival_s: float
    end_s: float

    @property
    def jct_s(self) -> float:
        """Job completion time in seconds: from arrival to end, waiting included."""
        return self.end_s - self.arrival_s


@dataclass(frozen=True)
class Simulated:
    """The result of a simulation.

    Attributes:
        jobs: the jobs in order of arrival.
        grants: tickets in order of their grants; tickets number the attempts in order of request, from 1.
        closed: the machine's jobs in order of their ends; None if the simulation did not keep them.
        decisions_s: seconds of each scheduling decision by the stopwatch; empty without one.
        refused: tickets of the attempts that the server refused, in order of their ends.
        limits: the backend's limit of concurrent calls: (time from which it held, number), in order.
    """

    jobs: tuple[FinishedJob, ...]
    grants: tuple[int, ...]
    closed: tuple[Job | Direct, ...] | None = field(default=None, compare=False)
    decisions_s: tuple[float, ...] = ()
    refused: tuple[int, ...] = ()
    limits: tuple[tuple[float, int], ...] = field(default=(), compare=False)

    @cached_property
    def records(self) -> tuple[EndedJob, ...]:
        """The ended jobs in the form that a live scheduler learns from.

        Raises:
            ValueError: the simulation did not keep its jobs.
        """
        if self.closed is None:
            raise ValueError("records: only a Simulation(..., keep=True) has them")
        return tuple(map(ended, self.closed))
