"""Holds one ticket: requests it, waits for its slot, releases it on every exit.

Does not decide the order of service, or know what the slot is used for: calls and attempts do.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from llmsched_langgraph._core.events import CallRequested, HolderDied
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.quotas import Quotas
from llmsched_langgraph._ledger.values import Grant
from llmsched_langgraph._runtime.beats import Beats
from llmsched_langgraph._runtime.context import PAUSED, current_run, current_stage_run
from llmsched_langgraph._runtime.cycles.stdlib import running_loop
from llmsched_langgraph._runtime.cycles.watcher import WATCHER
from llmsched_langgraph._runtime.holders import running_loop_ref
from llmsched_langgraph._runtime.refusals import timed_out, too_late
from llmsched_langgraph._runtime.run import check, waits
from llmsched_langgraph._runtime.threads import LoopSteppingAside, SteppingAside
from llmsched_langgraph._runtime.waiter import LoopWaiter, ThreadWaiter, Waiter
from llmsched_langgraph.errors import CallCancelledError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.run import StageRun

logger = logging.getLogger("llmsched_langgraph")

_new = tuple.__new__  # builds a named tuple in C, without Python bytecode


class Terms(NamedTuple):
    """The parameters with which each ticket of one call is requested.

    Attributes:
        driver: the driver of the scheduler.
        backend: the backend's name.
        job: the driver's number of the job; None for a call outside any run.
        stage: the call's stage name.
        timeout_s: maximum wait for a slot, in seconds; None for no limit.
        loop: the event loop in one of whose threads the call may run; None if unknown.
        priority: the priority of a call that is a job of its own.
        models: the names of the requested model, if the backend has prices.
        tenant: the tenant of such a call.
        deadline_s: seconds from the request within which the call should end; None for no deadline.
    """

    driver: Driver
    backend: str
    job: int | None = None
    stage: str = ""
    timeout_s: float | None = None
    loop: asyncio.AbstractEventLoop | None = None
    priority: int = 0
    models: tuple[str, ...] = ()
    tenant: str = ""
    deadline_s: float | None = None

    @property
    def patience_s(self) -> float | None:
        """Maximum wait, in seconds; None for no limit."""
        if self.timeout_s is None or self.deadline_s is None:
            return self.deadline_s if self.timeout_s is None else self.timeout_s
        return min(self.timeout_s, self.deadline_s)


class _Mark:
    """An object that lives as long as its thread."""

    __slots__ = ("__weakref__",)


class _Here(threading.local):
    """A mark for each thread, because a thread's identifier is reused after its end."""

    def __init__(self) -> None:
        self._mark = _Mark()
        self.alive = weakref.ref(self._mark)


_here = _Here()


