"""Answers questions about the state that a driver holds.

Does not change it, or handle events.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.protocol import Ledger
from llmsched_langgraph._ledger.values import BackendView, LedgerView

if TYPE_CHECKING:
    from llmsched_langgraph._core.machine import SchedulerMachine
    from llmsched_langgraph._learning.service import LearningService
    from llmsched_langgraph._observe.totals import Totals
    from llmsched_langgraph._runtime.quiet import QuietJobs


class Queries:
    """The part of a driver that reads. Safe in any thread, at any time."""

    _machine: SchedulerMachine
    _ledger: Ledger
    _quiet: QuietJobs
    _service: LearningService
    totals: Totals
    _closed: bool

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
