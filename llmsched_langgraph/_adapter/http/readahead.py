"""Reads the body of an answer ahead of its reader while calls wait for its slot.

Does not know HTTP libraries, or decide when: the watcher of waiting calls does. What was read is kept in
order in a buffer of `LIMIT` bytes. An error is kept too, and raised where it occurred. At the body's end the
slot is released. The reader and the read-ahead never read at the same time.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from typing import Any, Protocol

from llmsched_langgraph._adapter.http.answers import failure_of_error
from llmsched_langgraph._fork import start_thread
from llmsched_langgraph._ledger.pauses import Failure

LIMIT = 1 << 20
"""Size of the buffer, in bytes, at which reading ahead stops."""

_STOP_S = 5.0
"""Maximum seconds that `close` waits for the thread that reads ahead, after its connection was shut down."""


class Holder(Protocol):
    """The object that holds the answer's slot; see `Slot` for the attributes."""

    idle_s: float | None
    ahead: bool
    read_ahead: Callable[[], object] | None

    @property
    def held(self) -> bool:
        """Whether it holds the slot."""

    def stand(self) -> None:
        """Record the running code as the answer's reader."""

    def give_back(self, failure: Failure | None = None) -> None:
        """Release the slot."""


class _Body:
    """Base class of `Body` and `AsyncBody`.

    Args:
        body: the library's body.
        holder: what holds the slot.
        possible: whether the body can be read ahead.
    """

    def __init__(self, body: Any, holder: Holder, *, possible: bool) -> None:
        self._body = body
        self._holder = holder
        self._pieces: Any = None
        self._buffer: deque[bytes] = deque()
        self._size = 0  # of the buffer, in bytes
        self._ended = False
        self._closed = False
        self._error: BaseException | None = None
        self._reading = False  # whether the reader is reading, or waits for the piece that is being read
        holder.idle_s = time.monotonic()
        if possible:
            holder.read_ahead = self.read_ahead

    def read_ahead(self) -> None:
        raise NotImplementedError

    def _wanted(self) -> bool:
        """Whether more should be read ahead."""
        over = self._ended or self._closed or self._error is not None
        return not over and not self._reading and self._size < LIMIT and self._holder.held

    def _kept(self) -> bytes | None:
        """Return the next piece of the buffer; None if it is empty. Only the reader removes pieces."""
        if not self._buffer:
            return None
        piece = self._buffer.popleft()
        self._size -= len(piece)
        return piece

    def _keep(self, piece: bytes) -> None:
        self._buffer.append(piece)
        self._size += len(piece)

    def _fail(self, error: BaseException) -> None:
        """Keep an error for the reader; release the slot."""
        self._error = error
        self._holder.give_back(failure_of_error(error))

    def _close_begins(self) -> None:
        self._closed, self._holder.read_ahead, self._holder.idle_s = True, None, None


