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
    run, if that is known: more than one call may be made in it; `run` is the number of that stage run.
    `side_by_side` is how many calls its backend served meanwhile. `first` and `last` number its request and
    its end among all that happened in the job. Times are the clock's seconds.
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
    side_by_side: float = 1.0
    backend: str = ""
    run: int | None = None
    first: int = 0
    last: int = 0

    @property
    def place(self) -> Spot:
        """The occurrence of a stage that it counts for."""
        return Spot(self.stage, self.occurrence) if self.spot is None else self.spot

    def work_s(self, now: float) -> float:
        """Slot-seconds received by `now`."""
        if self.granted_s is None:
            return 0.0
        return (now if self.released_s is None else self.released_s) - self.granted_s


@dataclass(slots=True)
class Work:
    """The calls of one occurrence of a stage, as far as they have come. Times are the clock's seconds.

    Attributes:
        calls: how many were asked for, those aside that gave up waiting.
        running: how many hold a slot.
        done: how many held one and gave it back.
        done_s: slot-seconds of those.
        prompt_tokens: tokens that those sent; None if nobody could tell for one of them.
        output_tokens: tokens that they were answered, likewise.
    """

    calls: int = 0
    running: int = 0
    done: int = 0
    done_s: float = 0.0
    prompt_tokens: int | None = 0
    output_tokens: int | None = 0
    granted_sum_s: float = 0.0  # of the running calls' `granted_s`

    @property
    def waiting(self) -> int:
        """Calls that wait for a slot."""
        return self.calls - self.done - self.running

    @property
    def outstanding(self) -> bool:
        """Whether a call waits or runs."""
        return self.calls > self.done

    def received_s(self, now: float) -> float:
        """Slot-seconds by `now`, those of running calls included."""
        return self.done_s + (self.running * now - self.granted_sum_s)


@dataclass(slots=True)
class Progress:
    """The calls of one job. Everything it does is O(1), however many calls the job has.

    Attributes:
        outstanding: calls waiting or holding, by ticket, in the order in which they were asked for.
        running: those of them that hold a slot, in the order in which they got it.
        finished: calls that held a slot and gave it back, in the order in which they ended.
        works: what they came to by occurrence of a stage. Where that is not known, a call is one of its own.
        latest: stage and occurrence of the call asked for last, or None before the first.
        prompt_tokens: tokens that the first call sent, once it is over: the size of the job's input.
    """

    outstanding: dict[int, Call] = field(default_factory=dict)
    running: dict[int, Call] = field(default_factory=dict)
    finished: list[Call] = field(default_factory=list)
    works: dict[Spot, Work] = field(default_factory=dict)
    latest: tuple[str, int] | None = None
    prompt_tokens: int | None = None
    _first: int | None = None
    _occurrences: dict[str, int] = field(default_factory=dict)
    _finished_work_s: float = 0.0
    _granted_sum_s: float = 0.0  # of the running calls' `granted_s`

    def request(self, ticket: int, stage: str, now: float, spot: Spot | None = None) -> Call:
        """The job asks for one more call of `stage`."""
        occurrence = self._occurrences.get(stage, 0) + 1
        self._occurrences[stage] = occurrence
        call = self.outstanding[ticket] = Call(ticket, stage, occurrence, now, spot)
        self.latest = (stage, occurrence)
        if self._first is None:
            self._first = ticket
        at = call.place
        work = self.works.get(at)
        if work is None:
            work = self.works[at] = Work()
        work.calls += 1
        return call

    def start(self, ticket: int, now: float) -> Call:
        """The call has its slot."""
        call = self.running[ticket] = self.outstanding[ticket]
        call.granted_s = now
        self._granted_sum_s += now
        work = self.works[call.place]
        work.running += 1
        work.granted_sum_s += now
        return call

    def finish(self, ticket: int, outcome: Outcome, usage: Usage, now: float) -> Call:
        """The call is over. One that never held a slot leaves no trace: it did no work."""
        call = self.outstanding.pop(ticket)
        call.outcome, call.usage, call.released_s = outcome, usage, now
        work = self.works[call.place]
        if call.granted_s is not None:
            del self.running[ticket]
            # Nothing runs: start from nought again, so that rounding errors cannot add up for ever.
            self._granted_sum_s = self._granted_sum_s - call.granted_s if self.running else 0.0
            self._finished_work_s += call.work_s(now)
            self.finished.append(call)
            work.running -= 1
            work.granted_sum_s = work.granted_sum_s - call.granted_s if work.running else 0.0
            work.done += 1
            work.done_s += call.work_s(now)
            work.prompt_tokens = _plus(work.prompt_tokens, usage.prompt_tokens)
            work.output_tokens = _plus(work.output_tokens, usage.output_tokens)
            if ticket == self._first:
                self.prompt_tokens = usage.prompt_tokens
        else:
            if ticket == self._first:
                self._first = None  # the next one asked for counts as the first
            work.calls -= 1
            if not work.calls:
                del self.works[call.place]
        return call

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
        waiting = Counter(call.place for call in self.outstanding.values() if call.granted_s is None)
        listed = {at: work.waiting for at, work in self.works.items() if work.waiting}
        assert listed == waiting, "which calls wait and what is kept of their stages differ"
        done = Counter(call.place for call in self.finished)
        assert {at: work.done for at, work in self.works.items() if work.done} == done, "calls were lost"
        granted_s = sum(call.granted_s or 0.0 for call in running.values())
        assert math.isclose(self._granted_sum_s, granted_s, abs_tol=1e-6), "the running work has drifted"


def _plus(sum_: int | None, more: int | None) -> int | None:
    return None if sum_ is None or more is None else sum_ + more
