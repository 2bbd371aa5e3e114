"""Defines what is counted of a scheduler, at one moment.

Does not count: the driver, its observers and the ledger do.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmsched_langgraph._observe.waits import WaitStatistics


@dataclass(frozen=True, slots=True)
class BackendStatistics:
    """The state of one backend at one moment.

    Attributes:
        name: its name.
        slots: the limit of concurrent calls that is in force, also while it is being found.
        holding: number of calls in a slot.
        waiting: number of calls that wait.
        paused_s: seconds for which it is still paused, because the provider refused calls; 0 if it is not.
        paused_total_s: seconds for which it has been paused so far.
    """

    name: str
    slots: int
    holding: int
    waiting: int
    paused_s: float = 0.0
    paused_total_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Statistics:
    """The state of a scheduler at one moment, and its totals since it was created.

    `granted - released == holding` always holds. `peak` is the maximum number of slots held at once, over
    all backends; `over_commitments` counts calls granted over the limit because they could not wait.
    `unmarked_calls` counts model calls outside every run while a run of the scheduler was active; see
    `Scheduler(outside=...)`. `jobs_deferred` is the number of runs that wait to begin, and `jobs_refused`
    counts those that were refused; see `Scheduler(at_door=...)`. `waits` has the waits by backend, tenant and
    priority. In a forked child the totals begin at 0.
    """

    policy: str
    backends: tuple[BackendStatistics, ...]
    jobs_running: int
    jobs_ended: int
    granted: int
    released: int
    peak: int
    over_commitments: int
    waited_s: float
    prompt_tokens: int
    output_tokens: int
    unmarked_calls: int = 0
    jobs_deferred: int = 0
    jobs_refused: int = 0
    waits: tuple[WaitStatistics, ...] = ()

    @property
    def slots(self) -> int:
        """Number of slots, over all backends."""
        return sum(backend.slots for backend in self.backends)

    @property
    def holding(self) -> int:
        """Number of calls in a slot, over all backends."""
        return sum(backend.holding for backend in self.backends)

    @property
    def waiting(self) -> int:
        """Number of calls in the backlog, over all backends."""
        return sum(backend.waiting for backend in self.backends)
