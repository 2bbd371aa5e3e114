"""Counts model calls outside every run while a run is active.

Does not see the calls: the gate asks `outside` about each one that carries no mark. No scheduler limits such
a call. Either that is intended (a program calls its models directly, beside its graphs), or the call's thread
was started in a way that `following` does not see. Each scheduler with an active run counts the call, unless
it ignores such calls.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime.fork import renew_in_child
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.routing import Router
    from llmsched_langgraph._runtime.run import Run, Slots

logger = logging.getLogger("llmsched_langgraph")

Outside = Literal["count", "gate", "ignore"]


class Unmarked:
    """What a scheduler does with model calls outside every run while one of its runs is active.

    Args:
        outside: "count" to count them, and log the first; "gate" to count them and have them take a slot; or
            "ignore".

    Attributes:
        calls: the number of calls counted.

    Raises:
        ConfigurationError: `outside` is none of these.
    """

    __slots__ = ("__weakref__", "_tally", "_told", "calls", "outside")

    def __init__(self, outside: Outside) -> None:
        if outside not in get_args(Outside):
            raise ConfigurationError(f'outside must be "count", "gate" or "ignore", not {outside!r}')
        self.outside = outside
        self._told = False
        self.forked()
        renew_in_child(self)

    def forked(self) -> None:
        """Begin anew in the child of a fork."""
        self.calls = 0
        self._tally = threading.RLock()  # reentrant: a signal handler may make a call during a count

    def count(self) -> None:
        """Count a call; log the first, if nothing else is done about it."""
        if self.outside == "ignore":
            return
        with self._tally: self.calls += 1  # noqa: E701  # fmt: skip
        if self.outside == "count" and not self._told:
            self._told = True
            logger.warning(
                "a model was called outside every scheduled run while one was active. Such calls take no "
                "slot, so the backend may get more calls than it has slots (logged once; "
                "Scheduler.statistics().unmarked_calls counts them). If the call belongs to a run, start its "
                "thread inside the run, with asyncio.to_thread, ThreadPoolExecutor or threading.Thread. "
                'Otherwise Scheduler(outside="gate") makes such calls take slots, and outside="ignore" '
                "accepts them"
            )


IGNORED = Unmarked("ignore")


class Serving(NamedTuple):
    """A scheduler with an active run. It refers to nothing of the run: a run that is abandoned is collected.

    Attributes:
        scheduler: the scheduler.
        driver: its driver.
        router: its router.
        unmarked: what it does with model calls outside every run.
    """

    scheduler: Slots
    driver: Driver
    router: Router
    unmarked: Unmarked


_running: dict[tuple[Driver, int], Serving] = {}
"""The schedulers of all active runs, by driver and job; the one with the oldest run first."""

in_child(_running.clear)


def began(run: Run) -> None:
    """Record that the run is active."""
    _running[run.driver, run.job] = Serving(run.scheduler, run.driver, run.router, run.unmarked)


def ended(run: Run) -> None:
    """Record that the run is not active any more."""
    _running.pop((run.driver, run.job), None)


def serving() -> list[Serving]:
    """Return each scheduler that has an active run, once; the one with the oldest run first."""
    found: dict[Driver, Serving] = {}
    for active in tuple(_running.values()):
        found.setdefault(active.driver, active)
    return list(found.values())
