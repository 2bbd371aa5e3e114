"""Decides whether a new run may begin: at once, later, or not now.

Does not see calls, or the order of service: a run that waits here has cost nothing yet.

A run inside another run, and one that continues an interrupted run, always enter, and where runs are
deferred so does one that the consumer of a stream starts. A run that waits for them may be the one that they
would have to wait for.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Literal, get_args

from llmsched_langgraph._arguments import whole_limit
from llmsched_langgraph._core.events import Entry
from llmsched_langgraph._runtime.context import ENTERED
from llmsched_langgraph._runtime.cycles.stdlib import running_loop
from llmsched_langgraph._runtime.fork import renew_in_child
from llmsched_langgraph._runtime.pace import RECENT_S, REMEMBERED, Pace
from llmsched_langgraph._runtime.refusals import closed, waited_at_the_door
from llmsched_langgraph._runtime.threads import SteppingAside
from llmsched_langgraph._runtime.waiter import LoopWaiter, ThreadWaiter, Waiter
from llmsched_langgraph.errors import ConfigurationError, OverloadedError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver

AtDoor = Literal["refuse", "defer"]

LOOK_S = 0.25
"""Maximum seconds between two checks by a waiting run whether it may begin."""


class Pass:
    """A run's place among the active runs. It is freed when the run ends, or when the object is collected.

    Attributes:
        number: its number, in the order of arrivals.
    """

    __slots__ = ("_door", "number")

    def __init__(self, door: Door, number: int) -> None:
        self._door = door
        self.number = number

    def leave(self) -> None:
        """Make room for another run. Legal in any thread, any number of times."""
        try:
            self._door.leave(self.number)
        except BaseException:  # an interrupt: each step may be repeated
            self._door.leave(self.number)
            raise

    def leave_open(self) -> None:
        """Mark the running code as the consumer of the run's stream, which is read further later."""
        self._door.leave_open(self.number)

    def __del__(self) -> None:
        try:
            self.leave()
        except AttributeError:
            pass  # `__init__` was interrupted


