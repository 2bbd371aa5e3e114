"""Keeps the garbage collector from waiting for the threads of a synchronous run whose stream was dropped.

Closing the generator of `Pregel.stream` waits for the threads of the run. The collector closes it, and the
generator inside it that owns the threads, wherever it happens to run: in one of these threads, which would
wait for itself, or on the thread of an event loop that they need. Then nothing waits, and the threads end by
themselves. A stream that is closed by code, or dropped by the last reference to it, waits where it is closed,
as in LangGraph.

Private names of LangGraph used: `langgraph.pregel._executor.BackgroundExecutor` with `__exit__`, `tasks` and
`stack`. Of langchain-core: `ContextThreadPoolExecutor`.
"""

from __future__ import annotations

import gc
import importlib
import logging
from collections.abc import Callable
from typing import Any

from langchain_core.runnables.config import ContextThreadPoolExecutor

from llmsched_langgraph._patching import lacks, wrap_method

logger = logging.getLogger("llmsched_langgraph")

_installed: bool | None = None


def install() -> bool:
    """Wrap the methods once; return whether they are wrapped. If not, log the reason once."""
    global _installed
    if _installed is None:
        reason = why_not()
        if reason is None:
            wrap_method(_executor(), "__exit__", _exit)
            wrap_method(ContextThreadPoolExecutor, "shutdown", _shutdown)
        else:
            logger.warning(
                "this LangGraph is not supported by llmsched-langgraph (%s): a synchronous stream that the "
                "garbage collector closes in a thread of its own run blocks that thread",
                reason,
            )
        _installed = reason is None
    return _installed


def why_not() -> str | None:
    """Return what differs from the expected executor of LangGraph; None if nothing does."""
    executor = _executor()
    if executor is None:
        return "there is no BackgroundExecutor"
    reason = lacks(executor, "__exit__")
    if reason is not None:
        return reason
    used = getattr(getattr(executor.__exit__, "__code__", None), "co_names", ())
    missing = [name for name in ("tasks", "stack") if name not in used]
    return f"BackgroundExecutor.__exit__ does not use {missing[0]}" if missing else None


def _executor() -> Any:
    try:
        return getattr(importlib.import_module("langgraph.pregel._executor"), "BackgroundExecutor", None)
    except ImportError:
        return None


def collecting() -> bool:
    """Return whether the garbage collector runs, in any thread: a collection inside another does nothing."""
    before = gc.get_stats()[0]["collections"]
    gc.collect(0)
    return bool(gc.get_stats()[0]["collections"] == before)


def _exit(leave: Callable[..., Any]) -> Callable[..., Any]:
    def leave_at_once(self: Any, kind: Any, error: Any, traceback: Any) -> Any:
        if kind is not GeneratorExit or not collecting():
            return leave(self, kind, error, traceback)
        for task, (cancel, _) in self.tasks.copy().items():
            if cancel:
                task.cancel()
        return self.stack.__exit__(kind, error, traceback)

    return leave_at_once


def _shutdown(shut_down: Callable[..., Any]) -> Callable[..., Any]:
    def shut_down_at_once(self: Any, wait: bool = True, **options: Any) -> Any:
        return shut_down(self, wait and not collecting(), **options)

    return shut_down_at_once
