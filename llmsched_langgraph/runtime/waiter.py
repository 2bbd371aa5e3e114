"""Knows how one waiting call is woken: a thread by an event, a coroutine through its own loop.

Does not know slots or order.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from dataclasses import dataclass
from typing import Protocol

_FOR_EVER_S = 10 * 365 * 24 * 3600.0
"""Longer than any call waits, and short enough for every event loop's timers."""


class Waiter(Protocol):
    """Somebody who waits for a slot. `wake` may come from any thread, before or during the wait."""

    def wake(self, error: Exception | None = None) -> bool:
        """End the wait, with an error if one is given. False: nobody is there any more."""


class ThreadWaiter:
    """A thread that blocks until it is woken."""

    __slots__ = ("_error", "_event")

    def __init__(self) -> None:
        self._event = threading.Event()
        self._error: Exception | None = None

    def wake(self, error: Exception | None = None) -> bool:
        """See `Waiter.wake`."""
        self._error = error
        self._event.set()
        return True

    @property
    def woken(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self._event.is_set()

    def wait(self, timeout_s: float | None) -> bool:
        """Block until woken; False if `timeout_s` seconds went by first."""
        return self._event.wait(timeout_s)

    def check(self) -> None:
        """Raise the error that `wake` was given, if it was given one."""
        if self._error is not None:
            raise self._error


class LoopWaiter:
    """A coroutine that awaits until it is woken, on whichever loop it runs.

    While it waits its loop keeps it, by a timer, and nobody else should: `waker` is what others may hold.
    A loop that is closed under its runs forgets its timers, so those runs can be collected, and their
    calls that hold slots give them back. A strong reference from elsewhere would keep them for ever.

    Only what has to wait gets a future and a timer: most often the slot is free.
    """

    __slots__ = ("__weakref__", "_error", "_future", "_keeper", "_loop", "_thread", "_woken")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._future: asyncio.Future[None] | None = None
        self._keeper: asyncio.TimerHandle | None = None
        # These two change on the loop's own thread only.
        self._woken = False
        self._error: Exception | None = None

    def waker(self) -> Waiter:
        """What wakes it, without keeping it."""
        return _Waker(weakref.ref(self))

    def done(self) -> None:
        """Nobody waits here any more."""
        if self._keeper is not None:
            self._keeper.cancel()

    def wake(self, error: Exception | None = None) -> bool:
        """See `Waiter.wake`. A loop that is closed has nobody left to wake."""
        try:
            if threading.get_ident() == self._thread:
                # Settling calls loop.call_soon, which a closed loop refuses like the branch below.
                self._settle(error)
            else:
                self._loop.call_soon_threadsafe(self._settle, error)
        except RuntimeError:
            return False
        return not self._loop.is_closed()

    def _settle(self, error: Exception | None) -> None:
        if self._woken:
            return
        self._woken, self._error = True, error
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    @property
    def woken(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self._woken

    async def wait(self, timeout_s: float | None) -> bool:
        """Await until woken; False if `timeout_s` seconds went by first."""
        if not self._woken:
            if self._future is None:
                self._future = self._loop.create_future()
                self._keeper = self._loop.call_later(_FOR_EVER_S, self.done)
            if timeout_s is None:
                await self._future
            else:
                # asyncio.wait, unlike wait_for, cannot lose a wake-up that comes with the timeout.
                await asyncio.wait([self._future], timeout=timeout_s)
        return self._woken

    def check(self) -> None:
        """Raise the error that `wake` was given, if it was given one."""
        if self._error is not None:
            raise self._error


@dataclass(frozen=True, slots=True)
class _Waker:
    waiter: weakref.ref[LoopWaiter]

    def wake(self, error: Exception | None = None) -> bool:
        """See `Waiter.wake`."""
        waiter = self.waiter()
        return waiter is not None and waiter.wake(error)
