"""A model's server on loopback that follows a script, and knows at every moment which requests are in flight.

Does not know what providers say (`dialects`), or what a test expects.

A request is in flight from being read as a whole until just before the last bytes of its answer are written,
or until the client's hang-up is seen. An answer of 400 and more ends it before its head is written. A client
learns of each end after the server, except of its own hang-up, which the server sees later.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from .dialects import JSON, Reply, fault, reply

SETTLE_TURNS = 8
"""Turns of the loop in which hang-ups are seen that came before a request."""


class Gate:
    """Holds requests up until a test opens it, from any thread."""

    def __init__(self) -> None:
        self._opened: concurrent.futures.Future[None] = concurrent.futures.Future()

    def open(self) -> None:
        """Let everything pass from now on."""
        if not self.is_open:
            self._opened.set_result(None)

    @property
    def is_open(self) -> bool:
        """Whether it was opened."""
        return self._opened.done()

    def passed(self) -> asyncio.Future[None]:
        """Return what is done once the gate is open, for the running loop."""
        return asyncio.wrap_future(self._opened)


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one request meets.

    Attributes:
        status: of the answer.
        retry_after: the header of that name, if any.
        accepted: until this gate is open the answer is 202, and the client asks again with a GET.
        head: what the head waits for, if anything.
        body: what the body waits for after its first, second, ... piece; later pieces wait for nothing.
        breaks: where the connection is reset behind these gates, if at all: before the head, or after the
            body's first piece.
    """

    status: int = 200
    retry_after: str | None = None
    accepted: Gate | None = None
    head: Gate | None = None
    body: Sequence[Gate] = ()
    breaks: Literal["head", "body"] | None = None


@dataclass(eq=False)
class Exchange:
    """One request and its answer. Times are of `time.monotonic`.

    Attributes:
        ended: "answered", "refused" (a status of 400 and more), "reset" (by the server) or "hung up" (by the
            client); None while it is in flight.
        accepted: how often it was answered 202.
    """

    number: int
    path: str
    headers: dict[str, str]
    body: bytes
    begun_s: float
    status: int | None = None
    head_s: float | None = None
    end_s: float | None = None
    ended: str | None = None
    accepted: int = 0


