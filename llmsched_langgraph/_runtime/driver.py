"""Delivers events from any thread and event loop to one machine, and wakes waiters afterwards.

Does not use LangGraph, read the content of calls, or decide the order of service.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import (
    BackendConfigured,
    CallDismissed,
    CallMeasured,
    CallReleased,
    CallRequested,
    Entry,
    Event,
    JobArrived,
    JobEnded,
    JobInfo,
    JobPaused,
    StagesChanged,
    Ticked,
)
from llmsched_langgraph._core.machine import SchedulerMachine
from llmsched_langgraph._core.policies import Policy
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph._jobs.stages import StageEvent
from llmsched_langgraph._learning.service import LearningService
from llmsched_langgraph._learning.stores import ProfileStore
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.memory import MemoryLedger
from llmsched_langgraph._ledger.overdue import UNBOUNDED, Overdue
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._ledger.protocol import Home
from llmsched_langgraph._ledger.quotas import Quotas
from llmsched_langgraph._ledger.tenants import NO_TENANTS, Tenants
from llmsched_langgraph._ledger.values import Grant, Waiting
from llmsched_langgraph._observe.recorder import Recorder
from llmsched_langgraph._observe.subscriptions import Ask, See, Soon, Subscription, Subscriptions
from llmsched_langgraph._observe.totals import PackageObserver
from llmsched_langgraph._runtime.checks import check_waiters
from llmsched_langgraph._runtime.fork import keep, renew_in_child
from llmsched_langgraph._runtime.holders import Holders
from llmsched_langgraph._runtime.pace import Paces
from llmsched_langgraph._runtime.patience import AT_A_TIME, GIVEN_UP, LAG, LOOK_S, PUT_BY, TRIES
from llmsched_langgraph._runtime.queries import Queries
from llmsched_langgraph._runtime.quiet import QuietJobs
from llmsched_langgraph._runtime.refusals import closed, closed_while_waiting
from llmsched_langgraph._runtime.timer import BEAT_S, Timer
from llmsched_langgraph._runtime.waiter import Waiter
from llmsched_langgraph.errors import SchedulerClosedError

logger = logging.getLogger("llmsched_langgraph")

T = TypeVar("T")


class Driver(Queries):
    """The live driver: one machine, one clock, one timer, and a waiter for each waiting ticket.

    Events go into an inbox. The thread that finds the lock free handles the inbox. An event stays in it until
    it is applied and settled, so an interrupt loses nothing: the next thread that posts an event, or the
    timer, continues with the same event. Waiters are woken and observers called after the lock is released.
    The machine lists the tickets to wake; the ledger holds their state.
    """

    def __init__(
        self,
        backends: Iterable[Backend],
        policy: Policy,
        *,
        profile: Profile | None = None,
        store: ProfileStore | None = None,
        recorder: Recorder | None = None,
        overdue: Overdue = UNBOUNDED,
        tenants: Tenants = NO_TENANTS,
        home: Home = MemoryLedger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self.tenants = tenants
        self._tickets = itertools.count(1)
        self._jobs = itertools.count(1)
        self._hears = hasattr(policy, "hear")
        self._closed = False
        keeps = store is not None or recorder is not None  # then the end of a job is handled at once
        self._end = self.post if keeps else self._put_by
        self._inherited: dict[int, Waiting | Grant] = {}  # the parent's tickets, in the child of a fork
        machine = SchedulerMachine(policy, backends, profile, overdue=overdue, tenants=tenants, home=home)
        self._observer = PackageObserver(policy.name, self.outlooks)
        self._subscriptions = Subscriptions(machine.story, self._observer.see, LAG, keeps=keeps)
        self.askers, self.ask = self._subscriptions.askers, self._subscriptions.ask
        self._begin(machine)
        # Last, because it may post events at once.
        self._service = LearningService(self.post, self.look, clock, profile or Profile(), store, recorder)
        self._observer.learn = self._service.see
        renew_in_child(self)

    def _begin(self, machine: SchedulerMachine) -> None:
        self._machine = machine
        self._ledger = machine.ledger
        self.limits, self.tenant = self._ledger.limits, self._ledger.tenant
        self.claim = self._ledger.claim
        self._lock = allocate_lock()
        self._inbox: deque[Any] = deque()  # `(time, event)` pairs, and `HolderDied`
        self._waiters: dict[int, Waiter] = {}
        self._holders = holders = Holders(self._inbox, self.claim, self._waiters)
        self._watched, self.watch, self.watch_run = holders.watched, holders.watch, holders.watch_run
        self._quiet = QuietJobs(self._inbox)
        self._decider: int | None = None  # id of the thread that handles the inbox
        self._trying, self._tries = None, 0
        self._timer, self._paces = Timer(self), Paces()
        self.totals = self._observer.begin()
        self._ledger.attach(lambda: self.post(Ticked()), self._refuse)

    def forked(self) -> None:
        """Begin anew in the child of a fork, where the parent's tickets are unknown: numbers continue."""
        machine, changes, self._inherited = keep(self._machine, self._inbox, self._waiters.values())
        self._begin(machine)
        self._inbox.extend(changes)
        self._subscriptions.follow(machine.story)
        self._service.forked()

    def start_job(self, info: JobInfo, resumes: str | None = None, seen: Sequence[StageEvent] = ()) -> int:
        """Record a run's start, or its resumption on thread `resumes`; return its job. `seen` may grow.

        Raises:
            SchedulerClosedError: the scheduler was closed.
        """
        if self._closed:
            raise closed()
        self._service.resume()
        job = next(self._jobs)
        arrived = self.clock(), JobArrived(job, info, resumes, seen)
        if resumes is None and not self._subscriptions and not self._hears:
            self._quiet.keep(job, arrived)
        else:
            self._inbox.append(arrived)
        return job

    def end_job(self, job: int, outcome: Outcome) -> None:
        """Record the end of a run."""
        if not self._quiet.end(job):
            self._end(JobEnded(job, outcome))

    def pause_job(self, job: int, thread: str) -> None:
        """Record that the run was interrupted and may be resumed on `thread`."""
        self._quiet.announce(job)
        self._put_by(JobPaused(job, thread))

    def move_stages(self, job: int) -> None:
        """Record that the job has new stage events."""
        if job not in self._quiet:
            self.post(StagesChanged(job))

    def dismiss(self, ticket: int) -> None:
        """End the ticket's wait; do nothing if it holds its slot."""
        self.post(CallDismissed(ticket))

    def new_ticket(self) -> int:
        """Return a new ticket. It exists before the request, so an interrupted request can be released."""
        return next(self._tickets)

    def request(self, asked: CallRequested) -> bool:
        """Request a slot; return whether it was granted at once. If not, `register` a waiter.

        Raises:
            SchedulerClosedError: the scheduler was closed.
        """
        if self._closed:
            raise closed()
        job, ticket, inbox = asked.job, asked.ticket, self._inbox
        if job in self._quiet.arrivals:
            self._quiet.announce(job)
        inbox.append((self.clock(), asked))
        self.pump()
        if type(self.claim(ticket)) is not Grant:
            # After a fork in between, this is the child, whose machine does not know the call.
            return inbox is not self._inbox and self.request(asked)
        self._machine.untold.pop(ticket, None)
        return True

    def release(
        self,
        ticket: int,
        outcome: Outcome = Outcome.FINISHED,
        usage: Usage = UNKNOWN_USAGE,
        failure: Failure | None = None,
        quotas: Quotas | None = None,
    ) -> None:
        """Release the ticket's slot or end its wait. Idempotent; legal in any state and any thread."""
        self._inbox.append((self.clock(), CallReleased(ticket, outcome, usage, failure, quotas)))
        self._watched.pop(ticket, None)
        self.pump()

    def measured(self, ticket: int, usage: Usage, job: int | None) -> None:
        """Record the tokens of a call whose last attempt released this ticket before."""
        (self.post if self._ledger.unmeasured(ticket) else self._put_by)(CallMeasured(ticket, usage, job))

    def configure(self, backend: Backend) -> None:
        """Change a backend's settings. No grant is revoked: slots above a lower limit drain."""
        self.post(BackendConfigured(backend))

    def close(self) -> None:
        """Reject new jobs and calls. Waiting calls raise; calls in a slot continue and release it."""
        self._closed = True
        self.pump()
        self._refuse(closed_while_waiting())
        self._ledger.close()
        self._service.stop()

    def _refuse(self, error: Exception) -> None:
        """End the waits of all calls with copies of the error; of one that says so, take no more."""
        self._closed = self._closed or isinstance(error, SchedulerClosedError)
        for ticket, waiter in tuple(self._waiters.items()):
            waiter.refuse(copy.copy(error))
            self._inbox.append((self.clock(), CallDismissed(ticket)))
        self.pump()

    def register(self, ticket: int, waiter: Waiter) -> None:
        """Wake `waiter` when the ticket is granted or dismissed. Check `outcome` after this call."""
        self._waiters[ticket] = waiter
        self._timer.within(BEAT_S)
        if error := closed_while_waiting() if self._closed else self._ledger.refusal:
            waiter.refuse(copy.copy(error))
            self.dismiss(ticket)

    def outcome(self, ticket: int, waiter: Waiter) -> bool:
        """Return whether the ticket holds its slot.

        Raises:
            Exception: the waiter's error, if the ticket was dismissed.
        """
        claim = self.claim(ticket)
        if claim is None:
            if waiter.error is not None:
                raise waiter.error
            if crowd := self._machine.refused.pop(ticket, None):
                raise self._paces.refusal(crowd, self.clock(), self._ledger.backend(crowd.backend))
            if ticket in self._inherited:  # the wait began before a fork: this is the child
                claim = self._inherited.pop(ticket)
                self.register(ticket, waiter)
                return self.request(CallRequested(ticket, claim.lane[0], claim.call.stage))
        return type(claim) is Grant

    def told(self, ticket: int) -> None:
        """Remove the ticket's waiter: its wait is over."""
        self._waiters.pop(ticket, None)
        self._machine.untold.pop(ticket, None)

    # -- the inbox ---------------------------------------------------------------------

    def _put_by(self, event: Event) -> None:
        """Append an event that no call waits for. Handle the inbox if it exceeds `PUT_BY` events."""
        self._inbox.append((self.clock(), event))
        if len(self._inbox) > PUT_BY:
            self.pump()

    def post(self, event: Event) -> None:
        """Append the event and handle the inbox."""
        self._inbox.append((self.clock(), event))
        self.pump()

    def pump(self) -> None:
        """Handle the inbox. If a thread is handling it, return: that thread checks again afterwards."""
        while self._inbox:  # read anew: an observer or a policy may fork, and this may be the child
            lock = self._lock
            if lock.locked():  # perhaps this thread: called by a finaliser or by a policy inside a decision
                return
            # One line, with the loop in the callee: leaving the block executes no line of its own at which an
            # interrupt could leave the lock held. `with lock` acquires and releases it in C.
            with lock: self._decide()  # noqa: E701  # fmt: skip
            self._deliver()

    def _decide(self) -> None:
        inbox, handle = self._inbox, self._machine.handle
        try:
            self._decider = threading.get_ident()
            for _ in range(AT_A_TIME):
                if not inbox:
                    break
                one = inbox[0]
                if self._trying is one:
                    self._tries += 1
                else:
                    self._trying, self._tries = one, 0
                now, event = one if type(one) is tuple else (self.clock(), one)
                if event is one:
                    self._watched.pop(one.ticket, None)
                kind = type(event).__name__
                if self._tries < GIVEN_UP:
                    try:
                        handle(now, event, trust=self._tries < TRIES)
                    except Exception:
                        logger.exception("%s failed (try %d) and is tried again", kind, self._tries + 1)
                        continue
                else:
                    logger.error("%s is dropped after %d tries", kind, self._tries)
                inbox.popleft()  # after it is applied and settled; only the thread with the lock removes
        finally:
            self._decider = None

    def _deliver(self, *, again: bool = False) -> None:
        """Wake waiters of granted or dismissed tickets, then call observers. Waking is idempotent."""
        untold, machine = self._machine.untold, self._machine
        if untold:
            for ticket in [ticket for ticket, fresh in tuple(untold.items()) if fresh or again]:
                waiter = self._waiters.get(ticket)
                if waiter is None:
                    continue  # not registered yet; it checks `outcome` after `register`
                if not waiter.wake():
                    # Its event loop is closed, so the call cannot release its slot.
                    self._inbox.append((self.clock(), CallReleased(ticket, Outcome.CANCELLED)))
                    self._waiters.pop(ticket, None)
                if ticket in untold:
                    untold[ticket] = False
        self._subscriptions.deliver()
        wake_s = machine.wake_s
        if wake_s is not None:
            self._timer.within(wake_s - self.clock())

    def tick(self) -> float | None:
        """See `Timed.tick`."""
        self._holders.post_closed()
        self._holders.wake_loops()
        if not self._waiters and not self._inbox and self._machine.wake_s is None:
            return None
        self._inbox.append((self.clock(), Ticked()))
        self.pump()
        self._deliver(again=True)
        wake_s = self._machine.wake_s
        return BEAT_S if wake_s is None else min(wake_s - self.clock(), BEAT_S)

    # -- observers ---------------------------------------------------------------------

    def subscribe(self, see: See, ask: Ask | None = None, soon: Soon | None = None) -> Subscription:
        """Call `see` with each entry of the story from now on; see `Subscriptions.subscribe`."""
        self.pump()
        return self._subscriptions.subscribe(see, ask, soon)

    # -- queries -----------------------------------------------------------------------

    def story(self, *tickets: int) -> list[Entry]:
        """Return the latest entries, oldest first; only entries about `tickets` if any are given."""
        self.look()
        return self._machine.entries(*tickets)

    def read(self, look: Callable[[SchedulerMachine, float], T]) -> T | None:
        """Return what `look` finds in the machine at the current time, all earlier events included.

        None inside a decision.
        """
        if self._decider == threading.get_ident():
            return None  # called by a policy, or by a signal handler
        with self._lock: found = self._read(look)  # noqa: E701  # fmt: skip
        self._deliver()
        self.pump()
        return found

    def _read(self, look: Callable[[SchedulerMachine, float], T]) -> T:
        self._decide()
        return look(self._machine, self.clock())

    def check(self) -> None:
        """Raise AssertionError unless every invariant of machine, ledger and waiters holds."""
        self.look()
        if self._decider == threading.get_ident():
            return  # called by a policy inside a decision
        now, wake_s = self.clock(), self._machine.wake_s
        if wake_s is not None and wake_s <= now:
            self.post(Ticked())  # a pause ended, and the timer has not noticed yet
        with self._lock: self._check(now)  # noqa: E701  # fmt: skip
        self.pump()

    def _check(self, now: float) -> None:
        self._machine.check(now)
        check_waiters(self._waiters, self.claim, self._machine.untold, self._inbox)

    def look(self) -> None:
        """Handle deferred events, then deliver their entries to the package's own observer."""
        self._holders.post_closed()
        self.pump()
        # A policy may call this inside a decision; it must not wait for another thread.
        inside = self._decider == threading.get_ident()
        until_s = time.monotonic() + LOOK_S
        while self._inbox and not inside and time.monotonic() < until_s:
            # Another thread handles the inbox. Do not wait for its lock: this may be its signal handler.
            self.pump()
        self._subscriptions.catch_up(wait=not inside)
