"""Provides one call's slot as a context manager: acquired on entry, released on every exit.

Does not decide the order of service, or make the call.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import nullcontext
from contextvars import Token
from types import TracebackType
from typing import NoReturn, Self

from llmsched_langgraph._core.events import HolderDied
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome
from llmsched_langgraph._ledger.values import Failure
from llmsched_langgraph._runtime.beats import Beats
from llmsched_langgraph._runtime.context import HELD, OFFERED, PAUSED, STAGE, Mark, unmark
from llmsched_langgraph._runtime.driver import Driver
from llmsched_langgraph._runtime.refusals import timed_out
from llmsched_langgraph._runtime.run import StageRun
from llmsched_langgraph._runtime.threads import stepping_aside
from llmsched_langgraph._runtime.waiter import LoopWaiter, ThreadWaiter, Waiter
from llmsched_langgraph.errors import CallCancelledError

logger = logging.getLogger("llmsched_langgraph")

_ANYONE = object()

_USED = "a Slot is for one call; call scheduler.slot() for each call"

_TURNS_TO_CLOSE = 4
"""Loop iterations to wait for a dropped stream's `aclose()`, which releases its slot."""


def riding() -> bool:
    """Return whether the calling code runs inside a call that holds a slot, and so needs no other."""
    holder = HELD.get()
    slot = None if holder is None else holder()
    return slot is not None and slot.held


