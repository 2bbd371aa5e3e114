"""Knows how events from any thread and any loop reach one machine, and whom to wake afterwards.

Does not know LangGraph, what a call is, or the order of service.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.events import (
    BackendConfigured,
    CallDismissed,
    CallReleased,
    CallRequested,
    Entry,
    Event,
    HolderDied,
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
from llmsched_langgraph._ledger.values import Backend, BackendView, Failure, Grant, LedgerView
from llmsched_langgraph._observe.recorder import Recorder
from llmsched_langgraph._observe.subscriptions import See, Subscription
from llmsched_langgraph._observe.totals import PackageObserver
from llmsched_langgraph._runtime.patience import AT_A_TIME, GIVEN_UP, LAG, LOOK_S, PUT_BY, TRIES
from llmsched_langgraph._runtime.quiet import QuietJobs
from llmsched_langgraph._runtime.refusals import closed, closed_while_waiting
from llmsched_langgraph._runtime.timer import BEAT_S, Timer
from llmsched_langgraph._runtime.waiter import Waiter

logger = logging.getLogger("llmsched_langgraph")


class Driver:
    """The live driver: one machine, one clock, one timer, and a waker for each ticket that waits.

    Events go into an inbox, and the thread that finds the lock free handles all that is there. An event stays
    in the inbox until it is applied and settled, so an interrupt in the middle of it loses nothing: the next
    thread that posts an event, or the timer, goes on from there. Waiters are woken and observers called after
    the lock is given back; whom to wake is what the ledger says of the tickets that wait.
    """

    def __init__(
        self,
        backends: Iterable[Backend],
        policy: Policy,
        *,
        profile: Profile | None = None,
        store: ProfileStore | None = None,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.clock = clock
        self._machine = SchedulerMachine(policy, backends, profile)
        self._ledger = self._machine.ledger
        self.claim = self._ledger.claim
        self._lock = allocate_lock()
        self._inbox: deque[Any] = deque()  # pairs of time and event, and `HolderDied`
        self._waiters: dict[int, Waiter] = {}
        # Kept here until the ticket is released: a weak reference that is gone first calls nothing.
        self._watched: dict[int, HolderDied] = {}
        self._tickets = itertools.count(1)
        self._jobs = itertools.count(1)
        self._quiet = QuietJobs(self._inbox)
        self._hears = hasattr(policy, "hear")
        self._closed = False
        self._decider: int | None = None  # the thread that is handling the inbox
        self._trying: Any = None
        self._tries = 0
        self._timer = Timer(self)
        self._end = self._put_by if recorder is None else self.post
        self._story = self._machine.story
        observer = PackageObserver(policy.name)
        self.totals = observer.totals
        self._own = Subscription(self._story, observer.see, self._unsubscribe)
        self._lag = LAG if recorder is None else 1
        self._subscriptions: tuple[Subscription, ...] = ()
        self._ledger.attach(lambda: self.post(Ticked()))
        # Last, as it may have something to tell at once.
        self._service = LearningService(self.post, self.look, clock, profile or Profile(), store, recorder)
        observer.learn = self._service.see

    # -- what happens ------------------------------------------------------------------

    def start_job(self, info: JobInfo, resumes: str | None = None, seen: Sequence[StageEvent] = ()) -> int:
        """A run begins, or goes on if it was paused on thread `resumes`. What is `seen` may grow later.

        Raises:
            SchedulerClosedError: the scheduler was closed.
        """
        self._check_open()
        job = next(self._jobs)
        arrived = self.clock(), JobArrived(job, info, resumes, seen)
        if resumes is None and not self._subscriptions and not self._hears:
            self._quiet.keep(job, arrived)
        else:
            self._inbox.append(arrived)
        return job

    def end_job(self, job: int, outcome: Outcome) -> None:
        """The run is over, however it ended."""
        if not self._quiet.end(job):
            self._end(JobEnded(job, outcome))

    def pause_job(self, job: int, thread: str) -> None:
        """The run was interrupted, and may be resumed on `thread`."""
        self._quiet.announce(job)
        self._put_by(JobPaused(job, thread))

    def move_stages(self, job: int) -> None:
        """There is something new among what is seen of the job's stages."""
        if job not in self._quiet:
            self.post(StagesChanged(job))

    def dismiss(self, ticket: int) -> None:
        """End the ticket's wait; nothing happens if it has its slot already."""
        self.post(CallDismissed(ticket))

    def new_ticket(self) -> int:
        """A ticket to request with. It is named first, so that it can be released whatever happens."""
        return next(self._tickets)

    def watch(self, holder: Any, ticket: int) -> HolderDied:
        """What gives back whatever the ticket has when `holder` dies, unless it is released before."""
        died = HolderDied(holder, self._inbox.append)
        died.ticket = ticket
        self._watched[ticket] = died
        return died

    def request(
        self, ticket: int, backend: str, stage: str, job: int | None, forced: bool, run: int | None
    ) -> bool:
        """Ask for a slot; whether it is there at once. If not, register a waiter and `claim` again.

        Raises:
            SchedulerClosedError: the scheduler was closed.
        """
        if self._closed:
            self._check_open()
        if job in self._quiet.arrivals:
            self._quiet.announce(job)
        self._inbox.append((self.clock(), CallRequested(ticket, backend, stage, job, forced, run)))
        self.pump()
        if type(self.claim(ticket)) is not Grant:
            return False
        self._machine.untold.pop(ticket, None)
        return True

    def release(
        self,
        ticket: int,
        outcome: Outcome = Outcome.FINISHED,
        usage: Usage = UNKNOWN_USAGE,
        failure: Failure | None = None,
    ) -> None:
        """Give back whatever the ticket has: from any state, any thread, any number of times."""
        self._inbox.append((self.clock(), CallReleased(ticket, outcome, usage, failure)))
        self._watched.pop(ticket, None)
        self.pump()

    def configure(self, backend: Backend) -> None:
        """Change a backend's settings. Fewer slots than are held: the surplus drains, nothing is revoked."""
        self.post(BackendConfigured(backend))

    def close(self) -> None:
        """Take no more jobs and calls. Waiting calls raise; those in a slot go on and give it back."""
        self._closed = True
        self.pump()
        for ticket, waiter in tuple(self._waiters.items()):
            waiter.refuse(closed_while_waiting())
            self._inbox.append((self.clock(), CallDismissed(ticket)))
        self.pump()
        self._service.stop()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise closed()

    # -- those who wait ----------------------------------------------------------------

    def register(self, ticket: int, waiter: Waiter) -> None:
        """Wake `waiter` once the ticket has its slot, or has been dismissed. Ask `outcome` after this."""
        self._waiters[ticket] = waiter
        self._timer.within(BEAT_S)
        if self._closed:
            waiter.refuse(closed_while_waiting())
            self.dismiss(ticket)

    def outcome(self, ticket: int, waiter: Waiter) -> bool:
        """Whether the ticket has its slot.

        Raises:
            Exception: what the waiter was refused with, if it waits no longer.
        """
        claim = self.claim(ticket)
        if claim is None and waiter.error is not None:
            raise waiter.error
        return type(claim) is Grant

    def told(self, ticket: int) -> None:
        """Nobody waits for the ticket any more."""
        self._waiters.pop(ticket, None)
        self._machine.untold.pop(ticket, None)

    # -- from the inbox to the waiters -------------------------------------------------

    def _put_by(self, event: Event) -> None:
        """Leave an event that no call waits for to the next one who comes by."""
        self._inbox.append((self.clock(), event))
        if len(self._inbox) > PUT_BY:
            self.pump()

    def post(self, event: Event) -> None:
        """Have the event handled, here or by the thread that is at it."""
        self._inbox.append((self.clock(), event))
        self.pump()

    def pump(self) -> None:
        """Handle what is in the inbox, unless another thread does: that one looks again afterwards."""
        inbox, lock = self._inbox, self._lock
        while inbox:
            if lock.locked():  # perhaps by this very thread: a finaliser inside a decision, or a policy
                return
            # On one line, with the loop in the callee: to leave the block takes no line of its own, at which
            # an interrupt could keep the lock. `with lock` takes and gives it back in C.
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
                if type(one) is tuple:
                    now, event = one
                else:
                    now, event = self.clock(), one
                    self._watched.pop(one.ticket, None)
                if self._tries < GIVEN_UP:
                    try:
                        handle(now, event, trust=self._tries < TRIES)
                    except Exception:
                        logger.exception(
                            "%s is handled again (try %d)", type(event).__name__, self._tries + 1
                        )
                        continue
                else:
                    logger.error("%s is dropped after %d tries", type(event).__name__, self._tries)
                inbox.popleft()  # once it is applied and settled; only the thread with the lock takes out
        finally:
            self._decider = None

    def _deliver(self, *, again: bool = False) -> None:
        """Wake the holders that were not told, and those who wait no longer. To tell twice is harmless."""
        untold, machine = self._machine.untold, self._machine
        if untold:
            for ticket in [ticket for ticket, fresh in tuple(untold.items()) if fresh or again]:
                waiter = self._waiters.get(ticket)
                if waiter is None:
                    continue  # it does not wait yet, and looks for itself before it does
                if not waiter.wake():
                    # Its event loop is closed: there is nobody to give the slot back.
                    self._inbox.append((self.clock(), CallReleased(ticket, Outcome.CANCELLED)))
                    self._waiters.pop(ticket, None)
                if ticket in untold:
                    untold[ticket] = False
        story, own = self._story, self._own
        if story.urgent > own.read or story.last >= own.read + self._lag:
            own.catch_up()
            story.trim(own.read)
        for subscription in self._subscriptions:
            subscription.catch_up()
        wake_s = machine.wake_s
        if wake_s is not None:
            self._timer.within(wake_s - self.clock())

    def tick(self) -> float | None:
        """See `Timed.tick`."""
        if not self._waiters and not self._inbox and self._machine.wake_s is None:
            return None
        self._inbox.append((self.clock(), Ticked()))
        self.pump()
        self._deliver(again=True)
        wake_s = self._machine.wake_s
        return BEAT_S if wake_s is None else min(wake_s - self.clock(), BEAT_S)

    # -- observers ---------------------------------------------------------------------

    def subscribe(self, see: See) -> Subscription:
        """Have `see` called with each entry of the story from now on."""
        self.pump()
        subscription = Subscription(self._machine.story, see, self._unsubscribe)
        self._subscriptions = (*self._subscriptions, subscription)
        return subscription

    def _unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions = tuple(own for own in self._subscriptions if own is not subscription)

    def learn(self) -> None:
        """Learn from all jobs that have ended, here and now."""
        self._service.learn()

    # -- what can be seen --------------------------------------------------------------

    @property
    def policy(self) -> Policy:
        """The order of service."""
        return self._machine.policy

    @property
    def profile(self) -> Profile:
        """What has been learned so far."""
        return self._service.profile

    @property
    def jobs(self) -> int:
        """Jobs that have arrived and not ended."""
        return self._machine.jobs + len(self._quiet)

    @property
    def jobs_ended(self) -> int:
        """Jobs that have ended, and whose last call is back."""
        return self.totals.jobs + self._quiet.ended

    @property
    def backends(self) -> Mapping[str, BackendView]:
        """The backends now, by name."""
        return self._ledger.backends

    def view(self) -> LedgerView:
        """All tickets now."""
        return self._ledger.view()

    def story(self, *tickets: int) -> list[Entry]:
        """The latest entries, oldest first; only those about `tickets` if any are given."""
        self.look()
        return self._machine.entries(*tickets)

    def check(self) -> None:
        """Raise AssertionError unless every invariant of machine, ledger and wakers holds."""
        self.look()
        if self._decider == threading.get_ident():
            return  # a policy looks at its own scheduler, in the middle of a decision
        with self._lock: self._check()  # noqa: E701  # fmt: skip
        self.pump()

    def _check(self) -> None:
        self._machine.check(self.clock())
        waiters = tuple(self._waiters)
        asking = {
            one[1].ticket
            for one in self._inbox.copy()
            if type(one) is tuple and type(one[1]) is CallRequested
        }
        for ticket in waiters:
            known = self.claim(ticket) is not None or ticket in self._machine.untold or ticket in asking
            assert known or ticket not in self._waiters, "a waiter of no ticket"

    def look(self) -> None:
        """See to it that what was put by is handled, and that the package's own observers have seen it."""
        self.pump()
        # A policy may look at its own scheduler, in the middle of a decision: it waits for no other thread.
        inside = self._decider == threading.get_ident()
        until_s = time.monotonic() + LOOK_S
        while self._inbox and not inside and time.monotonic() < until_s:
            # Another thread is at it, not for long. Its lock is not waited for: a signal handler may look, in
            # the very thread that holds it.
            self.pump()
        self._own.catch_up(wait=not inside)
