"""Knows how work is done beside the calls: in a thread that is there only while there is some.

Does not know what the work is. Nobody waits for it, and it never runs on an event loop.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue

logger = logging.getLogger("llmsched_langgraph")

IDLE_S = 2.0
"""Seconds without work after which the thread ends; the next piece of work starts another."""

END_S = 10.0
"""Seconds that the end of the process waits for pieces of work that are being done."""

_running: weakref.WeakSet[Background] = weakref.WeakSet()


class Background:
    """A thread that does pieces of work as long as there are any.

    It keeps nothing alive: without work it ends, and a process that exits waits for the piece that is being
    done, but for none after it. After a fork, the child's first piece of work starts a thread of its own.

    Args:
        name: the thread's.
        work: does one piece and says whether there was one. It must not raise; if it does, that is logged.
    """

    def __init__(self, name: str, work: Callable[[], bool]) -> None:
        self._name = name
        self._work = work
        # A finaliser may bring work in the middle of bringing work, and this queue's `put` allows for that.
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._working = threading.Lock()

    def there_is_work(self) -> None:
        """See to it that the work is done. Never blocks; legal from any thread and any loop."""
        self._wake.put(None)
        thread = self._thread
        if thread is not None and thread.is_alive():
            return
        if not self._stopped.is_set() and not self._starting.locked():
            # On one line: then no interrupt can keep the lock.
            with self._starting: self._start()  # noqa: E701  # fmt: skip

    def _start(self) -> None:
        try:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                thread.start()
                self._thread = thread
                _running.add(self)
        except RuntimeError as error:
            # No thread can be had, for one because the interpreter is going down. It is work that can wait.
            logger.debug("%s: no thread: %s", self._name, error)

    def stop(self) -> None:
        """Do no more work than the piece that is being done. Waits for nothing."""
        self._stopped.set()
        self._wake.put(None)

    def stopped(self, within_s: float) -> bool:
        """Wait for `stop`, so many seconds at most; whether it was called. For the work itself."""
        return self._stopped.wait(within_s)

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until the thread has ended; whether it has."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def forked(self) -> None:
        """Go on in a child process: whoever held a lock is not there any more."""
        self._starting, self._working = threading.Lock(), threading.Lock()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if not self._woken(IDLE_S):
                # Whoever finds the name gone starts another thread; whoever came before that is seen now.
                self._thread = None
                if not self._woken(0.0):
                    return
                self._thread = threading.current_thread()
            while not self._stopped.is_set() and self._piece():
                pass

    def _woken(self, within_s: float) -> bool:
        """Wait for a sign of work; all signs that are there count as one."""
        try:
            self._wake.get(timeout=within_s)
        except Empty:
            return False
        for _ in range(self._wake.qsize()):
            self._wake.get()
        return True

    def _piece(self) -> bool:
        try:
            # One thread that is about to end and one that was just started may both have seen a sign.
            with self._working:
                return self._work()
        except Exception:
            logger.exception("%s failed; scheduling goes on without it", self._name)
            return False


def _forked() -> None:
    for background in _running:
        background.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@atexit.register
def _end() -> None:
    # A thread that is in the middle of a C extension when the interpreter goes down can abort the process.
    running = list(_running)
    for background in running:
        background.stop()
    for background in running:
        background.join(END_S)
