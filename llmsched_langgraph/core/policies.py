"""Knows in which order the jobs of a backlog are served: smaller is sooner, ties by arrival.

Does not know slots, grants or clocks. A policy is a pure function of a job's state and the profile,
asked again whenever the job changes; so live and simulated runs use the same object.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol, runtime_checkable

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.exploration import Exploration
from llmsched_langgraph.core.job import LEAST_S, Job
from llmsched_langgraph.errors import ConfigurationError


class Needs(Enum):
    """What a policy wants to be worked out of each job that waits, before it is asked."""

    NOTHING = "nothing"
    MARGINALS = "marginals"  # what is still to come of it, every stage judged on its own
    BELIEF = "belief"  # what is still to come, given all that is known of it
    INDEX = "index"  # and the belief's Gittins index
    REDUCTION = "reduction"  # and its interval, and what its stages that are ready would teach
    TAG = "tag"  # its finish tag under fair sharing


@runtime_checkable
class Policy(Protocol):
    """An order of service. Give any object of this shape to `Scheduler(policy=...)`.

    It may have two more attributes: `needs`, one of `Needs`; and `exploration`, an `Exploration`.
    """

    @property
    def name(self) -> str:
        """What tables and messages call it."""

    def priority(self, job: Job, profile: Profile, now: float) -> float:
        """The priority of the job's waiting calls: smaller is sooner, equal ones go by arrival."""


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy that is one function."""

    name: str
    function: Callable[[Job, Profile, float], float] = field(repr=False)
    needs: Needs = Needs.NOTHING
    exploration: Exploration | None = None

    def priority(self, job: Job, profile: Profile, now: float) -> float:
        """See `Policy.priority`."""
        return self.function(job, profile, now)


def _fcfs(job: Job, profile: Profile, now: float) -> float:
    """Call arrival: every backend's own queue."""
    return 0.0


def _app_fifo(job: Job, profile: Profile, now: float) -> float:
    """Job arrival, as Parrot does (OSDI '24)."""
    return float(job.arrival)


def _fair(job: Job, profile: Profile, now: float) -> float:
    """Fewest slots held by the job."""
    return float(job.progress.holding)


def _sjf(job: Job, profile: Profile, now: float) -> float:
    """The application's mean total work: Shortest Job First."""
    return profile.total_work_s(job.template)


def _srtf(job: Job, profile: Profile, now: float) -> float:
    """Expected remaining work: Shortest Remaining Time First on what is known of the job."""
    prior_s = profile.total_work_s(job.template) if job.belief is None else 0.0
    return job.remaining_s(now, prior_s)


def _plas(job: Job, profile: Profile, now: float) -> float:
    """Work already received: Program-Level Attained Service of Autellix (arXiv 2502.13965)."""
    return job.progress.work_s(now)


def _hermes(job: Job, profile: Profile, now: float) -> float:
    """Gittins rank of the application's distribution of work, cut off at what was received (2506.14851).

    G(D, a) = min over D of E[min(X - a, D) | X > a] / P(X - a <= D | X > a), X the whole work of earlier
    jobs and `a` what this one has received; the look-ahead D is fixed beforehand.
    """
    known = profile.applications.get(job.application)
    received_s = job.progress.work_s(now)
    if known is None:
        return max(profile.total_work_s(job.template) - received_s, LEAST_S)
    left = known.beyond_s(received_s)
    if not left:
        # It has outgrown all that was ever seen: the longer it went on, the longer it may.
        return max(received_s, LEAST_S)
    best, sum_s = float("inf"), 0.0
    for count, whole_s in enumerate(left, 1):
        ahead_s = whole_s - received_s
        best = min(best, (sum_s + (len(left) - count + 1) * ahead_s) / count)
        sum_s += ahead_s
    return best


def _justitia(job: Job, profile: Profile, now: float) -> float:
    """When the job would end if all jobs shared all slots equally: Justitia (arXiv 2510.17015)."""
    return job.finish_tag_s


def _gittins(job: Job, profile: Profile, now: float) -> float:
    """Least expected work for each chance to end, over all ways to stop at the end of a stage.

    The index that minimises mean response time in an M/G/1 whatever the scheduler learns meanwhile (Scully,
    Grosof, Harchol-Balter; Aalto and Scully 2022 for jobs of stages); see `belief/gittins.py`.
    """
    remaining_s = _srtf(job, profile, now)
    if job.belief is None or not job.belief.mean > 0.0:
        return remaining_s
    # What was received since the belief was formed counts at once, though it was not asked again.
    return remaining_s * (job.belief.index / job.belief.mean)


def llmsched(epsilon: float = 0.1, sample: float = 0.3, seed: int = 0) -> NamedPolicy:
    """LLMSched's Algorithm 1: shortest expected remaining work, and a share of turns for what teaches most.

    Args:
        epsilon: the share of grants that explore, 0 to 1.
        sample: the part of a stage's calls that may be granted to explore it, above 0 and up to 1.
        seed: of the coin.

    Raises:
        ConfigurationError: a share is out of range.
    """
    name = (
        "llmsched" if (epsilon, sample) == (0.1, 0.3) else f"llmsched(epsilon={epsilon:g},sample={sample:g})"
    )
    return NamedPolicy(name, _srtf, Needs.REDUCTION, Exploration(epsilon, sample, seed))


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        NamedPolicy("fcfs", _fcfs),
        NamedPolicy("app_fifo", _app_fifo),
        NamedPolicy("fair", _fair),
        NamedPolicy("sjf", _sjf),
        NamedPolicy("srtf", _srtf, Needs.BELIEF),
        NamedPolicy("srtf_marginal", _srtf, Needs.MARGINALS),
        NamedPolicy("plas", _plas),
        NamedPolicy("hermes", _hermes),
        NamedPolicy("justitia", _justitia, Needs.TAG),
        llmsched(),
        NamedPolicy("gittins", _gittins, Needs.INDEX),
    )
}


def as_policy(policy: str | Policy) -> Policy:
    """The policy of that name, or the object itself if it is one.

    Raises:
        ConfigurationError: no policy has the name, or the object is no policy.
    """
    if isinstance(policy, str):
        try:
            return POLICIES[policy]
        except KeyError:
            known = ", ".join(POLICIES)
            raise ConfigurationError(f"unknown policy {policy!r}; choose one of: {known}") from None
    if isinstance(policy, type) or not isinstance(policy, Policy):
        what = f"the class {policy.__name__}" if isinstance(policy, type) else type(policy).__name__
        raise ConfigurationError(
            f"policy must be a name or an object with `name` and `priority(job, profile, now)`, not {what}"
        )
    for attribute, kind, default in (
        ("needs", Needs, Needs.NOTHING),
        ("exploration", Exploration | None, None),
    ):
        value = getattr(policy, attribute, default)
        if not isinstance(value, kind):
            wanted = "one of `Needs`" if kind is Needs else "an `Exploration` or None"
            raise ConfigurationError(
                f"policy {policy.name!r}: its `{attribute}` must be {wanted}, not {value!r}"
            )
    return policy
