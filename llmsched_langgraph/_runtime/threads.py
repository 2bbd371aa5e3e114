"""Knows how a thread of an event loop's own pool waits without taking the place of another.

Does not know what is waited for.

LangGraph runs the synchronous nodes of asynchronous graphs in the loop's default executor: a few
threads for the whole process, which also resolve host names for every HTTP client. If calls that wait
for a slot filled them, the one call that holds the slot could need such a thread, and all would wait
for ever. So a waiting thread lends the pool one more, for as long as it waits.

Which pool that is, asyncio's loops say. uvloop's do not: there a first small task, put into the pool
before anything that could wait, finds out what pool it runs in.

Private names of the standard library used: `_default_executor` of an event loop; `_threads`,
`_max_workers`, `_idle_semaphore` and `_shutdown_lock` of a ThreadPoolExecutor; `_args` of its threads.
Without them, waiting threads simply take their places.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

_lock = threading.Lock()
_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Future[Any]] = weakref.WeakKeyDictionary()
"""The own pool of each loop that does not say, or will be in a moment."""


def learn_pool(loop: asyncio.AbstractEventLoop) -> None:
    """Find out which pool is `loop`'s own. Call it on the loop, before its threads wait for anything."""
    if hasattr(loop, "_default_executor"):
        return
    with _lock:
        if loop in _pools:
            return
        found = _pools[loop] = Future()
    try:
        loop.run_in_executor(None, lambda: found.set_result(_pool_of_this_thread()))
    except RuntimeError:
        found.set_result(None)  # the pool is shutting down


def _pool_of_this_thread() -> Any:
    # A thread keeps its arguments while it runs; a pool's threads have a weak reference to the pool first.
    arguments = getattr(threading.current_thread(), "_args", None)
    reference = arguments[0] if arguments else None
    return reference() if isinstance(reference, weakref.ref) else None


def _pool(loop: asyncio.AbstractEventLoop | None) -> Any:
    if loop is None or hasattr(loop, "_default_executor"):
        return getattr(loop, "_default_executor", None)
    with _lock:
        found = _pools.get(loop)
    try:
        # Pools are first in, first out: `learn_pool`'s task was taken up before whatever calls this.
        return None if found is None else found.result(timeout=1)
    except TimeoutError:
        return None


@contextmanager
def stepping_aside(loop: asyncio.AbstractEventLoop | None) -> Iterator[None]:
    """Wait inside the block; if this thread is one of `loop`'s own pool, the pool has one more meanwhile."""
    pool = _pool(loop)
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
            known = hasattr(pool, "_max_workers") and hasattr(pool, "_idle_semaphore")
            return known and threading.current_thread() in pool._threads
    except AttributeError:
        return False


def _lend(pool: ThreadPoolExecutor) -> None:
    """Let the pool have one more thread, and make it start one for what is queued already."""
    with _lock:
        pool._max_workers += 1
        # Submitting starts a thread, unless the pool believes that one is idle. It counts threads that
        # went on to the next task as idle, so its count can be too high by any number: take it to zero.
        while pool._idle_semaphore.acquire(blocking=False):
            pass
        try:
            # Should a thread finish a task just now, none is started. That one is free then, and if it
            # comes here as well, it has to wait for the lock and starts its own.
            pool.submit(_nothing)
        except RuntimeError:
            pass  # the pool is shutting down: nothing will be queued that could need a thread


def _nothing() -> None:
    pass
