"""Answers questions about the state that a driver holds.

Does not change it, or handle events.
"""

from __future__ import annotations

from _thread import LockType
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.explaining import JobFacts, facts_of, infos_of, latest
from llmsched_langgraph._core.outlook import Outlook, outlooks
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._core.standing import Standing, standing_of
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.protocol import Ledger
from llmsched_langgraph._ledger.values import BackendView, LedgerView
from llmsched_langgraph._observe.explaining import before, of_ended, of_running
from llmsched_langgraph._observe.explanation import Explanation
from llmsched_langgraph._observe.waits import WaitStatistics

if TYPE_CHECKING:
    from llmsched_langgraph._core.job import Job
    from llmsched_langgraph._core.machine import SchedulerMachine
    from llmsched_langgraph._learning.service import LearningService
    from llmsched_langgraph._observe.totals import PackageObserver, Totals
    from llmsched_langgraph._runtime.quiet import QuietJobs


T = TypeVar("T")


class Queries:
    """The part of a driver that reads. Safe in any thread, at any time."""

    read: Callable[[Callable[[SchedulerMachine, float], T]], T | None]
    _machine: SchedulerMachine
    _ledger: Ledger
    _quiet: QuietJobs
    _service: LearningService
    _observer: PackageObserver
    _lock: LockType
    totals: Totals
    _closed: bool
    clock: Callable[[], float]

    def learn(self) -> None:
        """Learn from all ended jobs now, in the calling thread."""
        self._service.learn()

    def save(self) -> None:
        """Save the profile and write the recorded jobs now, in the calling thread."""
        self._service.keep()

    @property
    def closed(self) -> bool:
        """Whether the driver was closed."""
        return self._closed

    @property
    def policy(self) -> Policy:
        """The order of service."""
        return self._machine.policy

    @property
    def profile(self) -> Profile:
        """What has been learned so far."""
        return self._service.profile

    @property
    def jobs(self) -> int:
        """Number of active jobs (arrived, not ended, not paused)."""
        return self._machine.jobs + len(self._quiet)

    @property
    def jobs_ended(self) -> int:
        """Number of ended jobs whose calls are all released."""
        return self.totals.jobs + self._quiet.ended

    def runs(self, job: int) -> bool:
        """Return whether the job is active."""
        return job in self._quiet or self._machine.active(job) is not None

    def standing(self, job: int) -> Standing | None:
        """Return where a running job stands; None if it has ended, or inside a decision."""
        self._quiet.announce(job)
        return self.read(lambda machine, now: standing_of(machine, job, now))

    def explain(self, key: str | int) -> Explanation | None:
        """Return what is known of the latest run with this number, run id or thread id; None if none is.

        Runs that have ended are known for a while, if they made a call.
        """
        for job, (_, event) in tuple(self._quiet.arrivals.items()):
            if key in (event.info.run_id, event.info.thread_id):
                self._quiet.announce(job)
        facts = self.read(lambda machine, now: _facts(machine, latest(machine.known(), key), now))
        if facts is None or facts.outcome is not None:
            closed = self._service.recent.find(key)
            if closed is not None and closed.info is not None:
                return of_ended(closed.record, closed.number, closed.info)
        return None if facts is None else self._explained(facts)

    def explain_job(self, job: int) -> Explanation | None:
        """Return what is known of an active job; None if it has ended, or inside a decision."""
        self._quiet.announce(job)
        facts = self.read(lambda machine, now: _facts(machine, machine.active(job), now))
        return None if facts is None else self._explained(facts)

    def _explained(self, facts: JobFacts) -> Explanation:
        names = {own.lane[0] for own in facts.waiting.values()}
        lines = {name: self._ledger.preview(facts.at_s, name) for name in names}
        ahead = before(facts, lines)
        infos = self.read(lambda machine, _: infos_of(machine, ahead)) or {}
        forecast = None if facts.outlook is None else self._observer.forecasts.of(facts.outlook)
        return of_running(facts, self._ledger.backends, lines, infos, forecast)

    @property
    def waits(self) -> tuple[WaitStatistics, ...]:
        """How long calls waited."""
        return self._observer.waits.statistics()

    def outlooks(self, numbers: Sequence[int]) -> Sequence[Outlook]:
        """Return what lies before running jobs: those with these numbers, or without any all or a sample.

        Empty if another thread decides at the moment.
        """
        if self._lock.locked():
            return ()
        with self._lock: return outlooks(self._machine, self.clock(), numbers)  # noqa: E701  # fmt: skip

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """The current state of each backend, by name."""
        return self._ledger.backends

    def rated(self, backend: str) -> bool:
        """Return whether a rate of the backend is limited."""
        return self._ledger.backend(backend).capacity.spent is not None

    def settings(self, backend: str) -> Backend | None:
        """Return the settings of a backend; None if there is none of that name."""
        try:
            return self._ledger.backend(backend).backend
        except KeyError:
            return None

    def view(self) -> LedgerView:
        """Return all current tickets."""
        return self._ledger.view()


def _facts(machine: SchedulerMachine, job: Job | None, now: float) -> JobFacts | None:
    return None if job is None else facts_of(machine, job, now)