class Body(_Body):
    """A body that is read in threads.

    Args:
        body: the library's body.
        holder: what holds the slot.
        interrupt: ends a read in another thread, with an error; None if nothing can: it is not read ahead.
    """

    def __init__(self, body: Any, holder: Holder, interrupt: Callable[[], object] | None) -> None:
        super().__init__(body, holder, possible=interrupt is not None)
        self._interrupt = interrupt
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[bytes]:
        holder = self._holder
        try:
            while (piece := self._next()) is not None:
                holder.idle_s = time.monotonic()
                yield piece
        except GeneratorExit:  # nobody can read the rest
            self.close()
            raise

    def _next(self) -> bytes | None:
        piece = self._kept()
        if piece is not None:
            return piece
        self._reading, self._holder.idle_s = True, None
        try:
            self._holder.stand()
            # The lock is free when the piece that is read ahead is there.
            with self._lock: return self._take()  # noqa: E701  # fmt: skip
        finally:
            self._reading = False

    def _take(self) -> bytes | None:
        piece = self._kept()
        if piece is not None or self._ended:
            return piece
        if self._error is not None:
            raise self._error
        try:
            return self._read()
        except Exception as error:
            self._holder.give_back(failure_of_error(error))
            raise

    def _read(self) -> bytes | None:
        """Return the next piece of the library's body; None at its end."""
        if self._pieces is None:
            self._pieces = iter(self._body)
        piece: bytes | None = next(self._pieces, None)
        self._ended = piece is None
        return piece

    def read_ahead(self) -> None:
        """Read the rest in a thread, unless it is being read. Legal in any thread; never blocks."""
        if self._holder.ahead or not self._wanted():
            return
        self._holder.ahead = True
        try:
            self._thread = threading.Thread(target=self._read_ahead, name="llmsched-read-ahead", daemon=True)
            start_thread(self._thread)
        except RuntimeError:
            self._holder.ahead = False  # no thread can be started

    def _read_ahead(self) -> None:
        more = True
        try:
            while more:
                with self._lock: more = self._read_one()  # noqa: E701  # fmt: skip
        finally:
            self._holder.ahead = False

    def _read_one(self) -> bool:
        if not self._wanted():
            return False
        try:
            piece = self._read()
            if piece is None:
                self._finish()
                return False
            self._keep(piece)
            return True
        except BaseException as error:
            self._fail(error)
            return False

    def _finish(self) -> None:
        try:
            self._body.close()
        finally:
            self._holder.give_back()

    def close(self) -> None:
        """Stop reading, close the library's body, and release the slot."""
        self._close_begins()
        try:
            thread = self._thread
            if thread is not None and thread.is_alive() and self._interrupt is not None:
                self._interrupt()
                thread.join(_STOP_S)
        finally:
            self._finish()


class AsyncBody(_Body):
    """A body that is read on the event loop on which it is created.

    Args:
        body: the library's body.
        holder: what holds the slot.
        possible: whether it can be read ahead.
    """

    def __init__(self, body: Any, holder: Holder, *, possible: bool) -> None:
        super().__init__(body, holder, possible=possible)
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # the context of the code that sent the request
        self._task: asyncio.Task[None] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        holder = self._holder
        while (piece := await self._next()) is not None:
            holder.idle_s = time.monotonic()
            yield piece

    async def _next(self) -> bytes | None:
        piece = self._kept()
        if piece is not None:
            return piece
        self._reading, self._holder.idle_s = True, None
        try:
            self._holder.stand()
            task = self._task
            if task is not None and not task.done():
                await asyncio.wait([task])  # it ends with the piece that it is reading
            return await self._take()
        finally:
            self._reading = False

    async def _take(self) -> bytes | None:
        piece = self._kept()
        if piece is not None or self._ended:
            return piece
        if self._error is not None:
            raise self._error
        try:
            return await self._read()
        except Exception as error:
            self._holder.give_back(failure_of_error(error))
            raise

    async def _read(self) -> bytes | None:
        """Return the next piece of the library's body; None at its end."""
        if self._pieces is None:
            self._pieces = aiter(self._body)
        piece: bytes | None = await anext(self._pieces, None)
        self._ended = piece is None
        return piece

    def read_ahead(self) -> None:
        """Read the rest in a task of the loop, unless it is being read. Legal in any thread; never blocks."""
        if self._holder.ahead or not self._wanted():
            return
        self._holder.ahead = True
        try:
            self._loop.call_soon_threadsafe(self._start, context=self._context)
        except RuntimeError:
            self._holder.ahead = False  # the loop is closed

    def _start(self) -> None:
        if self._wanted():
            self._task = self._loop.create_task(self._read_ahead())
        else:
            self._holder.ahead = False

    async def _read_ahead(self) -> None:
        try:
            while self._wanted():
                piece = await self._read()
                if piece is None:
                    await self._finish()
                else:
                    self._keep(piece)
        except asyncio.CancelledError:
            # The library's body cannot be read further. It must not seem to have ended.
            self._fail(ConnectionError("the task that read this answer ahead was cancelled"))
            raise
        except BaseException as error:
            self._fail(error)
        finally:
            self._holder.ahead = False

    async def _finish(self) -> None:
        try:
            await self._body.aclose()
        finally:
            self._holder.give_back()

    async def aclose(self) -> None:
        """Stop reading, close the library's body, and release the slot."""
        self._close_begins()
        try:
            task = self._task
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait([task])
        finally:
            await self._finish()
