"""Holds one ticket: requests it, waits for its slot, releases it on every exit.

Does not decide the order of service, or know what the slot is used for: calls and attempts do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from llmsched_langgraph._core.events import CallRequested, HolderDied
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph._ledger.values import Failure, Grant
from llmsched_langgraph._runtime.beats import Beats
from llmsched_langgraph._runtime.context import PAUSED, current_run, current_stage_run
from llmsched_langgraph._runtime.holders import running_loop
from llmsched_langgraph._runtime.refusals import timed_out
from llmsched_langgraph._runtime.run import check, waits
from llmsched_langgraph._runtime.threads import stepping_aside
from llmsched_langgraph._runtime.waiter import LoopWaiter, ThreadWaiter, Waiter
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.run import StageRun

logger = logging.getLogger("llmsched_langgraph")

_new = tuple.__new__  # builds a named tuple in C, without Python bytecode

_TURNS_TO_CLOSE = 4
"""Loop iterations to wait for a dropped stream's `aclose()`, which releases its slot."""


class Terms(NamedTuple):
    """What each ticket of one call requests.

    Attributes:
        driver: the driver of the scheduler.
        backend: the backend's name.
        job: the driver's number of the job; None for a call outside any run.
        stage: the call's stage name.
        timeout_s: maximum wait for a slot, in seconds; None for no limit.
        loop: the event loop in one of whose threads the call may run; None if unknown.
    """

    driver: Driver
    backend: str
    job: int | None = None
    stage: str = ""
    timeout_s: float | None = None
    loop: asyncio.AbstractEventLoop | None = None


