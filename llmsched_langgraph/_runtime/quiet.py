"""Knows the jobs that have not made a call: most runs of most graphs never do, and cost next to nothing.

Does not know what a call is. Once a job makes one, its arrival goes into the inbox, with the time it came at.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any


class QuietJobs:
    """Arrivals that the machine need not know of yet.

    Attributes:
        arrivals: pairs of time and event, by job.
        ended: jobs that ended without a call.
    """

    __slots__ = ("_inbox", "_tally", "arrivals", "ended")

    def __init__(self, inbox: deque[Any]) -> None:
        self._inbox = inbox
        self.arrivals: dict[int | None, Any] = {}
        self._tally = threading.RLock()  # a finaliser may end a job in the middle of the end of another
        self.ended = 0

    def keep(self, job: int, arrived: Any) -> None:
        """Keep the arrival, a pair of time and event, until the job makes a call."""
        self.arrivals[job] = arrived

    def announce(self, job: int | None) -> None:
        """Put the job's arrival into the inbox, if it is kept here."""
        if job in self.arrivals:
            # Taken and put by one call, so that no other thread finds it in neither place and is ahead of it.
            self._inbox.extend(filter(None, map(self.arrivals.pop, (job,), (None,))))

    def end(self, job: int) -> bool:
        """The job has ended; whether it was quiet to its end, so that nothing has to be told."""
        if self.arrivals.pop(job, None) is None:
            return False
        with self._tally: self.ended += 1  # noqa: E701  # fmt: skip
        return True

    def __contains__(self, job: int) -> bool:
        return job in self.arrivals

    def __len__(self) -> int:
        return len(self.arrivals)
