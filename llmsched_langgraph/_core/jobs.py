"""Knows the jobs that are not closed: by number and by id, as committed decisions left them.

Does not know what happens to jobs. A number in the truth says how much of a job's log is committed; a job
that holds more was in a decision that was broken off, and is restored before it is used again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._ledger.truth import Truth

JOBS = "#jobs"
"""In the truth: the highest number of a job."""


class Jobs:
    """The table of jobs. Index and jobs may know of what was never committed; the truth says what is.

    A job that the present decision has changed has its number among the staged keys.
    """

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self._committed = truth.committed
        self._committed[JOBS] = 0
        self._jobs: dict[int, Job] = {}  # by number; those that are not in the truth are no more
        self._ids: dict[int, int] = {}  # the number of each job that has an id

    def get(self, number: int) -> Job | None:
        """The job of that number, as committed; None if it is no more."""
        facts = self._committed.get(-number)
        if facts is None:
            return None
        job = self._jobs[number]
        if job.applied != facts and -number not in self._truth.staged:
            job.restore(facts)  # a decision about it was broken off
        return job

    def active(self, id_: int | None) -> Job | None:
        """The job that goes by the id and has not ended."""
        number = None if id_ is None else self._ids.get(id_)
        job = None if number is None else self.get(number)
        if job is None or job.id != id_ or job.outcome is not None or job.paused_since is not None:
            return None
        return job

    def name(self, job: Job, id_: int) -> None:
        """The job goes by the id."""
        self._ids[id_] = job.number

    def forget_id(self, job: Job) -> None:
        """A job that is closed or paused needs no id. Only then: a decision may still be broken off."""
        if job.id is not None and self._ids.get(job.id) == job.number:
            del self._ids[job.id]

    def add(self, job: Job, fact: tuple[Any, ...]) -> None:
        """Add a fact to the job, as part of the present decision."""
        self._truth.staged[-job.number] = job.add(fact)

    def new(self, now: float, info: JobInfo, template: Application) -> Job:
        """A job arrives."""
        number = self.next_number()
        job = self._jobs[number] = Job(number, info, template, now)
        self._truth.staged[-number] = 0
        return job

    def next_number(self) -> int:
        """A number for one more job."""
        number: int = self._truth.get(JOBS) + 1
        self._truth.staged[JOBS] = number
        return number

    def remove(self, job: Job) -> None:
        """The job is no more, as part of the present decision."""
        self._truth.remove(-job.number, self._forget)

    def _forget(self, key: int) -> None:
        closed = self._jobs.pop(-key, None)
        if closed is not None:
            self.forget_id(closed)
            closed.settle()

    def known(self) -> Iterator[Job]:
        """The jobs that are not closed."""
        return (job for number in tuple(self._jobs) if (job := self.get(number)) is not None)
