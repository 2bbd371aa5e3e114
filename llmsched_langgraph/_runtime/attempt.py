"""Represents one request of a call: it holds a slot while it is in flight.

Does not know HTTP libraries, or decide which requests are attempts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from llmsched_langgraph._jobs.calls import PENDING_USAGE, Outcome
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.quotas import quotas_of
from llmsched_langgraph._runtime.call import Call, inherit
from llmsched_langgraph._runtime.holders import running_loop_ref
from llmsched_langgraph._runtime.marks import Looking
from llmsched_langgraph._runtime.slot import Slot


class Attempt(Slot):
    """One HTTP request of a call. If a library repeats the request inside the hooked function, the object
    represents these attempts one after the other.

    `ensure` and `give_back` are idempotent, so the frames of an HTTP library that is built on another one can
    both call them.

    Args:
        call: the call that sends the request.
        own: whether the request goes to the model's own server; the failure of another one is not reported.
    """

    usage = PENDING_USAGE  # the call reports its tokens when it ends

    lender: Call | None = None
    borrowed: Call | None = None
    _close: Callable[[], object] | None = None
    _aclose: Callable[[], Awaitable[object]] | None = None

    def __init__(self, call: Call, *, own: bool = True) -> None:
        super().__init__(call.terms)
        self.prompt_tokens = call.prompt_tokens
        self._call = call
        self._own = own
        self._served = True  # until an answer shows something else
        self._unseen = False  # whether its answer is open and its reader is unknown

    @property
    def call(self) -> Call:
        """The call that sends the request."""
        return self._call

    def reader(self) -> Slot | None:
        """See `Slot.reader`."""
        if self.idle_s is not None:
            return self
        return self._call if self._unseen and self._call.idle_s is not None else None

    def ensure(self) -> None:
        """Block this thread until the attempt holds a slot. Raises the errors of `Slot.acquire`."""
        if self._held:
            return
        call = self.call
        try:
            call.asks(self)
            with Looking(call):
                if not self._inherit():
                    self._again = call.previous()
                    call.give_up()
                    self.acquire()
        except Exception as error:
            self._refused(error)
            raise
        finally:
            call.asked(self)

    async def aensure(self) -> None:
        """Await the slot, like `ensure`."""
        if self._held:
            return
        call = self.call
        try:
            call.asks(self)
            with Looking(call):
                if not self._inherit():
                    self._again = call.previous()
                    call.give_up()
                    await self.aacquire()
        except Exception as error:
            self._refused(error)
            raise
        finally:
            call.asked(self)

    def _inherit(self) -> bool:
        if not inherit(self, self.call):
            return False
        if self.borrowed is not None:
            self.call.borrowed = self.borrowed
        return True

    def _refused(self, error: Exception) -> None:
        """The library may replace the error, or send the request again; the call raises it at its end."""
        self.call.refused = error
        if self._again:
            self.call.ended(self._ticket)

    def refuse(self, error: Exception) -> Exception:
        """Return the error with which the call ends: the library of the request may replace it."""
        self.call.refused = error
        return error

    def heard(self, status: int, headers: Mapping[str, Any]) -> None:
        """Record an answer's status and the provider's limits in its headers."""
        self._served = status < 400
        if self._own and self.terms.driver.rated(self.terms.backend):
            self.quotas = quotas_of(headers)

    def give_back(self, failure: Failure | None = None) -> None:
        """Release the slot: the answer is complete, or there is none."""
        call = self.call
        call.closed(self)
        if not self._held:
            return
        call.failure = failure
        lender, self.lender = self.lender, None
        if failure is None and lender is not None and lender.take_back(self):
            return
        call.ended(self._ticket)
        outcome = Outcome.FINISHED if failure is None and self._served else Outcome.FAILED
        self.release(outcome, failure if self._own else None)

    def hand_back(self) -> None:
        """Return the slot to the call: the server accepted the request and works on it after its answer."""
        self.call.take(self, running_loop_ref())

    def keep(
        self, close: Callable[[], object] | None, aclose: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """Hold the slot until `give_back`: the answer is read later. The call's end closes the answer."""
        self._close, self._aclose, self._unseen = close, aclose, self.read_ahead is None
        self.call.opened(self)

    def close(self) -> None:
        """Close the answer, then release the slot."""
        try:
            if self._close is not None:
                with suppress(Exception):
                    self._close()
        finally:
            self.give_back()

    async def aclose(self) -> None:
        """Close the answer on its event loop, then release the slot."""
        try:
            with suppress(Exception):
                if self._aclose is not None:
                    await self._aclose()
                elif self._close is not None:
                    self._close()
        finally:
            self.give_back()
