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

TOOL = "tool:"
"""What the stage name of a tool's call begins with. No node's name does: LangGraph reserves the colon."""


class Outcome(Enum):
    """How a call or a job ended."""

    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one call; None for an unknown count.

    Attributes:
        prompt_tokens: tokens of its input.
        output_tokens: tokens of its answer.
        cached_tokens: those of the input that the server had in a cache.
    """

    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None

    def plus(self, other: Usage) -> Usage:
        """Return the sum of the known counts."""
        return Usage(
            _sum(self.prompt_tokens, other.prompt_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.cached_tokens, other.cached_tokens),
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else one + other


UNKNOWN_USAGE = Usage()

PENDING_USAGE = Usage()
"""The token counts are not known yet: the slot is free, the call goes on. Compare by identity."""


class FinishedCall(NamedTuple):
    """A call that held a slot and released it. Times are seconds of the clock.

    A call whose attempt failed may send another one, in a slot of its own. It then has one record for all.

    Attributes:
        ticket: the ticket of its last attempt; tickets are numbered in request order.
        stage: its stage name.
        occurrence: its number among the job's calls with this stage name, from 1.
        stage_occurrence: the stage occurrence that it was part of.
        run: number of the stage run that made it; None if unknown.
        backend: name of the backend that served it.
        asked_s: time of its first request.
        granted_s: time of its last grant.
        released_s: time of its last release.
        concurrency: mean of the backend's held slots at its grant and at its release.
        usage: its token counts.
        outcome: how it ended.
        first: number of its request among the job's events.
        last: number of its end among the job's events.
        reason: the reason of its last grant.
        arrival: its arrival number in the ledger.
        attempts: number of requests sent for it.
        earlier_s: slot-seconds of its earlier attempts.
        models: the names of the requested model, if its backend has prices.
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
    arrival: int = 0
    attempts: int = 1
    earlier_s: float = 0.0
    models: tuple[str, ...] = ()

    @property
    def work_s(self) -> float:
        """Slot-seconds of the call, of all its attempts."""
        return self.earlier_s + self.released_s - self.granted_s

    def after(self, earlier: FinishedCall) -> FinishedCall:
        """Return the record of a call whose attempts so far are those of `earlier` and this one."""
        return self._replace(
            asked_s=earlier.asked_s,
            first=earlier.first,
            attempts=earlier.attempts + self.attempts,
            earlier_s=earlier.work_s,
        )


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

    Calls of tools wait and hold slots like others, but a tool's seconds are no LLM work: nothing else counts
    them.

    Attributes:
        waiting: number of waiting calls, of models and of tools.
        holding: number of calls that hold a slot, without those of tools.
        using: number of calls of tools that hold a slot.
        finished: calls that released their slot, by the ticket of their last attempt, in the order of ends.
        works: the calls by stage occurrence.
        tools: the waiting and running calls of tools by stage occurrence.
        ready: number of waiting calls by stage occurrence; only positive numbers.
        prompt_tokens: prompt tokens of the first call, once it has ended: the size of the job's input.
        done_s: slot-seconds of the finished calls.
        granted_sum_s: sum of the holding calls' grant times, in seconds.
        waited_s: seconds for which the job had a waiting call that then got its slot.
    """

    waiting: int = 0
    holding: int = 0
    using: int = 0
    finished: dict[int, FinishedCall] = field(default_factory=dict)
    works: dict[StageOccurrence, Work] = field(default_factory=dict)
    tools: dict[StageOccurrence, Work] = field(default_factory=dict)
    ready: dict[StageOccurrence, int] = field(default_factory=dict)
    prompt_tokens: int | None = None
    done_s: float = 0.0
    granted_sum_s: float = 0.0
    waited_s: float = 0.0
    _first: int | None = None
    _occurrences: dict[str, int] = field(default_factory=dict)
    _again: dict[int, FinishedCall] = field(default_factory=dict)  # earlier attempts, by the later ticket
    _waited_until_s: float = -math.inf  # `waited_s` covers all until then

    def next_occurrence(self, stage: str) -> int:
        """Return the number of the next call with this stage name, from 1."""
        return self._occurrences.get(stage, 0) + 1

    def request(self, ticket: int, stage: str, stage_occurrence: StageOccurrence) -> None:
        """Add a waiting call."""
        self._occurrences[stage] = self._occurrences.get(stage, 0) + 1
        works = self.works
        if is_tool(stage_occurrence):
            works = self.tools
        elif self._first is None:
            self._first = ticket
        work = works.get(stage_occurrence)
        if work is None:
            work = works[stage_occurrence] = Work()
        work.calls += 1
        self.waiting += 1
        self.ready[stage_occurrence] = self.ready.get(stage_occurrence, 0) + 1

    def request_again(self, ticket: int, earlier: int) -> StageOccurrence:
        """Make a finished call wait for its next attempt; return its stage occurrence."""
        call = self._again[ticket] = self.finished.pop(earlier)
        if earlier == self._first:
            self._first = ticket
        self.works[call.stage_occurrence].done -= 1
        self.waiting += 1
        self.ready[call.stage_occurrence] = self.ready.get(call.stage_occurrence, 0) + 1
        return call.stage_occurrence

    def _unready(self, stage_occurrence: StageOccurrence) -> None:
        self.waiting -= 1
        left = self.ready[stage_occurrence] - 1
        if left:
            self.ready[stage_occurrence] = left
        else:
            del self.ready[stage_occurrence]

    def start(self, stage_occurrence: StageOccurrence, asked_s: float, now: float) -> None:
        """Grant a slot to a call that waits since `asked_s`."""
        self._unready(stage_occurrence)
        if now > asked_s:
            # The length of the union of the waits: grants come in the order of time.
            self.waited_s += now - max(asked_s, self._waited_until_s)
            self._waited_until_s = now
        if is_tool(stage_occurrence):
            self.tools[stage_occurrence].running += 1
            self.using += 1
            return
        self.holding += 1
        self.granted_sum_s += now
        work = self.works[stage_occurrence]
        work.running += 1
        work.granted_sum_s += now

    def withdraw(self, ticket: int, stage_occurrence: StageOccurrence) -> None:
        """Remove a waiting call. Only its earlier attempts, if any, are kept."""
        self._unready(stage_occurrence)
        if is_tool(stage_occurrence):
            self._forget_tool(stage_occurrence)
            return
        work, earlier = self.works[stage_occurrence], self._again.pop(ticket, None)
        if earlier is not None:
            work.done += 1
            self.finished[ticket] = earlier._replace(ticket=ticket)
            return
        if ticket == self._first:
            self._first = None  # the next request counts as the first
        work.calls -= 1
        if not work.calls:
            del self.works[stage_occurrence]

    def finish(self, call: FinishedCall) -> None:
        """Finish a call that held a slot."""
        if is_tool(call.stage_occurrence):
            self.tools[call.stage_occurrence].running -= 1
            self.using -= 1
            self._forget_tool(call.stage_occurrence)
            return
        work, work_s = self.works[call.stage_occurrence], call.work_s
        self.holding -= 1
        # Reset to 0 without running calls, so that rounding errors do not accumulate.
        self.granted_sum_s = self.granted_sum_s - call.granted_s if self.holding else 0.0
        self.done_s += work_s
        work.running -= 1
        work.granted_sum_s = work.granted_sum_s - call.granted_s if work.running else 0.0
        work.done += 1
        work.done_s += work_s
        earlier = self._again.pop(call.ticket, None) if self._again else None
        self.finished[call.ticket] = call if earlier is None else call.after(earlier)
        if call.usage is not PENDING_USAGE:
            self._count(work, call.ticket, call.usage)

    def _forget_tool(self, stage_occurrence: StageOccurrence) -> None:
        work = self.tools[stage_occurrence]
        work.calls -= 1
        if not work.calls:
            del self.tools[stage_occurrence]

    def measure(self, ticket: int, usage: Usage) -> StageOccurrence | None:
        """Add the token counts of a finished call if they were pending; return its stage occurrence."""
        call = self.finished.get(ticket)
        if call is None or call.usage is not PENDING_USAGE:
            return None
        self.finished[ticket] = call._replace(usage=usage)
        self._count(self.works[call.stage_occurrence], ticket, usage)
        return call.stage_occurrence

    def _count(self, work: Work, ticket: int, usage: Usage) -> None:
        work.prompt_tokens = _plus(work.prompt_tokens, usage.prompt_tokens)
        work.output_tokens = _plus(work.output_tokens, usage.output_tokens)
        if ticket == self._first:
            self.prompt_tokens = usage.prompt_tokens

    @property
    def outstanding(self) -> int:
        """Number of calls that wait or hold a slot."""
        return self.waiting + self.holding + self.using

    def work_s(self, now: float) -> float:
        """Return the slot-seconds received by `now`, including those of running calls."""
        return self.done_s + (self.holding * now - self.granted_sum_s)

    def check(self) -> None:
        """Raise AssertionError unless the totals are consistent."""
        ready = {
            stage_occurrence: work.waiting
            for stage_occurrence, work in (*self.works.items(), *self.tools.items())
            if work.waiting
        }
        assert ready == self.ready, "waiting calls and ready stages differ"
        assert self.waiting == sum(ready.values()), "waiting"
        assert self.holding == sum(work.running for work in self.works.values()), "holding"
        assert self.using == sum(work.running for work in self.tools.values()), "using"
        done = Counter(call.stage_occurrence for call in self.finished.values())
        assert {
            stage_occurrence: work.done for stage_occurrence, work in self.works.items() if work.done
        } == done, "calls were lost"
        granted_s = sum(work.granted_sum_s for work in self.works.values())
        assert math.isclose(self.granted_sum_s, granted_s, abs_tol=1e-6), "the running work has drifted"


def is_tool(stage_occurrence: StageOccurrence) -> bool:
    """Return whether it is a call of a tool."""
    return stage_occurrence[0].startswith(TOOL)


def _plus(sum_: int | None, more: int | None) -> int | None:
    return None if sum_ is None or more is None else sum_ + more
