"""Knows which job the running code belongs to, by a context variable that threads and tasks inherit.

Does not know graphs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmsched_langgraph.runtime.scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class Run:
    """One job on one scheduler, and the event loop that its code runs on, if any."""

    scheduler: Scheduler
    job: int
    loop: asyncio.AbstractEventLoop | None = None


_run: ContextVar[Run | None] = ContextVar("llmsched_run", default=None)


def current_run() -> Run | None:
    """The run that the calling code is part of, if any."""
    return _run.get()


@contextmanager
def inside(run: Run) -> Iterator[None]:
    """Mark the code in the block, and every task and thread it starts, as part of `run`."""
    token = _run.set(run)
    try:
        yield
    finally:
        try:
            _run.reset(token)
        except ValueError:
            pass  # a finaliser runs in another context than the one that was marked, and that one is gone
