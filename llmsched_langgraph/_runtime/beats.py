"""Computes how long a waiting call blocks: until its timeout, or until its next heartbeat.

Does not block, and grants no slots.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llmsched_langgraph._runtime.run import StageRun


class Beats:
    """The wait intervals of one call: each ends at the timeout or at the next heartbeat.

    LangGraph does not see the queue, so a stage with an idle timeout sends a heartbeat while it waits, once
    per quarter of that timeout.
    """

    def __init__(self, timeout_s: float | None, stage: StageRun | None) -> None:
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._every_s: float | None = None
        self._heartbeat: Callable[[], None] | None = None
        if stage is not None and stage.idle_timeout_s is not None:
            self._every_s = stage.idle_timeout_s / 4
            self._heartbeat = stage.heartbeat

    def next_s(self, within_s: float | None = None) -> float | None:
        """Return the length of the next interval in seconds, at most `within_s`; None for no limit."""
        left_s = None if self._until is None else max(self._until - time.monotonic(), 0.0)
        limits_s = [limit_s for limit_s in (left_s, self._every_s, within_s) if limit_s is not None]
        return min(limits_s, default=None)

    def beat(self) -> bool:
        """Send the heartbeat, if the stage needs one; return False if the timeout has passed."""
        if self._until is not None and time.monotonic() >= self._until:
            return False
        if self._heartbeat is not None:
            self._heartbeat()
        return True


def waitable(timeout_s: float | None) -> float | None:
    """Return the timeout, or None if it is longer than any lock can wait (292 years on Linux)."""
    return None if timeout_s is None or timeout_s >= threading.TIMEOUT_MAX else timeout_s
