"""Knows how entries of the story reach those who observe it: in order, outside the driver's lock, each once.

Does not know what an observer does with them. One that fails is told of once in the log, and costs nothing
else. An observer that is broken off by an interrupt may be given the same entry once more.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable
from types import TracebackType
from typing import Self

from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._core.story import Story

logger = logging.getLogger("llmsched_langgraph")

See = Callable[[Entry], None]

PATIENCE_S = 1.0
"""Seconds to wait, at most, for a thread that is giving entries to an observer."""

TRIES = 3
"""Times that an observer is given an entry which it leaves by an exception that is no `Exception`."""


class Subscription:
    """One observer of a scheduler's story, from now on until it is closed.

    It is called by whichever thread or event loop made the scheduler decide, so it must be quick and must not
    block. It may call the scheduler. Use it as a context manager, or call `close`.

    Attributes:
        missed: entries that it was not given, because it fell too far behind.
        failures: entries at which it raised.
    """

    def __init__(self, story: Story, see: See, remove: Callable[[Subscription], None]) -> None:
        self._story = story
        self._see = see
        self._remove = remove
        self._lock = allocate_lock()
        self._reader: int | None = None
        self.read = story.last
        self._trying = self._tries = 0
        self.missed = 0
        self.failures = 0

    def catch_up(self, *, wait: bool = False) -> None:
        """Give it the entries that it has not seen; with `wait`, wait for a thread that is giving it some."""
        until_s = time.monotonic() + PATIENCE_S if wait else 0.0
        while self.read < self._story.last:
            if not self._lock.locked():
                with self._lock: self._give()  # noqa: E701  # fmt: skip
            elif not wait or self._reader == threading.get_ident() or time.monotonic() > until_s:
                return  # the one who is at it looks again
            # The lock is not waited for: this may be a signal handler in the very thread that has it. Nor is
            # this a place to sleep: it may be an event loop.

    def _give(self) -> None:
        self._reader = threading.get_ident()
        try:
            entries = self._story.after(self.read)
            for entry in entries:
                if entry.number > self.read + 1:
                    self.missed, self.read = self.missed + entry.number - self.read - 1, entry.number - 1
                try:
                    self._see(entry)
                except BaseException as error:
                    if not isinstance(error, Exception) and self._again(entry.number):
                        raise
                    self.failures += 1
                    if self.failures == 1:
                        logger.warning(
                            "an observer failed at a %s; it goes on with the next entry (said once): %r",
                            entry.kind,
                            error,
                        )
                self.read = entry.number
        finally:
            self._reader = None

    def _again(self, number: int) -> bool:
        """Whether the entry is given once more: most probably it was a signal that broke the observer off."""
        self._tries = self._tries + 1 if self._trying == number else 1
        self._trying = number
        return self._tries < TRIES

    def close(self) -> None:
        """Observe no more."""
        self._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
