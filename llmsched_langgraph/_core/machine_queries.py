"""Answers questions about the state of a machine.

Does not change it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.checks import check_jobs
from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._core.jobs import JOBS, Jobs
from llmsched_langgraph._core.lifecycle import RUNNING
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._core.story import Story
from llmsched_langgraph._ledger.protocol import Ledger

if TYPE_CHECKING:
    from llmsched_langgraph._core.job import Job
    from llmsched_langgraph._core.ordering import Ordering


class MachineQueries:
    """The part of a machine that reads."""

    ledger: Ledger
    ordering: Ordering
    story: Story
    _committed: Mapping[Any, Any]
    _jobs: Jobs

    def known(self) -> Iterator[Job]:
        """The jobs that are not closed."""
        return self._jobs.known()

    @property
    def policy(self) -> Policy:
        """The order of service."""
        return self.ordering.policy

    @property
    def profile(self) -> Profile:
        """What was learned from earlier runs."""
        return self.ordering.profile

    @property
    def last(self) -> tuple[int, int]:
        """Numbers of the latest job and the latest entry."""
        return self._committed[JOBS], self.story.last

    @property
    def jobs(self) -> int:
        """Number of active jobs (arrived, not ended, not paused)."""
        return int(self._committed[RUNNING])

    def entries(self, *tickets: int) -> list[Entry]:
        """Return the story, oldest entry first; only entries about `tickets` if any are given."""
        entries = self.story.after(0)
        return [entry for entry in entries if entry.ticket in tickets] if tickets else entries

    def check(self, now: float = float("inf")) -> None:
        """Raise AssertionError unless every invariant of machine and ledger holds at `now`."""
        self.ledger.check(now)
        check_jobs(tuple(self._jobs.known()), self.ledger.view(), self.jobs)
