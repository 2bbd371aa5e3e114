"""Ends a synchronous iteration over a run's steps when AnyIO cancels the task that hosts it.

Does not see consumers that do not use AnyIO's threads.

A web framework iterates over a plain generator in threads of AnyIO: Starlette's `StreamingResponse` has a
thread call `next` for each step, and its task waits for the thread. When the client hangs up, the task is
cancelled. AnyIO delays the cancellation until the running `next` returns, and nobody closes the generator:
the cancellation's traceback refers to it, in a reference cycle, until the garbage collector runs. So each
step records the cancel scope of its host task, and one thread looks at these scopes while there are any. A
scope with a deadline does not count: its task may handle the timeout and request the next step.

A request in flight in a thread cannot be cancelled. It keeps its slot until it is answered, or until the next
piece of its answer, if it is streamed.

Private names of AnyIO used: `threadlocals.current_cancel_scope`, which `from_thread.check_cancelled` reads in
the thread itself, and `_parent_scope` of a scope. Without them such an iteration ends as late as the garbage
collector finds it.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

from llmsched_langgraph._background import Background
from llmsched_langgraph._fork import in_child, start_thread
from llmsched_langgraph.errors import CallCancelledError

logger = logging.getLogger("llmsched_langgraph")

EVERY_S = 0.1
"""Seconds between two looks at the scopes."""

_EVENTLOOP = "anyio._core._eventloop"
_NAMES = ("cancel_called", "deadline", "shield", "_parent_scope")

_able: bool | None = None
"""Whether the scopes have these names; None before the first one was seen."""


def host() -> Any:
    """Return the cancel scope of the task that waits for this thread; None if it is not one of AnyIO's."""
    module = sys.modules.get(_EVENTLOOP)
    if module is None:
        return None
    scope = getattr(getattr(module, "threadlocals", None), "current_cancel_scope", None)
    return None if scope is None or not _supported(scope) else scope


def _supported(scope: Any) -> bool:
    """Check the names once; log what is missing."""
    global _able
    if _able is None:
        missing = [name for name in _NAMES if not hasattr(scope, name)]
        _able = not missing
        if missing:
            logger.warning(
                "this AnyIO is not supported by llmsched-langgraph (%s has no %s): a synchronous stream that "
                "a web server drops ends when the garbage collector finds it",
                type(scope).__name__,
                ", ".join(missing),
            )
    return _able


def cancelled(scope: Any) -> bool:
    """Return whether the scope, or one around it from which it is not shielded, was cancelled."""
    while scope is not None:
        if scope.cancel_called and scope.deadline == math.inf:
            return True
        scope = None if scope.shield else scope._parent_scope  # noqa: SLF001 (checked by `_supported`)
    return False


class Iteration:
    """The synchronous iteration over the steps of one run.

    Args:
        steps: the graph's own generator.
        end: ends the run as a cancelled one; legal in any thread, any number of times.

    Attributes:
        deserted: whether the host of the last step was cancelled, so that no step is requested any more.
    """

    __slots__ = ("__weakref__", "_end", "_host", "_steps", "deserted")

    def __init__(self, steps: Generator[Any, None, None], end: Callable[[], None]) -> None:
        self._steps = steps
        self._end = end
        self._host: Any = None
        self.deserted = False

    def step(self) -> Any:
        """Return the next step.

        Raises:
            StopIteration: there is none.
            CallCancelledError: the host of an earlier step was cancelled.
        """
        if self.deserted:
            raise CallCancelledError("the task that iterated over this run was cancelled")
        here = host()
        if here is not self._host:
            self._host = here
            if here is not None:
                _HOSTS.watch(self)
        return next(self._steps)

    def check(self, error: BaseException) -> None:
        """Raise AnyIO's cancellation, which the host handles, instead of the error that followed from it."""
        if self.deserted and isinstance(error, Exception) and host() is not None:
            from anyio.from_thread import check_cancelled

            check_cancelled()

    def close(self) -> None:
        """Close the generator; waits for the threads of the run, as LangGraph does."""
        self._host = None
        try:
            self._steps.close()
        except ValueError:
            if not self.deserted:
                raise
            # The thread that `look` started is closing it.

    def look(self) -> bool:
        """End the run if its host is cancelled; return whether to look again."""
        if not self.deserted:
            if not cancelled(self._host):
                return self._host is not None
            self.deserted = True
            self._end()
        if getattr(self._steps, "gi_suspended", False):
            start_thread(threading.Thread(target=self._close, name="llmsched-close", daemon=True))
        return getattr(self._steps, "gi_frame", None) is not None

    def _close(self) -> None:
        with suppress(ValueError):  # a thread has begun the next step meanwhile, or closes it, too
            self._steps.close()


class _Hosts:
    """Looks at the iterations that have a host. There is one for the process."""

    def __init__(self) -> None:
        self._background = Background("llmsched-hosts", self._look)
        # Weak: a scope refers to the tasks in it, and these to the iteration.
        self._all: set[weakref.ref[Iteration]] = set()

    def watch(self, iteration: Iteration) -> None:
        """Look at the iteration until it is over."""
        self._all.add(weakref.ref(iteration))
        self._background.there_is_work()

    def forked(self) -> None:
        """Begin anew in the child of a fork: the threads of AnyIO stayed in the parent."""
        self._all = set()

    def _look(self) -> bool:
        for reference in self._all.copy():  # copied in C: threads add to it meanwhile
            iteration = reference()
            if iteration is None or not iteration.look():
                self._all.discard(reference)
            del iteration
        if self._all:
            self._background.stopped(EVERY_S)
        return bool(self._all)


_HOSTS = _Hosts()
in_child(_HOSTS.forked)
