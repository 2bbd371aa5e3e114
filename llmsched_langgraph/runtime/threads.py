"""Knows how a thread of an event loop's own pool waits without taking the place of another.

Does not know what is waited for.

LangGraph runs the synchronous nodes of asynchronous graphs in the loop's default executor: a few
threads for the whole process, which also resolve host names for every HTTP client. If calls that wait
for a slot filled them, the one call that holds the slot could need such a thread, and all would wait
for ever. So a waiting thread lends the pool one more, for as long as it waits.

Private names of the standard library used: `_default_executor` of an event loop; `_threads`,
`_max_workers` and `_shutdown_lock` of a ThreadPoolExecutor. Without them, waiting threads simply take
their places.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_lock = threading.Lock()


@contextmanager
def stepping_aside(loop: asyncio.AbstractEventLoop | None) -> Iterator[None]:
    """Wait inside the block; if this thread is one of `loop`'s own pool, the pool has one more meanwhile."""
    pool = getattr(loop, "_default_executor", None)
    if not isinstance(pool, ThreadPoolExecutor) or not _runs_in(pool):
        yield
        return
    _lend(pool)
    try:
        yield
    finally:
        with _lock:
            pool._max_workers -= 1


def _runs_in(pool: ThreadPoolExecutor) -> bool:
    try:
        # A thread is put on the list just after it was started, under this lock.
        with pool._shutdown_lock:
            return threading.current_thread() in pool._threads and hasattr(pool, "_max_workers")
    except AttributeError:
        return False


def _lend(pool: ThreadPoolExecutor) -> None:
    """Let the pool have one more thread, and make it start one for what is queued already."""
    with _lock:
        pool._max_workers += 1
    threads = len(pool._threads)
    try:
        # Submitting starts a thread, unless the pool believes that one is idle. Its count of idle
        # threads can be too high by some; each submission takes one off. Threads that really are
        # idle are quick to run the nothing, and then none is missing.
        for _ in range(2 * threads + 1):
            pool.submit(_nothing)
            if len(pool._threads) > threads:
                return
    except RuntimeError:
        pass  # the pool is shutting down: nothing will be queued that could need a thread


def _nothing() -> None:
    pass
