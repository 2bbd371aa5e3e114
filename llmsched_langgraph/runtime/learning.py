"""Knows when what a finished job taught is worth telling the machine.

Does not know what is learned: that is `Profile.observe`, a pure function.
"""

from __future__ import annotations

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.belief.record import JobRecord

NOTHING: frozenset[str] = frozenset()


BATCH_CALLS = 256
"""Calls after which a batch of jobs is learned from, whether somebody wants to know or not."""


class Learner:
    """Keeps the newest profile, and publishes an application's means while they still move.

    Publishing makes the machine ask the policy again for every job of the application, so it
    happens after each of the first eight jobs and then each time their number grew by an eighth:
    a total of O(log n) times, while a mean can hardly move in between.

    Nobody sees the profile between two publications, unless by `profile`. So jobs are put by until
    then, and learned from together, in order: the profile is what it would have been one by one.
    """

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._batch: list[JobRecord] = []
        self._batch_calls = 0
        self._due: dict[str, int] = {}  # jobs of the application until its means are published

    @property
    def profile(self) -> Profile:
        """What has been learned of all jobs so far."""
        return self._take_in()

    def _take_in(self) -> Profile:
        if self._batch:
            batch, self._batch, self._batch_calls = self._batch, [], 0
            self._profile = self._profile.observe(*batch)
        return self._profile

    def observe(self, record: JobRecord) -> frozenset[str]:
        """Learn from one job; the applications whose means should be published now."""
        if not record.teaches:
            return NOTHING
        self._batch.append(record)
        self._batch_calls += len(record.calls)
        due = self._due.get(record.application, 1) - 1
        if due:
            self._due[record.application] = due
            if self._batch_calls >= BATCH_CALLS:
                self._take_in()
            return NOTHING
        self._due[record.application] = max(self._take_in().jobs(record.application) // 8, 1)
        return frozenset([record.application])
