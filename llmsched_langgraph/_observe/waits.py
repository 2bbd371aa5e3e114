"""Keeps how long calls waited, by backend, tenant and priority.

Does not read clocks: waits are those of the story's grants.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._observe.bounds import Bounded

LATEST = 512
"""Number of latest waits of a group over which the quantiles are taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitStatistics:
    """How long the calls of one backend, tenant and priority waited for their slots.

    Attributes:
        backend: the name of the backend.
        tenant: the tenant; empty for none, "other" for all beyond the first hundred.
        priority: -5 to 5; smaller is served first.
        calls: number of calls that got a slot; some of them did not wait.
        total_s: the sum of their waits, in seconds.
        p50_s: the median wait of the latest 512 of them.
        p95_s: their 0.95 quantile.
        longest_s: the longest wait of all.
    """

    backend: str
    tenant: str
    priority: int
    calls: int
    total_s: float
    p50_s: float
    p95_s: float
    longest_s: float


class _Group:
    __slots__ = ("calls", "latest", "longest_s", "total_s")

    def __init__(self) -> None:
        self.calls = 0
        self.total_s = self.longest_s = 0.0
        self.latest: deque[float] = deque(maxlen=LATEST)


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[max(ceil(share * len(ordered)), 1) - 1]


class Waits:
    """The waits since the scheduler was created."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, int], _Group] = {}
        self._whose: dict[int, tuple[str, int]] = {}  # tenant and priority of the jobs that are not closed
        self._tenants = Bounded()
        self._seen = 0

    def see(self, entry: Entry) -> None:
        """Read an entry of the story."""
        kind = entry.kind
        if entry.number <= self._seen:
            return  # it is delivered again, after an interrupt
        self._seen = entry.number
        if kind == "SlotGranted":
            grant = entry.detail
            whose = self._whose.get(entry.job)
            if whose is None:
                whose = ("", 0) if grant.share is None else (grant.share.tenant, grant.share.level)
            self._count(entry.backend, *whose, grant.granted_s - grant.asked_s)
        elif kind in ("JobArrived", "JobResumed"):
            self._whose[entry.job] = entry.detail.tenant, entry.detail.priority
        elif kind == "JobClosed":
            self._whose.pop(entry.job, None)

    def _count(self, backend: str, tenant: str, priority: int, waited_s: float) -> None:
        tenant = self._tenants(tenant)
        group = self._groups.get((backend, tenant, priority))
        if group is None:
            group = self._groups[backend, tenant, priority] = _Group()
        group.calls += 1
        group.total_s += waited_s
        group.longest_s = max(group.longest_s, waited_s)
        group.latest.append(waited_s)

    def statistics(self) -> tuple[WaitStatistics, ...]:
        """Return the waits of each group, sorted by backend, tenant and priority."""
        found = []
        groups = self._groups.copy()  # `copy` runs no Python code, and no other thread
        for (backend, tenant, priority), group in sorted(groups.items()):
            ordered = sorted(group.latest.copy())
            found.append(
                WaitStatistics(
                    backend=backend,
                    tenant=tenant,
                    priority=priority,
                    calls=group.calls,
                    total_s=group.total_s,
                    p50_s=_quantile(ordered, 0.5),
                    p95_s=_quantile(ordered, 0.95),
                    longest_s=group.longest_s,
                )
            )
        return tuple(found)
