"""Knows how far one job has come: which calls it asked for, which run, which are finished.

Does not know what is still to come (that is a belief), slots, or the order of service.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum


class Outcome(Enum):
    """How a call or a job ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call; None where nobody could tell."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None


UNKNOWN_USAGE = Usage()


@dataclass(slots=True)
class Call:
    """One LLM request of a job: asked for at `requested_s`, in its slot from `granted_s` on.

    `occurrence` counts the calls of one stage in one job, from 1. Times are the clock's seconds.
    """

    ticket: int
    stage: str
    occurrence: int
    requested_s: float
    granted_s: float | None = None
    released_s: float | None = None
    usage: Usage = UNKNOWN_USAGE
    outcome: Outcome | None = None

    def work_s(self, now: float) -> float:
        """Slot-seconds received by `now`."""
        if self.granted_s is None:
            return 0.0
        return (now if self.released_s is None else self.released_s) - self.granted_s


@dataclass(slots=True)
class Progress:
    """The evidence about one job.

    Attributes:
        outstanding: calls waiting or holding, by ticket, in the order in which they were asked for.
        finished: calls that held a slot and gave it back, in the order in which they ended.
        revealed: how many executions of each stage the runner has announced so far.
        latest: stage and occurrence of the call asked for last, or None before the first.
    """

    outstanding: dict[int, Call] = field(default_factory=dict)
    finished: list[Call] = field(default_factory=list)
    revealed: dict[str, int] = field(default_factory=dict)
    latest: tuple[str, int] | None = None
    _occurrences: dict[str, int] = field(default_factory=dict)
    _finished_work_s: float = 0.0

    def reveal(self, stages: Iterable[str]) -> None:
        """Stages that will run next, once for each time that they are named."""
        for stage in stages:
            self.revealed[stage] = self.revealed.get(stage, 0) + 1

    def request(self, ticket: int, stage: str, now: float) -> Call:
        """The job asks for one more call of `stage`."""
        occurrence = self._occurrences.get(stage, 0) + 1
        self._occurrences[stage] = occurrence
        call = self.outstanding[ticket] = Call(ticket, stage, occurrence, requested_s=now)
        self.latest = (stage, occurrence)
        return call

    def finish(self, ticket: int, outcome: Outcome, usage: Usage, now: float) -> Call:
        """The call is over. One that never held a slot leaves no trace: it did no work."""
        call = self.outstanding.pop(ticket)
        call.outcome, call.usage, call.released_s = outcome, usage, now
        if call.granted_s is not None:
            self.finished.append(call)
            self._finished_work_s += call.work_s(now)
        return call

    @property
    def holding(self) -> int:
        """Slots that the job holds now."""
        return sum(call.granted_s is not None for call in self.outstanding.values())

    def work_s(self, now: float) -> float:
        """Slot-seconds that the job has received by `now`, running calls included."""
        return self._finished_work_s + sum(call.work_s(now) for call in self.outstanding.values())
