"""Gives the entries of a story to an observer in a background thread, in order, each once.

Does not know what the observer does with them: it may be slow, and it may block.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from llmsched_langgraph._background import Background
from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._observe.subscriptions import Subscription

logger = logging.getLogger("llmsched_langgraph")

GATHER_S = 0.1
"""Seconds for which entries are gathered before they are given to the observer together."""

MOST = 100_000
"""Entries that wait for an observer; beyond these the oldest are dropped."""

PATIENCE_S = 1.0
"""Maximum seconds for which somebody who wants all entries to be seen waits for an observer that blocks."""

END_S = 2.0
"""Maximum seconds for which the exit of the process waits for it."""


class Deferred:
    """An observer's entries that it has not seen yet.

    Args:
        see: the observer. Its first error is logged, and the next entry is given to it.

    Attributes:
        missed: number of entries that were dropped.
    """

    def __init__(self, see: Callable[[Entry], object]) -> None:
        self.missed = 0
        self._see = see
        self._failed = False
        self._background = Background("llmsched-observing", self._work, END_S)
        self._last = 0
        self._begin()

    def _begin(self) -> None:
        self._entries: deque[Entry] = deque()
        self._seeing = threading.Lock()
        self._announced = False
        self._behind: Subscription | None = None

    def forked(self) -> None:
        """Begin anew in the child of a fork: what was not seen yet is the parent's."""
        self._begin()

    def soon(self, behind: Subscription) -> None:
        """Catch up with this subscription soon, whose entries are given to `put`. Never blocks."""
        self._behind = behind
        if not self._announced:
            self._announced = True
            self._background.there_is_work()

    def put(self, entry: Entry) -> None:
        """Keep an entry that the observer has to see. Never blocks. One that comes twice counts once."""
        if entry.number <= self._last:
            return
        self._last = entry.number
        self._entries.append(entry)
        if len(self._entries) > MOST:
            self._entries.popleft()
            self.missed += 1

    def _work(self) -> bool:
        if not self._announced:
            return False
        self._background.stopped(GATHER_S)
        self._announced = False  # before the entries are taken: a later one announces itself
        self.drain(None)
        return False

    def drain(self, patience_s: float | None = PATIENCE_S) -> bool:
        """Have the observer see all entries now; return False if another thread is in it for too long.

        Args:
            patience_s: maximum seconds to wait for that thread; None for no limit.
        """
        if not self._seeing.acquire(timeout=-1 if patience_s is None else patience_s):
            return False
        try:
            behind, self._behind = self._behind, None
            if behind is not None:
                behind.catch_up(wait=True)
            while self._entries:
                try:
                    self._see(self._entries.popleft())
                except Exception as error:
                    if not self._failed:
                        self._failed = True
                        logger.warning("an exporter failed (logged once): %r", error)
        finally:
            self._seeing.release()
        return True

    def stop(self) -> None:
        """Give the observer nothing more in the background."""
        self._background.stop()
