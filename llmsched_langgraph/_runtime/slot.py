"""Knows one call's slot as a context manager: taken on entry, given back on every exit.

Does not know the order of service, nor what the call does.
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

_USED = "a Slot is for one call; ask scheduler.slot() for another one"

_TURNS_TO_CLOSE = 4
"""Turns of an event loop in which it closes a stream that was dropped, and so gives its slot back."""


def riding() -> bool:
    """Whether the code that asks runs inside a call that holds a slot: then it needs none of its own."""
    holder = HELD.get()
    slot = None if holder is None else holder()
    return slot is not None and slot.held


class Slot:
    """One slot, for one call. Use it once, as `with` in a thread or as `async with` on an event loop.

    Inside a call that already holds a slot it does nothing: a call takes one slot, however many
    doors it passes. On an event loop's own thread a plain `with` cannot wait without stopping the
    loop, so it goes ahead over the capacity, which is counted and logged once per process.

    Attributes:
        usage: tokens of the call; set it before the end if they are known.
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
        self._loop = loop  # whose threads this call may be in
        self._ticket = 0  # from the moment it is asked for
        # While it has a ticket: what gives that back if this object dies. Taking it out is atomic.
        self._held: list[HolderDied] = []
        self._used = False
        self._taken_over = False  # acquired by another one, and not entered yet
        self._mark: Token[HolderDied | None] | None = None
        self._reader: object = _ANYONE  # who can read on, while a stream is open and its reader does not
        self._waiter: Waiter | None = None
        self._refusal: Exception | None = None  # it need not wait any longer
        self._since = 0.0

    @property
    def held(self) -> bool:
        """Whether the call is inside its slot now."""
        return bool(self._held)

    # -- plain verbs, for calls that are not one block (streams) -----------------------

    def acquire(self) -> None:
        """Block this thread until the slot is there.

        Raises:
            QueueTimeoutError: the wait was longer than the scheduler allows.
            CallCancelledError: the run that the call belongs to was stopped meanwhile.
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
        """Await the slot. Raises what `acquire` does."""
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
        """Ask for the slot; whether it is there at once."""
        driver = self._driver
        # The ticket has its name first: it can be abandoned even if an interrupt hits the request.
        ticket = self._ticket = driver.new_ticket()
        self._held.append(driver.watch(self, ticket))
        run = None if stage is None else stage.number
        return driver.request(ticket, self._backend, self._stage, self._job, forced, run)

    def _block(self, stage: StageRun | None) -> None:
        """Block until the slot is there."""
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
        """Await until the slot is there."""
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
        # First put up, then look: so either this or `dismiss` sees the other.
        self._waiter = waiter
        self._driver.register(self._ticket, waiter)
        if self._refusal is not None:
            self.dismiss()

    def _abandon(self) -> None:
        """Nobody wants the slot any more; if it is there already, it goes back."""
        self._driver.release(self._ticket, Outcome.CANCELLED)
        self._driver.told(self._ticket)  # once more: an interrupt may have come before
        self._held.clear()

    def _give_up(self) -> NoReturn:
        now = self._driver.backends[self._backend]
        raise timed_out(self._ticket, now, time.monotonic() - self._since)

    def dismiss(self) -> None:
        """End the wait for the slot with an error; nothing happens if it is over."""
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
        """Give the slot back, if there is one to give back; `failure` says why the attempt failed."""
        try:
            died = self._held.pop()
        except IndexError:
            return
        self._driver.release(died.ticket, outcome, self.usage, failure)

    def __del__(self) -> None:
        # Asynchronous generators that outlive their event loop are dropped without their `finally`.
        try:
            if self._held:
                self.release(Outcome.CANCELLED)
        except AttributeError:
            pass  # it was broken off before it was made

    def take_over(self) -> Slot | None:
        """What this one holds, as a slot of the caller; None if it holds nothing any more.

        A coroutine can be cancelled while the thread that does its work cannot be stopped. So the
        thread takes the slot over, and holds it as long as its request is really in flight.
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

    # -- marks: what the running code, and the tasks and threads that it starts, may know --

    def inside(self) -> Mark[HolderDied | None]:
        """In the block the running code is inside this slot, and its calls need none of their own."""
        return Mark(HELD, self._held[0] if self._held else HELD.get())

    def pause(self) -> Mark[tuple[Slot, ...]]:
        """In the block a stream's consumer has the floor, while its request is still in flight."""
        return Mark(PAUSED, (*PAUSED.get(), self))

    def leave_open(self) -> None:
        """A stream is handed to the running code, which alone can read it to its end."""
        self._reader = _me()
        PAUSED.set((*(slot for slot in PAUSED.get() if slot.held), self))

    def needs(self, reader: object) -> bool:
        """Whether only `reader` (a task or a thread) can bring this call to its end, by reading on."""
        return self.held and self._reader in (_ANYONE, reader)

    def close(self) -> None:
        """The stream is about to be closed: whoever waits for this slot need not read on."""
        self._reader = None

    def offer(self) -> Mark[Slot | None]:
        """In the block, a thread that is started may `take_over` the slot: `offered()` gives it there."""
        return Mark(OFFERED, self)

    # -- context managers --------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._used and not self._taken_over:
            raise RuntimeError(_USED)  # what the first use holds is not this one's to give back
        try:
            self.acquire()
            self._mark = HELD.set(self._held[0]) if self._held else None
            return self
        except BaseException:
            self.release(Outcome.CANCELLED)
            raise

    async def __aenter__(self) -> Self:
        if self._used and not self._taken_over:
            raise RuntimeError(_USED)  # what the first use holds is not this one's to give back
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
            mark, self._mark = self._mark, None  # the two know each other
            if mark is not None:
                unmark(HELD, mark)
            self.release(outcome_of(error))
        except BaseException:  # whoever keeps this exception keeps this object alive, so it tries once more
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
    """The slot that whoever started this thread has acquired for it, if it has not been taken over yet."""
    slot = OFFERED.get()
    return None if slot is None else slot.take_over()


def _blocks_itself() -> bool:
    """Whether the code that asks holds a slot already, by a stream that it has stopped reading to ask.

    Only reading on would free that slot, and who waits here cannot read on: it goes over the capacity.
    """
    paused = PAUSED.get()
    return bool(paused) and any(slot.needs(_me()) for slot in paused)


def _me() -> object:
    """The running task, or the thread if there is none."""
    try:
        return asyncio.current_task() or threading.get_ident()
    except RuntimeError:
        return threading.get_ident()


def outcome_of(error: BaseException | None) -> Outcome:
    """How something ended that left with `error`, or with none."""
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
            "a synchronous model call on an event loop's thread cannot wait without stopping the loop: "
            "it goes ahead over the backend's slots (said once). Use `await model.ainvoke(...)`, or make "
            "the node a plain `def`, so that LangGraph runs it in a thread"
        )
    return True
