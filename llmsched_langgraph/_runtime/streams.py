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
    """

    __slots__ = ("_items",)

    def __init__(self, items: Any) -> None:
        self._items = items

    def drop(self, call: Call) -> bool:
        """Close it, in any thread; return False if its own thread reads it again, and so ends the call."""
        try:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        except Exception:
            return not call.steps
        return True


class AsyncStream:
    """An asynchronous iterator, or response, that a task reads now and then."""

    __slots__ = ("_items", "_loop")

    def __init__(self, items: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._items, self._loop = items, loop

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
        try:
            close = getattr(self._items, "aclose", None)
            if close is not None:
                with suppress(Exception):
                    await close()
        finally:
            await call.aend(Outcome.CANCELLED)


_closing: set[asyncio.Task[None]] = set()
"""The tasks that close streams. Loops keep weak references alone."""


def hold(call: Call, start: Callable[[], Iterator[T]], meter: Meter[T]) -> Iterator[T]:
    """Iterate over `start()` inside `call`; `meter` sees each item before the consumer."""
    call.acquire()
    run, outcome = current_run(), Outcome.FINISHED
    items: Iterator[T] | None = None
    begun = False
    try:
        while True:
            # Set the mark for one step at a time: a generator shares its consumer's context.
            with call.inside():
                try:
                    if items is None:
                        items = iter(start())
                        call.stream = Stream(items)
                    item = next(items)
                except StopIteration:
                    return
                except Exception as error:
                    if call.abandoned:
                        raise cancelled() from error  # it may be of the `close` in the middle of a step
                    if begun or (wait_s := again_s(call)) is None:
                        raise
                    items = None
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
        try:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            if call.reports:
                call.usage = meter.usage()
        finally:
            call.end(outcome)


async def ahold(call: Call, start: Callable[[], AsyncIterator[T]], meter: Meter[T]) -> AsyncIterator[T]:
    """Iterate like `hold`, over an asynchronous iterator."""
    await call.aacquire()
    outcome = Outcome.FINISHED
    items: AsyncIterator[T] | None = None
    begun = False
    try:
        while True:
            with call.inside():
                try:
                    if items is None:
                        items = aiter(start())
                        call.stream = AsyncStream(items, asyncio.get_running_loop())
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                except Exception as error:
                    if call.abandoned:
                        raise cancelled() from error
                    if begun or (wait_s := again_s(call)) is None:
                        raise
                    items = None
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
        try:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
            if call.reports:
                call.usage = meter.usage()
        finally:
            await call.aend(outcome)
