"""Gives those who export metrics and traces what they read of a scheduler: its story and its current state.

Does not measure or export anything.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsched_langgraph._observe.sources import Level
from llmsched_langgraph._observe.subscriptions import Ask, See, Soon, Subscription

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.scheduler import Scheduler


class Watched:
    """A scheduler that is observed. It may be collected meanwhile."""

    def __init__(self, scheduler: Scheduler) -> None:
        scheduler._router.watched = True  # noqa: SLF001 (calls have the names of their models from now on)
        self._scheduler = weakref.ref(scheduler)
        self._driver = weakref.ref(scheduler._driver)  # noqa: SLF001

    def subscribe(self, see: See, ask: Ask | None, soon: Soon) -> Subscription:
        """Call `see` with each entry of the story, and `ask` in the code that requests a slot.

        Entries are delivered when `soon` has somebody catch up with them.
        """
        driver = self._driver()
        assert driver is not None, "the caller has the scheduler"
        return driver.subscribe(see, ask, soon)

    def shared(self, name: str) -> str:
        """Return the name of the backend that this is an account of; its own name if it is none."""
        driver = self._driver()
        settings = None if driver is None else driver.settings(name)
        return name if settings is None else settings.shared

    def levels(self) -> Sequence[Level]:
        """Return the state of each backend now, earlier events included; nothing if there is no scheduler.

        Accounts of one backend count together: their limit is the sum, their pause the longest.
        """
        driver = self._driver()
        if driver is None or self._scheduler() is None:
            return ()
        driver.look()
        found: dict[str, Level] = {}
        now = driver.clock()
        accounts = any(own.backend.shared != name for name, own in driver.backends.items())
        for name, own in driver.backends.items():
            shared = own.backend.shared
            if accounts and own.backend.per_account and shared == name and not (own.granted or own.waiting):
                continue  # nothing is served by the backend itself, where each account has limits of its own
            before = found.get(shared, Level(shared))
            found[shared] = Level(
                shared,
                before.slots + own.slots,
                before.holding + own.holding,
                before.waiting + own.waiting,
                max(before.paused_s, own.pause.opens_s - now, 0.0),
            )
        return tuple(found.values())
