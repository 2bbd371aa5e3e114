"""Knows in which order the jobs of a backlog are served: smaller is sooner, ties by arrival.

Does not know slots, grants or clocks. A policy is a pure function of a job's state and the profile,
asked again whenever the job changes; so live and simulated runs use the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from llmsched_langgraph.belief.profile import MAX_OCCURRENCES, Profile
from llmsched_langgraph.belief.record import Evidence, StageRecord
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Ended, Move, Position
from llmsched_langgraph.dag.progress import Outcome, Progress
from llmsched_langgraph.errors import ConfigurationError


@dataclass(slots=True)
class Job:
    """One job as the scheduler sees it.

    Attributes:
        id: the driver's name for it.
        template: its application, as runs have corrected it.
        arrival: 1 for the first job that the scheduler saw, 2 for the next, ...
        arrival_s: the clock at its arrival.
        paused_s: how long it was interrupted, so far.
        paused_since: when it was interrupted, if it is.
        outcome: None until the job has ended.
        priority: what the policy said last; all its waiting calls have it.
        backends: those that it has asked for slots.
    """

    id: int | None
    template: Application
    arrival: int
    arrival_s: float
    progress: Progress = field(default_factory=lambda: Progress(told_apart=MAX_OCCURRENCES))
    outcome: Outcome | None = None
    paused_s: float = 0.0
    paused_since: float | None = None
    priority: float = 0.0
    backends: tuple[str, ...] = ()
    _moves: list[Move] = field(default_factory=list)
    _position: Position | None = None
    _stages: list[StageRecord] = field(default_factory=list)

    @property
    def application(self) -> str:
        """Fingerprint of its application: the key of what has been learned of it."""
        return self.template.fingerprint

    def move(self, moves: Iterable[Move]) -> None:
        """Executions of its stages were announced, began or ended."""
        # Taken in when somebody asks: for jobs that make no call, nobody ever does.
        self._moves += moves

    def _take_in(self) -> Position:
        position = self._position
        if position is None:
            position = self._position = Position(self.template)
        if self._moves:
            moves, self._moves = self._moves, []
            for move in moves:
                if isinstance(move, Ended) and (spot := position.spot(move.run)) is not None:
                    place = position.place(move.run)
                    self._stages.append(StageRecord(*spot, place, move.seconds, move.complete))
                position.move(move)
        return position

    @property
    def position(self) -> Position:
        """Where it stands on its application."""
        return self._take_in()

    @property
    def stages(self) -> tuple[StageRecord, ...]:
        """Its executions of stages that are over."""
        self._take_in()
        return tuple(self._stages)

    def evidence(self, now: float) -> Evidence:
        """What is known of the job at `now`."""
        return Evidence(
            waiting=tuple(self.progress.backlog.items()),
            running=tuple(((c.stage, c.occurrence), c.work_s(now)) for c in self.progress.running.values()),
            latest=self.progress.latest,
            received_s=self.progress.work_s(now),
        )


@runtime_checkable
class Policy(Protocol):
    """An order of service. Give any object of this shape to `Scheduler(policy=...)`."""

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
    return profile.total_work_s(job.application)


def _srtf(job: Job, profile: Profile, now: float) -> float:
    """Expected remaining work: Shortest Remaining Time First on what is known of the job."""
    return profile.remaining_work_s(job.application, job.evidence(now))


def _plas(job: Job, profile: Profile, now: float) -> float:
    """Work already received: Program-Level Attained Service of Autellix (arXiv 2502.13965)."""
    return job.progress.work_s(now)


POLICIES: dict[str, Policy] = {
    name: NamedPolicy(name, function)
    for name, function in {
        "fcfs": _fcfs,
        "app_fifo": _app_fifo,
        "fair": _fair,
        "sjf": _sjf,
        "srtf": _srtf,
        "plas": _plas,
    }.items()
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
    return policy
