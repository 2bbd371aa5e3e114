"""Looks for waits that can never end, from one thread, while calls wait and no slot changes hands.

Does not decide what such a wait is: `graph` does. If two looks find the same, one call goes ahead of its
turn; its release triggers the next look. If a holder needs a thread of a loop's default executor, and calls
that wait keep all of them, the executor gets one thread more instead.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from _thread import allocate_lock
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from llmsched_langgraph._background import Background
from llmsched_langgraph._core.events import CallForced
from llmsched_langgraph._fork import in_child
from llmsched_langgraph._runtime.cycles.graph import Graph
from llmsched_langgraph._runtime.cycles.states import Key, Stuck, Waiter
from llmsched_langgraph._runtime.cycles.stdlib import why_not

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver

logger = logging.getLogger("llmsched_langgraph")

FIRST_S = 0.05
"""Seconds without a grant or a release after which the first look is taken."""

LONGEST_S = 0.5
"""Maximum seconds between two looks: each look without a result doubles them."""

AGAIN_S = 0.005
"""Seconds between the two looks that must agree."""

_WHY = {
    "loop": "the thread of an event loop waits for it, and the calls that hold the slots are on that loop",
    "stream": "a stream that holds a slot is not read before it ends",
    "left open": "a stream holds a slot, and the node that opened it has ended",
    "holder": "the code that holds a slot waits for it",
}
"""The explanation in the log message, by `Stuck.why`."""

_CURE = {
    "loop": "In an `async def`, use `await model.abatch(...)` and `await graph.ainvoke(...)` instead of "
    "`batch`, `invoke` and threads; or make the node a plain `def`, which LangGraph runs in a thread",
    "stream": "Read a stream to its end before you wait for other calls, or have one slot more for each",
    "left open": "Read each stream to its end, or close it",
    "holder": "Make no call inside a slot of another scheduler, or in a thread that an answered call joins",
}
"""The advice in the log message, by `Stuck.why`."""


class _Result(NamedTuple):
    """The result of a look: the call that has to go ahead, and the dead backends.

    Attributes:
        state: what two looks must agree on.
        waiter: the call.
        dead: the dead backends.
        pool: a pool that gets one thread more instead; None if there is none.
    """

    state: Any
    waiter: Waiter
    dead: dict[Key, list[Stuck]]
    pool: ThreadPoolExecutor | None


class Watcher:
    """Looks while calls wait. There is one for the process, `WATCHER`.

    Attributes:
        looks: number of graphs that were built.
    """

    def __init__(self) -> None:
        self.looks = 0
        self._background = Background("llmsched-watch", self._watch)
        self._drivers: dict[int, weakref.ref[Driver]] = {}  # one call in C copies it, unlike a WeakSet
        self._alarm = allocate_lock()
        self._alarm.acquire()
        self._watching: threading.Thread | None = None  # set while the thread is certain to look again
        self._counts: dict[Key, tuple[int, int]] = {}
        self._pause_s = FIRST_S
        self._told: set[str] = set()
        self._able: bool | None = None

    def forked(self) -> None:
        """Begin anew in the child of a fork, where no call waits."""
        self._alarm = allocate_lock()
        self._alarm.acquire()
        self._watching, self._counts, self._pause_s = None, {}, FIRST_S

    def begins(self, driver: Driver, *, look: bool = False) -> None:
        """Record that a call begins to wait; `look` if it may be in a cycle. Cheap; legal in any context."""
        key = id(driver)
        if key not in self._drivers:
            self._drivers[key] = weakref.ref(driver, lambda _: self._drivers.pop(key, None))
        watching = self._watching
        if watching is None or not watching.is_alive():
            self._background.there_is_work()
        if look:
            self.look_soon()

    def look_soon(self) -> None:
        """Take the next look at once."""
        try:
            self._alarm.release()
        except RuntimeError:
            pass  # already released

    def _watch(self) -> bool:
        """Wait, and look; return False if no call waits."""
        self._watching = threading.current_thread()
        if not self._counts:
            self._counts = self._count()
        asked = self._alarm.acquire(timeout=self._pause_s)
        counts = self._count()
        if not counts:
            self._watching = None  # from here on, `begins` starts the thread again
            self._counts, self._pause_s = {}, FIRST_S
            return bool(self._count())
        moved = all(self._counts.get(key) != count for key, count in counts.items())
        self._counts = counts
        if moved and not asked:
            self._pause_s = FIRST_S
        elif self._look():
            self._pause_s = AGAIN_S
        else:
            self._pause_s = min(2 * self._pause_s, LONGEST_S)
        return True

    def _look(self) -> bool:
        """Look, and let a call go ahead if two looks agree; return whether one did."""
        if self._able is None:
            reason = why_not()
            self._able = reason is None
            if reason is not None:
                logger.warning(
                    "waits for a slot that can never end are not detected on this Python (%s); give the "
                    "Scheduler a queue_timeout_s, so that such a call raises an error",
                    reason,
                )
        try:
            before = self._examine()
            if before is None:
                return False
            time.sleep(AGAIN_S)
            after = self._examine()
            if after is None or after.state != before.state:
                return False
            self._advance(after)
            return True
        except Exception:
            self._able = False
            logger.exception("waits for a slot that can never end are not detected any more")
            return False

    def _examine(self) -> _Result | None:
        """Build the graph; return None if no call has to go ahead."""
        self.looks += 1
        graph = Graph(self._alive())
        graph.read_ahead()
        if not self._able:
            return None
        dead = graph.dead()
        waiter = graph.first(dead)
        if waiter is None:
            return None
        pools = [(key, graph.pools[key]) for key in dead]
        counts = {key: (pool.view.granted, pool.view.released) for key, pool in pools}
        now = self._count()
        if any(now.get((*key[:2], "")) != count for key, count in counts.items()):
            return None  # slots changed hands meanwhile
        holding = {key: {ticket for ticket, _ in pool.holding} for key, pool in pools}
        state = waiter.key, waiter.ticket, counts, holding
        return _Result(state, waiter, dead, graph.lender(waiter))

    def _advance(self, result: _Result) -> None:
        """Have the call go ahead, or its pool get one thread more while it waits."""
        waiter = result.waiter
        if result.pool is not None and waiter.slot.lends(result.pool):
            return
        needing = [stuck for found in result.dead.values() for stuck in found if waiter in stuck.by]
        for stuck in needing:
            if not stuck.sure:
                stuck.slot.call.lent = True
        waiter.slot.forced = True
        waiter.slot.terms.driver.post(CallForced(waiter.ticket))
        self._tell(waiter.key[1], needing[0].why)

    def _alive(self) -> list[Driver]:
        return [driver for reference in tuple(self._drivers.values()) if (driver := reference()) is not None]

    def _count(self) -> dict[Key, tuple[int, int]]:
        """Return the numbers of grants and releases of each backend that calls wait for."""
        return {
            (id(driver), name, ""): (view.granted, view.released)
            for driver in self._alive()
            for name, view in driver.backends.items()
            if view.waiting
        }

    def _tell(self, backend: str, why: str) -> None:
        """Log, once per process and reason, that a call went ahead."""
        if why in self._told:
            return
        self._told.add(why)
        logger.warning(
            "a call took a slot of backend %r above its limit, because it would have waited for ever: %s "
            "(logged once, counted in `statistics().over_commitments`, reason 'cycle'). %s",
            backend,
            _WHY[why],
            _CURE[why],
        )


WATCHER = Watcher()

in_child(WATCHER.forked)