class Slot:
    """One slot, for one call. Use it once, as `with` in a thread or as `async with` on an event loop.

    Inside a call that already holds a slot it does nothing: a call takes one slot, even if several
    wrappers gate it. On an event loop's thread a plain `with` cannot wait without blocking the loop. It
    proceeds over the limit; every such call is counted, and the first one in the process is logged.

    Attributes:
        usage: the call's tokens; set it before the slot is released, if known.
    """

    __slots__ = (
        "__weakref__",
        "_backend",
        "_driver",
        "_held",
        "_job",
        "_loop",
        "_mark",
        "_reader",
        "_refusal",
        "_since",
        "_stage",
        "_taken_over",
        "_ticket",
        "_timeout_s",
        "_used",
        "_waiter",
        "usage",
    )

    def __init__(
        self,
        driver: Driver,
        backend: str,
        job: int | None,
        stage: str,
        timeout_s: float | None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.usage = UNKNOWN_USAGE
        self._driver = driver
        self._backend = backend
        self._job = job
        self._stage = stage
        self._timeout_s = timeout_s
        self._loop = loop  # the call may run in a thread of this loop's executor
        self._ticket = 0  # 0 before the request
        # From request to release, one element: it releases the ticket if this object dies. `pop` is atomic.
        self._held: list[HolderDied] = []
        self._used = False
        self._taken_over = False  # acquired by another Slot, not entered yet
        self._mark: Token[HolderDied | None] | None = None
        self._reader: object = _ANYONE  # the only task or thread that can read the open stream
        self._waiter: Waiter | None = None
        self._refusal: Exception | None = None  # the error that ends the wait
        self._since = 0.0

    @property
    def held(self) -> bool:
        """Whether the call has a ticket that is not released."""
        return bool(self._held)

    # -- acquire and release, for calls that are not one block (streams) ---------------

    def acquire(self) -> None:
        """Block this thread until the slot is granted.

        Raises:
            QueueTimeoutError: the wait exceeded the scheduler's `queue_timeout_s`.
            CallCancelledError: the call's run was stopped.
            SchedulerClosedError: the scheduler is closed.
        """
        if self._taken_over:
            self._taken_over = False
            return
        if self._rides():
            return
        stage = STAGE.get()
        if stage is not None:
            stage.check()
        try:
            if not self._ask(stage, _on_event_loop() or (bool(PAUSED.get()) and _blocks_itself())):
                self._block(stage)
        except BaseException:
            self._abandon()
            raise

    async def aacquire(self) -> None:
        """Await the slot. Raises the same errors as `acquire`."""
        if self._rides():
            return
        forced = False
        if PAUSED.get():
            for _ in range(_TURNS_TO_CLOSE):
                if not _blocks_itself():
                    break
                await asyncio.sleep(0)
            forced = _blocks_itself()
        stage = STAGE.get()
        try:
            if not self._ask(stage, forced):
                await self._await(stage)
        except BaseException:
            self._abandon()
            raise

    def _ask(self, stage: StageRun | None, forced: bool) -> bool:
        """Request the slot; return whether it was granted at once."""
        driver = self._driver
        # The ticket exists before the request, so an interrupted request can be abandoned.
        ticket = self._ticket = driver.new_ticket()
        self._held.append(driver.watch(self, ticket))
        run = None if stage is None else stage.number
        return driver.request(ticket, self._backend, self._stage, self._job, forced, run)

    def _block(self, stage: StageRun | None) -> None:
        """Block until the slot is granted."""
        driver, ticket, waiter = self._driver, self._ticket, ThreadWaiter()
        self._since = time.monotonic()
        with nullcontext() if stage is None else stage.wait(self):
            try:
                self._wait_with(waiter)
                beats = Beats(self._timeout_s, stage)
                with stepping_aside(self._loop):
                    while not driver.outcome(ticket, waiter):
                        if not waiter.wait(beats.next_s()):
                            beats.beat() or self._give_up()
            finally:
                self._waiter = None
                driver.told(ticket)

    async def _await(self, stage: StageRun | None) -> None:
        """Await the grant of the slot."""
        driver, ticket, waiter = self._driver, self._ticket, LoopWaiter()
        self._since = time.monotonic()
        try:
            self._wait_with(waiter.waker())
            beats = Beats(self._timeout_s, stage)
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
        self._driver.register(self._ticket, waiter)
        if self._refusal is not None:
            self.dismiss()

    def _abandon(self) -> None:
        """Withdraw the request, or release the slot if it was granted."""
        self._driver.release(self._ticket, Outcome.CANCELLED)
        self._driver.told(self._ticket)  # repeated: an interrupt may have skipped the first call
        self._held.clear()

    def _give_up(self) -> NoReturn:
        now = self._driver.backends[self._backend]
        raise timed_out(self._ticket, now, time.monotonic() - self._since)

    def dismiss(self) -> None:
        """End the wait for the slot with an error; do nothing if it is over."""
        self._refusal = CallCancelledError("the run was stopped while this call waited for a slot")
        waiter = self._waiter
        if waiter is not None:
            waiter.refuse(self._refusal)
            self._driver.dismiss(self._ticket)

    def _rides(self) -> bool:
        if self._used:
            raise RuntimeError(_USED)
        self._used = True
        return riding()

    def release(self, outcome: Outcome = Outcome.FINISHED, failure: Failure | None = None) -> None:
        """Release the slot, if there is one; `failure` says why the attempt failed."""
        try:
            died = self._held.pop()
        except IndexError:
            return
        self._driver.release(died.ticket, outcome, self.usage, failure)

    def __del__(self) -> None:
        # Asynchronous generators that outlive their event loop are collected without running `finally`.
        try:
            if self._held:
                self.release(Outcome.CANCELLED)
        except AttributeError:
            pass  # `__init__` was interrupted

    def take_over(self) -> Slot | None:
        """Transfer the ticket to a new Slot of the caller; return None if there is no ticket.

        Cancelling a coroutine does not stop the thread that does its work. The thread therefore takes the
        slot over, and holds it while its request is in flight.
        """
        try:
            died = self._held.pop()
        except IndexError:
            return None
        slot = Slot(self._driver, self._backend, self._job, self._stage, self._timeout_s)
        slot._used = slot._taken_over = True
        slot._ticket = died.ticket
        slot._held.append(self._driver.watch(slot, died.ticket))
        return slot

    # -- marks: context variables of the running code, its tasks and its threads -------

    def inside(self) -> Mark[HolderDied | None]:
        """Mark the code in the block as inside this slot, so that its calls take no other slot."""
        return Mark(HELD, self._held[0] if self._held else HELD.get())

    def pause(self) -> Mark[tuple[Slot, ...]]:
        """Mark the code in the block as the stream's consumer. The request is still in flight."""
        return Mark(PAUSED, (*PAUSED.get(), self))

    def leave_open(self) -> None:
        """Mark the running code as the only one that can read the open stream to its end."""
        self._reader = _me()
        PAUSED.set((*(slot for slot in PAUSED.get() if slot.held), self))

    def needs(self, reader: object) -> bool:
        """Return whether this call ends only if `reader` (a task or a thread) reads its stream."""
        return self.held and self._reader in (_ANYONE, reader)

    def close(self) -> None:
        """Record that the stream is being closed: the slot is released without further reading."""
        self._reader = None

    def offer(self) -> Mark[Slot | None]:
        """Let a thread that is started in the block take over the slot with `offered()`."""
        return Mark(OFFERED, self)

    # -- context managers --------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._used and not self._taken_over:
            raise RuntimeError(_USED)  # outside the `try`, which would release the slot of the first use
        try:
            self.acquire()
            self._mark = HELD.set(self._held[0]) if self._held else None
            return self
        except BaseException:
            self.release(Outcome.CANCELLED)
            raise

    async def __aenter__(self) -> Self:
        if self._used and not self._taken_over:
            raise RuntimeError(_USED)  # outside the `try`, which would release the slot of the first use
        try:
            await self.aacquire()
            self._mark = HELD.set(self._held[0]) if self._held else None
            return self
        except BaseException:
            self.release(Outcome.CANCELLED)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            mark, self._mark = self._mark, None  # the token may reference this slot through its context
            if mark is not None:
                unmark(HELD, mark)
            self.release(outcome_of(error))
        except BaseException:  # release again: the exception's traceback keeps this object alive
            self._abandon()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            mark, self._mark = self._mark, None
            if mark is not None:
                unmark(HELD, mark)
            self.release(outcome_of(error))
        except BaseException:
            self._abandon()
            raise


def offered() -> Slot | None:
    """Take over the slot that was acquired for this thread; None if there is none left."""
    slot = OFFERED.get()
    return None if slot is None else slot.take_over()


def _blocks_itself() -> bool:
    """Return whether the calling code holds a slot through an open stream that it is not reading.

    Only reading the stream frees that slot, and waiting code cannot read it. The new call therefore proceeds
    over the limit.
    """
    paused = PAUSED.get()
    return bool(paused) and any(slot.needs(_me()) for slot in paused)


def _me() -> object:
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


_warned = False


def _on_event_loop() -> bool:
    global _warned
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    if not _warned:
        _warned = True
        logger.warning(
            "a synchronous model call on an event loop's thread cannot wait without blocking the loop: "
            "it goes ahead over the backend's slots (logged once). Use `await model.ainvoke(...)`, or make "
            "the node a plain `def`, so that LangGraph runs it in a thread"
        )
    return True
