"""Lets a thread of an event loop's default executor wait without reducing the executor's capacity.

Does not wait itself: the caller does. A user's own pool keeps its size, which may be meant.

LangGraph runs the synchronous nodes of asynchronous graphs in the loop's default executor, and so does
`asyncio.to_thread`: a few threads for the whole process, which also resolve host names for every HTTP
client. If waiting calls occupied all of them, a call that holds a slot could need such a thread, and the
process would deadlock. A waiting thread therefore lends the pool one more thread while it waits.

asyncio's loops have an attribute for their pool. uvloop's loops do not: there a task finds the pool, from the
thread in which it runs or the queue in which it stands.

Private names of the standard library used, beside those of `cycles/stdlib.py`: `_default_executor` of an
event loop; `_max_workers` and `_idle_semaphore` of a ThreadPoolExecutor. If one is missing, a waiting thread
occupies its place in the pool.

The pools that a forked child inherits are not touched there: their threads, and the holders of their locks,
stayed in the parent.
"""

from __future__ import annotations

import asyncio
import enum
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import Context
from typing import Any, NamedTuple, Self

from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime.cycles.stdlib import is_queued, own_pool

_AGAIN_S = (1.0, 0.1, 0.01)
"""Seconds between attempts to find the loop of a pool's thread, last one first."""

_FIRST_LOOK_S, _LATER_LOOKS_S = 0.002, 1.0
"""Seconds until the first look for a probe's result; each next one doubles them, up to the later ones."""


class _Probe(NamedTuple):
    """A task that finds the default executor of a loop without `_default_executor`. It completes `pool`."""

    pool: Future[Any]
    task: Callable[[], None]


_lock = threading.Lock()
_probes: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Probe] = weakref.WeakKeyDictionary()
_forker: int | None = None
"""In a forked child, the thread that forked: the only one that may belong to an inherited pool."""


def _forked() -> None:
    global _lock, _probes, _shared, _forker
    _lock, _probes, _forker = threading.Lock(), weakref.WeakKeyDictionary(), threading.get_ident()
    _shared = weakref.WeakKeyDictionary()


in_child(_forked)


def learn_pool(loop: asyncio.AbstractEventLoop) -> None:
    """Find the default executor of `loop`. Call it on the loop, before any of its threads waits."""
    if not hasattr(loop, "_default_executor"):
        _probe(loop, lambda task: Context().run(loop.run_in_executor, None, task))


def _probe(loop: asyncio.AbstractEventLoop, submit: Callable[[Callable[[], None]], object]) -> _Probe:
    """Return the probe of the loop; submit a new one in an empty context, because it is not work of a run."""
    with _lock:
        known = _probes.get(loop)
        if known is not None:
            return known
        pool: Future[Any] = Future()
        probe = _probes[loop] = _Probe(pool, lambda: pool.set_result(own_pool()[0]))
    try:
        submit(probe.task)
    except RuntimeError:
        pool.set_result(None)  # the pool is shutting down, or the loop is closed
    return probe


