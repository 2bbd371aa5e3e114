"""Knows a job that is closed, and makes the record of it once a background thread needs it.

Does not know who learns from it or writes it down.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from llmsched_langgraph.belief.record import JobRecord
from llmsched_langgraph.core.ending import record_of
from llmsched_langgraph.core.events import Direct
from llmsched_langgraph.core.job import Job
from llmsched_langgraph.dag.application import DIRECT
from llmsched_langgraph.dag.progress import Outcome


class ClosedJob:
    """A job that is closed.

    Args:
        job: as the machine had it.
        id: what tells it from all other jobs, in all processes.
        ended_at: when it ended, in seconds of the wall clock.
    """

    __slots__ = ("_ended_at", "_id", "_job", "_lock", "_record")

    def __init__(self, job: Job | Direct, id: str, ended_at: float) -> None:  # noqa: A002 (the record's word)
        self._job = job
        self._id = id
        self._ended_at = ended_at
        self._lock = threading.Lock()
        self._record: JobRecord | None = None

    @property
    def application(self) -> str:
        """Fingerprint of its application."""
        return DIRECT.fingerprint if isinstance(self._job, Direct) else self._job.fingerprint

    @property
    def teaches(self) -> bool:
        """Whether anything can be learned of it: it went to its end, and made a call."""
        if isinstance(self._job, Direct):
            return self._job.call.outcome is Outcome.FINISHED
        return self._job.outcome is Outcome.FINISHED and bool(self._job.progress.finished)

    @property
    def record(self) -> JobRecord:
        """Its record, made once."""
        with self._lock:
            if self._record is None:
                self._record = replace(record_of(self._job), id=self._id, ended_at=self._ended_at)
            return self._record