class Door:
    """Lets at most `max_jobs` runs be active, and none begin while `max_queued` calls wait; in arrival order.

    Args:
        driver: the driver of the scheduler.
        max_jobs: the number of runs that may be active at once; None for no limit.
        max_queued: no run begins while at least this many calls wait; None for no limit.
        at_door: "refuse" for an error, "defer" for a wait.
        timeout_s: maximum wait, in seconds; None for no limit.

    Attributes:
        refused: number of runs that were refused.

    Raises:
        ConfigurationError: a setting is invalid.
    """

    def __init__(
        self,
        driver: Driver,
        max_jobs: int | None,
        max_queued: int | None,
        at_door: AtDoor,
        timeout_s: float | None,
    ) -> None:
        whole_limit(max_jobs, "max_jobs", "the runs that may be active at once")
        whole_limit(max_queued, "max_queued", "the waiting calls from which on no run begins")
        if at_door not in get_args(AtDoor):
            raise ConfigurationError(f'at_door must be "refuse" or "defer", not {at_door!r}')
        if at_door == "defer" and max_jobs is None and max_queued is None:
            raise ConfigurationError('at_door="defer" defers nothing; give max_jobs or max_queued as well')
        self._driver = driver
        self._max_jobs = max_jobs
        self._max_queued = max_queued
        self._defers = at_door == "defer"
        self._timeout_s = timeout_s
        self.open = max_jobs is None and max_queued is None
        self._numbers = itertools.count(1)
        self.forked()
        renew_in_child(self)

    def forked(self) -> None:
        """Begin anew in the child of a fork, where none of the parent's runs goes on."""
        self.refused = 0
        self._inside: set[int] = set()
        self._queue: dict[int, Waiter] = {}  # by the number of the arrival
        # Reentrant: a finaliser or a signal handler may leave, or enter, while this thread lets a run in.
        self._lock = threading.RLock()
        self._since_s: float | None = None  # clock time of the first arrival
        self._left: deque[float] = deque(maxlen=REMEMBERED)  # clock times of the latest ends
        self._pace = Pace()

    @property
    def waiting(self) -> int:
        """Number of runs that wait."""
        return len(self._queue)

    # -- entering and leaving ----------------------------------------------------------

    def enter(self, *, free: bool) -> Pass:
        """Return a place for a run; a `free` run gets it at once.

        Raises:
            OverloadedError: there is no room, and the run is refused, or would have to block an event loop.
            QueueTimeoutError: there was no room in time.
            SchedulerClosedError: the scheduler was closed.
        """
        entry = Pass(self, next(self._numbers))
        try:
            waiter, on_loop = ThreadWaiter(), running_loop() is not None
            if not self._ask(entry.number, waiter, free=free, on_loop=on_loop):
                began_s = time.monotonic()
                with self._watching(), SteppingAside(None) as aside:
                    while not self._entered(entry.number, began_s):
                        waiter.wait(self._next_s(began_s, aside.lend()))
        except BaseException:
            entry.leave()
            raise
        return entry

    async def aenter(self, *, free: bool) -> Pass:
        """Do what `enter` does, without blocking the event loop."""
        entry = Pass(self, next(self._numbers))
        waiter = LoopWaiter()
        try:
            if not self._ask(entry.number, waiter.waker(), free=free, on_loop=False):
                began_s = time.monotonic()
                with self._watching():
                    while not self._entered(entry.number, began_s):
                        await waiter.wait(self._next_s(began_s, None))
        except BaseException:
            entry.leave()
            raise
        finally:
            waiter.done()
        return entry

    def leave(self, number: int) -> None:
        """Free the place of this run: it has ended, or does not wait any more. Idempotent."""
        waited = self._queue.pop(number, None) is not None
        if number in self._inside:
            self._inside.discard(number)
            if not waited:
                self._left.append(self._driver.clock())
        self.look()

    def leave_open(self, number: int) -> None:
        """Mark the running code as the consumer of the stream of the run with this number."""
        entered, own = ENTERED.get(), (weakref.ref(self), number)
        if own not in entered:
            ENTERED.set((*[one for one in entered if _is_held(*one)], own))

    def holds(self, number: int) -> bool:
        """Return whether the run with this number is in."""
        return number in self._inside

    def _consumes(self) -> bool:
        """Return whether the running code consumes the stream of a run that is in, and that waits for it."""
        return any(door() is self and self.holds(number) for door, number in ENTERED.get())

    def look(self) -> None:
        """Let in the runs for which there is room, and wake them."""
        if self._queue:
            with self._lock: let_in = self._let_in()  # noqa: E701  # fmt: skip
            for number, waiter in let_in:
                if not waiter.wake():
                    self.leave(number)  # its event loop is closed

    def close(self) -> None:
        """Wake the runs that wait: the scheduler is closed."""
        for waiter in tuple(self._queue.values()):
            waiter.wake()

    def _ask(self, number: int, waiter: Waiter, *, free: bool, on_loop: bool) -> bool:
        """Return whether the run may begin; if not, it waits."""
        if self._driver.closed:
            raise closed()
        self._note()
        if free or (self._defers and self._consumes()):
            self._inside.add(number)
            return True
        self._queue[number] = waiter
        self.look()
        if number not in self._inside:
            self._driver.look()  # ends runs whose loop is closed
        if number in self._inside:
            return True
        if not self._defers or on_loop:
            error = self._refusal(len(self._queue) - 1, on_loop=on_loop and self._defers)
            self._queue.pop(number, None)
            self.refused += 1
            raise error
        return False

    def _entered(self, number: int, began_s: float) -> bool:
        """Return whether the run may begin.

        Raises:
            QueueTimeoutError: it has waited too long.
            SchedulerClosedError: the scheduler is closed.
        """
        self.look()
        if number not in self._inside:
            self._driver.look()
        if number in self._inside:
            return True
        if self._driver.closed:
            raise closed()
        waited_s = time.monotonic() - began_s
        if self._timeout_s is not None and waited_s >= self._timeout_s:
            raise waited_at_the_door(self._what(), waited_s)
        return False

    def _next_s(self, began_s: float, within_s: float | None) -> float:
        left_s = LOOK_S if self._timeout_s is None else self._timeout_s - (time.monotonic() - began_s)
        return max(min(left_s, LOOK_S, LOOK_S if within_s is None else within_s), 0.0)

    def _let_in(self) -> list[tuple[int, Waiter]]:
        let_in: list[tuple[int, Waiter]] = []
        while self._queue and self._full() is None:
            number = min(self._queue)
            self._inside.add(number)  # first: an interrupt may lose the wake-up, but not the place
            waiter = self._queue.pop(number, None)
            if waiter is None:
                self._inside.discard(number)  # a finaliser removed it
            else:
                let_in.append((number, waiter))
        return let_in

    def _watching(self) -> AbstractContextManager[object]:
        """While the block runs, check for room whenever the number of waiting calls falls."""
        return nullcontext() if self._max_queued is None else self._driver.subscribe(self._see)

    def _see(self, entry: Entry) -> None:
        if entry.kind in ("SlotGranted", "CallWithdrawn"):
            self.look()

    # -- what is full, and for how long ------------------------------------------------

    def _full(self) -> str | None:
        """Return the name of a setting that is at its limit; None if a run may begin."""
        if self._max_jobs is not None and len(self._inside) >= self._max_jobs:
            return "max_jobs"
        if self._max_queued is not None and self._backlog() >= self._max_queued:
            return "max_queued"
        return None

    def _backlog(self) -> int:
        return sum(own.waiting for own in self._driver.backends.values())

    def _what(self) -> str:
        if self._full() == "max_queued":
            return f"waiting calls: {self._backlog()} (max_queued={self._max_queued})"
        return f"active runs: {len(self._inside)} (max_jobs={self._max_jobs})"

    def _refusal(self, before: int, *, on_loop: bool) -> OverloadedError:
        setting = self._full() or ("max_queued" if self._max_jobs is None else "max_jobs")
        after_s = self._retry_after_s(setting, before)
        when = "" if after_s is None else f"; there may be room in {after_s:.1f} s"
        if on_loop:
            cure = "a wait would block this thread's event loop: use ainvoke or astream, or another thread"
        else:
            cure = f'raise {setting}, retry later, or set at_door="defer" to have runs wait for their turn'
        error = OverloadedError(f"the scheduler takes no more runs now: {self._what()}{when}; {cure}")
        error.retry_after_s = after_s
        return error

    def _note(self) -> None:
        now = self._driver.clock()
        if self._since_s is None:
            self._since_s = now
        if self._max_queued is not None:
            self._pace.note(now, self._released())

    def _released(self) -> int:
        return sum(own.released for own in self._driver.backends.values())

    def _retry_after_s(self, setting: str, before: int) -> float | None:
        """Return the expected seconds until one more run may begin, with `before` others before it.

        Places become free at the recent rate of ends of runs, or of calls. None if there was none recently.
        """
        now = self._driver.clock()
        if setting == "max_jobs":
            needed = len(self._inside) - (self._max_jobs or 0) + 1 + before
            left = tuple(self._left)  # other threads append
            recent = [at_s for at_s in left if now - at_s <= RECENT_S] or left
            since_s = now if self._since_s is None else self._since_s
            # Older ends were forgotten, or do not count.
            since_s = max(since_s, now - RECENT_S) if recent and now - recent[0] <= RECENT_S else since_s
            ends = len(recent)
            if ends == REMEMBERED:
                since_s, ends = recent[0], ends - 1
        else:
            needed = self._backlog() - (self._max_queued or 0) + 1 + before
            return self._pace.wait_s(now, self._released(), needed)
        if ends < 1 or now <= since_s:
            return None
        return max(needed, 1) * (now - since_s) / ends


def _is_held(door: weakref.ref[Door], number: int) -> bool:
    own = door()
    return own is not None and own.holds(number)
