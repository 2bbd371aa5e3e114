"""Defines the policies: the order in which waiting jobs are served.

Does not use slots, grants or clocks. A policy is a function of a `JobView`, evaluated again when the job
changes, so live and simulated runs share one implementation. Smaller is served first; ties go to the earlier
arrival.
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
    """An order of service. Pass any object with this interface to `Scheduler(policy=...)`.

    Three more attributes are optional: `needs`, a `Needs`, declares what the policy reads of a belief;
    `exploration` is an `Exploration`; and a policy with state of its own has `hear(event: PolicyEvent)`,
    which is called before the jobs that the event concerns are ordered. `hear` must be idempotent: an event
    is repeated after an interrupted decision.
    """

    @property
    def name(self) -> str:
        """The policy's name in tables and messages."""

    def order(self, job: JobView, now: float) -> float:
        """Return the order of the job's waiting calls: smaller is first."""


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
    """Order by call arrival, as a backend's own queue does."""
    return 0.0


def _app_fifo(job: JobView, now: float) -> float:
    """Order by job arrival, as Parrot does (OSDI '24)."""
    return job.arrival_s


def _fair(job: JobView, now: float) -> float:
    """Order by the number of slots that the job holds."""
    return float(job.holding)


def _sjf(job: JobView, now: float) -> float:
    """Order by the application's mean total work: Shortest Job First."""
    return job.mean_total_work_s


def _srtf(job: JobView, now: float) -> float:
    """Order by expected remaining work: Shortest Remaining Time First on the job's posterior."""
    return job.remaining_s


def _plas(job: JobView, now: float) -> float:
    """Order by work received: Program-Level Attained Service of Autellix (arXiv 2502.13965)."""
    return job.work_s


def _hermes(job: JobView, now: float) -> float:
    """Order by the Gittins rank of the application's work distribution (Hermes, arXiv 2506.14851).

    G(X, a) = min over D of E[min(X - a, D) | X > a] / P(X - a <= D | X > a), where X is the total work of an
    earlier job and `a` the work that this job has received.
    """
    received_s = job.work_s
    if not job.runs:
        return max(job.mean_total_work_s - received_s, MIN_REMAINING_S)
    left = job.total_work_s[bisect_right(job.total_work_s, received_s) :]
    if not left:
        # More work than any known job: expect as much again.
        return max(received_s, MIN_REMAINING_S)
    best, sum_s = float("inf"), 0.0
    for count, whole_s in enumerate(left, 1):
        ahead_s = whole_s - received_s
        best = min(best, (sum_s + (len(left) - count + 1) * ahead_s) / count)
        sum_s += ahead_s
    return best


def _gittins(job: JobView, now: float) -> float:
    """Order by the job's Gittins index, over all stopping rules at ends of stages.

    The Gittins index minimises the mean response time in an M/G/1 queue (Scully, Grosof, Harchol-Balter;
    Aalto and Scully 2022 for multistage jobs); see `_belief/model/gittins.py`.
    """
    return job.index_s


class Justitia:
    """Order by virtual end time under fair sharing: Justitia (arXiv 2510.17015).

    The virtual clock is state, so each scheduler needs its own instance.
    """

    name = "justitia"

    def __init__(self) -> None:
        self._clock = FairClock()
        self._tags_s: dict[int, float] = {}

    def hear(self, event: PolicyEvent) -> None:
        """See `Policy`. A job's tag is fixed at its arrival."""
        if event.kind == "JobClosed":
            self._tags_s.pop(event.job, None)
        elif event.job not in self._tags_s:
            tag_s = self._clock.arrive(event.at_s, event.mean_total_work_s, event.slots or 1)
            self._tags_s[event.job] = tag_s

    def order(self, job: JobView, now: float) -> float:
        """See `Policy.order`."""
        return self._tags_s[job.number]


def llmsched(epsilon: float = 0.1, sample: float = 0.3, seed: int = 0) -> NamedPolicy:
    """Return LLMSched's Algorithm 1: shortest expected remaining work first, with exploration.

    Args:
        epsilon: share of grants that explore, 0 to 1.
        sample: share of a stage's calls that may be granted for exploration, above 0 and up to 1.
        seed: seed of the random choice.

    Raises:
        ConfigurationError: a share is out of range.
    """
    exploration = Exploration(epsilon, sample, seed)
    name = (
        "llmsched" if (epsilon, sample) == (0.1, 0.3) else f"llmsched(epsilon={epsilon:g},sample={sample:g})"
    )
    return NamedPolicy(name, _srtf, Needs.MEAN | Needs.GAIN, exploration)


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
"""The policy factories, by name."""


def as_policy(policy: str | Policy) -> Policy:
    """Return the policy with that name, or the object itself if it is a policy.

    Raises:
        ConfigurationError: the name is unknown, or the object is not a policy.
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
