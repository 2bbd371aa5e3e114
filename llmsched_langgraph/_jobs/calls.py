"""Counts the waiting, holding and finished calls of one job, by stage occurrence.

Does not compute remaining work (a belief does), store the tickets of waiting calls, or decide the order of
service.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from llmsched_langgraph._jobs.stages import StageOccurrence


class Outcome(Enum):
    """How a call or a job ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one call; None for an unknown count."""

    prompt_tokens: int | None = None
    output_tokens: int | None = None


UNKNOWN_USAGE = Usage()


class FinishedCall(NamedTuple):
    """A call that held a slot and released it. Times are seconds of the clock.

    Attributes:
        ticket: its ticket; tickets are numbered in request order.
        stage: its stage name.
        occurrence: its number among the job's calls with this stage name, from 1.
        stage_occurrence: the stage occurrence that it was part of.
        run: number of the stage run that made it; None if unknown.
        backend: name of the backend that served it.
        asked_s: time of its request.
        granted_s: time of its grant.
        released_s: time of its release.
        concurrency: mean of the backend's held slots at its grant and at its release.
        usage: its token counts.
        outcome: how it ended.
        first: number of its request among the job's events.
        last: number of its end among the job's events.
        reason: the reason of its grant.
    """

    ticket: int
    stage: str
    occurrence: int
    stage_occurrence: StageOccurrence
    run: int | None
    backend: str
    asked_s: float
    granted_s: float
    released_s: float
    concurrency: float
    usage: Usage
    outcome: Outcome
    first: int = 0
    last: int = 0
    reason: str = ""

    @property
    def work_s(self) -> float:
        """Slot-seconds of the call."""
        return self.released_s - self.granted_s


@dataclass(slots=True)
class Work:
    """The calls of one stage occurrence. Times are seconds of the clock.

    Attributes:
        calls: number of requested calls, without those that stopped waiting.
        running: number of calls that hold a slot.
        done: number of calls that released their slot.
        done_s: slot-seconds of the done calls.
        prompt_tokens: prompt tokens of the done calls; None if one of them is unknown.
        output_tokens: output tokens of the done calls; None if one of them is unknown.
        granted_sum_s: sum of the running calls' grant times.
    """

    calls: int = 0
    running: int = 0
    done: int = 0
    done_s: float = 0.0
    prompt_tokens: int | None = 0
    output_tokens: int | None = 0
    granted_sum_s: float = 0.0

    @property
    def waiting(self) -> int:
        """Number of waiting calls."""
        return self.calls - self.done - self.running

    @property
    def outstanding(self) -> bool:
        """Whether a call waits or runs."""
        return self.calls > self.done

    def received_s(self, now: float) -> float:
        """Return the slot-seconds received by `now`, including those of running calls."""
        return self.done_s + (self.running * now - self.granted_sum_s)


@dataclass(slots=True)
class CallProgress:
    """The calls of one job. Each change takes O(1).

    Attributes:
        waiting: number of waiting calls.
        holding: number of calls that hold a slot.
        finished: calls that released their slot, in the order of their ends.
        works: the calls by stage occurrence.
        ready: number of waiting calls by stage occurrence; only positive numbers.
        prompt_tokens: prompt tokens of the first call, once it has ended: the size of the job's input.
        done_s: slot-seconds of the finished calls.
        granted_sum_s: sum of the holding calls' grant times, in seconds.
    """

    waiting: int = 0
    holding: int = 0
    finished: list[FinishedCall] = field(default_factory=list)
    works: dict[StageOccurrence, Work] = field(default_factory=dict)
    ready: dict[StageOccurrence, int] = field(default_factory=dict)
    prompt_tokens: int | None = None
    done_s: float = 0.0
    granted_sum_s: float = 0.0
    _first: int | None = None
    _occurrences: dict[str, int] = field(default_factory=dict)

    def next_occurrence(self, stage: str) -> int:
        """Return the number of the next call with this stage name, from 1."""
        return self._occurrences.get(stage, 0) + 1

    def request(self, ticket: int, stage: str, stage_occurrence: StageOccurrence) -> None:
        """Add a waiting call."""
        self._occurrences[stage] = self._occurrences.get(stage, 0) + 1
        if self._first is None:
            self._first = ticket
        work = self.works.get(stage_occurrence)
        if work is None:
            work = self.works[stage_occurrence] = Work()
        work.calls += 1
        self.waiting += 1
        self.ready[stage_occurrence] = self.ready.get(stage_occurrence, 0) + 1

    def _unready(self, stage_occurrence: StageOccurrence) -> None:
        self.waiting -= 1
        left = self.ready[stage_occurrence] - 1
        if left:
            self.ready[stage_occurrence] = left
        else:
            del self.ready[stage_occurrence]

    def start(self, stage_occurrence: StageOccurrence, now: float) -> None:
        """Grant a slot to a waiting call."""
        self._unready(stage_occurrence)
        self.holding += 1
        self.granted_sum_s += now
        work = self.works[stage_occurrence]
        work.running += 1
        work.granted_sum_s += now

    def withdraw(self, ticket: int, stage_occurrence: StageOccurrence) -> None:
        """Remove a waiting call. It did no work, so nothing of it is kept."""
        self._unready(stage_occurrence)
        if ticket == self._first:
            self._first = None  # the next request counts as the first
        work = self.works[stage_occurrence]
        work.calls -= 1
        if not work.calls:
            del self.works[stage_occurrence]

    def finish(self, call: FinishedCall) -> None:
        """Finish a call that held a slot."""
        work, work_s, usage = self.works[call.stage_occurrence], call.work_s, call.usage
        self.holding -= 1
        # Reset to 0 without running calls, so that rounding errors do not accumulate.
        self.granted_sum_s = self.granted_sum_s - call.granted_s if self.holding else 0.0
        self.done_s += work_s
        self.finished.append(call)
        work.running -= 1
        work.granted_sum_s = work.granted_sum_s - call.granted_s if work.running else 0.0
        work.done += 1
        work.done_s += work_s
        work.prompt_tokens = _plus(work.prompt_tokens, usage.prompt_tokens)
        work.output_tokens = _plus(work.output_tokens, usage.output_tokens)
        if call.ticket == self._first:
            self.prompt_tokens = usage.prompt_tokens

    @property
    def outstanding(self) -> int:
        """Number of calls that wait or hold a slot."""
        return self.waiting + self.holding

    def work_s(self, now: float) -> float:
        """Return the slot-seconds received by `now`, including those of running calls."""
        return self.done_s + (self.holding * now - self.granted_sum_s)

    def check(self) -> None:
        """Raise AssertionError unless the totals are consistent."""
        ready = {
            stage_occurrence: work.waiting for stage_occurrence, work in self.works.items() if work.waiting
        }
        assert ready == self.ready, "waiting calls and ready stages differ"
        assert self.waiting == sum(ready.values()), "waiting"
        assert self.holding == sum(work.running for work in self.works.values()), "holding"
        done = Counter(call.stage_occurrence for call in self.finished)
        assert {
            stage_occurrence: work.done for stage_occurrence, work in self.works.items() if work.done
        } == done, "calls were lost"
        granted_s = sum(work.granted_sum_s for work in self.works.values())
        assert math.isclose(self.granted_sum_s, granted_s, abs_tol=1e-6), "the running work has drifted"


def _plus(sum_: int | None, more: int | None) -> int | None:
    return None if sum_ is None or more is None else sum_ + more
