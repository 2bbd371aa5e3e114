"""Knows how a driver is woken when time alone matters, or when an interrupt broke a wake-up off: by a thread.

Does not know what is done then. No signal handler ever runs in a thread that is not the main one, so whatever
an interrupt kept the main thread from doing is done here. The thread is there only while a call waits.
"""

from __future__ import annotations

import logging
import threading
import weakref
from _thread import allocate_lock
from typing import Protocol

logger = logging.getLogger("llmsched_langgraph")

BEAT_S = 0.5
"""Seconds between two looks, at most, while a call waits: how long an interrupt can delay a wake-up."""

IDLE_BEATS = 4
"""Looks without a call that waits, after which the thread ends."""


class Timed(Protocol):
    """What is woken."""

    def tick(self) -> float | None:
        """Look again; seconds until the next look, at most, or None if no call waits and no time matters."""


class Timer:
    """One thread that calls `tick` again and again while that gives a number. It keeps nothing alive."""

    def __init__(self, timed: Timed) -> None:
        self._timed = weakref.ref(timed)
        self._alarm = allocate_lock()
        self._alarm.acquire()
        self._starting = allocate_lock()
        self._thread: threading.Thread | None = None

    def within(self, seconds: float) -> None:
        """See to it that `tick` is called within so many seconds. Legal from anywhere; never blocks."""
        thread = self._thread
        if thread is None or not thread.is_alive():
            self._start()
        elif seconds < BEAT_S:
            try:
                self._alarm.release()
            except RuntimeError:
                pass  # it rings already

    def _start(self) -> None:
        if not self._starting.locked():
            # On one line: then no interrupt can keep the lock.
            with self._starting: self._start_one()  # noqa: E701  # fmt: skip

    def _start_one(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return
        try:
            thread = threading.Thread(
                target=_run, args=(weakref.ref(self), self._timed), name="llmsched-timer", daemon=True
            )
            self._thread = thread
            thread.start()
        except RuntimeError:
            self._thread = None  # the interpreter is going down

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it rings. For its own thread."""
        self._alarm.acquire(timeout=max(seconds, 0.0))

    def leave(self, thread: threading.Thread | None) -> None:
        """Its thread is about to end, or stays after all. For that thread."""
        self._thread = thread


def _run(timer: weakref.ref[Timer], timed: weakref.ref[Timed]) -> None:
    idle, next_s = 0, 0.0
    while True:
        clock, it = timer(), timed()
        if clock is None or it is None:
            return
        due_s = _tick(it)
        if due_s is None and idle >= IDLE_BEATS:
            # The next one who needs it starts another thread; who needed it before that is seen now.
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
        # A policy or an observer may leave by anything. Those who wait depend on this thread.
        logger.exception("a look at the calls that wait was broken off; there will be another one")
        return BEAT_S
