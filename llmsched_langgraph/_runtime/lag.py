"""Records when an event loop was busy. Time spent waiting for a busy loop is not work of the waiting code.

Does not know which code kept it busy, and measures nothing while no code is watched.

While code is watched, one callback of the loop is always pending. If it runs late, the loop was busy since it
was due. The callback is due every `PERIOD_S`; while the loop is busy, in each of its iterations.

On a loop with a clock of its own, as in tests, a timer would move that clock. There the callback is due after
each step of the watched code, until the loop is idle.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from math import inf
from typing import Protocol

PERIOD_S = 0.02
"""Seconds between two callbacks of an idle loop: up to this much of a busy period is not recorded."""

BUSY_S = 0.002
"""A loop counts as busy if a callback is late by more than this many seconds."""

PERIODS = 256
"""Number of the latest busy periods that are kept."""

ITERATIONS = 6
"""Number of the latest busy iterations that are kept."""

REAL_S = 5.0
"""A loop has a clock of its own if its time differs from the monotonic clock by this many seconds."""

Interval = tuple[float, float]
"""Begin and end, in seconds of the clock."""

_lags: weakref.WeakKeyDictionary[Clocked, weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLag]] = (
    weakref.WeakKeyDictionary()
)


class Clocked(Protocol):
    """An object with a clock, such as a driver."""

    @property
    def clock(self) -> Callable[[], float]:
        """Return its clock."""


def lag_of(loop: asyncio.AbstractEventLoop, driver: Clocked) -> LoopLag:
    """Return the record of the loop, in times of the driver's clock."""
    of_loops = _lags.get(driver)
    if of_loops is None:
        of_loops = _lags.setdefault(driver, weakref.WeakKeyDictionary())
    found = of_loops.get(loop)
    if found is None:
        timed = abs(loop.time() - time.monotonic()) < REAL_S
        found = of_loops[loop] = LoopLag(driver.clock, timed=timed)
    return found


class LoopLag:
    """The busy periods of one event loop. Used on the loop's thread only.

    Attributes:
        clock: the clock of all times.
        timed: whether a timer measures the loop; otherwise `measure` must be called after each step.
        watched: number of pieces of code that are watched; call `measure` when one begins.
        due_s: time after which the pending callback is late; infinity if none is pending.
        last_s: end of the latest busy period.
        begins: begins of the latest busy iterations, `ITERATIONS` of them.
    """

    __slots__ = ("_context", "_periods", "begins", "clock", "due_s", "last_s", "timed", "watched")

    def __init__(self, clock: Callable[[], float], *, timed: bool = True) -> None:
        self.clock = clock
        self.timed = timed
        self.watched = 0
        self.due_s = inf
        self.last_s = -inf
        self.begins: deque[float] = deque([-inf] * ITERATIONS, maxlen=ITERATIONS)
        self._periods: deque[Interval] = deque(maxlen=PERIODS)
        self._context = Context()  # an empty one: a pending callback keeps its context

    def measure(self) -> None:
        """Measure the current iteration of the running loop, unless a callback is pending."""
        if self.due_s == inf:
            self.due_s = self.clock()
            asyncio.get_running_loop().call_soon(self._called, context=self._context)

    def _called(self) -> None:
        now, due_s, self.due_s = self.clock(), self.due_s, inf
        if now - due_s >= BUSY_S:
            self._note(due_s, now)
            if self.watched:
                self.measure()
        elif self.watched and self.timed:
            self.due_s = now + PERIOD_S
            asyncio.get_running_loop().call_later(PERIOD_S, self._called, context=self._context)

    def _note(self, since_s: float, until_s: float) -> None:
        if self._periods and since_s <= self.last_s:
            self._periods[-1] = (self._periods[-1][0], until_s)
        else:
            self._periods.append((since_s, until_s))
        self.last_s = until_s
        self.begins.append(since_s)

    def busy(self, since_s: float, now: float) -> list[Interval]:
        """Return the busy periods between the two times; `now` is the current time.

        The current iteration counts if the pending callback is late.
        """
        periods = self._periods
        if now - self.due_s >= BUSY_S:
            periods = periods.copy()
            if periods and self.due_s <= self.last_s:
                periods.append((periods.pop()[0], now))
            else:
                periods.append((self.due_s, now))
        found: list[Interval] = []
        for begin_s, end_s in reversed(periods):
            if end_s <= since_s:
                break
            found.append((max(begin_s, since_s), min(end_s, now)))
        found.reverse()
        return found
