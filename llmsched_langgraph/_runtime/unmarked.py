"""Counts model calls outside every run while a run is active.

Does not see the calls: the gate asks `outside` about each one that carries no mark. No scheduler limits such
a call. Either that is intended (a program calls its models directly, beside its graphs), or the call's thread
was started in a way that `following` does not see. Each scheduler with an active run counts the call, unless
it ignores such calls.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, Literal, get_args

from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime.fork import renew_in_child
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.run import Run

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

_running: dict[tuple[Any, int], Run] = {}
"""The active runs of all schedulers, oldest first, by driver and job."""

in_child(_running.clear)


def began(run: Run) -> None:
    """Record that the run is active."""
    _running[run.driver, run.job] = run


def ended(run: Run) -> None:
    """Record that the run is not active any more."""
    _running.pop((run.driver, run.job), None)


def running() -> list[Run]:
    """Return the oldest active run of each scheduler."""
    oldest: dict[Any, Run] = {}
    for run in tuple(_running.values()):
        oldest.setdefault(run.driver, run)
    return list(oldest.values())
