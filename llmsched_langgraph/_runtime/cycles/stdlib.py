"""Finds what an asyncio task waits for, what completes a future, and the pool that a thread belongs to.

Does not know slots, and patches nothing. All private names of the standard library that this takes are here
and are checked once by `why_not`; without them nothing is detected.

Up to Python 3.12, reading the local variables of a frame makes a copy that lives as long as the frame. So
only frames of the standard library are read: a copy of a user's variables could keep a dropped stream, and
its slot, alive.
"""

from __future__ import annotations

import asyncio
import concurrent.futures.thread
import contextvars
import enum
import gc
import inspect
import queue
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from llmsched_langgraph._runtime.cycles.coroutines import chain_of


class Other(enum.Enum):
    """The state of a thread or a task that does not wait for known futures, threads or tasks."""

    MOVES = "it runs, or waits for something that ends by itself: a timer, a socket, C code, a time limit"
    WAITS = "it waits without a limit until other code, which is not known, notifies it"
    GONE = "it has ended, or its pool has no work for it"


class Wait(NamedTuple):
    """A thread or a task that waits without a time limit.

    Attributes:
        on: futures and tasks that are not done, and identifiers of threads.
        every: whether it needs all of them; otherwise one is enough.
    """

    on: tuple[Any, ...]
    every: bool = True


def _named(owner: Any, path: str) -> Any:
    """Return the object of that dotted name below `owner`; None if there is none."""
    for name in path.split("."):
        owner = getattr(owner, name, None)
    return owner


def _code(owner: Any, path: str) -> Any:
    """Return the code of a function of that dotted name; None if there is none."""
    return _named(owner, f"{path}.__code__")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


running_loop: Callable[[], asyncio.AbstractEventLoop | None] = (
    _named(asyncio, "_get_running_loop") or _running_loop
)
"""Returns the running event loop, or None. asyncio's own function for it raises no error, so it is fast."""

all_frames: Any = _named(sys, "_current_frames")
"""Returns the frame of each thread by its identifier; None if Python has no such function."""

COLLECTS_IN_IT = sys.version_info < (3, 11, 9)
"""Whether `sys._current_frames` may collect garbage while it holds a lock that starting threads need.

If the collection then lets such a thread run, the process stops for ever (python/cpython#106883).
"""


def current_frames() -> dict[int, types.FrameType]:
    """Return the frame of each thread by its identifier. No garbage is collected meanwhile."""
    if not COLLECTS_IN_IT or not gc.isenabled():
        frames: dict[int, types.FrameType] = all_frames()
        return frames
    gc.disable()
    try:
        frames = all_frames()
    finally:
        gc.enable()
    return frames


CONDITION_WAIT = _code(threading, "Condition.wait")
EVENT_WAIT = _code(threading, "Event.wait")
JOIN = _code(threading, "Thread.join")
JOIN_LOCK = _code(threading, "Thread._wait_for_tstate_lock")  # up to Python 3.12
RESULTS = (_code(Future, "result"), _code(Future, "exception"))
FUTURES_WAIT = _code(concurrent.futures, "wait")
AS_COMPLETED = _code(concurrent.futures, "as_completed")
WORK = _code(concurrent.futures.thread, "_WorkItem.run")
WORKER = _code(concurrent.futures.thread, "_worker")
# Instrumentation libraries replace the first one, but not the second one, which it calls.
SUBMIT = (_code(ThreadPoolExecutor, "submit"), _code(ThreadPoolExecutor, "_adjust_thread_count"))
RUN = _code(asyncio, "Runner.run")
RUN_UNTIL = _code(asyncio, "BaseEventLoop.run_until_complete")
TASKS_WAIT = _code(asyncio, "tasks._wait")
WAIT_FOR = _code(asyncio, "wait_for")
# Some Pythons await the tasks of a group in the first one, others in the second one, which it calls.
GROUP_EXIT = (_code(asyncio, "TaskGroup.__aexit__"), _code(asyncio, "TaskGroup._aexit"))

_PRIMITIVES = (_named(asyncio, "locks.__file__"), _named(asyncio, "queues.__file__"))
_NETWORKS = ("httpcore", "httpx", "aiohttp", "websockets", "asyncpg", "grpc")
"""Packages whose coroutines wait in asyncio's primitives for a socket."""

_CHAINED = "_chain_future.<locals>._call_check_cancel"
_CHAINED_TO = "_chain_future.<locals>._call_set_state"
_SHIELDED = "shield.<locals>._outer_done_callback"


