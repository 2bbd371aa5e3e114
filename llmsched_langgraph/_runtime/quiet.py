"""Stores the arrivals of jobs that have made no call, so that a run without calls costs little.

Does not handle calls. At a job's first call its arrival enters the inbox, with its original time.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class QuietJobs:
    """Arrivals that the machine does not need yet.

    Attributes:
        arrivals: `(time, event)` pairs by job number.
        ended: number of jobs that ended without a call.
    """

    __slots__ = ("_inbox", "_tally", "arrivals", "ended")

    def __init__(self, inbox: deque[Any]) -> None:
        self._inbox = inbox
        self.arrivals: dict[int | None, Any] = {}
        self._tally = threading.RLock()  # reentrant: a finaliser may call `end` during another `end`
        self.ended = 0

    def keep(self, job: int, arrived: Any) -> None:
        """Store the arrival, a `(time, event)` pair, until the job makes a call."""
        self.arrivals[job] = arrived

    def announce(self, job: int | None) -> None:
        """Move the job's arrival to the inbox, if it is stored here."""
        if job in self.arrivals:
            # One call pops and appends: no other thread finds the arrival in neither place and overtakes it.
            self._inbox.extend(filter(None, map(self.arrivals.pop, (job,), (None,))))

    def end(self, job: int) -> bool:
        """Record the end of a job; return whether it made no call, so that the machine needs no event."""
        if self.arrivals.pop(job, None) is None:
            return False
        with self._tally: self.ended += 1  # noqa: E701  # fmt: skip
        return True

    def __contains__(self, job: int) -> bool:
        return job in self.arrivals

    def __len__(self) -> int:
        return len(self.arrivals)
