"""Represents one LLM call: it waits for a slot, and hands it to its requests and to the calls inside it.

Does not send requests. `attempt.py` represents those that can be seen; where they cannot be seen, the call
keeps the slot until it ends.
"""

from __future__ import annotations

import time
import weakref
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._runtime.context import CALL, PAUSED, current_stage_run, unmark
from llmsched_langgraph._runtime.holders import is_closed, running_loop_ref
from llmsched_langgraph._runtime.marks import Inside, Looking, Paused, cancelled
from llmsched_langgraph._runtime.slot import Slot, Terms, outcome_of

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.attempt import Attempt
    from llmsched_langgraph._runtime.streams import OpenStream

_USED = "a slot is for one call; call scheduler.slot() for each call"


def current_call() -> Call | None:
    """Return the innermost call that the calling code is part of; None outside any call."""
    reference = CALL.get()
    return None if reference is None else reference()


class Call(Slot):
    """One call. Use it once, as `with` in a thread or as `async with` on an event loop.

    It waits for a slot when it begins. The slot goes to its first request, or to the first call inside it, on
    the same backend; later ones acquire slots of their own. A call that passes several wrappers thus holds
    one slot, and calls that run side by side inside another one hold one each.

    A block of `scheduler.slot()` has no model. Its requests are not seen: it holds its slot until it ends,
    except that a call inside borrows it. If calls inside have to wait when one returns the slot, the block
    gives it up.

    Attributes:
        usage: the call's tokens; set it before the call ends, if known.
        model: the model object whose requests are its attempts; None if its requests are not seen.
        around: the call that this one is part of; None if there is none.
        abandoned: whether its result is no longer needed.
        tried: how often its request was sent again by the scheduler.
        failure: why the last of its attempts failed, if none followed; None if it did not.
        refused: the error of a request that got no slot; None if there is none.
        over: whether it has ended.
        lender: the block whose slot it has now; None if it has its own.
        borrowed: the last block from which it, or a request of it, borrowed a slot.
        steps: one element for each thread or task that is inside the call now.
        inner: the calls that began in it.
        wanting: for a block, one element for each call inside it that waits for a slot.
        stream: the open stream of its items, if it is one; None otherwise, and before the first item.
        threads: for a block, one element for each thread that works in it.
        inner_usage: sum of the tokens of calls that borrowed its slot; used if its own are unknown.
    """

    model: Any = None
    around: Call | None = None
    abandoned = False
    tried = 0
    failure: Failure | None = None
    refused: Exception | None = None

    _used = False
    _loop: weakref.ref[Any] | None = None  # the event loop on which it began
    over = False
    _mark: Token[weakref.ref[Any] | None] | None = None
    lender: Call | None = None
    borrowed: Call | None = None
    inner_usage: Usage = UNKNOWN_USAGE
    stream: OpenStream | None = None

    def __init__(self, terms: Terms) -> None:
        super().__init__(terms)
        # `append` and `pop` are atomic.
        self.steps: list[None] = []
        self.inner: list[weakref.ref[Call]] = []
        self._open: list[Attempt] = []  # attempts whose answer is still read
        self._asking: list[Attempt] = []  # attempts that wait
        self.wanting: list[None] = []
        self.threads: list[None] = []
        self._done: list[int] = []  # tickets of ended attempts whose tokens are not reported

    def acquire(self) -> None:
        """Block this thread until the slot is there. Raises the errors of `Slot.acquire`."""
        self._begin()
        if self.around is None:
            super().acquire()
        else:
            with Looking(self):
                if not inherit(self, self.around):
                    self.around.give_up()
                    super().acquire()

    async def aacquire(self) -> None:
        """Await the slot. Raises the errors of `Slot.acquire`."""
        self._begin()
        self._loop = running_loop_ref()
        if self.around is None:
            await super().aacquire()
        else:
            with Looking(self):
                if not inherit(self, self.around):
                    self.around.give_up()
                    await super().aacquire()

    def _begin(self) -> None:
        if self._used:
            raise RuntimeError(_USED)
        self._used = True
        around = current_call()
        if around is None or around.over:
            return
        if around.abandoned:
            raise cancelled()
        self.around = around
        around.inner.append(weakref.ref(self))
        if around.abandoned:  # since the check above
            raise cancelled()

    @property
    def counts(self) -> bool:
        """Whether a rate of its backend is limited, so that the size of its prompt matters."""
        driver = self.terms.driver  # None for a call that takes no slot
        return driver is not None and driver.rated(self.terms.backend)

    def give_up(self) -> None:
        """Release unused slots of this call and those around it, before the calling code waits.

        Nothing waits while it holds a slot, or calls that wait for each other's backends could stop for ever.
        A block of `scheduler.slot()` keeps its slot for its own, unseen request.
        """
        call: Call | None = self
        while call is not None:
            if call.model is not None:
                call.release()
            call = call.around

    def end(self, outcome: Outcome = Outcome.FINISHED) -> None:
        """End the call: close open answers, release its slot, report its tokens. Idempotent."""
        self.over = True
        while self._open:
            try:
                attempt = self._open.pop()
            except IndexError:
                break  # another thread took it
            attempt.close()
        self._finish(outcome)

    async def aend(self, outcome: Outcome = Outcome.FINISHED) -> None:
        """End the call, like `end`, on the event loop of its open answers."""
        self.over = True
        try:
            while self._open:
                attempt = self._open.pop()
                await attempt.aclose()
        finally:
            self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        if outcome is not Outcome.FINISHED:
            for reference in tuple(self.inner):
                call = reference()
                if call is not None:
                    call.abandon()
        if self.usage is UNKNOWN_USAGE:
            self.usage = self.inner_usage
        usage, lender, self.borrowed = self.usage, self.borrowed, None
        if lender is not None:
            lender.inner_usage = lender.inner_usage.plus(usage)
            self.usage = usage = UNKNOWN_USAGE
        if self._held and (outcome is Outcome.FINISHED or not self.threads):
            self.release(outcome)  # reports the usage
            usage = UNKNOWN_USAGE
        while self._done:
            self.terms.driver.measured(self._done.pop(), usage, self.terms.job)
            usage = UNKNOWN_USAGE

    def _abandon(self) -> None:
        self.over = True
        super()._abandon()
        for attempt in tuple(self._open):
            attempt.close()

    def __del__(self) -> None:
        # If nothing ended the call, the ledger would wait for its tokens.
        try:
            while self._done:
                self.terms.driver.measured(self._done.pop(), UNKNOWN_USAGE, self.terms.job)
        except (AttributeError, IndexError):
            pass  # `__init__` was interrupted
        super().__del__()

    @property
    def reports(self) -> bool:
        """Whether the end of this call reports its tokens; otherwise a call inside it did."""
        return bool(self._held or self._done or self._open or self.borrowed)

    def abandon(self) -> None:
        """End a call whose result is no longer needed, at the latest when its code leaves it.

        A coroutine can be cancelled; the thread that does its work cannot. The request of such a thread keeps
        its slot until it ends, and the thread gets no further one. An open stream that is not being read is
        closed first.
        """
        self.abandoned = True
        self.dismiss()
        for attempt in tuple(self._asking):
            attempt.dismiss()
        for reference in tuple(self.inner):
            call = reference()
            if call is not None:
                call.abandon()
        self.drop()

    def drop(self) -> None:
        """End an abandoned call, unless its code is in it, or waits for its slot: then its code ends it."""
        if self._waiter is None and not self.steps and (self.stream is None or self.stream.drop(self)):
            self.end(Outcome.CANCELLED)

    def release(self, outcome: Outcome = Outcome.FINISHED, failure: Failure | None = None) -> None:
        """Release the slot that no request uses now, or return it to the block that lent it."""
        lender, self.lender = self.lender, None
        if lender is None or not lender.take_back(self):
            super().release(outcome, failure)

    def give_back(self, failure: Failure | None = None) -> None:
        """Release the slot before the call ends: its answer is complete, or broke off."""
        self.release(Outcome.FINISHED if failure is None else Outcome.FAILED, failure)

    def take_back(self, borrower: Slot) -> bool:
        """Take back the slot of this block; return False if the borrower must release it."""
        # On a closed loop the block never ends.
        if self.over or is_closed(self._loop) or not self.take(borrower, self._loop):
            return False
        if self.over or self.wanting:
            super().release()
        return True

    def previous(self) -> int:
        """Return the ticket of an ended attempt that the next one continues; 0 if there is none."""
        try:
            return self._done.pop()
        except IndexError:
            return 0

    def ended(self, ticket: int) -> None:
        """Record the ticket of an attempt that ended before the call."""
        self._done.append(ticket)

    def asks(self, attempt: Attempt) -> None:
        """Record that the attempt may wait; `asked` ends it."""
        self._asking.append(attempt)
        if self.abandoned:
            raise cancelled()

    def asked(self, attempt: Attempt) -> None:
        """Record that the attempt waits no more."""
        with suppress(ValueError):
            self._asking.remove(attempt)

    def opened(self, attempt: Attempt) -> None:
        """Record an attempt whose answer is read later."""
        self._open.append(attempt)
        if self.over:
            attempt.close()

    def closed(self, attempt: Attempt) -> None:
        """Record that the attempt's answer is closed."""
        with suppress(ValueError):
            self._open.remove(attempt)

    def inside(self) -> Inside:
        """Mark the code in the block as part of this call."""
        return Inside(self)

    def pause(self) -> Paused:
        """Mark the code in the block as the stream's consumer. The request is still in flight."""
        return Paused(self)

    def leave_open(self) -> None:
        """Mark the running code as the consumer of a stream that it has not read yet."""
        self.idle_s = time.monotonic()
        PAUSED.set((*(call for call in PAUSED.get() if call.holding), self))

    @property
    def holding(self) -> bool:
        """Whether it, or a request of it, holds a slot."""
        return self.held or any(attempt.held for attempt in tuple(self._open))

    def __enter__(self) -> Self:
        if self._used:
            raise RuntimeError(_USED)  # outside the `try`: a second use must not release the first one's slot
        try:
            self.acquire()
            self._enter()
            return self
        except BaseException:
            self.end(Outcome.CANCELLED)
            raise

    async def __aenter__(self) -> Self:
        if self._used:
            raise RuntimeError(_USED)  # outside the `try`: a second use must not release the first one's slot
        try:
            await self.aacquire()
            self._enter()
            return self
        except BaseException:
            self.end(Outcome.CANCELLED)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
            self.end(outcome_of(error))
        except BaseException:  # release again: the exception's traceback keeps this object alive
            self._abandon()
            raise
        self.check(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._leave()
            if self._open:
                await self.aend(outcome_of(error))
            else:
                self.end(outcome_of(error))
        except BaseException:
            self._abandon()
            raise
        self.check(error)

    def _enter(self) -> None:
        self.steps.append(None)
        if self.abandoned:  # `abandon` sets this before it reads `steps`
            raise cancelled()
        self._mark = CALL.set(weakref.ref(self))

    def _leave(self) -> None:
        mark, self._mark = self._mark, None  # the token may reference this call through its context
        self.steps.clear()
        if mark is not None:
            unmark(CALL, mark)

    def check(self, error: BaseException | None) -> None:
        """Raise the error of a request that got no slot, if the provider's library replaced it by `error`."""
        refused = self.refused
        if refused is not None and isinstance(error, Exception) and error is not refused:
            raise refused from error


def inherit(slot: Call | Attempt, call: Call | None) -> bool:
    """Transfer the unused slot of `call`, or of a call around it, to `slot`; return whether there is one."""
    while call is not None:
        if call.terms[:2] == slot.terms[:2] and slot.take(call, running_loop_ref()):
            if call.model is None:
                lender: Call | None = call  # which returns it to its own lender later
            else:
                lender, call.lender = call.lender, None
            slot.lender = slot.borrowed = lender
            slot.stage = current_stage_run()
            slot.stand()
            return True
        call = call.around
    return False
