"""Knows when each job would end if all jobs under way shared all slots equally.

Does not know who is served really. The order of such ends is that of self-clocked fair queueing: Justitia
(arXiv 2510.17015) serves whole agents in it, so that none ends much later than under fair sharing.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field


@dataclass(slots=True)
class FairClock:
    """The virtual time of fair sharing: the slot-seconds that a job under way all along would have got.

    It runs at slots / jobs, where the jobs are those that would not have ended yet. All operations are
    O(log n), amortised.
    """

    _now_s: float = 0.0
    _virtual_s: float = 0.0
    _tags_s: list[float] = field(default_factory=list)

    def arrive(self, now: float, work_s: float, slots: int) -> float:
        """A job of so much work arrives; the virtual time at which it would end."""
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
