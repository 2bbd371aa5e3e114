"""Simulates a continuous-batching model server: slots, a FIFO queue, prefill, batched decoding.

Uses no clock, event loop, network or randomness: `now` is an argument, and events are returned.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from math import inf

from llmsched_langgraph.errors import ConfigurationError, LLMSchedError
from llmsched_langgraph.lab.sim.latency import LatencyModel


class InvalidTransitionError(LLMSchedError, RuntimeError):
    """The server's state does not allow the event. The state is unchanged."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request left the queue, took a slot and started its prefill."""

    at_s: float
    request_id: Hashable


@dataclass(frozen=True, slots=True)
class Decoded:
    """`tokens` output tokens of a request are complete; the first such event has `tokens == 1`."""

    at_s: float
    request_id: Hashable
    tokens: int


@dataclass(frozen=True, slots=True)
class FinishedRequest:
    """All output tokens of a request are complete and its slot is free again."""

    at_s: float
    request_id: Hashable


Event = Admitted | Decoded | FinishedRequest


@dataclass(slots=True, eq=False)
class _Request:
    """One request in flight."""

    request_id: Hashable
    number: int
    prompt_tokens: int
    output_tokens: int
    stride: int
    arrived_s: float
    prefilled_s: float = inf
    begun_at: float = inf
    """Value of the decoding line when this request began to decode; infinite before."""
    milestone: int = 1
    """Number of output tokens at the request's next event."""


