"""Knows the running means of every application: work per job, per stage, and what came afterwards.

Does not know correlations between stages, queues, or the clock. A profile is a value: `observe`
returns a new one. It copies what it changes, so many jobs at once cost much less than one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmsched_langgraph.belief.record import Evidence, JobRecord, Occurrence
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.experience import NodeSeen, corrected

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

    def observe(self, *xs: float) -> Mean:
        """The mean with more observations."""
        count, value = self.count, self.value
        for x in xs:
            count += 1
            value += (x - value) / count
        return Mean(count, value)

    def towards(self, prior: float) -> float:
        """The mean shrunk towards `prior`, which counts as `SHRINKAGE` observations."""
        return (self.count * self.value + SHRINKAGE * prior) / (self.count + SHRINKAGE)


@dataclass(frozen=True, slots=True)
class OccurrenceMeans:
    """One occurrence of a stage: its own work, and the work of every call asked for after it."""

    work: Mean = Mean()
    after: Mean = Mean()


NEVER_SEEN = OccurrenceMeans()
UNSEEN = NodeSeen()


@dataclass(frozen=True, slots=True)
class ApplicationMeans:
    """What complete jobs of one application did, on average, in slot-seconds."""

    job: Mean = Mean()
    call: Mean = Mean()
    stages: Mapping[str, tuple[OccurrenceMeans, ...]] = field(default_factory=dict)
    nodes: Mapping[str, NodeSeen] = field(default_factory=dict)

    def work_s(self, at: Occurrence, prior_s: float) -> float:
        """Expected work of one call; `prior_s` if nothing is known of its stage."""
        seen = self.stages.get(at[0])
        return seen[min(at[1], len(seen)) - 1].work.towards(prior_s) if seen else prior_s

    def after_s(self, at: Occurrence, prior_s: float) -> float:
        """Expected work of all that follows one call; `prior_s` if nothing is known of its stage."""
        seen = self.stages.get(at[0])
        return seen[min(at[1], len(seen)) - 1].after.towards(prior_s) if seen else prior_s

    def observe(self, records: Sequence[JobRecord]) -> ApplicationMeans:
        """The means with more complete jobs."""
        jobs_s, calls_s = [], []
        seen: dict[Occurrence, tuple[list[float], list[float]]] = {}  # work, and what came after it
        for record in records:
            after_s = record.work_s
            jobs_s.append(after_s)
            for done in record.calls:
                after_s -= done.work_s
                calls_s.append(done.work_s)
                at = (done.stage, min(done.occurrence, MAX_OCCURRENCES))
                works_s, afters_s = seen.setdefault(at, ([], []))
                works_s.append(done.work_s)
                afters_s.append(after_s)
        rows = {stage: list(self.stages.get(stage, ())) for stage, _ in seen}
        for (stage, occurrence), (works_s, afters_s) in seen.items():
            row = rows[stage]
            # A call that was cancelled in the backlog leaves a gap in the count of occurrences.
            row.extend([NEVER_SEEN] * (occurrence - len(row)))
            old = row[occurrence - 1]
            row[occurrence - 1] = OccurrenceMeans(old.work.observe(*works_s), old.after.observe(*afters_s))
        stages = {**self.stages, **{stage: tuple(row) for stage, row in rows.items()}}
        nodes = dict(self.nodes)
        for record in records:
            for path, seen_there in record.nodes().items():
                nodes[path] = nodes.get(path, UNSEEN) + seen_there
        return ApplicationMeans(self.job.observe(*jobs_s), self.call.observe(*calls_s), stages, nodes)


NOTHING = ApplicationMeans()


@dataclass(frozen=True, slots=True)
class Profile:
    """What earlier runs taught, by application fingerprint. All figures are slot-seconds."""

    applications: Mapping[str, ApplicationMeans] = field(default_factory=dict)
    job: Mean = Mean()
    call: Mean = Mean()

    def observe(self, *records: JobRecord) -> Profile:
        """The profile with more jobs; those that were incomplete or made no call teach nothing."""
        known = [record for record in records if record.teaches]
        if not known:
            return self
        by_application: dict[str, list[JobRecord]] = {}
        for record in known:
            by_application.setdefault(record.application, []).append(record)
        learned = {
            application: self.applications.get(application, NOTHING).observe(own)
            for application, own in by_application.items()
        }
        return Profile(
            {**self.applications, **learned},
            self.job.observe(*(record.work_s for record in known)),
            self.call.observe(*(call.work_s for record in known for call in record.calls)),
        )

    def template(self, application: Application) -> Application:
        """The application as its runs showed it to be."""
        means = self.applications.get(application.fingerprint)
        return application if means is None else corrected(application, means.nodes)

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
        prior_s = means.call.towards(self.call.towards(PRIOR_CALL_S))
        asked_s = 0.0
        for at, calls in evidence.waiting:
            asked_s += calls * means.work_s(at, prior_s)
        for at, ran_s in evidence.running:
            asked_s += max(means.work_s(at, prior_s) - ran_s, 0.0)
        unaccounted_s = max(total_s - evidence.received_s - asked_s, 0.0)
        return asked_s + means.after_s(evidence.latest, unaccounted_s)
