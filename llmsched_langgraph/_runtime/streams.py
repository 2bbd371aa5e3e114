"""Wraps iterators of one call, from the first item until they are exhausted, closed or collected.

Does not interpret the items: the caller's meter counts their tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._runtime.call import Call
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph._runtime.marks import cancelled
from llmsched_langgraph._runtime.retries import again_s
from llmsched_langgraph._runtime.slot import outcome_of
from llmsched_langgraph.errors import CallCancelledError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Meter(Protocol[T_contra]):
    """Counts the tokens of a call from the items of its stream."""

    def see(self, item: T_contra, /) -> None:
        """Process one item."""

    def usage(self) -> Usage:
        """Return the call's tokens so far."""


class OpenStream(Protocol):
    """A stream that its consumer may not be reading now."""

    def drop(self, call: Call, /) -> bool:
        """Close it, in any thread; return False if that, or the end of a step, ends the call later."""


class Stream:
    """An iterator, or a response, that a thread reads now and then.

    It does not refer to its call: that would be a reference cycle.

    Attributes:
        dropping: whether `drop` is closing it.
    """

    __slots__ = ("_items", "dropping")

    def __init__(self, items: Any) -> None:
        self._items = items
        self.dropping = False

    def close(self, call: Call) -> bool:
        """Close it for its consumer; return False if `drop` is closing it, after which the call ends."""
        try:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        except ValueError:  # a generator that another thread is in
            if not call.abandoned:
                raise
            return not self.dropping
        return True

    def drop(self, call: Call) -> bool:
        """Close it, in any thread; return False if its own thread reads it again, and so ends the call."""
        self.dropping = True
        try:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        except Exception:
            return not call.steps
        finally:
            self.dropping = False
        return True


class AsyncStream:
    """An asynchronous iterator, or response, that a task reads now and then.

    Attributes:
        dropping: whether the task that `drop` starts is closing it.
    """

    __slots__ = ("_items", "_loop", "dropping")

    def __init__(self, items: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._items, self._loop = items, loop
        self.dropping = False

    async def close(self, call: Call) -> bool:
        """Close it for its consumer; return False if `drop` is closing it, after which the call ends."""
        try:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()
        except RuntimeError:  # an asynchronous generator that another task is in
            if not call.abandoned:
                raise
            return not self.dropping
        return True

    def drop(self, call: Call) -> bool:
        """Have its loop close it, which ends the call; return whether the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(self._start, call)
        except RuntimeError:
            return True
        return False

    def _start(self, call: Call) -> None:
        _closing.add(task := self._loop.create_task(self._close(call)))
        task.add_done_callback(_closing.discard)

    async def _close(self, call: Call) -> None:
        if call.steps or call.over:
            return  # its task reads it again, and ends the call
        self.dropping = True
        try:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                with suppress(Exception):
                    await close()
        finally:
            self.dropping = False
            await call.aend(Outcome.CANCELLED)


_closing: set[asyncio.Task[None]] = set()
"""The tasks that close streams. Loops keep weak references alone."""


def hold(call: Call, start: Callable[[], Iterator[T]], meter: Meter[T]) -> Iterator[T]:
    """Iterate over `start()` inside `call`; `meter` sees each item before the consumer."""
    call.acquire()
    run, outcome = current_run(), Outcome.FINISHED
    stream: Stream | None = None
    begun = False
    try:
        while True:
            # Set the mark for one step at a time: a generator shares its consumer's context.
            with call.inside():
                try:
                    if stream is None:
                        items = iter(start())
                        call.stream = stream = Stream(items)
                    item = next(items)
                except StopIteration:
                    return
                except Exception as error:
                    if call.abandoned:
                        raise cancelled() from error  # it may be of the `close` in the middle of a step
                    if begun or (wait_s := again_s(call)) is None:
                        raise
                    stream = None
                    time.sleep(wait_s)
                    continue
            if call.abandoned:
                raise cancelled()
            begun = True
            meter.see(item)
            if run is not None and run.scope.deserted:
                raise CallCancelledError("nobody reads the results of the run that this stream belongs to")
            with call.pause():
                yield item
    except BaseException as error:
        outcome = outcome_of(error)
        call.check(error)
        raise
    finally:
        closed = True
        try:
            closed = stream is None or stream.close(call)
            if call.reports:
                call.usage = meter.usage()
        finally:
            if closed:
                call.end(outcome)


async def ahold(call: Call, start: Callable[[], AsyncIterator[T]], meter: Meter[T]) -> AsyncIterator[T]:
    """Iterate like `hold`, over an asynchronous iterator."""
    await call.aacquire()
    outcome = Outcome.FINISHED
    stream: AsyncStream | None = None
    begun = False
    try:
        while True:
            with call.inside():
                try:
                    if stream is None:
                        items = aiter(start())
                        call.stream = stream = AsyncStream(items, asyncio.get_running_loop())
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    if call.abandoned:
                        raise cancelled() from error
                    if begun or (wait_s := again_s(call)) is None:
                        raise
                    stream = None
                    await asyncio.sleep(wait_s)
                    continue
            if call.abandoned:
                raise cancelled()
            begun = True
            meter.see(item)
            with call.pause():
                yield item
    except BaseException as error:
        outcome = outcome_of(error)
        call.check(error)
        raise
    finally:
        closed = True
        try:
            closed = stream is None or await stream.close(call)
            if call.reports:
                call.usage = meter.usage()
        finally:
            if closed:
                await call.aend(outcome)
