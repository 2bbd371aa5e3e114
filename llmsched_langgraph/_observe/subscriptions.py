"""Delivers the story's entries to observers: in order, outside the driver's lock, each entry once.

Does not define what an observer does with them. An observer's first error is logged, and delivery continues.
An observer that is interrupted may receive the same entry again.
"""

from __future__ import annotations

import logging
import threading
import time
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

from llmsched_langgraph._core.events import CallRequested, Entry
from llmsched_langgraph._core.story import Story

logger = logging.getLogger("llmsched_langgraph")

See = Callable[[Entry], None]

Ask = Callable[[CallRequested], None]
"""Is called in the code that requests a slot, before the request: its context is that of the call."""

Soon = Callable[["Subscription"], None]
"""Is called in the code that caused the decision, when there are entries to catch up with."""

BEHIND = 500
"""Maximum entries that an observer which catches up by itself is behind; the story keeps more."""

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
        ask: what hears of requests in the code that makes them; None if nothing does.
        soon: what calls `catch_up` soon, in another thread; None if each entry is delivered at once.
    """

    def __init__(
        self,
        story: Story,
        see: See,
        remove: Callable[[Subscription], None],
        ask: Ask | None = None,
        soon: Soon | None = None,
    ) -> None:
        self._see = see
        self.ask = ask
        self.soon = soon
        self._remove = remove
        self._trying = self._tries = 0
        self.missed = 0
        self.failures = 0
        self.follow(story)

    def follow(self, story: Story) -> None:
        """Deliver the entries of `story` from now on; a delivery in progress does not count."""
        self._story = story
        self._lock = allocate_lock()
        self._reader: int | None = None
        self.read = story.last

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


class Subscriptions:
    """All observers of one story: the package's own, which reads it in batches, and those of the users.

    Iterating yields the subscriptions of the users.

    Args:
        story: the story.
        own: the package's own observer.
        lag: the entries that it reads in one batch, unless one is urgent.
        keeps: whether the end of a job is urgent also if the job is a single call.

    Attributes:
        askers: the subscriptions that hear of requests in the code that makes them. The list stays the same.
    """

    def __init__(self, story: Story, own: See, lag: int, *, keeps: bool = False) -> None:
        self._story = story
        self._own = Subscription(story, own, self._remove)
        self._lag = lag
        self._keeps = keeps
        self._others: tuple[Subscription, ...] = ()
        self.askers: list[Subscription] = []

    def follow(self, story: Story) -> None:
        """Deliver the entries of `story` from now on."""
        self._story = story
        for subscription in (self._own, *self._others):
            subscription.follow(story)

    def subscribe(self, see: See, ask: Ask | None = None, soon: Soon | None = None) -> Subscription:
        """Call `see` with each entry from now on, and `ask` in the code that makes a request, before it.

        With `soon`, an entry is delivered when `soon` has somebody catch up, or `BEHIND` entries later.
        """
        subscription = Subscription(self._story, see, self._remove, ask, soon)
        self._others = (*self._others, subscription)
        if ask is not None:
            self.askers.append(subscription)
        return subscription

    def ask(self, request: CallRequested) -> None:
        """Tell the observers of a request that is about to be made. Their errors are logged once each."""
        for subscription in tuple(self.askers):
            try:
                if subscription.ask is not None:
                    subscription.ask(request)
            except Exception as error:
                subscription.ask = None
                logger.warning("an observer failed at a request, and hears of no further ones: %r", error)

    def _remove(self, subscription: Subscription) -> None:
        self._others = tuple(own for own in self._others if own is not subscription)
        self.askers[:] = [own for own in self.askers if own is not subscription]

    def deliver(self) -> None:
        """Deliver the new entries: to the package's own observer if one is urgent or they are many."""
        story, own = self._story, self._own
        urgent = max(story.urgent, story.closed) if self._keeps else story.urgent
        if urgent > own.read or story.last >= own.read + self._lag:
            own.catch_up()
            story.trim(own.read)
        for subscription in self._others:
            if subscription.soon is None or story.last >= subscription.read + BEHIND:
                subscription.catch_up()
            elif story.last > subscription.read:
                subscription.soon(subscription)

    def catch_up(self, *, wait: bool) -> None:
        """Deliver all entries to the package's own observer; see `Subscription.catch_up`."""
        self._own.catch_up(wait=wait)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)
