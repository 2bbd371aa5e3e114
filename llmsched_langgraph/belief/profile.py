"""Knows the running means of every application: work per job, per stage, and what came afterwards.

Does not know correlations between stages, queues, or the clock. A profile is a value: `observe`
returns a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from llmsched_langgraph.belief.record import Evidence, JobRecord, Occurrence

PRIOR_CALL_S = 1.0
"""Work of a call, in seconds, as long as not one call has ever been seen."""

SHRINKAGE = 2.0
"""How many observations a mean's prior is worth. Two keep one odd run from deciding the order."""

MAX_OCCURRENCES = 200
"""Occurrences of one stage that are told apart; all later ones share the last one's means."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A running mean: `count` observations and their average."""

    count: int = 0
    value: float = 0.0

    def observe(self, x: float) -> Mean:
        """The mean with one more observation."""
        return Mean(self.count + 1, self.value + (x - self.value) / (self.count + 1))

    def towards(self, prior: float) -> float:
        """The mean shrunk towards `prior`, which counts as `SHRINKAGE` observations."""
        return (self.count * self.value + SHRINKAGE * prior) / (self.count + SHRINKAGE)


@dataclass(frozen=True, slots=True)
class OccurrenceMeans:
    """One occurrence of a stage: its own work, and the work of every call asked for after it."""

    work: Mean = Mean()
    after: Mean = Mean()


@dataclass(frozen=True, slots=True)
class ApplicationMeans:
    """What complete jobs of one application did, on average, in slot-seconds."""

    job: Mean = Mean()
    call: Mean = Mean()
    stages: Mapping[str, tuple[OccurrenceMeans, ...]] = field(default_factory=dict)

    def observe(self, record: JobRecord) -> ApplicationMeans:
        """The means with one more complete job."""
        rows: dict[str, list[OccurrenceMeans]] = {}
        call, after_s = self.call, record.work_s
        for done in record.calls:
            after_s -= done.work_s
            call = call.observe(done.work_s)
            row = rows.get(done.stage)
            if row is None:
                row = rows[done.stage] = list(self.stages.get(done.stage, ()))
            at = min(done.occurrence, MAX_OCCURRENCES) - 1
            # A call that was cancelled in the backlog leaves a gap in the count of occurrences.
            row.extend([OccurrenceMeans()] * (at + 1 - len(row)))
            row[at] = OccurrenceMeans(row[at].work.observe(done.work_s), row[at].after.observe(after_s))
        stages = {**self.stages, **{stage: tuple(row) for stage, row in rows.items()}}
        return ApplicationMeans(self.job.observe(record.work_s), call, stages)


NOTHING = ApplicationMeans()


@dataclass(frozen=True, slots=True)
class Profile:
    """What earlier runs taught, by application fingerprint. All figures are slot-seconds."""

    applications: Mapping[str, ApplicationMeans] = field(default_factory=dict)
    job: Mean = Mean()
    call: Mean = Mean()

    def observe(self, record: JobRecord) -> Profile:
        """The profile with one more job; the same profile if the job was incomplete or made no call."""
        if not record.complete or not record.calls:
            return self
        known = self.applications.get(record.application, NOTHING)
        applications = {**self.applications, record.application: known.observe(record)}
        call = self.call
        for done in record.calls:
            call = call.observe(done.work_s)
        return replace(self, applications=applications, job=self.job.observe(record.work_s), call=call)

    def jobs(self, application: str) -> int:
        """How many complete jobs of the application the profile knows."""
        return self.applications.get(application, NOTHING).job.count

    def total_work_s(self, application: str) -> float:
        """Expected work of a whole job, before anything is known of it."""
        means = self.applications.get(application, NOTHING)
        return means.job.towards(self.job.towards(self.call.towards(PRIOR_CALL_S)))

    def remaining_work_s(self, application: str, evidence: Evidence) -> float:
        """Expected work still to come: of the calls asked for, and of those not asked for yet.

        What comes afterwards is the mean over earlier jobs that reached the same occurrence of the
        same stage. Past the occurrences ever seen, the last one seen speaks for all later ones.
        """
        means = self.applications.get(application, NOTHING)
        total_s = self.total_work_s(application)
        if evidence.latest is None:
            return total_s
        asked_s = sum(self._work_s(means, at) for at in evidence.waiting)
        asked_s += sum(max(self._work_s(means, at) - ran_s, 0.0) for at, ran_s in evidence.running)
        unaccounted_s = max(total_s - evidence.received_s - asked_s, 0.0)
        return asked_s + self._after_s(means, evidence.latest, unaccounted_s)

    def _work_s(self, means: ApplicationMeans, at: Occurrence) -> float:
        prior_s = means.call.towards(self.call.towards(PRIOR_CALL_S))
        seen = means.stages.get(at[0], ())
        if not seen:
            return prior_s
        return seen[min(at[1], len(seen)) - 1].work.towards(prior_s)

    @staticmethod
    def _after_s(means: ApplicationMeans, at: Occurrence, prior_s: float) -> float:
        seen = means.stages.get(at[0], ())
        if not seen:
            return prior_s
        return seen[min(at[1], len(seen)) - 1].after.towards(prior_s)
