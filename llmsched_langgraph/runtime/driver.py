"""Knows how events from any thread and any loop reach one dispatcher, and whom to wake afterwards.

Does not know LangGraph, what a call is, or the order of service.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.dispatcher import Dispatcher
from llmsched_langgraph.core.events import (
    CallReleased,
    CallRequested,
    CapacityChanged,
    Event,
    FormBelief,
    JobArrived,
    JobEnded,
    JobPaused,
    ReportFault,
    StagesMoved,
)
from llmsched_langgraph.core.ledger import SlotLedger
from llmsched_langgraph.core.machine import SchedulerMachine
from llmsched_langgraph.core.policies import Policy
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.dag.position import Move
from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, Outcome, Usage
from llmsched_langgraph.errors import QueueTimeoutError, SchedulerClosedError
from llmsched_langgraph.jobs.ended import EndedJob
from llmsched_langgraph.runtime.mind import Mind
from llmsched_langgraph.runtime.recording import Recorder
from llmsched_langgraph.runtime.stores import ProfileStore
from llmsched_langgraph.runtime.waiter import Waiter

logger = logging.getLogger("llmsched_langgraph")


@dataclass(slots=True)
class Counts:
    """Totals since the driver was made. What is true right now is derived from the ledgers instead."""

    peak: int = 0
    over_commitments: int = 0
    jobs: int = 0
    waited_s: float = 0.0
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class _Outbox:
    """What is to be done once the lock is given back."""

    woken: list[tuple[int, Waiter, Exception | None]] = field(default_factory=list)
    faults: list[ReportFault] = field(default_factory=list)
    wanted: list[FormBelief] = field(default_factory=list)
    records: list[EndedJob] = field(default_factory=list)


PUT_BY = 64
"""Events that may lie in the inbox until somebody needs them handled."""


class Driver:
    """The live driver: one dispatcher, one clock, and a waker for each waiting ticket.

    Events go into an inbox, and whoever finds the lock free handles all that is there. So nobody who
    posts an event ever blocks on the lock, not an event loop and not a finaliser that the garbage
    collector runs in the middle of another event; only those who look at the whole wait for a decision
    to end. Waiters are woken after the lock is given back.
    """

    def __init__(
        self,
        slots: Mapping[str, int],
        policy: Policy,
        *,
        profile: Profile | None = None,
        store: ProfileStore | None = None,
        recorder: Recorder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._dispatcher = Dispatcher(
            SchedulerMachine(policy, profile or Profile()),
            {backend: SlotLedger(capacity) for backend, capacity in slots.items()},
        )
        self._lock = threading.Lock()
        self._inbox: deque[Callable[[_Outbox], None]] = deque()
        self._waiters: dict[int, tuple[float, Waiter]] = {}  # since when, and whom to wake
        self._tickets = itertools.count(1)
        self._jobs = itertools.count(1)
        self._closed = False
        self._decider: int | None = None  # the thread that is handling the inbox
        self._told: set[str] = set()  # what was said of a policy that fails
        self._counts = Counts()
        # What is recorded is written as it happens: the process may be killed any time.
        self._end = self._put_by if recorder is None else self._post
        # Last, as it may have something to tell at once.
        self._mind = Mind(self._post, self._look, clock, profile or Profile(), store, recorder)

    # -- what happens ------------------------------------------------------------------

    def start_job(self, application: Application, resumes: str | None = None) -> int:
        """A run of `application` begins, or goes on if it was paused on thread `resumes`.

        Raises:
            SchedulerClosedError: the scheduler was closed.
        """
        self._check_open()
        job = next(self._jobs)
        self._put_by(JobArrived(self._clock(), job, application, resumes))
        return job

    def end_job(self, job: int, outcome: Outcome, moves: deque[Move]) -> None:
        """The run is over, however it ended; `moves` as in `move_stages`."""
        self._inbox.append(partial(self._take_moves, job, moves))
        self._end(JobEnded(self._clock(), job, outcome))

    def pause_job(self, job: int, thread: str, moves: deque[Move]) -> None:
        """The run was interrupted, and may be resumed on `thread`; `moves` as in `move_stages`."""
        self._inbox.append(partial(self._take_moves, job, moves))
        self._put_by(JobPaused(self._clock(), job, thread))

    def move_stages(self, job: int, moves: deque[Move]) -> None:
        """Executions of stages of the job were announced, began or ended.

        What stands in `moves` is taken out when it is handled, so that threads which tell of the same
        job cannot overtake each other with a part of it each.
        """
        self._inbox.append(partial(self._take_moves, job, moves))
        self._drain()

    def dismiss(self, ticket: int, error: Exception) -> None:
        """Wake the ticket's waiter with an error; nothing happens if it has its slot already."""
        self._inbox.append(partial(self._send_away, ticket, error))
        self._drain()

    def new_ticket(self) -> int:
        """A ticket to request with. It is named first, so that it can be released whatever happens."""
        return next(self._tickets)

    def request(
        self,
        ticket: int,
        waiter: Waiter,
        backend: str,
        *,
        job: int | None,
        stage: str,
        run: int | None = None,
        moves: deque[Move] | None = None,
        forced: bool = False,
    ) -> None:
        """Ask for a slot; `waiter` is woken when it is there, at once if one is free.

        Args:
            ticket: from `new_ticket`.
            waiter: whom to wake.
            backend: whose slot.
            job: the run that the call is part of, if any.
            stage: what it is called.
            run: number of the stage run that it is made in, if it is known.
            moves: what happened in the job and was not told yet, as in `move_stages`.
            forced: whether it cannot wait.

        Raises:
            SchedulerClosedError: the scheduler was closed.
        """
        self._check_open()
        if moves and job is not None:
            self._inbox.append(partial(self._take_moves, job, moves))
        self._post(CallRequested(self._clock(), ticket, backend, stage, job, forced, run), waiter)

    def release(self, ticket: int, outcome: Outcome = Outcome.FINISHED, usage: Usage = UNKNOWN_USAGE) -> None:
        """Give back whatever the ticket has: from any state, any thread, any number of times."""
        self._post(CallReleased(self._clock(), ticket, outcome, usage))

    def resize(self, backend: str, slots: int) -> None:
        """Change a backend's slots. Fewer than are held: the surplus drains, nothing is revoked."""
        self._post(CapacityChanged(self._clock(), backend, slots))

    def close(self) -> None:
        """Take no more jobs and calls. Waiting calls raise; those in a slot go on and give it back."""
        self._closed = True
        self._inbox.append(self._send_all_away)
        self._drain()
        self._mind.stop()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise SchedulerClosedError(
                "the scheduler is closed; make a new Scheduler, or call reset_default_scheduler() "
                "if it was the default one"
            )

    # -- from the inbox to the waiters -------------------------------------------------

    def _put_by(self, event: Event) -> None:
        """Leave an event that nobody waits for to whoever comes next; in its order, but not at once."""
        self._inbox.append(partial(self._handle, event, None))
        if len(self._inbox) > PUT_BY:
            self._drain()

    def _post(self, event: Event, waiter: Waiter | None = None) -> None:
        self._inbox.append(partial(self._handle, event, waiter))
        self._drain()

    def _drain(self) -> None:
        # Whoever fails to get the lock may leave: the holder looks into the inbox again after
        # giving the lock back, so nothing that was posted meanwhile stays behind.
        while self._inbox and self._lock.acquire(blocking=False):
            outbox = _Outbox()
            self._decider = threading.get_ident()
            try:
                while self._inbox:
                    self._inbox.popleft()(outbox)
            finally:
                self._decider = None
                self._lock.release()
                self._deliver(outbox)

    def _handle(self, event: Event, waiter: Waiter | None, outbox: _Outbox) -> None:
        if isinstance(event, CallRequested) and waiter is not None:
            if self._closed:  # it was open when the call asked
                outbox.woken.append((event.ticket, waiter, _closed_while_waiting()))
                return
            self._waiters[event.ticket] = (event.now, waiter)
        elif isinstance(event, CallReleased):
            self._waiters.pop(event.ticket, None)
        settled = self._dispatcher.handle(event)
        for ticket in settled.granted:
            asked_s, granted = self._waiters.pop(ticket)
            outbox.woken.append((ticket, granted, None))
            self._counts.waited_s += event.now - asked_s
        outbox.faults += settled.faults
        outbox.wanted += settled.wanted
        for record in settled.records:
            self._count(record)
            outbox.records.append(record)
        if settled.granted:
            if isinstance(event, CallRequested) and event.forced:
                self._counts.over_commitments += 1
            holding = sum([ledger.holding for ledger in self._dispatcher.ledgers.values()])
            self._counts.peak = max(self._counts.peak, holding)
        self._counts.jobs += len(settled.records)

    def _take_moves(self, job: int, moves: deque[Move], outbox: _Outbox) -> None:
        taken = tuple([moves.popleft() for _ in range(len(moves))])
        if taken:
            self._handle(StagesMoved(self._clock(), job, taken), None, outbox)

    def learn(self) -> None:
        """Learn from all jobs that have ended, here and now."""
        self._mind.learn()

    def _count(self, record: EndedJob) -> None:
        self._counts.prompt_tokens += sum(call.prompt_tokens or 0 for call in record.llm_calls())
        self._counts.output_tokens += sum(call.output_tokens or 0 for call in record.llm_calls())

    def _send_all_away(self, outbox: _Outbox) -> None:
        """Wake all that wait: the scheduler was closed. Each with its own error, as each will raise it."""
        for ticket in tuple(self._waiters):
            self._send_away(ticket, _closed_while_waiting(), outbox)

    def _send_away(self, ticket: int, error: Exception, outbox: _Outbox) -> None:
        """Wake the ticket's waiter with an error, if it waits."""
        if ticket in self._waiters:
            _, waiter = self._waiters[ticket]
            self._handle(CallReleased(self._clock(), ticket, Outcome.CANCELLED), None, outbox)
            outbox.woken.append((ticket, waiter, error))

    def _deliver(self, outbox: _Outbox) -> None:
        for ticket, waiter, error in outbox.woken:
            if not waiter.wake(error):
                # Its event loop is closed: nobody is left there to give the slot back.
                event = CallReleased(self._clock(), ticket, Outcome.CANCELLED)
                self._inbox.append(partial(self._handle, event, None))
        if outbox.wanted or outbox.records:
            self._mind.take(outbox.records, outbox.wanted)
        for fault in outbox.faults:
            instead = "turns to explore go to the next in line"
            if fault.job is not None:
                instead = "the jobs it fails for go in order of arrival"
            if instead not in self._told:
                self._told.add(instead)
                name = self.policy.name
                logger.error("policy %r failed; %s (said once): %r", name, instead, fault.error)

    # -- what can be seen --------------------------------------------------------------

    def timed_out(self, ticket: int, backend: str, waited_s: float) -> QueueTimeoutError:
        """The error for a call whose wait was too long, with what stood in its way."""
        ledger = self._dispatcher.ledgers[backend]
        return QueueTimeoutError(
            f"call {ticket} waited {waited_s:.1f} s for one of the {ledger.capacity} slots of backend "
            f"{backend!r}, with {ledger.holding} held and {ledger.waiting} calls waiting; raise "
            f"queue_timeout_s, or the slots if the backend can serve more"
        )

    @property
    def policy(self) -> Policy:
        """The order of service."""
        return self._dispatcher.machine.policy

    @property
    def profile(self) -> Profile:
        """What has been learned so far."""
        return self._mind.profile

    @property
    def jobs(self) -> int:
        """Jobs that have arrived and not ended."""
        return self._dispatcher.machine.jobs

    @property
    def counts(self) -> Counts:
        """A copy of the running totals."""
        return replace(self._counts)

    @property
    def ledgers(self) -> Mapping[str, SlotLedger]:
        """The backends' ledgers, to look at."""
        return self._dispatcher.ledgers

    def story(self, *tickets: int) -> list[Event]:
        """The latest events, oldest first; only those about `tickets` if any are given."""
        with self.looking():
            return self._dispatcher.machine.story(*tickets)

    def check(self, *, held_before: int = 0) -> None:
        """Raise AssertionError unless every invariant of machine, ledgers and wakers holds.

        Args:
            held_before: tickets that held a slot before a capacity was lowered, if one was.
        """
        with self.looking():
            self._dispatcher.check(held_before=held_before)
            assert self._waiters.keys() == self._dispatcher.machine.waiting(), "wakers and tickets differ"

    def _look(self) -> None:
        """Handle what was put by."""
        with self.looking():
            pass

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Hold still to be looked at; what is posted meanwhile is handled right after.

        A policy may look at its own scheduler while it decides: it has stopped already.
        """
        if self._decider == threading.get_ident():
            yield
            return
        self._drain()  # what was put by
        try:
            with self._lock:
                self._decider = threading.get_ident()
                try:
                    yield
                finally:
                    self._decider = None
        finally:
            self._drain()


def _closed_while_waiting() -> SchedulerClosedError:
    return SchedulerClosedError("the scheduler was closed while the call waited for a slot")