def why_not() -> str | None:
    """Return what differs from the expected standard library; None if nothing does."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        return "the GIL is disabled"
    if all_frames is None:
        return "there is no sys._current_frames"
    expected: tuple[tuple[Any, ...], ...] = (
        (CONDITION_WAIT, "self", "timeout"),
        (JOIN if JOIN_LOCK is None else JOIN_LOCK, "self", "timeout"),
        (EVENT_WAIT, "self"),
        *((code, "self") for code in RESULTS),
        (FUTURES_WAIT, "fs", "not_done", "return_when"),
        (AS_COMPLETED, "pending"),
        (WORK, "self"),
        (RUN, "task"),
        (RUN_UNTIL, "future"),
        (TASKS_WAIT, "fs", "timeout", "return_when"),
        (WAIT_FOR, "timeout"),
        (GROUP_EXIT[0], "self"),
    )
    for code, *names in expected:
        if code is None:
            return "a function is not written in Python"
        if not {*names} <= {*code.co_varnames, *code.co_cellvars}:
            return f"{code.co_qualname} has other variables"
    for cls, name in ((asyncio.Task, "_fut_waiter"), (asyncio.Future, "_callbacks")):
        if not hasattr(cls, name):
            return f"{cls.__qualname__} has no {name}"
    chained = _nested(_code(asyncio, "futures._chain_future")).get("_call_check_cancel", ())
    shielded = _nested(_code(asyncio, "shield")).get("_outer_done_callback", ())
    if "source" not in chained or "inner" not in shielded:
        return "asyncio chains futures in another way"
    if None in _PRIMITIVES:
        return "asyncio's locks and queues are elsewhere"
    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
    waiting.put(item := object())
    if item not in _queued(waiting):
        return "the items of a queue.SimpleQueue cannot be seen"
    return None


def _nested(code: Any) -> dict[str, tuple[str, ...]]:
    """Return the names of the nested functions, each with its free variables."""
    inner = (const for const in getattr(code, "co_consts", ()) if isinstance(const, types.CodeType))
    return {const.co_name: const.co_freevars for const in inner}


# -- pools ---------------------------------------------------------------------------------


class Pool(NamedTuple):
    """A `ThreadPoolExecutor`: its threads, and the ids of the futures of the work in its queue."""

    executor: weakref.ref[Any]
    threads: tuple[int, ...]
    futures: frozenset[int]


def pools() -> list[Pool]:
    threads: dict[int, list[int]] = {}
    known: dict[int, tuple[weakref.ref[Any], Any]] = {}
    for thread in threading.enumerate():
        found = _worker_of(thread)
        if found is not None:
            key = id(found[1])
            known[key] = found
            threads.setdefault(key, []).append(thread.ident or 0)
    return [
        Pool(
            executor,
            tuple(threads[key]),
            frozenset(id(getattr(item, "future", None)) for item in _queued(work)),
        )
        for key, (executor, work) in known.items()
    ]


def _worker_of(thread: threading.Thread) -> tuple[weakref.ref[Any], Any] | None:
    """Return the executor and the queue of a pool's thread; None for other threads."""
    # A running thread keeps its `_args`.
    arguments = getattr(thread, "_args", None) or ()
    if not arguments or not isinstance(arguments[0], weakref.ref):
        return None
    for argument in arguments:
        if isinstance(argument, queue.SimpleQueue):
            return arguments[0], argument
    return None


def _queued(work: queue.SimpleQueue[Any]) -> list[Any]:
    """Return the items of the queue, which stay in it."""
    items: list[Any] = []
    for referent in gc.get_referents(work):
        if isinstance(referent, list):  # up to Python 3.12
            items.extend(referent)
        else:
            items.append(referent)
    return items


def own_pool() -> tuple[ThreadPoolExecutor | None, asyncio.AbstractEventLoop | None]:
    """Return the pool of the calling thread, and the event loop that waits for its present work.

    Each is None if there is none. Only `run_in_executor`, which `to_thread` calls, connects a loop with work.
    """
    found = _worker_of(threading.current_thread())
    pool = None if found is None else found[0]()
    if not isinstance(pool, ThreadPoolExecutor):
        return None, None
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not WORK:
        frame = frame.f_back
    future = None if frame is None else getattr(frame.f_locals.get("self"), "future", None)
    loop = _free(getattr(future, "_done_callbacks", ()), _CHAINED_TO, "dest_loop")
    return pool, loop if isinstance(loop, asyncio.AbstractEventLoop) else None


