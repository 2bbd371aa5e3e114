"""At SIGTERM, saves what schedulers learned and recorded, then calls the previous handler.

Does not save by itself: drivers do.

A signal handler runs in the main thread, between two instructions of any code. That code may hold a lock, so
the handler takes none, of this package or of `threading`: it starts a thread that saves, and waits for it, at
most `WAIT_S`. Then it calls the handler that was installed before. If there was none, the signal ends the
process, at once or, if saving takes longer, when all is saved.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import threading
import time
import weakref
from _thread import LockType, allocate_lock, start_new_thread
from types import FrameType
from typing import Any, Protocol

logger = logging.getLogger("llmsched_langgraph")

WAIT_S = 2.0
"""Maximum seconds for which the handler blocks the main thread, which may hold a lock that saving needs."""

LIMIT_S = 10.0
"""Maximum seconds, after `WAIT_S`, by which the end of the process is delayed."""

FIRST_REPEAT_S = 0.1
"""Seconds after which a signal that was put off is repeated until it is handled; they double each time."""

_NO_EFFECT = "save_on_sigterm has no effect: "


class Saving(Protocol):
    """An object that has something to save."""

    def save(self) -> None:
        """Save it now. Called in a thread of its own."""


class SigtermSaver:
    """Saves at SIGTERM. There is one for the process, `SAVER`."""

    def __init__(self) -> None:
        self._watched: tuple[weakref.ref[Saving], ...] = ()  # replaced, never changed: it is read in a thread
        self._done: LockType | None = None  # released when all is saved; None while nothing is being saved
        self._process = 0  # id of the process that saves; a forked child does not
        self.passing = False  # whether an earlier handler is being called
        self.put_off = False  # whether the end of the process waits for `_done`
        self.due = False  # whether that wait is over

    def watch(self, saving: Saving) -> None:
        """Call `saving.save()` at SIGTERM, while the object exists.

        Handlers can be installed in the main thread only. Elsewhere, a warning is logged.
        """
        self._watched = (*(own for own in self._watched if own() is not None), weakref.ref(saving))
        before = signal.getsignal(signal.SIGTERM)
        if isinstance(before, _Handler):
            return
        if threading.current_thread() is not threading.main_thread():
            logger.warning(_NO_EFFECT + "create the Scheduler in the main thread, which handles signals")
        elif before is None:
            logger.warning(_NO_EFFECT + "SIGTERM has a handler that was not installed from Python")
        else:
            signal.signal(signal.SIGTERM, _Handler(self, before))
            atexit.unregister(self.end)
            atexit.register(self.end)

    @property
    def saves(self) -> bool:
        """Whether saving has begun and the earlier handler was not called yet."""
        return self._done is not None and self._process == os.getpid()

    def save(self, wait_s: float) -> bool:
        """Save in a new thread. Return False if it takes longer than `wait_s`. Never raises an exception."""
        done = self._done = allocate_lock()
        self._process, self.due, self.put_off = os.getpid(), False, False
        done.acquire()
        try:
            start_new_thread(self._save, (done,))
        except RuntimeError:
            return True  # no thread can be started, so nothing can be saved
        return done.acquire(timeout=wait_s)

    def _save(self, done: LockType) -> None:
        try:
            for own in self._watched:
                try:
                    if (saving := own()) is not None:
                        saving.save()
                except Exception:
                    logger.exception("not everything could be saved at SIGTERM")
        finally:
            done.release()

    def postpone(self) -> bool:
        """Raise SIGTERM again when all is saved, at the latest after `LIMIT_S`; return False if it cannot."""
        if (done := self._done) is None:
            return False
        self.put_off = True
        try:
            start_new_thread(self._raise_later, (done,))
        except RuntimeError:
            self.put_off = False
        return self.put_off

    def _raise_later(self, done: LockType) -> None:
        done.acquire(timeout=LIMIT_S)
        self.due = True
        pause_s = FIRST_REPEAT_S
        # A signal that comes between Python's last look at signals and a blocking system call does not
        # interrupt that call: its handler runs when the call returns. So the signal is repeated.
        while self.put_off and self._done is done:
            if hasattr(signal, "pthread_kill"):
                # Sent to the main thread: a signal to another thread would not wake it.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
            else:
                signal.raise_signal(signal.SIGTERM)
            time.sleep(pause_s)
            pause_s *= 2

    def finish(self) -> None:
        """Record that the signal was handled."""
        self._done, self.put_off, self.due = None, False, False

    def end(self) -> None:
        """At the exit of the process: end it by the signal now, if that was delayed."""
        if self.put_off and self.saves and self._done is not None:
            self._done.acquire(timeout=LIMIT_S)
            _end_process()


class _Handler:
    """The handler of SIGTERM; `before` is what it replaced."""

    def __init__(self, saver: SigtermSaver, before: Any) -> None:
        self._saver = saver
        self._before = before

    def __call__(self, number: int, frame: FrameType | None) -> None:
        saver = self._saver
        if saver.passing:  # called by a handler that was installed over this one
            self._pass_on(number, frame)
            return
        if saver.saves and not saver.due:
            return  # another SIGTERM, while the first one is being handled
        if not saver.due and not saver.save(WAIT_S) and self._before is signal.SIG_DFL and saver.postpone():
            return
        saver.passing = True
        try:
            self._pass_on(number, frame)
        finally:
            saver.passing = False
            saver.finish()

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        if callable(self._before):
            self._before(number, frame)
        elif self._before is signal.SIG_DFL:
            _end_process()
            # Linux does not end process 1 of a container by a signal.
            signal.signal(signal.SIGTERM, self)


def _end_process() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.raise_signal(signal.SIGTERM)


SAVER = SigtermSaver()
