"""Keeps the runs that ended last, so that they can be explained.

Does not explain them.
"""

from __future__ import annotations

from llmsched_langgraph._observe.closed import ClosedJob

KEPT = 200
"""Number of runs that are kept."""


class RecentJobs:
    """The latest closed jobs that made a call."""

    def __init__(self) -> None:
        self._jobs: dict[int, ClosedJob] = {}

    def keep(self, job: ClosedJob) -> None:
        """Keep a job; forget the oldest beyond `KEPT`."""
        self._jobs[job.number] = job
        while len(self._jobs) > KEPT:
            self._jobs.pop(next(iter(self._jobs)), None)

    def find(self, key: str | int) -> ClosedJob | None:
        """Return the latest job with this number, run id, thread id or record id."""
        if isinstance(key, int):
            return self._jobs.get(key)
        for job in reversed(tuple(self._jobs.values())):
            info = job.info
            if info is not None and key and key in (info.run_id, info.thread_id, job.id):
                return job
        return None