def is_queued(function: Any, pool: ThreadPoolExecutor) -> bool:
    """Return whether a function that takes no arguments is in the pool's queue."""
    work = getattr(pool, "_work_queue", None)
    if not isinstance(work, queue.SimpleQueue):
        return False
    for item in _queued(work):
        if hasattr(item, "__dict__") and _has(function, tuple(vars(item).values()), 3):
            return True
    return False


def _has(function: Any, values: tuple[Any, ...], deep: int) -> bool:
    """Return whether a function is among these values, or in tuples nested up to this depth in them."""
    return any(
        value is function or (deep > 1 and isinstance(value, tuple) and _has(function, value, deep - 1))
        for value in values
    )


# -- tasks and futures --------------------------------------------------------------------


def task_state(task: Any) -> Wait | Other:
    """Return what the task waits for."""
    if task.done():
        return Other.GONE
    future = task._fut_waiter  # noqa: SLF001 (checked by `why_not`)
    if future is None or future.done():
        return Other.MOVES  # it runs, or will at the loop's next iteration
    chain = [(code, frame) for code, frame, _ in chain_of(task)]  # its time limits count elsewhere
    behind = behind_of(future)
    if behind is not None:
        return behind
    code, frame = chain[-1] if chain else (None, None)
    if code is TASKS_WAIT and frame is not None:
        mine = frame.f_locals
        if mine.get("timeout") is not None:
            return Other.MOVES
        return undone(mine.get("fs", ()), every=mine.get("return_when") == asyncio.ALL_COMPLETED)
    if code is not None and code in GROUP_EXIT and frame is not None:
        return undone(getattr(frame.f_locals.get("self"), "_tasks", ()))
    if code is not None and code.co_filename in _PRIMITIVES and not any(_on_network(one) for one, _ in chain):
        return Other.WAITS
    return Other.MOVES


def undone(futures: Iterable[Any], *, every: bool = True) -> Wait | Other:
    """Return the wait for those of the futures that are not done; `MOVES` if there is none."""
    on = tuple(future for future in tuple(futures) if future is not None and not future.done())
    return Wait(on, every) if on else Other.MOVES


def behind_of(future: Any) -> Wait | Other | None:
    """Return the futures whose ends complete this one, of asyncio or of a pool; None if that is not known."""
    if isinstance(future, asyncio.Task):
        return Wait((future,))
    children = getattr(future, "_children", None)  # of `gather`
    if children is not None:
        return undone(children)
    callbacks = getattr(future, "_callbacks", None) or getattr(future, "_done_callbacks", None) or ()
    callbacks = [one[0] if isinstance(one, tuple) else one for one in tuple(callbacks)]
    for name, variable in ((_CHAINED, "source"), (_SHIELDED, "inner")):
        source = _free(callbacks, name, variable)
        if source is not None and hasattr(source, "done"):
            return undone((source,))
    return None


def _free(callbacks: Iterable[Any], name: str, variable: str) -> Any:
    """Return a free variable of the callback of that name; None if there is none."""
    for callback in tuple(callbacks):
        # Not necessarily a function: those that a run adds are wrapped by objects with the same attributes.
        if not str(getattr(callback, "__qualname__", "")).endswith(name):
            continue
        names, cells = getattr(callback, "__code__", None), getattr(callback, "__closure__", None)
        for free, cell in zip(getattr(names, "co_freevars", ()), cells or (), strict=False):
            if free == variable:
                try:
                    return cell.cell_contents
                except ValueError:
                    return None  # the cell is empty
    return None


def _on_network(code: types.CodeType) -> bool:
    """Return whether the code receives or sends on a socket."""
    parts = code.co_filename.replace("\\", "/").split("/")
    if "anyio" in parts:
        return parts[-1] == "_asyncio.py" and code.co_name in ("receive", "send", "accept", "receive_from")
    return any(part in _NETWORKS for part in parts)


def running_task(loop: Any) -> Any:
    """Return the task that the event loop is executing; None if it executes none."""
    return None if loop is None else asyncio.current_task(loop)


def context_of(task: Any) -> contextvars.Context | None:
    """Return the context of a task; None if it is unknown."""
    if hasattr(task, "get_context"):  # since Python 3.12
        found = task.get_context()
        return found if isinstance(found, contextvars.Context) else None
    contexts = (one for one in gc.get_referents(task) if isinstance(one, contextvars.Context))
    return next(contexts, None)


def thread_of(loop: Any, known: int) -> int | None:
    """Return the thread that runs the event loop now; None if none does.

    `known` is the thread that ran it last; it is returned for loops without that information (uvloop's).
    """
    found = getattr(loop, "_thread_id", known)
    return found if found is None or isinstance(found, int) else known
