"""Simulates clients of a server with an unknown limit, under a limit of slots that is found or given.

Draws nothing at random: calls, and numbers for `mixed`, come from the caller. A refusal pauses the backend as
in the ledger, except while one slot more than the ceiling is tried.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from statistics import median
from typing import NamedTuple, Protocol

from llmsched_langgraph._ledger.auto import (
    Auto,
    Found,
    Refusal,
    Success,
    refused,
    started,
    succeeded,
    too_busy,
)
from llmsched_langgraph._ledger.pauses import NEVER_PAUSED, Failure, Pause, paused


class Asked(NamedTuple):
    """A call.

    Attributes:
        seconds: how long it takes on an idle server.
        output_tokens: number of tokens that it generates.
        instant: whether a cache answers it, without the server.
        cached: whether usage says that most of the prompt was cached.
    """

    seconds: float
    output_tokens: int
    instant: bool = False
    cached: bool = False


class Deal(Protocol):
    """The methods of `random.Random` that `mixed` uses."""

    def random(self) -> float:
        """Return a number from 0 to 1."""

    def expovariate(self, lambd: float) -> float:
        """Return a number with mean 1 / `lambd`."""

    def lognormvariate(self, mu: float, sigma: float) -> float:
        """Return a number whose logarithm is normal."""


def mixed(deal: Deal, scale: float = 1.0) -> Iterator[Asked]:
    """Yield short and long calls, of 20 or 75 tokens on average, in about `scale` seconds.

    A token takes 0.02 s, the first one 0.1 s more, and both vary.
    """
    while True:
        tokens = max(1, int(deal.expovariate(1 / 20 if deal.random() < 0.5 else 1 / 75)))
        seconds = (0.1 * deal.lognormvariate(0.0, 0.3) + tokens * 0.02) * deal.lognormvariate(0.0, 0.15)
        yield Asked(scale * seconds, tokens)


INSTANT_S = 0.005
"""Seconds of an answer from a cache."""


@dataclass(kw_only=True)
class Served:
    """A server: all calls that run share its speed.

    Attributes:
        room: maximum number of calls that it accepts at a time; more are refused, or fail otherwise.
        batch: maximum number of calls that run at a time; the others wait in its own queue.
        speed: how fast each of n calls runs, 1 being as if alone.
        failure: the failure of a call beyond `room`, and the seconds until it.
        fault: returns the failure of a call for another reason; None if it is served.
    """

    room: Callable[[float], float] = lambda now: inf
    batch: float = inf
    speed: Callable[[int], float] = lambda running: 1.0
    failure: tuple[Failure, float] = (Failure(429), 0.05)
    fault: Callable[[float, int], tuple[Failure, float] | None] = lambda now, number: None


class Change(NamedTuple):
    """A change of the limit."""

    at_s: float
    limit: int


@dataclass
class Outcome:
    """The result of a simulation.

    Attributes:
        attempts, refusals: their numbers.
        ends: for each served call, the time of its end, its seconds on an idle server, and its tokens.
        limits: the limit's changes.
        windows: the times at which a window ended.
        queue_s: integral of the number of calls in the server's own queue.
        busy_s: integral of the number of calls in flight.
    """

    attempts: int = 0
    refusals: int = 0
    ends: list[tuple[float, float, int]] = field(default_factory=list)
    limits: list[Change] = field(default_factory=list)
    windows: list[float] = field(default_factory=list)
    queue_s: float = 0.0
    busy_s: float = 0.0

    def limit(self, at_s: float) -> int:
        """Return the limit at a time."""
        return [change.limit for change in self.limits if change.at_s <= at_s][-1]

    def median_limit(self, since_s: float, until_s: float) -> float:
        """Return the median, over time, of the limit between two times."""
        return median(self.limit(since_s + (until_s - since_s) * (i + 0.5) / 200) for i in range(200))

    def settled(self, since_s: float, until_s: float, right: float) -> tuple[int, float]:
        """Return how soon, and then for how much of the time, the limit is within 20 % of `right`.

        The first value counts windows that ended since `since_s`; the second is a share, 0 to 1.
        """
        changes = [change for change in self.limits if since_s <= change.at_s < until_s]
        begun = [change for change in self.limits if change.at_s <= since_s][-1]
        near = [change for change in (begun, *changes) if abs(change.limit - right) <= 0.2 * right]
        if not near:
            return sum(since_s <= at_s < until_s for at_s in self.windows), 0.0
        first_s = max(near[0].at_s, since_s)
        spread = [self.limit(first_s + (until_s - first_s) * (i + 0.5) / 400) for i in range(400)]
        share = sum(abs(limit - right) <= 0.2 * right for limit in spread) / len(spread)
        return sum(since_s <= at_s <= first_s for at_s in self.windows), share

    def tokens(self, since_s: float, until_s: float) -> int:
        """Return the output of calls that ended between two times."""
        return sum(tokens for at_s, _, tokens in self.ends if since_s <= at_s < until_s)

    def work(self, since_s: float, until_s: float) -> float:
        """Return the sum of the seconds on an idle server of the calls that ended between two times."""
        return sum(work for at_s, work, _ in self.ends if since_s <= at_s < until_s)


class Attempt(NamedTuple):
    """A call in flight."""

    call: Asked
    granted_s: float
    concurrency: int


class Loop:
    """A closed loop: a server, and clients that each send the next call when the last one has ended.

    With `arrivals`, calls arrive at those times instead.
    """

    def __init__(
        self,
        server: Served,
        calls: Iterator[Asked],
        limit: Auto | Callable[[float], int],
        *,
        clients: int = 0,
        arrivals: Iterator[float] | None = None,
    ) -> None:
        self._server, self._calls, self._arrivals = server, calls, arrivals
        self._auto = limit if isinstance(limit, Auto) else None
        self._told = None if isinstance(limit, Auto) else limit
        self.found: Found | None = started(limit) if isinstance(limit, Auto) else None
        self.outcome = Outcome()
        self.now = 0.0
        self._waiting = deque(next(calls) for _ in range(clients))
        self._pause: Pause = NEVER_PAUSED
        self._grants = self._holding = self._number = 0
        self._events: list[tuple[float, int, Attempt | None, Failure | None]] = []
        self._running: list[tuple[float, int, Attempt]] = []
        """By the value of the line at which each is done; the line advances by the speed of one call."""
        self._line = 0.0
        self._queue: deque[tuple[int, Attempt]] = deque()
        self._note()

    def limit(self) -> int:
        """Return the limit now."""
        if self.found is not None:
            return self.found.limit
        assert self._told is not None
        return self._told(self.now)

    def _note(self) -> None:
        if not self.outcome.limits or self.outcome.limits[-1].limit != self.limit():
            self.outcome.limits.append(Change(self.now, self.limit()))

    def play(self, until_s: float) -> Outcome:
        """Simulate until a time; return the result so far."""
        if self._arrivals is not None and not self._number:
            self._push(next(self._arrivals), None, None)
        while True:
            self._grant()
            wake_s = until_s
            if self._waiting and self._holding < self.limit():
                wake_s = min(wake_s, self._pause.ready_s(self._grants, self.limit()))
            if self._events:
                wake_s = min(wake_s, self._events[0][0])
            speed = self._server.speed(len(self._running)) if self._running else 0.0
            done_s = self.now + max(0.0, self._running[0][0] - self._line) / speed if speed else inf
            self._advance(min(wake_s, done_s), speed)
            if done_s <= wake_s:
                _, _, attempt = heapq.heappop(self._running)
                if self._queue:
                    self._run(*self._queue.popleft())
                self._ended(attempt, None)
            elif self._events and self._events[0][0] <= self.now:
                _, _, ended, failure = heapq.heappop(self._events)
                if ended is not None:
                    self._ended(ended, failure)
                else:
                    self._waiting.append(next(self._calls))
                    assert self._arrivals is not None
                    self._push(next(self._arrivals), None, None)
            elif wake_s >= until_s:
                return self.outcome

    def _advance(self, now: float, speed: float) -> None:
        elapsed_s = now - self.now
        self.outcome.queue_s += elapsed_s * len(self._queue)
        self.outcome.busy_s += elapsed_s * self._holding
        self._line += elapsed_s * speed
        self.now = now

    def _push(self, at_s: float, attempt: Attempt | None, failure: Failure | None) -> None:
        self._number += 1
        heapq.heappush(self._events, (at_s, self._number, attempt, failure))

    def _run(self, number: int, attempt: Attempt) -> None:
        heapq.heappush(self._running, (self._line + attempt.call.seconds, number, attempt))

    def _grant(self) -> None:
        while self._waiting and self._holding < self.limit():
            if self._pause.ready_s(self._grants, self.limit()) > self.now:
                return
            self._holding, self._grants, self._number = self._holding + 1, self._grants + 1, self._number + 1
            attempt = Attempt(self._waiting.popleft(), self.now, self._holding)
            self.outcome.attempts += 1
            server, number = self._server, self._number
            fault = server.fault(self.now, number)
            if fault is None and len(self._running) + len(self._queue) >= server.room(self.now):
                fault = server.failure
            if fault is not None:
                self._push(self.now + fault[1], attempt, fault[0])
            elif attempt.call.instant:
                self._push(self.now + INSTANT_S, attempt, None)
            elif len(self._running) < server.batch:
                self._run(number, attempt)
            else:
                self._queue.append((number, attempt))

    def _ended(self, attempt: Attempt, failure: Failure | None) -> None:
        call, granted_s, concurrency = attempt
        found, waiting = self.found, bool(self._waiting)
        if failure is None:
            self.outcome.ends.append((self.now, call.seconds, call.output_tokens))
        else:
            self.outcome.refusals += 1
        trying = found is not None and found.trying
        opens_s = self._pause.opens_s
        if not (failure is not None and trying and failure.retry_after_s is None):
            self._pause = paused(self._pause, self._grants, granted_s, self.now, failure)
        if found is not None and self._auto is not None:
            if failure is None:
                success = Success(
                    granted_s, self._holding, waiting, self.now - granted_s, call.output_tokens, call.cached
                )
                self.found = succeeded(found, self._auto, self.now, success)
                if found.window.samples and not self.found.window.samples:
                    self.outcome.windows.append(self.now)
            elif too_busy(failure):
                named = failure.retry_after_s is not None and self._pause.opens_s > opens_s
                pause_s = self._pause.opens_s - self.now if named else 0.0
                refusal = Refusal(granted_s, concurrency, max(0.0, pause_s))
                self.found = refused(found, self._auto, self.now, refusal)
        self._holding -= 1
        if failure is not None:
            self._waiting.appendleft(call)
        elif self._arrivals is None:
            self._waiting.append(next(self._calls))
        self._note()
