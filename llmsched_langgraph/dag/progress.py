"""Knows how far one job has come: which calls it asked for, which run, which are finished.

Does not know what is still to come (that is a belief), slots, or the order of service.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from llmsched_langgraph.dag.position import Spot


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

    `occurrence` counts the calls of one stage in one job, from 1. `spot` is the time that the stage was
    run, if that is known: more than one call may be made in it. Times are the clock's seconds.
    """

    ticket: int
    stage: str
    occurrence: int
    requested_s: float
    spot: Spot | None = None
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
    """The evidence about one job. Everything it does is O(1), however many calls the job has.

    Attributes:
        told_apart: occurrences of one stage that are told apart in the backlog; all later ones are one.
        outstanding: calls waiting or holding, by ticket, in the order in which they were asked for.
        backlog: how many of them wait, by stage and occurrence.
        running: those of them that hold a slot, in the order in which they got it.
        finished: calls that held a slot and gave it back, in the order in which they ended.
        latest: stage and occurrence of the call asked for last, or None before the first.
    """

    told_apart: int
    outstanding: dict[int, Call] = field(default_factory=dict)
    backlog: dict[tuple[str, int], int] = field(default_factory=dict)
    running: dict[int, Call] = field(default_factory=dict)
    finished: list[Call] = field(default_factory=list)
    latest: tuple[str, int] | None = None
    _occurrences: dict[str, int] = field(default_factory=dict)
    _finished_work_s: float = 0.0
    _granted_sum_s: float = 0.0  # of the running calls' `granted_s`

    def request(self, ticket: int, stage: str, now: float, spot: Spot | None = None) -> Call:
        """The job asks for one more call of `stage`."""
        occurrence = self._occurrences.get(stage, 0) + 1
        self._occurrences[stage] = occurrence
        call = self.outstanding[ticket] = Call(ticket, stage, occurrence, now, spot)
        self.latest = (stage, occurrence)
        at = self._at(call)
        self.backlog[at] = self.backlog.get(at, 0) + 1
        return call

    def start(self, ticket: int, now: float) -> Call:
        """The call has its slot."""
        call = self.running[ticket] = self.outstanding[ticket]
        call.granted_s = now
        self._granted_sum_s += now
        self._waits_no_more(call)
        return call

    def finish(self, ticket: int, outcome: Outcome, usage: Usage, now: float) -> Call:
        """The call is over. One that never held a slot leaves no trace: it did no work."""
        call = self.outstanding.pop(ticket)
        call.outcome, call.usage, call.released_s = outcome, usage, now
        if call.granted_s is not None:
            del self.running[ticket]
            # Nothing runs: start from nought again, so that rounding errors cannot add up for ever.
            self._granted_sum_s = self._granted_sum_s - call.granted_s if self.running else 0.0
            self._finished_work_s += call.work_s(now)
            self.finished.append(call)
        else:
            self._waits_no_more(call)
        return call

    def _at(self, call: Call) -> tuple[str, int]:
        return call.stage, min(call.occurrence, self.told_apart)

    def _waits_no_more(self, call: Call) -> None:
        at = self._at(call)
        left = self.backlog[at] - 1
        if left:
            self.backlog[at] = left
        else:
            del self.backlog[at]

    @property
    def holding(self) -> int:
        """Slots that the job holds now."""
        return len(self.running)

    @property
    def waiting(self) -> int:
        """Calls of the job that wait for a slot now."""
        return len(self.outstanding) - len(self.running)

    def work_s(self, now: float) -> float:
        """Slot-seconds that the job has received by `now`, running calls included."""
        return self._finished_work_s + (len(self.running) * now - self._granted_sum_s)

    def check(self) -> None:
        """Raise AssertionError unless what is kept at hand agrees with the calls that it is about."""
        running = {ticket: call for ticket, call in self.outstanding.items() if call.granted_s is not None}
        assert self.running == running, "what runs and which calls were granted differ"
        waiting = Counter(self._at(call) for call in self.outstanding.values() if call.granted_s is None)
        assert self.backlog == waiting, "the backlog and which calls wait differ"
        granted_s = sum(call.granted_s or 0.0 for call in running.values())
        assert math.isclose(self._granted_sum_s, granted_s, abs_tol=1e-6), "the running work has drifted"
