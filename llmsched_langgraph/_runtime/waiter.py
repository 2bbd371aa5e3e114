"""Wakes one waiting call: a thread through a lock, a coroutine through its event loop.

Does not grant slots or decide the order of service.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from _thread import allocate_lock
from typing import Protocol

_FOR_EVER_S = 10 * 365 * 24 * 3600.0
"""Ten years: longer than any wait, and a valid timer delay on every event loop."""


class Waiter(Protocol):
    """A call that waits for a slot. `wake` is legal in any thread, before and during the wait; idempotent."""

    @property
    def error(self) -> Exception | None:
        """The error that it must raise; None if it was not refused."""

    def refuse(self, error: Exception) -> None:
        """Store the error to raise when it is woken without a slot. The caller then dismisses the ticket."""

    def wake(self) -> bool:
        """Wake the call: it checks its ticket. Return False if its loop is closed or it was collected."""


class ThreadWaiter:
    """Blocks a thread until `wake` is called."""

    __slots__ = ("_baton", "error")

    def __init__(self) -> None:
        self._baton = allocate_lock()
        self._baton.acquire()
        self.error: Exception | None = None

    def refuse(self, error: Exception) -> None:
        """Store the error that the thread raises if it is woken without a slot."""
        self.error = error

    def wake(self) -> bool:
        """Wake the thread, or end its next wait at once. Return True."""
        try:
            self._baton.release()
        except RuntimeError:
            pass  # already woken
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Block until woken; return False after `timeout_s` seconds (None: no limit)."""
        return self._baton.acquire(timeout=-1 if timeout_s is None else timeout_s)


class LoopWaiter:
    """Suspends a coroutine until `wake` is called.

    While it waits, a timer of the loop keeps it alive. Other objects must hold only its `waker`. A loop that
    is closed while runs are active drops its timers. The runs can then be collected, and their calls release
    their slots; a strong reference from elsewhere would prevent that.
    """

    __slots__ = ("__weakref__", "_future", "_keeper", "_loop", "_thread", "error")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self._keeper: asyncio.TimerHandle = self._loop.call_later(_FOR_EVER_S, self.done)
        self.error: Exception | None = None

    def waker(self) -> Waiter:
        """Return an object that wakes it through a weak reference."""
        return _Waker(weakref.ref(self))

    def done(self) -> None:
        """Cancel the timer that keeps it alive: the wait is over."""
        self._keeper.cancel()

    def refuse(self, error: Exception) -> None:
        """Store the error that the coroutine raises if it is woken without a slot."""
        self.error = error

    def wake(self) -> bool:
        """Wake the coroutine from any thread. Return False if its event loop is closed."""
        try:
            if threading.get_ident() == self._thread:
                # `_settle` may call `loop.call_soon`. On a closed loop it raises, as in the branch below.
                self._settle()
            else:
                self._loop.call_soon_threadsafe(self._settle)
        except RuntimeError:
            return False
        return not self._loop.is_closed()

    def _settle(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, timeout_s: float | None) -> bool:
        """Wait until woken; return False after `timeout_s` seconds (None: no limit)."""
        if timeout_s is None:
            await self._future
        else:
            # asyncio.wait, unlike wait_for, cannot lose a wake-up that coincides with the timeout.
            await asyncio.wait([self._future], timeout=timeout_s)
            if not self._future.done():
                return False
        self._future = self._loop.create_future()  # for the next wait
        return True


class _Waker:
    """Wakes a `LoopWaiter` through a weak reference."""

    __slots__ = ("_waiter",)

    def __init__(self, waiter: weakref.ref[LoopWaiter]) -> None:
        self._waiter = waiter

    @property
    def error(self) -> Exception | None:
        """The error stored in the waiter; None if there is none or the waiter was collected."""
        waiter = self._waiter()
        return None if waiter is None else waiter.error

    def refuse(self, error: Exception) -> None:
        """Store the error in the waiter, unless it was collected."""
        waiter = self._waiter()
        if waiter is not None:
            waiter.refuse(error)

    def wake(self) -> bool:
        """Wake the waiter. Return False if it was collected or its event loop is closed."""
        waiter = self._waiter()
        return waiter is not None and waiter.wake()
