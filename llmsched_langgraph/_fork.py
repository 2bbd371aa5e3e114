"""Calls the functions that make a forked child independent of its parent.

Does not know what they renew: each module registers a function for its own state.

In the child only the thread that forked exists. A lock that another thread held at that moment is never
released, and no other thread continues. The functions therefore replace locks and threads; they must not
acquire a lock, start a thread or call code of the user. Where no process can be forked, nothing is registered
with the interpreter.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from collections.abc import Callable

logger = logging.getLogger("llmsched_langgraph")

AGAIN_S = 0.05
"""Seconds after which a thread that waits for another one to run looks again."""

_renewals: list[Callable[[], object]] = []


def in_child(renew: Callable[[], object]) -> None:
    """Register `renew`: the child of each fork calls it, in the thread that forked, before it continues.

    The functions are called in the order of their registration.
    """
    _renewals.append(renew)


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. If a signal handler of this thread forks meanwhile, this returns in the child as well.

    `Thread.start` waits until the thread runs; the child has no such thread, and would wait for ever.

    Raises:
        RuntimeError: no thread can be started.
    """
    if hasattr(thread, "_started"):  # a private name of `threading`
        thread._started = _Started()  # noqa: SLF001
    _starting.append(thread)
    try:
        thread.start()
    finally:
        _starting.remove(thread)


_starting: list[threading.Thread] = []
"""Threads that are about to run. `append` and `remove` are atomic."""


class _Started(threading.Event):
    """An event that is seen to be set, although the handler that sets it interrupts the wait."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set."""
        if timeout is not None:
            return super().wait(timeout)
        while not super().wait(AGAIN_S):
            pass
        return True


def _end_starts() -> None:
    for thread in tuple(_starting):
        started = getattr(thread, "_started", None)
        if isinstance(started, _Started):
            started.set()


in_child(_end_starts)


def _after_fork() -> None:
    for renew in tuple(_renewals):
        try:
            renew()
        except Exception:
            logger.exception("a forked process could not renew a part of the scheduler: %r", renew)


def _renew_cached_properties() -> None:
    """Renew the locks of the package's cached properties: up to Python 3.11 all instances share one."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith(f"{__package__}.") and module is not None:
            for cls in tuple(vars(module).values()):
                if isinstance(cls, type):
                    for own in tuple(vars(cls).values()):
                        if isinstance(own, functools.cached_property):
                            vars(own)["lock"] = threading.RLock()


if sys.version_info < (3, 12):
    in_child(_renew_cached_properties)

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
