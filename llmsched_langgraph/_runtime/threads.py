"""Lets a thread of an event loop's default executor wait without reducing the executor's capacity.

Does not wait itself: the caller does.

LangGraph runs the synchronous nodes of asynchronous graphs in the loop's default executor: a few
threads for the whole process, which also resolve host names for every HTTP client. If waiting calls
occupied all of them, a call that holds a slot could need such a thread, and the process would deadlock.
A waiting thread therefore lends the pool one more thread while it waits.

asyncio's loops have an attribute for their pool. uvloop's loops do not: there a first task, submitted
before any task that could wait, finds the pool from the thread in which it runs.

Private names of the standard library used: `_default_executor` of an event loop; `_max_workers` and
`_idle_semaphore` of a ThreadPoolExecutor; `_args` of its threads.
If one is missing, a waiting thread occupies its place in the pool.

The pools that a forked child inherits are not touched there: their threads, and the holders of their locks,
stayed in the parent.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from llmsched_langgraph._fork import in_child

_lock = threading.Lock()
_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Future[Any]] = weakref.WeakKeyDictionary()
"""The pool of each loop without the attribute, as a future that `learn_pool` completes."""
_forker: int | None = None
"""In a forked child, the thread that forked: the only one that may belong to an inherited pool."""


def _forked() -> None:
    global _lock, _pools, _forker
    _lock, _pools, _forker = threading.Lock(), weakref.WeakKeyDictionary(), threading.get_ident()


in_child(_forked)


def learn_pool(loop: asyncio.AbstractEventLoop) -> None:
    """Find the default executor of `loop`. Call it on the loop, before any of its threads waits."""
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
    # A running thread keeps its `_args`; in a pool's thread, the first is a weak reference to the pool.
    arguments = getattr(threading.current_thread(), "_args", None)
    reference = arguments[0] if arguments else None
    return reference() if isinstance(reference, weakref.ref) else None


def _pool(loop: asyncio.AbstractEventLoop | None) -> Any:
    if loop is None or hasattr(loop, "_default_executor"):
        return getattr(loop, "_default_executor", None)
    with _lock:
        found = _pools.get(loop)
    try:
        # Pools are FIFO: the task of `learn_pool` started before the task that calls this.
        return None if found is None else found.result(timeout=1)
    except TimeoutError:
        return None


@contextmanager
def stepping_aside(loop: asyncio.AbstractEventLoop | None) -> Iterator[None]:
    """Add one thread to `loop`'s pool during the block, if this thread is one of the pool."""
    pool = _pool(loop) if threading.get_ident() != _forker else None
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
    known = hasattr(pool, "_max_workers") and hasattr(pool, "_idle_semaphore")
    return known and _pool_of_this_thread() is pool


def _lend(pool: ThreadPoolExecutor) -> None:
    """Raise the pool's limit by one thread, and start a thread for tasks that are already queued."""
    with _lock:
        pool._max_workers += 1
        # `submit` starts a thread only if no thread counts as idle. Threads that continued with another
        # task still count, so the count can be too high by any number: reduce it to zero.
        while pool._idle_semaphore.acquire(blocking=False):
            pass
        try:
            # If a thread finishes a task just now, `submit` starts none, but that thread is free. If it
            # then waits for a slot too, it acquires this lock afterwards and starts another thread.
            pool.submit(_nothing)
        except RuntimeError:
            pass  # the pool is shutting down: no task will be queued that could need a thread


def _nothing() -> None:
    pass
