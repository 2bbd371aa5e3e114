"""Delivers the story's entries to observers: in order, outside the driver's lock, each entry once.

Does not define what an observer does with them. An observer's first error is logged, and delivery continues.
An observer that is interrupted may receive the same entry again.
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
"""Maximum seconds to wait for another thread that delivers entries to the same observer."""

TRIES = 3
"""Maximum deliveries of one entry, if the observer raises a `BaseException` that is not an `Exception`."""


class Subscription:
    """One observer of a scheduler's story, until it is closed.

    The observer is called in the thread or event loop that caused the decision, so it must return quickly and
    must not block. It may call the scheduler. Use the subscription as a context manager, or call `close`.

    Attributes:
        missed: number of entries that were not delivered, because the observer was too far behind.
        failures: number of entries at which the observer raised.
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
        """Deliver the new entries; with `wait`, wait for a thread that is already delivering some."""
        until_s = time.monotonic() + PATIENCE_S if wait else 0.0
        while self.read < self._story.last:
            if not self._lock.locked():
                with self._lock: self._give()  # noqa: E701  # fmt: skip
            elif not wait or self._reader == threading.get_ident() or time.monotonic() > until_s:
                return  # the delivering thread checks again
            # Do not wait for the lock: this may be a signal handler in the thread that holds it. Do not
            # sleep: this may be an event loop's thread.

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
                            "an observer failed at a %s; the next entry is delivered (logged once): %r",
                            entry.kind,
                            error,
                        )
                self.read = entry.number
        finally:
            self._reader = None

    def _again(self, number: int) -> bool:
        """Return whether to deliver the entry again: a signal probably interrupted the observer."""
        self._tries = self._tries + 1 if self._trying == number else 1
        self._trying = number
        return self._tries < TRIES

    def close(self) -> None:
        """Stop the delivery of entries."""
        self._remove(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
