"""Knows in which order the jobs of a backlog are served: smaller is sooner, ties by arrival.

Does not know slots, grants or clocks. A policy is a pure function of what is known of a job, asked again
whenever the job changes; so live and simulated runs use the same object.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from llmsched_langgraph._core.fair_clock import FairClock
from llmsched_langgraph._core.job import MIN_REMAINING_S
from llmsched_langgraph._core.view import JobView, Needs, PolicyEvent
from llmsched_langgraph._ledger.exploration import Exploration
from llmsched_langgraph.errors import ConfigurationError


@runtime_checkable
class Policy(Protocol):
    """An order of service. Give any object of this shape to `Scheduler(policy=...)`.

    It may have three more attributes: `needs`, a `Needs`, for what it reads of a belief; `exploration`, an
    `Exploration`; and, for a policy that keeps state of its own, `hear(event: PolicyEvent)`, which is called
    in order before the jobs that the event concerns are ordered. An event may be heard twice, if a decision
    was broken off: hearing it again must change nothing.
    """

    @property
    def name(self) -> str:
        """What tables and messages call it."""

    def order(self, job: JobView, now: float) -> float:
        """The place of the job's waiting calls: smaller is sooner, equal ones go by arrival."""


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy that is one function."""

    name: str
    function: Callable[[JobView, float], float] = field(repr=False)
    needs: Needs = Needs.NOTHING
    exploration: Exploration | None = None

    def order(self, job: JobView, now: float) -> float:
        """See `Policy.order`."""
        return self.function(job, now)


def _fcfs(job: JobView, now: float) -> float:
    """Call arrival: every backend's own queue."""
    return 0.0


def _app_fifo(job: JobView, now: float) -> float:
    """Job arrival, as Parrot does (OSDI '24)."""
    return job.arrival_s


def _fair(job: JobView, now: float) -> float:
    """Fewest slots held by the job."""
    return float(job.holding)


def _sjf(job: JobView, now: float) -> float:
    """The application's mean total work: Shortest Job First."""
    return job.mean_total_work_s


def _srtf(job: JobView, now: float) -> float:
    """Expected remaining work: Shortest Remaining Time First on what is known of the job."""
    return job.remaining_s


def _plas(job: JobView, now: float) -> float:
    """Work already received: Program-Level Attained Service of Autellix (arXiv 2502.13965)."""
    return job.work_s


def _hermes(job: JobView, now: float) -> float:
    """Gittins rank of the application's distribution of work, cut off at what was received (2506.14851).

    G(D, a) = min over D of E[min(X - a, D) | X > a] / P(X - a <= D | X > a), X the whole work of earlier
    jobs and `a` what this one has received; the look-ahead D is fixed beforehand.
    """
    received_s = job.work_s
    if not job.runs:
        return max(job.mean_total_work_s - received_s, MIN_REMAINING_S)
    left = job.total_work_s[bisect_right(job.total_work_s, received_s) :]
    if not left:
        # It has outgrown all that was ever seen: the longer it went on, the longer it may.
        return max(received_s, MIN_REMAINING_S)
    best, sum_s = float("inf"), 0.0
    for count, whole_s in enumerate(left, 1):
        ahead_s = whole_s - received_s
        best = min(best, (sum_s + (len(left) - count + 1) * ahead_s) / count)
        sum_s += ahead_s
    return best


def _gittins(job: JobView, now: float) -> float:
    """Least expected work for each chance to end, over all ways to stop at the end of a stage.

    The index that minimises mean response time in an M/G/1 whatever the scheduler learns meanwhile (Scully,
    Grosof, Harchol-Balter; Aalto and Scully 2022 for jobs of stages); see `_belief/model/gittins.py`.
    """
    return job.index_s


class Justitia:
    """When the job would end if all jobs shared all slots equally: Justitia (arXiv 2510.17015).

    It keeps a virtual clock, so each scheduler needs one of its own.
    """

    name = "justitia"

    def __init__(self) -> None:
        self._clock = FairClock()
        self._tags_s: dict[int, float] = {}

    def hear(self, event: PolicyEvent) -> None:
        """See `Policy`. A job's tag is fixed when it arrives."""
        if event.kind == "JobClosed":
            self._tags_s.pop(event.job, None)
        elif event.job not in self._tags_s:
            tag_s = self._clock.arrive(event.at_s, event.mean_total_work_s, event.slots or 1)
            self._tags_s[event.job] = tag_s

    def order(self, job: JobView, now: float) -> float:
        """See `Policy.order`."""
        return self._tags_s[job.number]


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
    return NamedPolicy(name, _srtf, Needs.MEAN | Needs.GAIN, Exploration(epsilon, sample, seed))


POLICIES: dict[str, Callable[[], Policy]] = {
    "fcfs": lambda: NamedPolicy("fcfs", _fcfs),
    "app_fifo": lambda: NamedPolicy("app_fifo", _app_fifo),
    "fair": lambda: NamedPolicy("fair", _fair),
    "sjf": lambda: NamedPolicy("sjf", _sjf),
    "srtf": lambda: NamedPolicy("srtf", _srtf, Needs.MEAN),
    "srtf_marginal": lambda: NamedPolicy("srtf_marginal", _srtf, Needs.MEAN | Needs.MARGINALS),
    "plas": lambda: NamedPolicy("plas", _plas),
    "hermes": lambda: NamedPolicy("hermes", _hermes),
    "justitia": Justitia,
    "llmsched": llmsched,
    "gittins": lambda: NamedPolicy("gittins", _gittins, Needs.MEAN | Needs.INDEX),
}
"""What makes each policy, by its name."""


def as_policy(policy: str | Policy) -> Policy:
    """The policy of that name, or the object itself if it is one.

    Raises:
        ConfigurationError: no policy has the name, or the object is no policy.
    """
    if isinstance(policy, str):
        try:
            return POLICIES[policy]()
        except KeyError:
            known = ", ".join(POLICIES)
            raise ConfigurationError(f"unknown policy {policy!r}; choose one of: {known}") from None
    if isinstance(policy, type) or not isinstance(policy, Policy):
        what = f"the class {policy.__name__}" if isinstance(policy, type) else type(policy).__name__
        raise ConfigurationError(
            f"policy must be a name or an object with `name` and `order(job, now)`, not {what}"
        )
    for attribute, kind, default, wanted in (
        ("needs", Needs, Needs.NOTHING, "a `Needs`"),
        ("exploration", Exploration | None, None, "an `Exploration` or None"),
    ):
        value = getattr(policy, attribute, default)
        if not isinstance(value, kind):
            raise ConfigurationError(
                f"policy {policy.name!r}: its `{attribute}` must be {wanted}, not {value!r}"
            )
    return policy