class Server:
    """The server, as tests look at it and set it from any thread.

    Attributes:
        url: its root.
        exchanges: the requests for a model so far, in the order of their arrival.
        others: methods and paths of the other requests, which are answered with an empty object.
        otherwise: what requests meet behind the script's end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.url = ""
        self._loop = loop
        self._connections: set[_Connection] = set()
        self.reset()

    def reset(self, *steps: Step, otherwise: Step = Step()) -> None:
        """Forget all exchanges, and follow these steps from now on."""
        self._script = deque(steps)
        self.otherwise = otherwise
        self.exchanges: list[Exchange] = []
        self.others: list[tuple[str, str]] = []
        self._accepted: dict[str, tuple[Exchange, Step, Reply]] = {}

    @property
    def open(self) -> list[Exchange]:
        """The requests in flight."""
        return [exchange for exchange in self.exchanges if exchange.ended is None]

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return len(self.open)

    def peak(self, grace_s: float) -> int:
        """Return the most requests that were in flight at once.

        A request whose client hung up counts as ended `grace_s` earlier: the client closed its connection
        before the server could see it, and may have used the time.
        """
        now = time.monotonic()
        changes: list[tuple[float, int]] = []
        for exchange in self.exchanges:
            end_s = now if exchange.end_s is None else exchange.end_s
            if exchange.ended == "hung up":
                end_s -= grace_s
            if end_s > exchange.begun_s:
                changes += [(exchange.begun_s, 1), (end_s, -1)]
        return max(itertools.accumulate((change for _, change in sorted(changes))), default=0)

    # -- what the loop's thread does -------------------------------------------------------

    def _begin(self, request: _Request) -> tuple[Exchange, Step]:
        number = len(self.exchanges)
        exchange = Exchange(number, request.path, request.headers, request.body, time.monotonic())
        self.exchanges.append(exchange)
        return exchange, self._script.popleft() if self._script else self.otherwise

    async def _listen(self) -> None:
        server = await self._loop.create_server(lambda: _Connection(self), "127.0.0.1", 0)
        self._server = server
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def _stop(self) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.abort()
        while self._connections:
            await asyncio.sleep(0)


def end(exchange: Exchange, how: str) -> None:
    """Mark the exchange as over, if it is not yet."""
    if exchange.ended is None:
        exchange.end_s = time.monotonic()
        exchange.ended = how


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


def _parse(data: bytes) -> tuple[_Request, bytes] | None:
    """Return the first whole request and what follows it; None if there is none yet."""
    head, divider, rest = data.partition(b"\r\n\r\n")
    if not divider:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): said.strip() for name, _, said in fields}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        whole = _dechunked(rest)
    else:
        length = int(headers.get("content-length", 0))
        whole = (rest[:length], rest[length:]) if len(rest) >= length else None
    return None if whole is None else (_Request(method, path, headers, whole[0]), whole[1])


def _dechunked(data: bytes) -> tuple[bytes, bytes] | None:
    body = b""
    while True:
        size, divider, data = data.partition(b"\r\n")
        length = int(size, 16) if divider else 0
        if not divider or len(data) < length + 2:
            return None
        body, data = body + data[:length], data[length + 2 :]
        if length == 0:
            return body, data


class _Connection(asyncio.Protocol):
    """One client's connection: one request after the other."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._data = b""
        self._left: asyncio.Future[None] = server._loop.create_future()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server._connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._go_on()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()
        self._server._connections.discard(self)

    def abort(self) -> None:
        """Reset the connection."""
        self._transport.abort()

    def _leave(self) -> None:
        if not self._left.done():
            self._left.set_result(None)

    def _go_on(self) -> None:
        if self._task is None and (found := _parse(self._data)) is not None:
            request, self._data = found
            self._task = self._server._loop.create_task(self._serve(request))
            self._task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled():
            task.result()
            self._go_on()

    async def _serve(self, request: _Request) -> None:
        found = self._server._accepted.get(request.path.rpartition("/")[2])
        if found is not None:
            await self._follow(*found)
        elif (answer := _answer(request)) is not None:
            for _ in range(SETTLE_TURNS):
                await asyncio.sleep(0)
            await self._follow(*self._server._begin(request), answer)
        else:
            self._server.others.append((request.method, request.path))
            self._send_head(200, JSON, length=2)
            self._transport.write(b"{}")

    async def _follow(self, exchange: Exchange, step: Step, answer: Reply) -> None:
        """Answer as the step says."""
        if step.accepted is not None and not step.accepted.is_open:
            self._accept(exchange, step, answer)
            return
        try:
            if await self._answer(exchange, step, answer):
                end(exchange, "hung up")
        finally:
            end(exchange, "broken")  # by an error of this server, which the tests would see

    async def _answer(self, exchange: Exchange, step: Step, answer: Reply) -> bool:
        """Return whether the client hung up before the end."""
        if step.head is not None and await self._hung_up(step.head):
            return True
        if step.breaks == "head":
            return self._reset(exchange)
        exchange.status = step.status
        if step.status >= 400:
            end(exchange, "refused")
            exchange.head_s = exchange.end_s
            body = fault(step.status)
            self._send_head(step.status, JSON, step.retry_after, length=len(body))
            self._transport.write(body)
            return False
        length = None if answer.streamed else sum(map(len, answer.pieces))
        exchange.head_s = time.monotonic()
        self._send_head(step.status, answer.content_type, step.retry_after, *answer.headers, length=length)
        return await self._send_body(exchange, step, answer)

    async def _send_body(self, exchange: Exchange, step: Step, answer: Reply) -> bool:
        last = len(answer.pieces) - 1
        for n, piece in enumerate(answer.pieces):
            if 0 < n <= len(step.body) and await self._hung_up(step.body[n - 1]):
                return True
            if n == 1 and step.breaks == "body":
                return self._reset(exchange)
            if n == last:
                end(exchange, "answered")
            if answer.streamed:
                piece = b"%x\r\n%b\r\n%b" % (len(piece), piece, b"0\r\n\r\n" if n == last else b"")
            self._transport.write(piece)
        return False

    async def _hung_up(self, gate: Gate) -> bool:
        """Wait for the gate; return whether the client hung up before it was opened."""
        await asyncio.wait([self._left, gate.passed()], return_when=asyncio.FIRST_COMPLETED)
        return self._left.done()

    def _reset(self, exchange: Exchange) -> bool:
        end(exchange, "reset")
        self.abort()
        return False

    def _accept(self, exchange: Exchange, step: Step, answer: Reply) -> None:
        """Answer 202: the work goes on, and the client is to ask for it, as NVIDIA's do."""
        exchange.accepted += 1
        ticket = f"accepted-{exchange.number}"
        self._server._accepted[ticket] = (exchange, step, answer)
        self._send_head(202, JSON, None, f"NVCF-REQID: {ticket}", length=2)
        self._transport.write(b"{}")

    def _send_head(
        self, status: int, kind: str, retry_after: str | None = None, *more: str, length: int | None
    ) -> None:
        lines = [f"HTTP/1.1 {status} Scripted", f"content-type: {kind}", *more]
        lines.append("transfer-encoding: chunked" if length is None else f"content-length: {length}")
        if retry_after is not None:
            lines.append(f"retry-after: {retry_after}")
        self._transport.write("\r\n".join((*lines, "", "")).encode())


def _answer(request: _Request) -> Reply | None:
    try:
        asked = json.loads(request.body)
    except ValueError:
        return None
    return reply(request.path, asked) if request.method == "POST" and isinstance(asked, dict) else None


@contextmanager
def provider_server() -> Iterator[Server]:
    """Run the server in a thread of this process for as long as the context lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="provider server")
    thread.start()

    def run(task: Any) -> None:
        asyncio.run_coroutine_threadsafe(task, loop).result()

    server = Server(loop)
    run(server._listen())
    try:
        yield server
    finally:
        run(server._stop())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
