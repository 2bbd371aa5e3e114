"""Wakes a driver from a thread: at a given time, or after an interrupt aborted a wake-up.

Does not decide what the driver then does. Signal handlers run only in the main thread, so this thread
completes the work that an interrupt aborted there. The thread exists only while the driver needs it.
"""

from __future__ import annotations

import logging
import threading
import weakref
from _thread import allocate_lock
from typing import Protocol

from llmsched_langgraph._fork import start_thread

logger = logging.getLogger("llmsched_langgraph")

BEAT_S = 0.5
"""Maximum seconds between two ticks while a call waits: an interrupt delays a wake-up by at most this."""

IDLE_BEATS = 4
"""Number of consecutive unneeded ticks after which the thread ends."""


class Timed(Protocol):
    """An object that a timer wakes."""

    def tick(self) -> float | None:
        """Do the pending work; return the maximum seconds until the next tick, None if none is needed."""


class Timer:
    """A thread that calls `tick` while it returns a number. It holds weak references only."""

    def __init__(self, timed: Timed) -> None:
        self._timed = weakref.ref(timed)
        self._alarm = allocate_lock()
        self._alarm.acquire()
        self._starting = allocate_lock()
        self._thread: threading.Thread | None = None

    def within(self, seconds: float) -> None:
        """Have `tick` called within `seconds`, at most `BEAT_S`. Legal in any context; never blocks."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()
        elif seconds < BEAT_S:
            try:
                self._alarm.release()
            except RuntimeError:
                pass  # already released

    def _start(self) -> None:
        if not self._starting.locked():
            # One line: an interrupt between two lines could leave the lock held.
            with self._starting: self._start_one()  # noqa: E701  # fmt: skip

    def _start_one(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        try:
            thread = threading.Thread(
                target=_run, args=(weakref.ref(self), self._timed), name="llmsched-timer", daemon=True
            )
            self._thread = thread
            start_thread(thread)
        except RuntimeError:
            self._thread = None  # the interpreter is shutting down

    def wait(self, seconds: float) -> None:
        """Wait until the alarm, at most `seconds`. Only for the timer's thread."""
        self._alarm.acquire(timeout=max(seconds, 0.0))

    def leave(self, thread: threading.Thread | None) -> None:
        """Set the timer's thread; None before it ends. Only for that thread."""
        self._thread = thread


def _run(timer: weakref.ref[Timer], timed: weakref.ref[Timed]) -> None:
    idle, next_s = 0, 0.0
    while True:
        clock, it = timer(), timed()
        if clock is None or it is None:
            return
        due_s = _tick(it)
        if due_s is None and idle >= IDLE_BEATS:
            # From here on, `within` starts another thread. One more tick serves its earlier calls.
            clock.leave(None)
            due_s = _tick(it)
            if due_s is None:
                return
            clock.leave(threading.current_thread())
        idle = idle + 1 if due_s is None else 0
        next_s = BEAT_S if due_s is None else min(due_s, BEAT_S)
        del it
        clock.wait(next_s)
        del clock


def _tick(timed: Timed) -> float | None:
    try:
        return timed.tick()
    except BaseException:
        # A policy or an observer may raise any exception. Waiting calls depend on this thread.
        logger.exception("a check of the waiting calls failed; the timer repeats it")
        return BEAT_S
