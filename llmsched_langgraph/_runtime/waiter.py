"""Knows how one waiting call is woken: a thread by an event, a coroutine through its own loop.

Does not know slots or order.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from _thread import allocate_lock
from typing import Protocol

_FOR_EVER_S = 10 * 365 * 24 * 3600.0
"""Longer than any call waits, and short enough for every event loop's timers."""


class Waiter(Protocol):
    """What waits for a slot. `wake` may come from any thread, before or during the wait, and often."""

    @property
    def error(self) -> Exception | None:
        """What it was refused with, if it was."""

    def refuse(self, error: Exception) -> None:
        """Its ticket is being dismissed: let it raise `error` when it is woken and has no slot."""

    def wake(self) -> bool:
        """Have it look at its ticket. False: nobody is there any more."""


class ThreadWaiter:
    """A thread that blocks until it is woken."""

    __slots__ = ("_baton", "error")

    def __init__(self) -> None:
        self._baton = allocate_lock()
        self._baton.acquire()
        self.error: Exception | None = None

    def refuse(self, error: Exception) -> None:
        """See `Waiter.refuse`."""
        self.error = error

    def wake(self) -> bool:
        """See `Waiter.wake`."""
        try:
            self._baton.release()
        except RuntimeError:
            pass  # woken already
        return True

    def wait(self, timeout_s: float | None) -> bool:
        """Block until woken; False if `timeout_s` seconds went by first."""
        return self._baton.acquire(timeout=-1 if timeout_s is None else timeout_s)


class LoopWaiter:
    """A coroutine that awaits until it is woken, on whichever loop it runs.

    While it waits its loop keeps it, by a timer, and nobody else should: `waker` is what others may hold.
    A loop that is closed under its runs forgets its timers, so those runs can be collected, and their
    calls that hold slots give them back. A strong reference from elsewhere would keep them for ever.
    """

    __slots__ = ("__weakref__", "_future", "_keeper", "_loop", "_thread", "error")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._future: asyncio.Future[None] = self._loop.create_future()
        self._keeper: asyncio.TimerHandle = self._loop.call_later(_FOR_EVER_S, self.done)
        self.error: Exception | None = None

    def waker(self) -> Waiter:
        """What wakes it, without keeping it."""
        return _Waker(weakref.ref(self))

    def done(self) -> None:
        """Nobody waits here any more."""
        self._keeper.cancel()

    def refuse(self, error: Exception) -> None:
        """See `Waiter.refuse`."""
        self.error = error

    def wake(self) -> bool:
        """See `Waiter.wake`. A loop that is closed has nobody left to wake."""
        try:
            if threading.get_ident() == self._thread:
                # Settling calls loop.call_soon, which a closed loop refuses like the branch below.
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
        """Await until woken; False if `timeout_s` seconds went by first."""
        if timeout_s is None:
            await self._future
        else:
            # asyncio.wait, unlike wait_for, cannot lose a wake-up that comes with the timeout.
            await asyncio.wait([self._future], timeout=timeout_s)
            if not self._future.done():
                return False
        self._future = self._loop.create_future()  # for the next one
        return True


class _Waker:
    """Wakes a `LoopWaiter` without keeping it."""

    __slots__ = ("_waiter",)

    def __init__(self, waiter: weakref.ref[LoopWaiter]) -> None:
        self._waiter = waiter

    @property
    def error(self) -> Exception | None:
        """See `Waiter.error`."""
        waiter = self._waiter()
        return None if waiter is None else waiter.error

    def refuse(self, error: Exception) -> None:
        """See `Waiter.refuse`."""
        waiter = self._waiter()
        if waiter is not None:
            waiter.refuse(error)

    def wake(self) -> bool:
        """See `Waiter.wake`."""
        waiter = self._waiter()
        return waiter is not None and waiter.wake()