class BatchingServer:
    """A fluid model of a server that decodes up to `slots` requests together, as vLLM does.

    Requests are admitted first come, first served. A running request is in prefill for
    `latency.prefill_s(prompt_tokens)` seconds and then decodes one token per `latency.decode_s(running)`
    seconds; the rate changes whenever the number of running requests changes. With `latency.prefill_stalls`,
    requests prefill one at a time, and decoding stops meanwhile. Events carry their exact times, which do
    not depend on when and how often `advance` is called.

    All decoding requests have the same rate, so one number describes their progress: the *decoding line*
    L(t), the integral of 1 / `decode_s(running)` over time, in tokens. A request that begins to decode at
    L = b is done at L = b + output_tokens. An event costs O(log slots).

    Attributes:
        slots: Most requests that run at once.
        served: Requests finished since the last `reset_counters`.
        cancelled: Requests cancelled, waiting or running, since the last `reset_counters`.
        peak_running: Most requests running at once since the last `reset_counters`.
        peak_in_flight: Most requests waiting and running at once since the last `reset_counters`.
        queue_s_total: Seconds between arrival and admission, summed over the admitted requests.
        queue_s_max: Longest time between arrival and admission, in seconds.
    """

    def __init__(self, slots: int, latency: LatencyModel) -> None:
        """Make an idle server at time 0.

        Args:
            slots: Most requests that run at once, 1 or more.
            latency: The server's latency model.

        Raises:
            ConfigurationError: `slots` is less than 1.
        """
        if slots < 1:
            raise ConfigurationError(f"slots must be 1 or more, not {slots}")
        self.slots = slots
        self._latency = latency
        self._stalls = latency.prefill_stalls
        self._step_by_batch = [inf, *(latency.decode_s(batch) for batch in range(1, slots + 1))]
        self._now_s = 0.0
        self._number = 0
        self._requests: dict[Hashable, _Request] = {}
        self._waiting: OrderedDict[Hashable, _Request] = OrderedDict()
        self._prefilling: list[tuple[float, int, _Request]] = []
        """Heap of the running requests in prefill, by the time their prefill ends."""
        self._decoding: list[tuple[float, int, _Request]] = []
        """Heap of the decoding requests, by the value of the decoding line at their next milestone."""
        # The decoding line is linear from one known point, the anchor, on. The anchor moves only when the
        # rate changes, so that rounding does not depend on the calls of `advance`.
        self._anchor_s = 0.0
        self._anchor_at = 0.0
        self._step_s = inf
        self._events: list[Event] = []
        self.served = 0
        self.cancelled = 0
        self.peak_running = 0
        self.peak_in_flight = 0
        self.queue_s_total = 0.0
        self.queue_s_max = 0.0

    @property
    def running(self) -> int:
        """Requests that hold a slot now."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def waiting(self) -> int:
        """Requests in the queue now."""
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        """Requests waiting or running now."""
        return len(self._requests)

    def submit(
        self,
        request_id: Hashable,
        prompt_tokens: int,
        output_tokens: int,
        now: float,
        *,
        stride: int | None = None,
    ) -> None:
        """Submit a request that arrives at `now`; `advance` returns its events.

        Args:
            request_id: Identifies the request until it has finished or been cancelled.
            prompt_tokens: Tokens to prefill, 0 or more.
            output_tokens: Tokens to decode, 1 or more.
            now: The present, in seconds; never less than in an earlier call.
            stride: Tokens between progress events after the first token; None for the first and last only.

        Raises:
            ConfigurationError: A number of tokens is too small.
            InvalidTransitionError: The id is in flight already, or `now` is less than in an earlier call.
        """
        stride = output_tokens if stride is None else stride
        if prompt_tokens < 0 or output_tokens < 1 or stride < 1:
            raise ConfigurationError(
                "a request needs prompt_tokens >= 0, output_tokens >= 1 and stride >= 1, "
                f"not {prompt_tokens}, {output_tokens} and {stride}"
            )
        self._run_until(now)
        if request_id in self._requests:
            raise InvalidTransitionError(f"request {request_id!r} is in flight already")
        self._number += 1
        request = _Request(request_id, self._number, prompt_tokens, output_tokens, stride, now)
        self._requests[request_id] = request
        self._waiting[request_id] = request
        self._fill_slots(now)
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def cancel(self, request_id: Hashable, now: float) -> None:
        """Cancel a request at `now` and free its slot; do nothing if the request is not in flight.

        Raises:
            InvalidTransitionError: `now` is less than in an earlier call.
        """
        self._run_until(now)
        request = self._requests.pop(request_id, None)
        if request is None:
            return
        self.cancelled += 1
        if self._waiting.pop(request_id, None) is not None:
            return
        # The heaps hold at most `slots` entries, so a scan is cheap, and `running` counts no stale entry.
        line = self._line_at(now)
        heap = self._prefilling if request.begun_at == inf else self._decoding
        if self._stalls and heap is self._prefilling:
            self._move_up_behind(request, now)
        heap[:] = [entry for entry in heap if entry[2] is not request]
        heapify(heap)
        self._turn_anchor(now, line)
        self._fill_slots(now)

    def resize(self, slots: int, now: float) -> None:
        """Change the number of slots at `now`; requests that run keep theirs.

        Raises:
            ConfigurationError: `slots` is less than 1.
            InvalidTransitionError: `now` is less than in an earlier call.
        """
        if slots < 1:
            raise ConfigurationError(f"slots must be 1 or more, not {slots}")
        self._run_until(now)
        self.slots = slots
        known = self._step_by_batch
        known += map(self._latency.decode_s, range(len(known), slots + 1))
        self._fill_slots(now)

    def advance(self, now: float) -> list[Event]:
        """Advance to `now` and return the events since the last call, in order of time.

        Raises:
            InvalidTransitionError: `now` is less than in an earlier call.
        """
        self._run_until(now)
        events, self._events = self._events, []
        return events

    def next_event_s(self) -> float | None:
        """Return the time of the next event, in seconds; None if no event is due.

        The time holds if no request is submitted or cancelled before. It is the present if `advance` has not
        yet returned all past events.
        """
        if self._events:
            return self._now_s
        due_s = min(self._prefill_due_s(), self._decode_due_s())
        return None if due_s == inf else due_s

    def next_free_s(self) -> float:
        """Return when the next slot becomes free, in seconds, at the present decoding rate."""
        if self.running < self.slots:
            return self._now_s
        step_s = self._step_by_batch[self.running]
        line = self._line_at(self._now_s)
        prefilled_s = self._prefilled_s(self._now_s)
        decoding = (
            prefilled_s + (request.begun_at + request.output_tokens - line) * step_s
            for _, _, request in self._decoding
        )
        prefilling = (
            max(request.prefilled_s, prefilled_s) + request.output_tokens * step_s
            for _, _, request in self._prefilling
        )
        ends = sorted((*decoding, *prefilling))
        return max(self._now_s, ends[self.running - self.slots])  # those above a lower limit end first

    def reset_counters(self) -> None:
        """Zero the counters; requests in flight stay, and the peaks start at their present number."""
        self.served = self.cancelled = 0
        self.queue_s_total = self.queue_s_max = 0.0
        self.peak_running = self.running
        self.peak_in_flight = self.in_flight

    # How time passes.

    def _run_until(self, now: float) -> None:
        if not now >= self._now_s:  # also refuses not-a-number
            raise InvalidTransitionError(
                f"time must not run backwards: it is {self._now_s} s already, not {now} s"
            )
        while True:
            prefill_s, decode_s = self._prefill_due_s(), self._decode_due_s()
            if min(prefill_s, decode_s) > now:
                break
            if decode_s <= prefill_s:
                self._reach_milestone(decode_s)
            else:
                self._end_prefill(prefill_s)
        self._now_s = now

    def _prefill_due_s(self) -> float:
        return self._prefilling[0][0] if self._prefilling else inf

    def _decode_due_s(self) -> float:
        if not self._decoding:
            return inf
        # Rounding may put a milestone just before the anchor; events must not go back in time.
        left = max(0.0, self._decoding[0][0] - self._anchor_at)
        if self._step_s == inf:
            return self._anchor_s if left < 1e-9 else inf  # stalled: only a milestone at the anchor is due
        return self._anchor_s + left * self._step_s

    def _line_at(self, at_s: float) -> float:
        return self._anchor_at + (at_s - self._anchor_s) / self._step_s

    def _turn_anchor(self, at_s: float, line: float) -> None:
        """Move the anchor to (at_s, line) and set the decoding rate for the present running requests."""
        self._anchor_s, self._anchor_at = at_s, line
        stalled = self._stalls and self._prefilling
        self._step_s = inf if stalled else self._step_by_batch[self.running]

    def _prefilled_s(self, at_s: float) -> float:
        """Return when the last running prefill ends; `at_s` if prefills do not stall decoding."""
        if not self._stalls:
            return at_s
        return max([at_s, *(prefilled_s for prefilled_s, _, _ in self._prefilling)])

    def _move_up_behind(self, request: _Request, now: float) -> None:
        """Move the later prefills forward by the seconds that a cancelled prefill no longer needs."""
        before = [end_s for end_s, number, _ in self._prefilling if number < request.number]
        saved_s = request.prefilled_s - max([now, *before])
        for at, (end_s, number, other) in enumerate(self._prefilling):
            if number > request.number:
                other.prefilled_s = end_s - saved_s
                self._prefilling[at] = (other.prefilled_s, number, other)

    def _fill_slots(self, at_s: float) -> None:
        """Admit requests from the head of the queue while a slot is free."""
        while self._waiting and self.running < self.slots:
            line = self._line_at(at_s)
            _, request = self._waiting.popitem(last=False)
            begin_s = self._prefilled_s(at_s)
            request.prefilled_s = begin_s + self._latency.prefill_s(request.prompt_tokens)
            heappush(self._prefilling, (request.prefilled_s, request.number, request))
            self._turn_anchor(at_s, line)
            self.peak_running = max(self.peak_running, self.running)
            queued_s = at_s - request.arrived_s
            self.queue_s_total += queued_s
            self.queue_s_max = max(self.queue_s_max, queued_s)
            self._events.append(Admitted(at_s, request.request_id))

    def _end_prefill(self, at_s: float) -> None:
        _, number, request = heappop(self._prefilling)
        if not self._decoding:  # no request uses the line: restart it at 0, where floats are most exact
            self._anchor_s, self._anchor_at = at_s, 0.0
        request.begun_at = self._line_at(at_s)
        heappush(self._decoding, (request.begun_at + request.milestone, number, request))
        if self._stalls:
            self._turn_anchor(at_s, request.begun_at)

    def _reach_milestone(self, at_s: float) -> None:
        line, number, request = heappop(self._decoding)
        tokens = request.milestone
        if tokens == 1 or tokens < request.output_tokens:
            self._events.append(Decoded(at_s, request.request_id, tokens))
        if tokens < request.output_tokens:
            request.milestone = min(tokens + request.stride, request.output_tokens)
            heappush(self._decoding, (request.begun_at + request.milestone, number, request))
            return
        del self._requests[request.request_id]
        self.served += 1
        self._events.append(FinishedRequest(at_s, request.request_id))
        self._turn_anchor(at_s, line)
        self._fill_slots(at_s)