class Slot:
    """At most one ticket at a time. If the object is collected, its ticket is released.

    On an event loop's thread, `acquire` cannot wait without blocking the loop: it takes a slot at once, above
    the limit if none is free. Every such call is counted, and the first one in the process is logged.

    Attributes:
        terms: what its tickets request.
        usage: the tokens that the next release reports.
        quotas: the provider's limits in the headers of its answer.
        prompt_tokens: estimate of the call's prompt tokens; None if no rate depends on it.
        thread: the thread of the code that sends the request or reads the answer.
        alive: returns None if that thread has ended.
        task: that code's task; None if it runs on no event loop.
        stage: that code's stage run; None if unknown.
        idle_s: `time.monotonic()` since when the open answer is not being read; None if it is, or if the
            request is in flight.
        read_ahead: has the rest of an idle answer read in the background; None if it cannot be.
        ahead: whether the answer is being read ahead, or is about to be.
        may_lend: whether it waits in a thread, or on a loop in one, that may soon lend its pool another one.
        consumes: while it waits, the calls of open streams that the waiting code consumes.
        lent: whether a call went ahead because this one's answer is idle.
        forced: whether it went ahead of its turn, because it would have waited for ever.
    """

    usage: Usage = UNKNOWN_USAGE
    quotas: Quotas | None = None
    prompt_tokens: int | None = None

    thread = 0
    alive: Callable[[], object] | None = None
    task: weakref.ref[asyncio.Task[Any]] | None = None
    stage: StageRun | None = None
    idle_s: float | None = None
    read_ahead: Callable[[], object] | None = None
    ahead = False
    may_lend = False
    consumes: tuple[Any, ...] = ()
    lent = False
    forced = False

    _ticket = 0  # the last one; 0 before the first request, and after it was taken over
    _again = 0  # ticket of the call's previous attempt
    _waiter: Waiter | None = None
    _aside: SteppingAside | LoopSteppingAside | None = None  # of the last wait
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

    @property
    def replica(self) -> str:
        """The replica of the backend that its request goes to; empty for the server that the model names."""
        claim = self.terms.driver.claim(self._ticket) if self._held else None
        return claim.replica if type(claim) is Grant else ""

    @property
    def call(self) -> Any:
        """The call that it is part of."""
        return self

    def reader(self) -> Slot | None:
        """Return itself, or its call, if the recorded code has to read the answer; else None."""
        return None if self.idle_s is None else self

    def stand(self) -> None:
        """Record the running code as the code that sends the request or reads the answer."""
        self.thread, self.alive = get_ident(), _here.alive
        # A weak reference, because the task's frames refer to this object.
        if running_loop() is not None and (task := asyncio.current_task()) is not None:
            self.task = weakref.ref(task)
        else:
            self.task = None

    def acquire(self) -> None:
        """Block this thread until the slot is granted.

        Raises:
            QueueTimeoutError: the wait exceeded `queue_timeout_s`.
            CallCancelledError: the call's run failed or was cancelled.
            DeadlineExceededError: the call's deadline has passed.
            SchedulerClosedError: the scheduler is closed.
        """
        stage = self.stage = current_stage_run()
        check(current_run(), stage)
        try:
            self.stand()
            forced = running_loop() is not None
            if not self._ask(stage, forced):
                self._block(stage)
            elif forced:
                self._tell_if_over()
        except BaseException:
            self._abandon()
            raise

    async def aacquire(self) -> None:
        """Await the slot. Raises the same errors as `acquire`."""
        stage = self.stage = current_stage_run()
        check(current_run(), stage, coroutine=True)
        try:
            self.stand()
            if not self._ask(stage, False, running_loop_ref()):
                await self._await(stage)
        except BaseException:
            self._abandon()
            raise

    def _ask(self, stage: StageRun | None, forced: bool, loop: weakref.ref[Any] | None = None) -> bool:
        """Request the slot; return whether it was granted at once. A call on a `loop` ends with it."""
        driver, backend, job, name, _, _, priority, models, tenant, deadline_s = self.terms
        # The ticket exists before the request, so an interrupted request can be abandoned.
        ticket = self._ticket = driver.new_ticket()
        self._held.append(driver.watch(self, ticket, loop))
        run = None if stage is None else stage.number
        fields = (ticket, backend, name, job, forced, run, models, self._again, priority, tenant)
        request = _new(CallRequested, (*fields, self.prompt_tokens, deadline_s))
        if driver.askers:
            driver.ask(request)
        return driver.request(request)

    def _block(self, stage: StageRun | None) -> None:
        """Block until the slot is granted."""
        driver, ticket, waiter = self.terms.driver, self._ticket, ThreadWaiter()
        self._since = time.monotonic()
        self.may_lend = True
        with waits(self, current_run(), stage):
            try:
                self._wait_with(waiter)
                self._watch()
                beats = Beats(self.terms.patience_s, stage)
                with SteppingAside(self.terms.loop) as aside:
                    self._aside = aside
                    while not driver.outcome(ticket, waiter):
                        again_s = aside.lend()
                        self.may_lend = again_s is not None
                        if not waiter.wait(beats.next_s(again_s)):
                            beats.beat() or self._give_up()
            finally:
                self._waiter, self.consumes = None, ()
                driver.told(ticket)

    async def _await(self, stage: StageRun | None) -> None:
        """Await the grant of the slot."""
        driver, ticket = self.terms.driver, self._ticket
        self._since = time.monotonic()
        self.may_lend = True
        with waits(self, current_run(), stage, coroutine=True):
            waiter = LoopWaiter()
            try:
                self._wait_with(waiter.waker())
                self._watch()
                beats = Beats(self.terms.patience_s, stage)
                with LoopSteppingAside(self.terms.loop) as aside:
                    self._aside = aside
                    while not driver.outcome(ticket, waiter):
                        again_s = aside.lend()
                        self.may_lend = again_s is not None
                        if not await waiter.wait(beats.next_s(again_s)):
                            beats.beat() or self._give_up()
            finally:
                waiter.done()
                self._waiter, self.consumes = None, ()
                driver.told(ticket)

    def lends(self, pool: ThreadPoolExecutor) -> bool:
        """Lend the pool a thread until the wait ends; return False if it has ended."""
        return self._aside is not None and self._aside.lend_to(pool)

    def _wait_with(self, waiter: Waiter) -> None:
        # Publish the waiter before the check: then either the check or a concurrent `dismiss` sees the other.
        self._waiter = waiter
        self.terms.driver.register(self._ticket, waiter)
        if self._refusal is not None:
            self.dismiss()

    def _watch(self) -> None:
        """Start the detection of waits that can never end; look at once if this one may be such a wait."""
        self.consumes = PAUSED.get()
        WATCHER.begins(self.terms.driver, look=bool(self.consumes))

    def _abandon(self) -> None:
        """Withdraw the request, or release the slot if it was granted."""
        self.terms.driver.release(self._ticket, Outcome.CANCELLED)
        self.terms.driver.told(self._ticket)  # repeated: an interrupt may have skipped the first call
        self._held.clear()

    def _give_up(self) -> NoReturn:
        now, deadline_s = self.terms.driver.backends[self.terms.backend], self.terms.deadline_s
        waited_s = time.monotonic() - self._since
        if deadline_s is not None and self.terms.patience_s == deadline_s:
            raise too_late(self._ticket, now, waited_s, deadline_s)
        raise timed_out(self._ticket, now, waited_s)

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
        self.terms.driver.release(died.ticket, outcome, self.usage, failure, self.quotas)
        if self.forced:
            self.forced = False
            WATCHER.look_soon()

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
        if other.forced:
            self.forced, other.forced = True, False
        return True

    def __del__(self) -> None:
        # Asynchronous generators that outlive their event loop are collected without running `finally`.
        try:
            if self._held:
                Slot.release(self, Outcome.CANCELLED)
        except AttributeError:
            pass  # `__init__` was interrupted


def outcome_of(error: BaseException | None) -> Outcome:
    """Return the outcome of a block that ended with `error`, or with None."""
    if error is None:
        return Outcome.FINISHED
    return Outcome.FAILED if isinstance(error, Exception) else Outcome.CANCELLED


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
