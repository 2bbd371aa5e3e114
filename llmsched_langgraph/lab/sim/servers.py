"""Times simulated calls from their grant on: as recorded, or on a batching model server.

Does not schedule: the simulation handles jobs, policies and the backlog.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from llmsched_langgraph._jobs.ended import EndedCall
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph.errors import InvalidDataError
from llmsched_langgraph.lab.sim.batching import BatchingServer, FinishedRequest
from llmsched_langgraph.lab.sim.latency import LatencyModel


class Server(Protocol):
    """Serves calls that hold a slot; `now` never decreases from one method call to the next."""

    def begin(self, now: float, ticket: int, call: EndedCall) -> None:
        """Start the call of this ticket."""

    def next_s(self) -> float:
        """Return when the next running call ends, in s, if no call starts before; infinity if none runs."""

    def advance(self, now: float) -> list[int]:
        """Return the tickets of the calls that ended by `now`, in order."""

    def refusal(self, ticket: int) -> Failure | None:
        """Return why a call that ended was not served; None if it was. Asked once for each ticket."""


@dataclass(slots=True)
class SlotServer:
    """Every call takes its recorded seconds at every concurrency."""

    _ends: list[tuple[float, int, int]] = field(default_factory=list)  # heap of (end, start number, ticket)
    _begun: int = 0

    def begin(self, now: float, ticket: int, call: EndedCall) -> None:
        """See `Server.begin`.

        Raises:
            InvalidDataError: the call has no seconds.
        """
        if call.seconds is None:
            raise InvalidDataError("a call without seconds cannot be simulated: fill them in first")
        self._begun += 1
        heapq.heappush(self._ends, (now + call.seconds, self._begun, ticket))

    def next_s(self) -> float:
        """See `Server.next_s`."""
        return self._ends[0][0] if self._ends else inf

    def advance(self, now: float) -> list[int]:
        """See `Server.advance`."""
        done = []
        while self._ends and self._ends[0][0] <= now:
            done.append(heapq.heappop(self._ends)[2])
        return done

    def refusal(self, ticket: int) -> None:
        """See `Server.refusal`: every call is served."""


class Handover:
    """Delays the start of every call on a server after its grant.

    The delay stands for the network both ways, the client, and the wait for the server's next decode step.
    During the delay the call holds its slot, but the server does not work on it.

    Args:
        server: the server behind the delay.
        seconds: the delay of each call, 0 or more.
    """

    def __init__(self, server: Server, seconds: float) -> None:
        self._server = server
        self._seconds = seconds
        self._under_way: deque[tuple[float, int, EndedCall]] = deque()  # (start on the server, ticket, call)

    def begin(self, now: float, ticket: int, call: EndedCall) -> None:
        """See `Server.begin`."""
        self._under_way.append((now + self._seconds, ticket, call))

    def next_s(self) -> float:
        """See `Server.next_s`; the time may be that of a call's start on the server."""
        return min(self._under_way[0][0] if self._under_way else inf, self._server.next_s())

    def advance(self, now: float) -> list[int]:
        """See `Server.advance`."""
        done = []
        while self._under_way and self._under_way[0][0] <= now:
            there_s, ticket, call = self._under_way.popleft()
            done += self._server.advance(there_s)
            self._server.begin(there_s, ticket, call)
        return done + self._server.advance(now)

    def refusal(self, ticket: int) -> Failure | None:
        """See `Server.refusal`."""
        return self._server.refusal(ticket)


class BatchingReplicas:
    """Servers with continuous batching; a call goes to the one with the fewest requests in flight.

    Args:
        replicas: number of servers.
        slots: most calls that each server runs at once.
        latency: latency model of each server.
    """

    def __init__(self, replicas: int, slots: int, latency: LatencyModel) -> None:
        self._servers = [BatchingServer(slots, latency) for _ in range(replicas)]

    def begin(self, now: float, ticket: int, call: EndedCall) -> None:
        """See `Server.begin`.

        Raises:
            InvalidDataError: the call has no token counts.
        """
        if call.prompt_tokens is None or call.output_tokens is None:
            raise InvalidDataError("a call without tokens cannot be simulated on a batching server")
        number = min(range(len(self._servers)), key=lambda n: self._servers[n].in_flight)
        self._servers[number].submit(
            ticket,
            now=now,
            prompt_tokens=call.prompt_tokens,
            output_tokens=max(call.output_tokens, 1),
            stride=max(call.output_tokens, 1),  # only the last token matters here
        )

    def next_s(self) -> float:
        """See `Server.next_s`; the time may be that of an event at which no call ends."""
        times = (server.next_event_s() for server in self._servers)
        return min((time for time in times if time is not None), default=inf)

    def advance(self, now: float) -> list[int]:
        """See `Server.advance`."""
        events = [event for server in self._servers for event in server.advance(now)]
        done = sorted(
            (event.at_s, event.request_id) for event in events if isinstance(event, FinishedRequest)
        )
        return [ticket for _, ticket in done if isinstance(ticket, int)]

    def refusal(self, ticket: int) -> None:
        """See `Server.refusal`: every call is served."""
