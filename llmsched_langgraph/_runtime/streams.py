"""Wraps iterators of one call, from the first item until they are exhausted, closed or collected.

Does not interpret the items: the caller's meter counts their tokens.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol, TypeVar

from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._runtime.call import Call
from llmsched_langgraph._runtime.context import current_run
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
                    items = iter(start()) if items is None else items
                    item = next(items)
                except StopIteration:
                    return
                except Exception:
                    if begun or (wait_s := call.tries_again()) is None:
                        raise
                    items = None
                    time.sleep(wait_s)
                    continue
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
                    items = aiter(start()) if items is None else items
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                except Exception:
                    if begun or (wait_s := call.tries_again()) is None:
                        raise
                    items = None
                    await asyncio.sleep(wait_s)
                    continue
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
