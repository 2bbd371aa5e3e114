"""Reads from the stacks of all threads what each waits for, and which one completes a pool's future.

Does not know slots, or private names of the standard library: `stdlib` does.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterator
from concurrent.futures import ALL_COMPLETED, Future
from typing import Any

from llmsched_langgraph._runtime.cycles import stdlib
from llmsched_langgraph._runtime.cycles.stdlib import Other, Pool, Wait, pools, undone


class Threads:
    """The stacks of all threads at one moment. Drop it soon: it keeps what their frames refer to."""

    def __init__(self) -> None:
        self._frames: dict[int, types.FrameType] = stdlib.current_frames()
        self._runners: dict[int, int] | None = None  # id of a future -> identifier of the thread
        self._pools: list[Pool] | None = None
        self._submitting: set[int] = set()  # ids of pools to which a thread is adding work

    def state(self, thread: int) -> Wait | Other:
        """Return what the thread waits for."""
        frame = self._frames.get(thread)
        if frame is None:
            return Other.GONE
        code = frame.f_code
        if code is stdlib.CONDITION_WAIT:
            return Other.MOVES if frame.f_locals.get("timeout") is not None else _condition(frame.f_back)
        if code is stdlib.JOIN_LOCK or (code is stdlib.JOIN and stdlib.JOIN_LOCK is None):
            mine = frame.f_locals
            if mine.get("timeout") not in (None, -1):
                return Other.MOVES
            return Wait((getattr(mine.get("self"), "ident", 0),))
        return Other.GONE if code is stdlib.WORKER else Other.MOVES

    def main_task(self, thread: int) -> Any:
        """Return the task or future until which the thread runs an event loop; None if it runs none."""
        for frame in self._stack(thread):
            if frame.f_code is stdlib.RUN or frame.f_code is stdlib.RUN_UNTIL:
                found = frame.f_locals.get("task" if frame.f_code is stdlib.RUN else "future")
                if isinstance(found, asyncio.Future):
                    return found
        return None

    def runner(self, future: Future[Any]) -> int | None:
        """Return the thread that executes the function whose result the future is; None if unknown."""
        if self._runners is None:
            self._runners = {}
            for thread in self._frames:
                for frame in self._stack(thread):
                    if frame.f_code is stdlib.WORK:
                        item = frame.f_locals.get("self")
                        self._runners[id(getattr(item, "future", None))] = thread
                    elif frame.f_code in stdlib.SUBMIT:
                        self._submitting.add(id(frame.f_locals.get("self")))
        return self._runners.get(id(future))

    def pool(self, future: Future[Any]) -> Pool | None:
        """Return the pool whose queue contains the future's function; None if no queue does.

        None too while a thread adds work to that pool: it may start another thread.
        """
        if self._pools is None:
            self._pools = pools()
        self.runner(future)  # reads who adds work
        for pool in self._pools:
            if id(future) in pool.futures and id(pool.executor()) not in self._submitting:
                return pool
        return None

    def _stack(self, thread: int) -> Iterator[types.FrameType]:
        frame = self._frames.get(thread)
        while frame is not None:
            yield frame
            frame = frame.f_back


def _condition(frame: types.FrameType | None) -> Wait | Other:
    """Return what a thread waits for in `Condition.wait`, called by `frame`."""
    if frame is not None and frame.f_code in stdlib.RESULTS:
        return undone((frame.f_locals.get("self"),))
    if frame is not None and frame.f_code is stdlib.EVENT_WAIT:
        caller = frame.f_back
        if caller is not None and caller.f_code is stdlib.FUTURES_WAIT:
            mine = caller.f_locals
            return undone(mine.get("not_done", ()), every=mine.get("return_when") == ALL_COMPLETED)
        if caller is not None and caller.f_code is stdlib.AS_COMPLETED:
            return undone(caller.f_locals.get("pending", ()), every=False)
    return Other.WAITS