class Slot:
    """At most one ticket at a time. If the object is collected, its ticket is released.

    On an event loop's thread, `acquire` cannot wait without blocking the loop: it takes a slot at once, above
    the limit if none is free. Every such call is counted, and the first one in the process is logged.

    Attributes:
        terms: what its tickets request.
        usage: the tokens that the next release reports.
    """

    usage: Usage = UNKNOWN_USAGE

    _ticket = 0  # the last one; 0 before the first request, and after it was taken over
    _again = 0  # ticket of the call's previous attempt
    _waiter: Waiter | None = None
    _refusal: Exception | None = None  # the error that ends the wait
    _since = 0.0

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        # From request to release, one element: it releases the ticket if this object dies. `pop` is atomic.
        self._held: list[HolderDied] = []

    @property
    def held(self) -> bool:
        """Whether it has a ticket that is not released."""
        return bool(self._held)

    def acquire(self) -> None:
        """Block this thread until the slot is granted.

        Raises:
            QueueTimeoutError: the wait exceeded the scheduler's `queue_timeout_s`.
            CallCancelledError: the call's run failed or was cancelled.
            SchedulerClosedError: the scheduler is closed.
        """
        stage = current_stage_run()
        check(current_run(), stage)
        try:
            forced = _on_event_loop() or (bool(PAUSED.get()) and blocks_itself())
            if not self._ask(stage, forced):
                self._block(stage)
            elif forced:
                self._tell_if_over()
        except BaseException:
            self._abandon()
            raise

    async def aacquire(self) -> None:
        """Await the slot. Raises the same errors as `acquire`."""
        forced = False
        if PAUSED.get():
            for _ in range(_TURNS_TO_CLOSE):
                if not blocks_itself():
                    break
                await asyncio.sleep(0)
            forced = blocks_itself()
        stage = current_stage_run()
        check(current_run(), stage, coroutine=True)
        try:
            if not self._ask(stage, forced, running_loop()):
                await self._await(stage)
        except BaseException:
            self._abandon()
            raise

    def _ask(self, stage: StageRun | None, forced: bool, loop: weakref.ref[Any] | None = None) -> bool:
        """Request the slot; return whether it was granted at once. A call on a `loop` ends with it."""
        driver, backend, job, name, _, _ = self.terms
        # The ticket exists before the request, so an interrupted request can be abandoned.
        ticket = self._ticket = driver.new_ticket()
        self._held.append(driver.watch(self, ticket, loop))
        run = None if stage is None else stage.number
        return driver.request(_new(CallRequested, (ticket, backend, name, job, forced, run, (), self._again)))

    def _block(self, stage: StageRun | None) -> None:
        """Block until the slot is granted."""
        driver, ticket, waiter = self.terms.driver, self._ticket, ThreadWaiter()
        self._since = time.monotonic()
        with waits(self, current_run(), stage):
            try:
                self._wait_with(waiter)
                beats = Beats(self.terms.timeout_s, stage)
                with stepping_aside(self.terms.loop):
                    while not driver.outcome(ticket, waiter):
                        if not waiter.wait(beats.next_s()):
                            beats.beat() or self._give_up()
            finally:
                self._waiter = None
                driver.told(ticket)

    async def _await(self, stage: StageRun | None) -> None:
        """Await the grant of the slot."""
        driver, ticket = self.terms.driver, self._ticket
        self._since = time.monotonic()
        with waits(self, current_run(), stage, coroutine=True):
            waiter = LoopWaiter()
            try:
                self._wait_with(waiter.waker())
                beats = Beats(self.terms.timeout_s, stage)
                while not driver.outcome(ticket, waiter):
                    if not await waiter.wait(beats.next_s()):
                        beats.beat() or self._give_up()
            finally:
                waiter.done()
                self._waiter = None
                driver.told(ticket)

    def _wait_with(self, waiter: Waiter) -> None:
        # Publish the waiter before the check: then either the check or a concurrent `dismiss` sees the other.
        self._waiter = waiter
        self.terms.driver.register(self._ticket, waiter)
        if self._refusal is not None:
            self.dismiss()

    def _abandon(self) -> None:
        """Withdraw the request, or release the slot if it was granted."""
        self.terms.driver.release(self._ticket, Outcome.CANCELLED)
        self.terms.driver.told(self._ticket)  # repeated: an interrupt may have skipped the first call
        self._held.clear()

    def _give_up(self) -> NoReturn:
        now = self.terms.driver.backends[self.terms.backend]
        raise timed_out(self._ticket, now, time.monotonic() - self._since)

    def _tell_if_over(self) -> None:
        grant = self.terms.driver.claim(self._ticket)
        if type(grant) is Grant and grant.reason == "forced":
            _warn_of(grant)

    def dismiss(self) -> None:
        """End the wait for the slot with an error; do nothing if it is over."""
        self._refusal = CallCancelledError("the run ended while this call waited for a slot")
        waiter = self._waiter
        if waiter is not None:
            waiter.refuse(self._refusal)
            self.terms.driver.dismiss(self._ticket)

    def release(self, outcome: Outcome = Outcome.FINISHED, failure: Failure | None = None) -> None:
        """Release the slot, if there is one; `failure` says why the attempt failed."""
        try:
            died = self._held.pop()
        except IndexError:
            return
        self.terms.driver.release(died.ticket, outcome, self.usage, failure)

    def take(self, other: Slot, loop: weakref.ref[Any] | None) -> bool:
        """Take over the ticket of `other`, of the same backend; return whether it had one.

        `loop` is the event loop with which the ticket ends; None if this object belongs to a thread.
        """
        try:
            died = other._held.pop()
        except IndexError:
            return False
        driver, ticket = self.terms.driver, died.ticket
        if driver.claim(ticket) is None:
            return False  # the loop of the coroutine that acquired it was closed meanwhile
        self._ticket = ticket
        self._held.append(driver.watch(self, ticket, loop))
        other._ticket = 0  # an abandoned `other` does not release it
        return True

    def __del__(self) -> None:
        # Asynchronous generators that outlive their event loop are collected without running `finally`.
        try:
            if self._held:
                Slot.release(self, Outcome.CANCELLED)
        except AttributeError:
            pass  # `__init__` was interrupted


def blocks_itself() -> bool:
    """Return whether the calling code holds a slot through an open stream that it is not reading.

    Only reading the stream frees that slot, and waiting code cannot read it. The new call therefore proceeds
    over the limit.
    """
    paused = PAUSED.get()
    return bool(paused) and any(call.needs(me()) for call in paused)


def me() -> object:
    """Return the running task, or the thread's id outside any task."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()


def outcome_of(error: BaseException | None) -> Outcome:
    """Return the outcome of a block that ended with `error`, or with None."""
    if error is None:
        return Outcome.FINISHED
    return Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_warned = False


def _warn_of(grant: Grant) -> None:
    """Log, once per process, that a call went over the limit because its thread runs an event loop."""
    global _warned
    if _warned:
        return
    _warned = True
    logger.warning(
        "a synchronous model call took a slot of backend %r above its %d slots, or during a pause: its "
        "thread runs an event loop, which a wait would block (logged once, counted in "
        "`statistics().over_commitments`). In a notebook cell, use `await graph.ainvoke(...)` instead of "
        "`graph.invoke(...)`; in an `async def`, use `await model.ainvoke(...)`; or make the node a plain "
        "`def`, which LangGraph runs in a thread",
        grant.lane[0],
        grant.slots,
    )
