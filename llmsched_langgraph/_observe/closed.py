"""Creates the record of a closed job, when a background thread needs it.

Does not use the record.
"""

from __future__ import annotations

import threading
from dataclasses import replace

from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._core.ending import ended, predicted
from llmsched_langgraph._core.events import Direct, JobInfo
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._jobs.ended import EndedJob


class ClosedJob:
    """A closed job and its record.

    Args:
        job: the machine's object for it.
        prefix: prefix of the job's id, unique to the scheduler and the process.
        offset_s: wall clock minus the machine's clock, in seconds.
        foresees: whether the record says which work was predicted at the job's arrival.

    Attributes:
        number: the job's number.
        info: its properties at its arrival; None for a single call outside any run.
        direct: whether the job is a single call outside any run.
        fingerprint: the fingerprint of its application.
    """

    __slots__ = (
        "_foresees",
        "_job",
        "_lock",
        "_offset_s",
        "_prefix",
        "_record",
        "direct",
        "fingerprint",
        "info",
        "number",
    )

    def __init__(self, job: Job | Direct, prefix: str, offset_s: float, *, foresees: bool = False) -> None:
        self._job = job
        self._foresees = foresees
        self._prefix = prefix
        self._offset_s = offset_s
        self.number = job.number
        self.info: JobInfo | None = None if isinstance(job, Direct) else job.info
        self.direct = isinstance(job, Direct)
        self.fingerprint = DIRECT.fingerprint if isinstance(job, Direct) else job.fingerprint
        self._lock = threading.Lock()
        self._record: EndedJob | None = None

    @property
    def id(self) -> str:
        """The id of its record."""
        return f"{self._prefix}-{self.number}"

    def forked(self) -> bool:
        """Renew the lock in the child of a fork; return False if a thread of the parent held it."""
        locked, self._lock = self._lock.locked(), threading.Lock()
        return not locked

    @property
    def informative(self) -> bool:
        """Whether learning can use the job: it finished and made a call."""
        if isinstance(self._job, Direct):
            return self._job.call.outcome is Outcome.FINISHED
        return self._job.outcome is Outcome.FINISHED and bool(self._job.progress.finished)

    @property
    def record(self) -> EndedJob:
        """The job's record, computed once. Its `arrival_s` is wall-clock time. Thread-safe."""
        with self._lock:
            if self._record is None:
                record = ended(self._job)
                # The clock has a resolution of 1 microsecond.
                arrival_s = round(max((record.arrival_s or 0.0) + self._offset_s, 0.0), 6)
                self._record = replace(
                    record,
                    id=self.id,
                    arrival_s=arrival_s,
                    predicted=predicted(self._job) if self._foresees else None,
                )
            return self._record