def _is_default(pool: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop | None) -> bool | None:
    """Return whether the pool of this thread is the default executor of `loop`; None if not known yet.

    The loop of a probe may be busy for any time, so the answer may be unknown for any time.
    """
    if loop is None or hasattr(loop, "_default_executor"):
        return getattr(loop, "_default_executor", None) is pool

    def submit(task: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(loop.run_in_executor, None, task, context=Context())

    probe = _probe(loop, submit)
    if probe.pool.done():
        return probe.pool.result() is pool
    return is_queued(probe.task, pool) or None


def serves(pool: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop) -> bool:
    """Return whether the pool is known to be the default executor of the loop, and can get more threads."""
    if not _can_grow(pool):
        return False
    if hasattr(loop, "_default_executor"):
        return loop._default_executor is pool
    with _lock: probe = _probes.get(loop)  # noqa: E701  # fmt: skip
    return probe is not None and probe.pool.done() and probe.pool.result() is pool


class _Lending:
    """Lends threads to pools until a wait ends."""

    def __init__(self) -> None:
        self._pools: list[ThreadPoolExecutor] | None = []  # None when the wait is over

    def lend_to(self, pool: ThreadPoolExecutor) -> bool:
        """Lend this pool a thread; return False if the wait is over. Legal in any thread."""
        # One line: an interrupt between two lines could leave the lock held.
        with _lock: lent = self._add(pool)  # noqa: E701  # fmt: skip
        if lent:
            _lend(pool)
        return lent

    def _add(self, pool: ThreadPoolExecutor) -> bool:
        if self._pools is not None:
            self._pools.append(pool)
        return self._pools is not None

    def _take_back(self) -> None:
        with _lock: self._return()  # noqa: E701  # fmt: skip

    def _return(self) -> None:
        pools, self._pools = self._pools, None
        for pool in pools or ():
            pool._max_workers -= 1


class _Known(enum.Enum):
    """What a waiting thread knows of its pool."""

    SETTLED = "it has lent a thread, or never will"
    NO_LOOP = "no loop waits for its work yet: a loop is connected with the work after that began"
    ASKED = "its loop does not tell its pool, and has not come to the probe yet"


class _Looks:
    """When one waiter looks for its pool again."""

    def __init__(self) -> None:
        self._again_s = list(_AGAIN_S)
        self._asked_s = _FIRST_LOOK_S
        self._settled = False

    def next_s(self, look: Callable[[], _Known]) -> float | None:
        """Look; return when to look again, in seconds, or None for never."""
        known = _Known.SETTLED if self._settled else look()
        if known is _Known.ASKED:
            asked_s, self._asked_s = self._asked_s, min(2 * self._asked_s, _LATER_LOOKS_S)
            return asked_s
        if known is _Known.NO_LOOP and self._again_s:
            return self._again_s.pop()
        self._settled = True
        return None


class SteppingAside(_Lending):
    """A context manager in which a thread waits. `lend` adds a thread to its pool until the block ends.

    Args:
        loop: an event loop that may have this thread, beside the one that waits for its work; or None.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        super().__init__()
        self._hint = loop
        self._lent = False
        self._looks = _Looks()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._take_back()

    def lend(self) -> float | None:
        """Lend a thread, if it is one of a loop's default executor. Return when to call again, in seconds."""
        return self._looks.next_s(self.try_to_lend)

    def try_to_lend(self) -> _Known:
        """Lend a thread, if none is lent yet; return what is known of the pool."""
        if self._lent:
            return _Known.SETTLED
        pool, own = own_pool() if threading.get_ident() != _forker else (None, None)
        if pool is None:
            return _Known.SETTLED
        known = {_is_default(pool, loop) for loop in (own, self._hint)} if _can_grow(pool) else {False}
        if True in known:
            self._lent = self.lend_to(pool)
            return _Known.SETTLED
        if None in known:
            return _Known.ASKED
        return _Known.NO_LOOP if own is None else _Known.SETTLED


class LoopSteppingAside(_Lending):
    """The same for a task that waits on a loop which runs in a thread: `asyncio.run` in `asyncio.to_thread`.

    All waiting tasks of the loop lend one thread together, from the first one that waits to the last.

    Args:
        loop: as for `SteppingAside`.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        super().__init__()
        self._hint = loop
        self._own: asyncio.AbstractEventLoop | None = None
        self._shared: _Shared | None = None
        self._looks = _Looks()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            return self
        own = self._own = asyncio.get_running_loop()
        shared = _shared.get(own)
        if shared is None:
            shared = _shared[own] = _Shared(SteppingAside(self._hint), set())
        self._shared = shared
        shared.tasks.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._take_back()
        shared, self._shared = self._shared, None
        if shared is not None:
            shared.tasks.discard(self)
            if not shared.tasks:
                if self._own is not None:
                    _shared.pop(self._own, None)
                shared.aside.__exit__()

    def lend(self) -> float | None:
        """As `SteppingAside.lend`. Each task looks by itself: the one that looked first may end first."""
        return None if self._shared is None else self._looks.next_s(self._shared.aside.try_to_lend)


class _Shared(NamedTuple):
    """What the waiting tasks of a loop lend, and the tasks."""

    aside: SteppingAside
    tasks: set[LoopSteppingAside]


_shared: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Shared] = weakref.WeakKeyDictionary()


def _can_grow(pool: ThreadPoolExecutor) -> bool:
    return hasattr(pool, "_max_workers") and hasattr(pool, "_idle_semaphore")


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
