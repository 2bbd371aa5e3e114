"""Knows how to run a `BatchingServer` by the clock of an event loop, and counts what is in flight exactly.

Knows nothing of HTTP or of what the requests say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from enum import Enum, auto

from llmsched_langgraph.lab.sim.batching import BatchingServer, Decoded, FinishedRequest
from llmsched_langgraph.lab.sim.latency import LatencyModel

_SETTLE_TURNS = 8
"""Turns of the event loop between reading a request and counting it.

A disconnect takes about four from the socket to `cancel` (end of file, connection lost, the watcher's event,
the watcher); a client that closed one connection before it sent on another is then never counted twice.
"""
_MIN_RETRY_S = 0.01


class Phase(Enum):
    """Where an exchange stands."""

    NEW = auto()  # read, not counted yet
    OPEN = auto()  # in flight: waiting, running, or all decoded but not all sent
    DECODED = auto()  # still in flight: only its last bytes are to be sent
    ANSWERED = auto()  # out of flight: the last bytes are on their way
    GONE = auto()  # the client left
    CLOSED = auto()  # the server is going down


class QueueFullError(Exception):
    """The queue is at its limit; `retry_after_s` wall seconds from now a slot is expected to be free."""

    def __init__(self, retry_after_s: float) -> None:
        """Say when to try again."""
        super().__init__(f"retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Exchange:
    """One request and its answer, from being read to the last bytes.

    Attributes:
        phase: Where it stands; changed by the `LiveServer` only.
        tokens: Output tokens decoded so far.
    """

    __slots__ = ("_changed", "output_tokens", "phase", "prompt_tokens", "tokens")

    def __init__(self, prompt_tokens: int, output_tokens: int) -> None:
        """An exchange that is not counted yet."""
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.phase = Phase.NEW
        self.tokens = 0
        self._changed = asyncio.Event()

    async def change(self) -> Phase:
        """Wait until `tokens` or `phase` has changed since the last call."""
        await self._changed.wait()
        self._changed.clear()
        return self.phase

    def move(self, phase: Phase, tokens: int) -> None:
        """Record a change and wake whoever waits for it."""
        self.phase = phase
        self.tokens = tokens
        self._changed.set()


class LiveServer:
    """A simulated model server in real time; belongs to one event loop.

    Virtual time is the loop's time since the first request, times `time_scale`. One timer, for the next event
    of the simulation, drives everything.

    Its own count of what is in flight ends just before an answer's last bytes are sent, which the simulation
    cannot know: a timer may be late, and until then the client rightly takes its request for unanswered.
    """

    def __init__(self, slots: int, latency: LatencyModel, time_scale: float, queue_limit: int | None) -> None:
        """Make an idle server.

        Args:
            slots: Most requests that run at once.
            latency: How fast it is, in virtual seconds.
            time_scale: Virtual seconds in a wall second.
            queue_limit: Most requests that wait; None for no limit.
        """
        self._batching = BatchingServer(slots, latency)
        self._time_scale = time_scale
        self._queue_limit = queue_limit
        self._start_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open: dict[Hashable, Exchange] = {}
        self._closed = False
        self._rejected = 0
        self._peak_in_flight = 0
        self._prompt_tokens = 0
        self._output_tokens = 0

    async def admit(self, exchange: Exchange, stride: int | None) -> Phase:
        """Let pending disconnects be handled, then count the exchange and hand it to the simulation.

        Args:
            exchange: A new one.
            stride: Wake the exchange every so many tokens; None for the first and the last only.

        Returns:
            OPEN; or GONE or CLOSED, and then it has not been counted.

        Raises:
            QueueFullError: It would have to wait, and as many as may do wait already.
        """
        for _ in range(_SETTLE_TURNS):
            await asyncio.sleep(0)
        if self._closed:
            exchange.move(Phase.CLOSED, 0)
        if exchange.phase is not Phase.NEW:
            return exchange.phase
        if self._queue_limit is not None:
            self._refuse_if_full(self._queue_limit)
        exchange.phase = Phase.OPEN
        self._open[id(exchange)] = exchange
        self._peak_in_flight = max(self._peak_in_flight, len(self._open))
        tokens = exchange.prompt_tokens, exchange.output_tokens
        self._batching.submit(id(exchange), *tokens, self._now(), stride=stride)
        self._catch_up()
        return Phase.OPEN

    def answer(self, exchange: Exchange) -> None:
        """The last bytes of the answer are about to be sent: the exchange is no longer in flight."""
        del self._open[id(exchange)]
        exchange.phase = Phase.ANSWERED

    def cancel(self, exchange: Exchange) -> None:
        """The client has left: free at once what the exchange holds. Does nothing once it is answered."""
        if self._open.pop(id(exchange), None) is not None:
            self._batching.cancel(id(exchange), self._now())
            self._catch_up()
        if exchange.phase in (Phase.NEW, Phase.OPEN, Phase.DECODED):
            exchange.move(Phase.GONE, exchange.tokens)

    def close(self) -> None:
        """Stop: cancel all exchanges in flight and take no more."""
        self._closed = True
        for exchange in list(self._open.values()):
            self.cancel(exchange)
            exchange.phase = Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()

    def statistics(self) -> dict[str, float]:
        """What the server has seen since it started or was reset; queue times in virtual seconds."""
        if self._open and not self._closed:
            self._catch_up()
        batching = self._batching
        return {
            "slots": batching.slots,
            "running": batching.running,
            "waiting": batching.waiting,
            "in_flight": len(self._open),
            "peak_in_flight": self._peak_in_flight,
            "peak_running": batching.peak_running,
            "served": batching.served,
            "rejected": self._rejected,
            "cancelled": batching.cancelled,
            "queue_s_total": batching.queue_s_total,
            "queue_s_max": batching.queue_s_max,
            "prompt_tokens": self._prompt_tokens,
            "output_tokens": self._output_tokens,
            "time_scale": self._time_scale,
        }

    def reset(self) -> None:
        """Zero the peaks and counters; what is in flight stays, and is where the peaks start from."""
        self._batching.reset_counters()
        self._peak_in_flight = len(self._open)
        self._rejected = self._prompt_tokens = self._output_tokens = 0

    def _refuse_if_full(self, queue_limit: int) -> None:
        self._catch_up()
        batching = self._batching
        if batching.running == batching.slots and batching.waiting >= queue_limit:
            self._rejected += 1
            free_s = (batching.next_free_s() - self._now()) / self._time_scale
            raise QueueFullError(max(_MIN_RETRY_S, free_s))

    def _now(self) -> float:
        """Virtual seconds since the first request."""
        now_s = asyncio.get_running_loop().time()
        if self._start_s is None:
            self._start_s = now_s
        return (now_s - self._start_s) * self._time_scale

    def _catch_up(self) -> None:
        """Bring the simulation to the present, tell the exchanges, and set the timer for what comes next."""
        for event in self._batching.advance(self._now()):
            exchange = self._open.get(event.request_id)
            if exchange is None:
                continue
            if isinstance(event, Decoded):
                exchange.move(Phase.OPEN, event.tokens)
            elif isinstance(event, FinishedRequest):
                self._prompt_tokens += exchange.prompt_tokens
                self._output_tokens += exchange.output_tokens
                exchange.move(Phase.DECODED, exchange.output_tokens)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self._batching.next_event_s()
        if due_s is not None and self._start_s is not None:
            wall_s = self._start_s + due_s / self._time_scale
            self._timer = asyncio.get_running_loop().call_at(wall_s, self._catch_up)
