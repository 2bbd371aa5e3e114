"""Knows when what a finished job taught is worth telling the machine.

Does not know what is learned: that is `Profile.observe`, a pure function.
"""

from __future__ import annotations

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.belief.record import JobRecord

NOTHING: frozenset[str] = frozenset()


class Learner:
    """Keeps the newest profile, and publishes an application's means while they still move.

    Publishing makes the machine ask the policy again for every job of the application, so it
    happens after each of the first eight jobs and then each time their number grew by an eighth:
    a total of O(log n) times, while a mean can hardly move in between.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self._due: dict[str, int] = {}

    def observe(self, record: JobRecord) -> frozenset[str]:
        """Learn from one job; the applications whose means should be published now."""
        self.profile = self.profile.observe(record)
        jobs = self.profile.jobs(record.application)
        if not record.complete or jobs < self._due.get(record.application, 1):
            return NOTHING
        self._due[record.application] = jobs + max(jobs // 8, 1)
        return frozenset([record.application])
