"""Stores the jobs that are not closed, by number and by id, in their committed state.

Does not decide what happens to jobs. `Truth` stores the committed length of each job's log; a job with a
different length was part of an interrupted decision and is restored before use.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._ledger.truth import Truth

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.model import ApplicationModel

JOBS = "#jobs"
"""Key in `Truth` of the highest job number."""


class Jobs:
    """The table of jobs. `Truth` decides which jobs exist; the indexes may contain others.

    The staged keys of a decision include every job that it changed. Job numbers begin at `last` + 1.
    """

    def __init__(self, truth: Truth, last: int = 0) -> None:
        self._truth = truth
        self._committed = truth.committed
        self._committed[JOBS] = last
        self._jobs: dict[int, Job] = {}  # by number; may contain removed jobs, which `Truth` lacks
        self._ids: dict[int, int] = {}  # job numbers by id

    def get(self, number: int) -> Job | None:
        """Return the job with that number in its committed state; None if it is closed."""
        facts = self._committed.get(-number)
        if facts is None:
            return None
        job = self._jobs[number]
        if job.applied != facts and -number not in self._truth.staged:
            job.restore(facts)  # an interrupted decision changed it
        return job

    def active(self, id_: int | None) -> Job | None:
        """Return the active job with this id; None if there is none."""
        number = None if id_ is None else self._ids.get(id_)
        job = None if number is None else self.get(number)
        if job is None or job.id != id_ or job.outcome is not None or job.paused_since is not None:
            return None
        return job

    def name(self, job: Job, id_: int) -> None:
        """Assign the id to the job."""
        self._ids[id_] = job.number

    def forget_id(self, job: Job) -> None:
        """Remove the id of a closed or paused job, after the commit of the decision."""
        if job.id is not None and self._ids.get(job.id) == job.number:
            del self._ids[job.id]

    def add(self, job: Job, fact: tuple[Any, ...]) -> None:
        """Apply a fact to the job and stage the new length of its log."""
        self._truth.staged[-job.number] = job.add(fact)

    def new(self, now: float, info: JobInfo, template: Application, model: ApplicationModel | None) -> Job:
        """Create a job and stage it; it exists when the decision commits."""
        number = self.next_number()
        job = self._jobs[number] = Job(number, info, template, now)
        job.model = model
        self._truth.staged[-number] = 0
        return job

    def next_number(self) -> int:
        """Stage and return a new job number."""
        number: int = self._truth.get(JOBS) + 1
        self._truth.staged[JOBS] = number
        return number

    def remove(self, job: Job) -> None:
        """Stage the removal of the job."""
        self._truth.remove(-job.number, self._forget)

    def _forget(self, key: int) -> None:
        closed = self._jobs.pop(-key, None)
        if closed is not None:
            self.forget_id(closed)
            closed.settle()

    def known(self) -> Iterator[Job]:
        """The jobs that are not closed."""
        return (job for number in tuple(self._jobs) if (job := self.get(number)) is not None)
