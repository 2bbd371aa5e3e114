"""Wraps iterators that hold a slot from the first item until they are exhausted, closed or collected.

Does not interpret the items: the caller's meter counts their tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol, TypeVar

from llmsched_langgraph._jobs.calls import Outcome, Usage
from llmsched_langgraph._runtime.slot import Slot, outcome_of

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Meter(Protocol[T_contra]):
    """Counts the tokens of a call from the items of its stream."""

    def see(self, item: T_contra, /) -> None:
        """Process one item."""

    def usage(self) -> Usage:
        """Return the call's tokens so far."""


def hold(slot: Slot, start: Callable[[], Iterator[T]], meter: Meter[T]) -> Iterator[T]:
    """Iterate over `start()` inside `slot`; `meter` sees each item before the consumer."""
    slot.acquire()
    outcome = Outcome.FINISHED
    items: Iterator[T] | None = None
    try:
        while True:
            # Set the mark for one step at a time: a generator shares its consumer's context.
            with slot.inside():
                try:
                    items = iter(start()) if items is None else items
                    item = next(items)
                except StopIteration:
                    return
            meter.see(item)
            with slot.pause():
                yield item
    except BaseException as error:
        outcome = outcome_of(error)
        raise
    finally:
        try:
            close = getattr(items, "close", None)
            if close is not None:
                close()
            slot.usage = meter.usage()
        finally:
            slot.release(outcome)


async def ahold(slot: Slot, start: Callable[[], AsyncIterator[T]], meter: Meter[T]) -> AsyncIterator[T]:
    """Iterate like `hold`, over an asynchronous iterator."""
    await slot.aacquire()
    outcome = Outcome.FINISHED
    items: AsyncIterator[T] | None = None
    try:
        while True:
            with slot.inside():
                try:
                    items = aiter(start()) if items is None else items
                    item = await anext(items)
                except StopAsyncIteration:
                    return
            meter.see(item)
            with slot.pause():
                yield item
    except BaseException as error:
        outcome = outcome_of(error)
        raise
    finally:
        try:
            close = getattr(items, "aclose", None)
            if close is not None:
                await close()
            slot.usage = meter.usage()
        finally:
            slot.release(outcome)
