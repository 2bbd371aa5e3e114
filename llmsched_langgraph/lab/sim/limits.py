"""Limits a simulated server: calls at a time, by a schedule, and rates. It refuses or queues what is more.

Does not time the calls that it serves: the server behind it does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf

from llmsched_langgraph._jobs.ended import EndedCall
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.rates import DAY, INPUT, MINUTE, OUTPUT, REQUESTS_A_DAY, TOKENS, Rates
from llmsched_langgraph.errors import ConfigurationError
from llmsched_langgraph.lab.sim.servers import Server

Steps = Sequence[tuple[float, int]]
"""A number that changes: (second from which it holds, number), in ascending order."""


class _Window:
    """What was counted in the last seconds against one limit."""

    def __init__(self, limit: int, span_s: float) -> None:
        self._limit, self._span_s = limit, span_s
        self._counted: deque[tuple[float, float]] = deque()
        self._used = 0.0

    def ready_s(self, now: float, amount: float) -> float:
        """Return the time from which `amount` more is within the limit, or nothing counts any more."""
        while self._counted and self._counted[0][0] <= now - self._span_s:
            self._used -= self._counted.popleft()[1]
        ready_s, over = now, self._used + amount - self._limit
        for at_s, counted in self._counted:
            if over <= 0.0:
                break
            ready_s, over = at_s + self._span_s, over - counted
        return ready_s

    def count(self, now: float, amount: float) -> None:
        self._counted.append((now, amount))
        self._used += amount


class LimitedServer:
    """A server with limits, as a provider has them. A refused call is answered soon, and is not worked on.

    The server counts a request and its input when it comes, output when the call ends, each for a sliding
    minute (day). A request that it refuses does not count. One that is larger than a limit is served when
    nothing counts.

    Args:
        server: times the calls that are served.
        room: most calls that it serves at a time, or how that changes; calls that run go on when it becomes
            smaller. None for no limit.
        queue: most calls that wait at the server when there is no room.
        rates: its limits of requests and tokens; None for none.
        retry_after_s: seconds that a refusal names, more if a rate admits the request later only; None if
            refusals name no time.
        status: HTTP status of a refusal.
        answer_s: seconds until a client has the refusal, above 0.

    Raises:
        ConfigurationError: `room` does not begin at 0, is out of order, or ends without room;
            or `answer_s` is not positive.
    """

    def __init__(
        self,
        server: Server,
        *,
        room: int | Steps | None = None,
        queue: float = 0,
        rates: Rates | None = None,
        retry_after_s: float | None = None,
        status: int = 429,
        answer_s: float = 0.05,
    ) -> None:
        steps = [(0.0, inf if room is None else room)] if room is None or isinstance(room, int) else [*room]
        times = [at_s for at_s, _ in steps]
        if not times or times[0] != 0.0 or times != sorted(times) or steps[-1][1] < 1:
            raise ConfigurationError(
                f"room must be a number of calls, or pairs of second and number that begin at second 0, in "
                f"ascending order, the last number at least 1, not {room!r}"
            )
        if not answer_s > 0.0:
            raise ConfigurationError(f"answer_s must be a positive number of seconds, not {answer_s!r}")
        self._server, self._queue_limit = server, queue
        self._room, self._changes = steps[0][1], deque(steps[1:])
        self._retry_after_s, self._status, self._answer_s = retry_after_s, status, answer_s
        self._windows = [
            (kind, _Window(limit, (DAY if kind == REQUESTS_A_DAY else MINUTE)[1]))
            for kind, limit in enumerate(rates or ())
            if limit is not None
        ]
        self._running: dict[int, EndedCall] = {}
        self._queue: deque[tuple[int, EndedCall]] = deque()
        self._answers: deque[tuple[float, int]] = deque()  # when a client has its refusal, and its ticket
        self._refusals: dict[int, Failure] = {}

    def begin(self, now: float, ticket: int, call: EndedCall) -> None:
        """See `Server.begin`."""
        self._change(now)
        ready_s = max((own.ready_s(now, _asked(kind, call)) for kind, own in self._windows), default=now)
        room = len(self._running) < self._room
        if ready_s > now or not (room or len(self._queue) < self._queue_limit):
            named_s = self._retry_after_s
            after_s = None if named_s is None else max(named_s, ready_s - now)
            self._refusals[ticket] = Failure(self._status, after_s, "status")
            self._answers.append((now + self._answer_s, ticket))
            return
        for kind, own in self._windows:
            own.count(now, _asked(kind, call))
        if room:
            self._running[ticket] = call
            self._server.begin(now, ticket, call)
        else:
            self._queue.append((ticket, call))

    def next_s(self) -> float:
        """See `Server.next_s`; the time may be that of an event at which no call ends."""
        answer_s = self._answers[0][0] if self._answers else inf
        change_s = self._changes[0][0] if self._changes and self._queue else inf
        return min(self._server.next_s(), answer_s, change_s)

    def advance(self, now: float) -> list[int]:
        """See `Server.advance`."""
        done = []
        while (at_s := self.next_s()) <= now:
            for ticket in self._server.advance(at_s):
                call = self._running.pop(ticket)
                for kind, own in self._windows:
                    if kind in (TOKENS, OUTPUT):
                        own.count(at_s, call.output_tokens or 0)
                done.append(ticket)
            while self._answers and self._answers[0][0] <= at_s:
                done.append(self._answers.popleft()[1])
            self._change(at_s)
        return done

    def refusal(self, ticket: int) -> Failure | None:
        """See `Server.refusal`."""
        return self._refusals.pop(ticket, None) or self._server.refusal(ticket)

    def _change(self, now: float) -> None:
        """Take up the room of this time, and start calls of the queue in it."""
        while self._changes and self._changes[0][0] <= now:
            self._room = self._changes.popleft()[1]
        while self._queue and len(self._running) < self._room:
            ticket, call = self._queue.popleft()
            self._running[ticket] = call
            self._server.begin(now, ticket, call)


def _asked(kind: int, call: EndedCall) -> float:
    """Return what counts against a limit when the request comes."""
    if kind in (TOKENS, INPUT):
        return float(call.prompt_tokens or 0)
    return 0.0 if kind == OUTPUT else 1.0
