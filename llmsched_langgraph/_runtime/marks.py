"""Marks the code inside a call, the consumer of its stream, and the blocks around a call without a slot.

Does not take slots: calls and attempts do.
"""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import CALL, PAUSED, unmark
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.call import Call


class Inside:
    """Marks a step of a call; a generator shares its consumer's context, so it is marked step by step.

    A call whose result is no longer needed begins no step: entering raises `CallCancelledError`. If that is
    so after a step, the call ends.
    """

    __slots__ = ("_call", "_mark")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        call = self._call
        call.stand()
        call.steps.append(None)
        if call.abandoned:  # `abandon` sets this before it reads `steps`
            call.steps.pop()
            raise cancelled()
        self._mark = CALL.set(weakref.ref(call))

    def __exit__(self, *_: object) -> None:
        call = self._call
        unmark(CALL, self._mark)
        call.steps.pop()
        if call.abandoned:
            call.drop()


class Paused:
    """Marks the consumer of a call's stream, from one item to its request for the next one."""

    __slots__ = ("_call", "_mark")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._mark = PAUSED.set((*PAUSED.get(), self._call))
        self._call.idle_s = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._call.idle_s = None
        unmark(PAUSED, self._mark)


class Looking:
    """A context manager that tells the blocks around a call that it, or its request, waits for a slot."""

    __slots__ = ("_blocks", "_call")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> None:
        self._blocks: list[Call] = []
        block = self._call.around
        while block is not None:
            if block.model is None:
                self._blocks.append(block)
                block.wanting.append(None)
            block = block.around

    def __exit__(self, *_: object) -> None:
        while self._blocks:
            self._blocks.pop().wanting.pop()


class Working:
    """Marks a thread that works in a block, which keeps its slot until then, although it is cancelled."""

    __slots__ = ("_block",)

    def __init__(self, block: Call) -> None:
        self._block = block

    def __enter__(self) -> None:
        self._block.threads.append(None)

    def __exit__(self, *_: object) -> None:
        block = self._block
        block.threads.pop()
        if block.over and not block.threads:
            block.release(Outcome.CANCELLED)


def cancelled() -> CallCancelledError:
    """Return the error raised in code of a call whose result is no longer needed."""
    return CallCancelledError("the call that this request belongs to was cancelled")
