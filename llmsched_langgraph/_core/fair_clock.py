"""Computes when each job would end if all active jobs shared all slots equally.

Does not determine the actual order of service. Self-clocked fair queueing serves jobs in the order of these
times; Justitia (arXiv 2510.17015) applies it to whole agents, which bounds how much later than under fair
sharing an agent ends.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True)
class FairClock:
    """The virtual time V(t) of fair sharing, in slot-seconds per job: dV/dt = slots / active jobs.

    A job is active from its arrival until V reaches its tag. Operations take amortised O(log n).
    """

    _now_s: float = 0.0
    _virtual_s: float = 0.0
    _tags_s: list[float] = field(default_factory=list)

    def arrive(self, now: float, work_s: float, slots: int) -> float:
        """Add a job of `work_s` slot-seconds and return its tag, its virtual end time."""
        self._advance(now, slots)
        tag_s = self._virtual_s + max(work_s, 0.0)
        heapq.heappush(self._tags_s, tag_s)
        return tag_s

    def _advance(self, now: float, slots: int) -> None:
        passed_s = max(now - self._now_s, 0.0)
        self._now_s = max(now, self._now_s)
        while self._tags_s:
            pace = slots / len(self._tags_s)
            until_s = (self._tags_s[0] - self._virtual_s) / pace
            if until_s > passed_s:
                self._virtual_s += passed_s * pace
                return
            self._virtual_s = heapq.heappop(self._tags_s)
            passed_s -= until_s
