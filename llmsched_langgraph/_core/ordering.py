"""Applies the policy to a job: its view, its order, the keys of its lanes.

Does not handle tickets or store jobs; it selects the beliefs to form but does not form them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, inf, isnan
from typing import TYPE_CHECKING

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._core.view import JobView, Needs, PolicyEvent
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.exploration import Exploration
from llmsched_langgraph._ledger.values import Explore, Key

if TYPE_CHECKING:
    from llmsched_langgraph._belief.model.belief import Belief
    from llmsched_langgraph._belief.model.evidence import JobEvidence
    from llmsched_langgraph._belief.model.model import ApplicationModel

URGENT = 6.0
"""A job becomes urgent when the time to its deadline falls to this many times its remaining time alone."""

LOST = 0.5
"""Its deadline is given up when that time falls to this many times its remaining time alone."""

NEVER_URGENT = (inf, inf)

_BELIEF = Needs.MEAN | Needs.MEDIAN | Needs.INTERVAL | Needs.INDEX | Needs.GAIN

_new = tuple.__new__
"""Builds a named tuple in C, without Python bytecode."""


@dataclass(frozen=True, slots=True, eq=False)
class BeliefWanted:
    """A request to compute a job's remaining work; answer it with `BeliefFormed`.

    Attributes:
        job: the job's number.
        model: the model of its application.
        evidence: the job's evidence.
        needs: what the policy reads of the belief.
    """

    job: int
    model: ApplicationModel
    evidence: JobEvidence
    needs: Needs

    def belief(self) -> Belief:
        """Return the belief, which computes its values lazily."""
        model = self.model.marginals if Needs.MARGINALS in self.needs else self.model
        return model.belief(self.evidence)


def bare_key(priority: int, tenant: str) -> Key | None:
    """Return the key of a call that is a job of its own; None if it has no priority and no tenant."""
    return Key(priority, tenant=tenant) if priority or tenant else None


class Ordering:
    """A policy with the profile that it uses.

    Args:
        policy: the order of service.
        profile: what was learned from earlier runs.

    Attributes:
        believing: whether the policy reads beliefs.
        exploration: the exploration settings; None for no exploration.
        hears: whether the policy has a `hear` method.
    """

    def __init__(self, policy: Policy, profile: Profile) -> None:
        self.policy = policy
        self.profile = profile
        self._needs: Needs = getattr(policy, "needs", Needs.NOTHING)
        self.believing = bool(self._needs & _BELIEF)
        self._by_index, self._by_median = Needs.INDEX in self._needs, Needs.MEDIAN in self._needs
        self._by_interval = Needs.INTERVAL in self._needs
        self.exploration: Exploration | None = getattr(policy, "exploration", None)
        self._hear: Callable[[PolicyEvent], None] | None = getattr(policy, "hear", None)
        self.hears = self._hear is not None
        self._templates: dict[str, Application] = {}  # as corrected by earlier runs
        self._totals: dict[str, tuple[int, float, tuple[float, ...]]] = {}

    def learn(self, profile: Profile, applications: frozenset[str]) -> None:
        """Replace the profile, which changed for these applications."""
        self.profile = profile
        self._totals.clear()
        for fingerprint in applications & self._templates.keys():
            self._templates[fingerprint] = profile.template(self._templates[fingerprint])

    def template(self, application: Application) -> Application:
        """Return the application as corrected by earlier runs."""
        found = self._templates.get(application.fingerprint)
        if found is None:
            found = self._templates[application.fingerprint] = self.profile.template(application)
        return found

    def model(self, application: Application) -> ApplicationModel | None:
        """Return the application's model; None if there is none yet."""
        known = self.profile.applications.get(application.fingerprint)
        return None if known is None else known.model

    def tell(self, now: float, kind: str, job: Job, slots: int) -> Exception | None:
        """Send an event to the policy, if it has `hear`. Return the error if it failed."""
        if self._hear is None:
            return None
        try:
            self._hear(PolicyEvent(kind, now, job.number, self._total(job)[1], slots))
        except Exception as error:
            return error
        return None

    def wanted(self, job: Job, now: float) -> BeliefWanted | None:
        """Return the belief to form, if there is a model and new evidence; otherwise None."""
        known = self.profile.applications.get(job.fingerprint)
        if known is None or known.model is None:
            return None
        _ = job.position  # applies pending stage events, which may be new evidence
        if not job.outdated:
            return None
        return BeliefWanted(job.number, known.model, job.evidence(now), self._needs)

    def _total(self, job: Job) -> tuple[int, float, tuple[float, ...]]:
        """Return the application's number of known jobs, prior mean work, and each job's work."""
        fingerprint = job.fingerprint
        found = self._totals.get(fingerprint)
        if found is None:
            known = self.profile.applications.get(fingerprint)
            works_s = () if known is None else known.works_s
            runs = 0 if known is None else max(known.jobs, 1)
            found = self._totals[fingerprint] = (runs, self.profile.total_work_s(job.template), works_s)
        return found

    def view(self, job: Job, now: float) -> JobView:
        """Return the job as the policy sees it."""
        progress, belief = job.progress, job.belief
        work_s = progress.done_s + (progress.holding * now - progress.granted_sum_s)
        total = self._totals.get(job.fingerprint)
        runs, total_s, works_s = self._total(job) if total is None else total
        median_s = interval_s = None
        if self.believing:
            remaining_s = index_s = job.remaining_s(now, total_s)
            if belief is not None:
                if self._by_index and belief.mean > 0.0:
                    # Scale by the work received since the belief was formed.
                    index_s = remaining_s * (belief.index / belief.mean)
                since_s = max(work_s - job.believed_at_s, 0.0)
                if self._by_median:
                    median_s = max(belief.median - since_s, 0.0)
                if self._by_interval:
                    lo, hi = belief.bounds
                    less_s = min(since_s, lo)
                    interval_s = (lo - less_s, hi - less_s)
        else:
            remaining_s = index_s = max(total_s - work_s, 0.0)
        # fmt: off
        fields = (
            job.number, job.info, job.arrival_s, work_s, progress.holding, progress.waiting,
            runs, total_s, works_s, remaining_s, median_s, interval_s, index_s, belief is not None,
        )
        # fmt: on
        return _new(JobView, fields)

    def order(self, job: Job, now: float) -> float:
        """Return the policy's order of the job.

        Raises:
            Exception: the policy's own error.
            ValueError: the policy returned NaN.
        """
        order = float(self.policy.order(self.view(job, now), now))
        if isnan(order):
            raise ValueError(f"policy {self.policy.name!r} returned NaN as an order")
        return order

    def key(
        self, job: Job, stage_occurrence: StageOccurrence, order: float, urgent: tuple[float, float]
    ) -> Key:
        """Return the key of the job's lanes for a stage occurrence."""
        info = job.info
        return _new(Key, (info.priority, order, self._explore(job, stage_occurrence), info.tenant, *urgent))

    def urgent(self, job: Job, now: float) -> tuple[float, float]:
        """Return the interval of clock times in which the job is urgent, because of its deadline.

        It is urgent while (deadline - now) / (remaining time alone) is between `LOST` and `URGENT`. The
        remaining time alone is estimated as expected remaining work * (critical path / work of earlier jobs).
        """
        deadline_s = job.info.deadline_s
        if deadline_s is None:
            return NEVER_URGENT
        left_s, at_s = self.alone(job) * self.left_s(job, now), job.arrival_s + deadline_s
        return at_s - URGENT * left_s, at_s - LOST * left_s

    def left_s(self, job: Job, now: float) -> float:
        """Return the job's expected remaining work, in slot-seconds."""
        return job.remaining_s(now, self._total(job)[1])

    def alone(self, job: Job) -> float:
        """Return the seconds that earlier jobs of its application took alone, per slot-second of work."""
        known = self.profile.applications.get(job.fingerprint)
        return 1.0 if known is None else known.history.alone

    def _explore(self, job: Job, stage_occurrence: StageOccurrence) -> Explore | None:
        """Return what exploration needs for the stage occurrence; None if it is never explored."""
        belief, exploration, progress = job.belief, self.exploration, job.progress
        if exploration is None or belief is None:
            return None
        work = progress.works.get(stage_occurrence)
        calls = 0 if work is None else work.calls
        fields = (
            belief,
            job.believed_at_s,
            progress.done_s,
            progress.holding,
            progress.granted_sum_s,
            ceil(exploration.sample * calls) - job.explored.get(stage_occurrence, 0),
        )
        return _new(Explore, fields)
