"""Runs a `BatchingServer` by the clock of an event loop and counts the requests in flight exactly.

Does not handle HTTP or read the content of requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from enum import Enum, auto

from llmsched_langgraph.lab.sim.batching import BatchingServer, Decoded, FinishedRequest
from llmsched_langgraph.lab.sim.latency import LatencyModel

_SETTLE_TURNS = 8
"""Loop iterations between reading a request and counting it.

A disconnect takes about four iterations from the socket to `cancel` (end of file, connection lost, the
watcher's event, the watcher). The wait keeps a client that closes one connection and then sends on another
from being counted twice.
"""
_MIN_RETRY_S = 0.01


class Phase(Enum):
    """The state of an exchange."""

    NEW = auto()  # read, not counted yet
    OPEN = auto()  # in flight: waiting or running
    DECODED = auto()  # in flight: all tokens are decoded, the last bytes are not sent
    ANSWERED = auto()  # not in flight: the last bytes are being sent
    GONE = auto()  # the client disconnected
    CLOSED = auto()  # the server is shutting down


class QueueFullError(Exception):
    """The queue is full; the next slot is expected to be free in `retry_after_s` seconds of wall time.

    None if the client is not told.
    """

    def __init__(self, retry_after_s: float | None) -> None:
        """Store the seconds until the next attempt."""
        super().__init__(f"retry after {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Exchange:
    """One request and its answer, from the read of the request to the last bytes of the answer.

    Attributes:
        phase: The state; only the `LiveServer` changes it.
        tokens: Output tokens decoded so far.
    """

    __slots__ = ("_changed", "output_tokens", "phase", "prompt_tokens", "tokens")

    def __init__(self, prompt_tokens: int, output_tokens: int) -> None:
        """Create an exchange that is not counted yet."""
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
        """Set the phase and the tokens, and wake the task in `change`."""
        self.phase = phase
        self.tokens = tokens
        self._changed.set()


class LiveServer:
    """A simulated model server in real time; belongs to one event loop.

    Virtual time is the loop's time since the first request, times `time_scale`. One timer, for the next event
    of the simulation, drives the server.

    The server counts an exchange as in flight until just before the last bytes of its answer are sent. The
    simulation may end it earlier, since a timer may be late, but the client still waits for the answer.
    """

    def __init__(
        self,
        slots: int,
        latency: LatencyModel,
        time_scale: float,
        queue_limit: int | None,
        retry_after: bool = True,
    ) -> None:
        """Make an idle server.

        Args:
            slots: Most requests that run at once.
            latency: The latency model, in virtual seconds.
            time_scale: Virtual seconds per second of wall time.
            queue_limit: Most requests that wait; None for no limit.
            retry_after: Whether a refusal names a time.
        """
        self._batching = BatchingServer(slots, latency)
        self._time_scale = time_scale
        self._queue_limit = queue_limit
        self._retry_after = retry_after
        self._start_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._open: dict[Hashable, Exchange] = {}
        self._closed = False
        self._rejected = 0
        self._peak_in_flight = 0
        self._prompt_tokens = 0
        self._output_tokens = 0

    async def admit(self, exchange: Exchange, stride: int | None) -> Phase:
        """Handle pending disconnects, then count the exchange and submit it to the simulation.

        Args:
            exchange: A new exchange.
            stride: Tokens between wake-ups of the exchange; None for the first and the last token only.

        Returns:
            OPEN; or GONE or CLOSED for an exchange that was not counted.

        Raises:
            QueueFullError: All slots are busy and `queue_limit` requests wait.
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
        """Take the exchange out of flight, just before the last bytes of its answer are sent."""
        del self._open[id(exchange)]
        exchange.phase = Phase.ANSWERED

    def cancel(self, exchange: Exchange) -> None:
        """Free the exchange's slot or place in the queue at once; do nothing if it is answered."""
        if self._open.pop(id(exchange), None) is not None:
            self._batching.cancel(id(exchange), self._now())
            self._catch_up()
        if exchange.phase in (Phase.NEW, Phase.OPEN, Phase.DECODED):
            exchange.move(Phase.GONE, exchange.tokens)

    def close(self) -> None:
        """Stop: cancel all exchanges in flight and accept no more."""
        self._closed = True
        for exchange in list(self._open.values()):
            self.cancel(exchange)
            exchange.phase = Phase.CLOSED
        if self._timer is not None:
            self._timer.cancel()

    def statistics(self) -> dict[str, float]:
        """Return the state, and the counts since the last reset; queue times in virtual seconds."""
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
        """Zero the counters; exchanges in flight stay, and the peaks start at their present number."""
        self._batching.reset_counters()
        self._peak_in_flight = len(self._open)
        self._rejected = self._prompt_tokens = self._output_tokens = 0

    def resize(self, slots: int) -> None:
        """Change the number of slots; requests that run keep theirs.

        Raises:
            ConfigurationError: `slots` is less than 1.
        """
        self._batching.resize(slots, self._now())
        self._catch_up()

    def _refuse_if_full(self, queue_limit: int) -> None:
        self._catch_up()
        batching = self._batching
        if batching.running >= batching.slots and batching.waiting >= queue_limit:
            self._rejected += 1
            free_s = (batching.next_free_s() - self._now()) / self._time_scale
            raise QueueFullError(max(_MIN_RETRY_S, free_s) if self._retry_after else None)

    def _now(self) -> float:
        """Return the virtual seconds since the first request."""
        now_s = asyncio.get_running_loop().time()
        if self._start_s is None:
            self._start_s = now_s
        return (now_s - self._start_s) * self._time_scale

    def _catch_up(self) -> None:
        """Advance the simulation to now, update the exchanges, and set the timer for the next event."""
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
