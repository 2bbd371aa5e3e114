"""Knows what the policy says of a job: what it sees of it, the order, the keys of the job's lanes.

Does not know who waits or holds, nor how jobs are kept. Beliefs are formed elsewhere; it says which are
wanted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, isnan
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

_BELIEF = Needs.MEAN | Needs.MEDIAN | Needs.INTERVAL | Needs.INDEX | Needs.GAIN

_new = tuple.__new__
"""Makes a named tuple of a tuple: the same as calling its class, without a line of Python."""


@dataclass(frozen=True, slots=True, eq=False)
class BeliefWanted:
    """Work out what is still to come of a job, and tell it with `BeliefFormed`.

    Attributes:
        job: its number.
        model: what is known of its application.
        evidence: what is known of the job.
        needs: what the policy will read of it.
    """

    job: int
    model: ApplicationModel
    evidence: JobEvidence
    needs: Needs

    def belief(self) -> Belief:
        """The belief. Nothing is worked out yet but what it depends on."""
        model = self.model.marginals if Needs.MARGINALS in self.needs else self.model
        return model.belief(self.evidence)


class Ordering:
    """A policy, and the profile that it goes by.

    Args:
        policy: the order of service.
        profile: what earlier runs taught.

    Attributes:
        believing: whether the policy reads beliefs.
        exploration: how often to explore; None for never.
        hears: whether the policy wants to be told of jobs that arrive and close.
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
        self._templates: dict[str, Application] = {}  # as runs have corrected them
        self._totals: dict[str, tuple[int, float, tuple[float, ...]]] = {}

    def learn(self, profile: Profile, applications: frozenset[str]) -> None:
        """Go by another profile, which says something new of these applications."""
        self.profile = profile
        self._totals.clear()
        for fingerprint in applications & self._templates.keys():
            self._templates[fingerprint] = profile.template(self._templates[fingerprint])

    def template(self, application: Application) -> Application:
        """The application as its runs have shown it to be."""
        found = self._templates.get(application.fingerprint)
        if found is None:
            found = self._templates[application.fingerprint] = self.profile.template(application)
        return found

    def tell(self, now: float, kind: str, job: Job, slots: int) -> Exception | None:
        """Tell the policy of a job, if it wants to hear; the error if it failed."""
        if self._hear is None:
            return None
        try:
            self._hear(PolicyEvent(kind, now, job.number, self._total(job)[1], slots))
        except Exception as error:
            return error
        return None

    def wanted(self, job: Job, now: float) -> BeliefWanted | None:
        """The belief to form: if there is a model, and evidence that the last one does not rest on."""
        known = self.profile.applications.get(job.fingerprint)
        if known is None or known.model is None:
            return None
        _ = job.position  # moves that were not looked at may be news
        if not job.outdated:
            return None
        return BeliefWanted(job.number, known.model, job.evidence(now), self._needs)

    def _total(self, job: Job) -> tuple[int, float, tuple[float, ...]]:
        """Of its application: jobs that are known, their mean work before anything is known, their works."""
        fingerprint = job.fingerprint
        found = self._totals.get(fingerprint)
        if found is None:
            known = self.profile.applications.get(fingerprint)
            works_s = () if known is None else known.works_s
            runs = 0 if known is None else max(known.jobs, 1)
            found = self._totals[fingerprint] = (runs, self.profile.total_work_s(job.template), works_s)
        return found

    def view(self, job: Job, now: float) -> JobView:
        """The job as its policy sees it."""
        progress, belief = job.progress, job.belief
        work_s = progress.done_s + (progress.holding * now - progress.granted_sum_s)
        total = self._totals.get(job.fingerprint)
        runs, total_s, works_s = self._total(job) if total is None else total
        median_s = interval_s = None
        if self.believing:
            remaining_s = index_s = job.remaining_s(now, total_s)
            if belief is not None:
                if self._by_index and belief.mean > 0.0:
                    # What was received since the belief was formed counts at once.
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
        """The policy's order of the job.

        Raises:
            Exception: whatever the policy raises, or ValueError if it gives no number.
        """
        order = float(self.policy.order(self.view(job, now), now))
        if isnan(order):
            raise ValueError(f"policy {self.policy.name!r} gave NaN as an order")
        return order

    def key(self, job: Job, stage_occurrence: StageOccurrence, order: float) -> Key:
        """The key of the job's lanes for a stage occurrence."""
        return _new(Key, (job.info.priority, order, self._explore(job, stage_occurrence)))

    def _explore(self, job: Job, stage_occurrence: StageOccurrence) -> Explore | None:
        """What exploring the stage occurrence needs; None if it is never explored."""
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
