"""Runs work in a background thread that exists only while there is work.

Does not define the work: the caller passes a function. No caller waits for it, and it never runs on an event
loop.
"""

from __future__ import annotations

import atexit
import logging
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue

from llmsched_langgraph._fork import in_child, start_thread

logger = logging.getLogger("llmsched_langgraph")

IDLE_S = 2.0
"""Idle time in seconds after which the thread ends; later work starts a new one."""

END_S = 10.0
"""Seconds for which the exit of the process waits for the current piece of work of each thread."""

_backgrounds: weakref.WeakSet[Background] = weakref.WeakSet()


class Background:
    """A thread that does pieces of work while there are any.

    It ends when idle. A process that exits waits for the current piece of work, and starts no other. After a
    fork, the child's first announcement starts a new thread.

    Args:
        name: the thread's name.
        work: does one piece; returns False if there was none. An exception is logged and ends the batch.
        end_s: seconds for which the exit of the process waits for the current piece.
    """

    def __init__(self, name: str, work: Callable[[], bool], end_s: float = END_S) -> None:
        self.end_s = end_s
        self._name = name
        self._work = work
        self._renew(stopped=False)
        _backgrounds.add(self)

    def _renew(self, *, stopped: bool) -> None:
        # `put` is reentrant: a finaliser may call it during another `put` in the same thread.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopped = threading.Event()
        if stopped:
            self._stopped.set()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._working = threading.Lock()

    def there_is_work(self) -> None:
        """Announce work. Never blocks; legal in any thread and on any loop."""
        self._wake.put(None)
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        if not self._stopped.is_set() and not self._starting.locked():
            # One line: an interrupt between two lines could leave the lock held.
            with self._starting: self._start()  # noqa: E701  # fmt: skip

    def _start(self) -> None:
        try:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread = thread  # before its start: when it ends, it sets this to None
                start_thread(thread)
        except RuntimeError as error:
            self._thread = None
            # Threads cannot start during interpreter shutdown, for example. The work is optional.
            logger.debug(
                "%s: cannot start a thread; its work waits for the next attempt: %s", self._name, error
            )

    def stop(self) -> None:
        """Stop after the current piece of work. Does not wait."""
        self._stopped.set()
        self._wake.put(None)

    def stopped(self, within_s: float) -> bool:
        """Wait up to `within_s` seconds for `stop`; return whether it was called."""
        return self._stopped.wait(within_s)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the thread has ended; return whether it has."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        try:
            thread.join(timeout_s)
        except RuntimeError:  # it is about to start: it will find out whether it was stopped
            return self._stopped.is_set()
        return not thread.is_alive()

    def forked(self) -> None:
        """Begin anew in the child of a fork: the thread and the announcements are the parent's."""
        self._renew(stopped=self._stopped.is_set())

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._woken(IDLE_S):
                # `there_is_work` starts a thread if it reads None; check again for work announced before.
                self._thread = None
                if not self._woken(0.0):
                    return
                self._thread = threading.current_thread()
            while not self._stopped.is_set() and self._piece():
                pass

    def _woken(self, within_s: float) -> bool:
        """Wait for announced work and consume all announcements; return whether there was one."""
        try:
            self._wake.get(timeout=within_s)
        except Empty:
            return False
        for _ in range(self._wake.qsize()):
            self._wake.get()
        return True

    def _piece(self) -> bool:
        try:
            # An ending thread and its successor may both have seen an announcement.
            with self._working:
                return self._work()
        except Exception:
            logger.exception("%s failed; scheduling continues without it", self._name)
            return False


def _forked() -> None:
    for background in tuple(_backgrounds):
        background.forked()


in_child(_forked)


@atexit.register
def _end() -> None:
    # A thread inside a C extension during interpreter shutdown can abort the process.
    every = list(_backgrounds)
    for background in every:
        background.stop()
    for background in every:
        background.join(background.end_s)
