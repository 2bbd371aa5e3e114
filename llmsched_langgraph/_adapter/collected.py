"""Keeps the garbage collector from waiting for the threads of a synchronous run whose stream was dropped.

Closing the generator of `Pregel.stream` waits for the threads of the run. The collector closes it wherever it
happens to run: in one of these threads, which would wait for itself, or on the thread of an event loop that
they need. Then another thread waits. A stream that is closed by code, or dropped by the last reference to
it, waits where it is closed, as in LangGraph.

Private names of LangGraph used: `langgraph.pregel._executor.BackgroundExecutor.__exit__`.
"""

from __future__ import annotations

import gc
import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

from llmsched_langgraph._fork import start_thread
from llmsched_langgraph._patching import lacks, wrap_method

logger = logging.getLogger("llmsched_langgraph")

_installed: bool | None = None


def install() -> bool:
    """Wrap the method once; return whether it is wrapped. If not, log the reason once."""
    global _installed
    if _installed is None:
        reason = why_not()
        if reason is None:
            wrap_method(_executor(), "__exit__", _exit)
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
    return "there is no BackgroundExecutor" if executor is None else lacks(executor, "__exit__")


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
    def leave_elsewhere(self: Any, kind: Any, error: Any, traceback: Any) -> Any:
        if kind is not GeneratorExit or not collecting():
            return leave(self, kind, error, traceback)
        waits = threading.Thread(target=leave, args=(self, kind, error, None), daemon=True)
        waits.name = "llmsched-close"
        start_thread(waits)
        return None

    return leave_elsewhere
