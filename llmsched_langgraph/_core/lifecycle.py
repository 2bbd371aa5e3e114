"""Handles the arrival, interruption, resumption and end of jobs, changed settings, and reports of limits.

Does not handle calls, except that a job closes when its last call is released, and that a call is refused
where the limit of waiting calls is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

from llmsched_langgraph._core.events import (
    BackendConfigured,
    Event,
    JobArrived,
    JobEnded,
    JobInfo,
    JobPaused,
    LimitReached,
    OverrunExpected,
)
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.jobs import Jobs
from llmsched_langgraph._core.ordering import Ordering
from llmsched_langgraph._core.story import Story
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.pauses import Failure, paused
from llmsched_langgraph._ledger.protocol import Ledger
from llmsched_langgraph._ledger.truth import Truth
from llmsched_langgraph._ledger.values import BackendView, Configure, Crowd

PAUSED_JOBS = 10_000
"""Maximum number of interrupted jobs kept. The oldest are cancelled, and are new if resumed."""

RUNNING = "#running"
"""Key in `Truth` of the number of active jobs (arrived, not ended, not paused)."""


class Lifecycle:
    """Handles job events. Each handler stages its changes; the caller commits them.

    Attributes:
        handlers: the handler of each event.
        refused: why calls may not wait, by ticket, until their callers know.
    """

    def __init__(self, truth: Truth, jobs: Jobs, ordering: Ordering, story: Story, ledger: Ledger) -> None:
        self._truth = truth
        self._committed = truth.committed
        self._committed[RUNNING] = 0
        self._jobs = jobs
        self._ordering = ordering
        self._story = story
        self._ledger = ledger
        self.refused: dict[int, Crowd] = {}
        self._paused: dict[tuple[str, str, str], None] = {}  # keys of paused jobs, oldest first
        self.handlers: dict[type[Event], Callable[[float, Any, bool], bool]] = {
            JobArrived: self.arrived,
            JobEnded: self.ended,
            JobPaused: self.paused,
            LimitReached: self.limited,
            OverrunExpected: self.limited,
            BackendConfigured: self.configured,
        }

    def _forget(self, at: tuple[str, str, str]) -> None:
        """Remove the key from the index of paused jobs."""
        self._paused.pop(at, None)

    def new(self, now: float, info: JobInfo) -> Job:
        """Create a job and inform the policy."""
        application = info.application
        template, model = self._ordering.template(application), self._ordering.model(application)
        job = self._jobs.new(now, info, template, model)
        self._tell_policy(now, "JobArrived", job)
        return job

    def _tell_policy(self, now: float, kind: str, job: Job) -> None:
        if self._ordering.hears:
            slots = sum(own.slots for own in self._ledger.backends.values())
            error = self._ordering.tell(now, kind, job, slots)
            if error is not None:
                self._story.tell(now, "PolicyFailed", job.number, 0, "", error)

    def arrived(self, now: float, event: JobArrived, trust: bool) -> bool:
        """Handle the start of a new run, or the resumption of a paused job."""
        if self._jobs.active(event.job) is not None:
            return False
        number = None
        if event.resumes is not None:
            at = ("paused", event.info.application.fingerprint, event.resumes)
            number = self._committed.get(at)
            if number is not None:
                self._truth.remove(at, self._forget)
        job = None if number is None else self._jobs.get(number)
        if job is None:
            job = self.new(now, event.info)
            self._jobs.add(job, (Job.named, event.job, event.stage_events))
            kind = "JobArrived"
        else:
            self._jobs.forget_id(job)
            self._jobs.add(job, (Job.resumed, now, event.job, event.stage_events))
            kind = "JobResumed"
        self._jobs.name(job, event.job)
        self._truth.staged[RUNNING] = self._committed[RUNNING] + 1
        self._story.tell(now, kind, job.number, 0, "", event.info)
        return False

    def paused(self, now: float, event: JobPaused, trust: bool) -> bool:
        """Handle the interruption of a run."""
        job = self._jobs.active(event.job)
        if job is None:
            return False
        self.hear_stage_events(job, now)
        self._jobs.add(job, (Job.paused, now))
        at = ("paused", job.info.application.fingerprint, event.thread)
        self._forget_paused(now, at)
        self._paused.pop(at, None)
        self._paused[at] = None
        for oldest in tuple(islice(self._paused, max(len(self._paused) - PAUSED_JOBS, 0))):
            if not self._forget_paused(now, oldest):  # else the commit removes the key
                del self._paused[oldest]
        self._truth.staged[at] = job.number
        self._truth.staged[RUNNING] = self._committed[RUNNING] - 1
        self._story.tell(now, "JobPaused", job.number, 0, "", event.thread)
        return False

    def _forget_paused(self, now: float, at: tuple[str, str, str]) -> bool:
        """Cancel the job that is paused under this key. Return whether there is one."""
        number = self._truth.get(at)
        job = None if number is None else self._jobs.get(number)
        if job is None or job.paused_since is None:
            return False
        self._truth.remove(at, self._forget)
        self._jobs.add(job, (Job.ended, Outcome.CANCELLED))
        self.close(job, now)
        return True

    def ended(self, now: float, event: JobEnded, trust: bool) -> bool:
        """Handle the end of a run."""
        job = self._jobs.active(event.job)
        if job is None:
            return False
        if job.progress.outstanding or job.progress.finished:  # else nothing to learn
            self.hear_stage_events(job, now)
        self._jobs.add(job, (Job.ended, event.outcome))
        self._truth.staged[RUNNING] = self._committed[RUNNING] - 1
        self._story.tell(now, "JobEnded", job.number, 0, "", event.outcome)
        self.close(job, now)
        return False

    def limited(self, now: float, event: LimitReached | OverrunExpected, trust: bool) -> bool:
        """Add the entry that a run has reached a limit, or is expected to exceed one."""
        job = self._jobs.active(event.job)
        if job is not None:
            self._story.tell(now, type(event).__name__, job.number, 0, "", event.overrun)
        return False

    def refuses(self, now: float, ticket: int, backend: str, job: Job | None, tenant: str) -> bool:
        """Return whether a call is refused because the limit of waiting calls is reached."""
        owner, number = (tenant, 0) if job is None else (job.info.tenant, job.number)
        crowd = self._ledger.crowd(now, backend, owner)
        if crowd is not None:
            self.refuse(now, ticket, crowd, number)
        return crowd is not None

    def refuse(self, now: float, ticket: int, crowd: Crowd, number: int) -> None:
        """Record why a call of a job may not wait."""
        self.refused[ticket] = crowd
        self._story.tell(now, "CallRefused", number, ticket, crowd.backend, crowd)

    def configured(self, now: float, event: BackendConfigured, trust: bool) -> bool:
        """Change the settings of a backend."""
        self._ledger.submit(now, Configure(event.backend))
        self._story.tell(now, "BackendConfigured", 0, 0, event.backend.name, event.backend)
        return True

    def tell_pause(
        self, now: float, backend: str, before: BackendView, granted_s: float, failure: Failure
    ) -> None:
        """Add the entry that a pause begins, if it does with the failure of an attempt."""
        if now >= before.pause.opens_s:
            left_s = paused(before.pause, before.granted, granted_s, now, failure).opens_s - now
            if left_s > 0.0:
                self._story.tell(now, "BackendPaused", 0, 0, backend, left_s)

    def close(self, job: Job, now: float) -> None:
        """Close the job if it has ended and its last call is released."""
        if job.outcome is None or job.progress.outstanding:
            return
        self._jobs.add(job, (Job.closed, now))
        self._jobs.remove(job)
        self._tell_policy(now, "JobClosed", job)
        self._story.tell(now, "JobClosed", job.number, 0, "", job)

    def hear_stage_events(self, job: Job, now: float) -> int:
        """Record the job's new stage events. Return their number."""
        upto, heard = job.news
        if heard:
            self._jobs.add(job, (Job.moved, now, upto))
            self._story.tell(now, "StagesChanged", job.number, 0, "", heard)
        return heard
