"""Knows how long a call waits at a time: until its time is up, or until LangGraph wants a sign of life.

Does not know slots.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from llmsched_langgraph._runtime.run import StageRun
from llmsched_langgraph.errors import ConfigurationError


class Beats:
    """How long to wait at a time: until the time is up, or until LangGraph wants a sign of life.

    LangGraph cannot know of the queue, so a stage with an idle timeout beats while it waits.
    """

    def __init__(self, timeout_s: float | None, stage: StageRun | None) -> None:
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._every_s: float | None = None
        self._heartbeat: Callable[[], None] | None = None
        if stage is not None and stage.idle_timeout_s is not None:
            self._every_s = stage.idle_timeout_s / 4
            self._heartbeat = stage.heartbeat

    def next_s(self) -> float | None:
        """Seconds to wait now; None for as long as it takes."""
        if self._until is None:
            return self._every_s
        left_s = max(self._until - time.monotonic(), 0.0)
        return left_s if self._every_s is None else min(left_s, self._every_s)

    def beat(self) -> bool:
        """Give the sign of life that is due; False if the time is up."""
        if self._until is not None and time.monotonic() >= self._until:
            return False
        if self._heartbeat is not None:
            self._heartbeat()
        return True


def check_timeout(timeout_s: object) -> float | None:
    """`timeout_s` if calls can wait that long; None for ever.

    Raises:
        ConfigurationError: it is no positive number of seconds.
    """
    if timeout_s is None:
        return None
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not timeout_s > 0:
        raise ConfigurationError(
            f"queue_timeout_s must be a positive number of seconds, or None to wait for ever, "
            f"not {timeout_s!r}"
        )
    # Threads cannot be told to wait any longer than this, which is some centuries.
    return timeout_s if timeout_s < threading.TIMEOUT_MAX else None
