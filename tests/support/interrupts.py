"""Knows how to break an operation off at any line that it runs in the package, and what must hold afterwards.

Does not know which operations there are.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections import Counter
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from pathlib import Path

import llmsched_langgraph
from llmsched_langgraph import Backend, Scheduler
from llmsched_langgraph._core.events import CallRequested, JobArrived, Ticked
from llmsched_langgraph._core.job import Job
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.checks import OVER
from llmsched_langgraph._runtime.call import current_call
from llmsched_langgraph.policies import JobInfo

_PACKAGE = Path(llmsched_langgraph.__file__).parent
_ROOMS = (
    "_core/",
    "_ledger/",
    "_runtime/",
    "_learning/",
    "_observe/",
    "_background.py",
    "_jobs/calls.py",
    "_jobs/stages.py",
)
_PLACES = tuple(f"{_PACKAGE}/{place}" for place in _ROOMS)

PATIENCE_S = 20.0
"""For what must happen; reached only by a test that fails."""


def until(holds, what):
    """Wait for a condition; `what` says what is wrong if it never comes to hold."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.0002)


class Broken(BaseException):
    """What a line raises, as a signal handler could."""


class Breaker:
    """Raises `Broken` at the `at`-th line that the block runs in the package, or in the `also` functions.

    Attributes:
        place: the function and line at which it did; None if the block ran fewer lines.
        handling: whether another exception was being handled there. CPython never frees that one, nor the
            frames that it was raised in, if a trace function raises at a `return` in an `except` clause.
    """

    def __init__(self, at, also=()):
        self.place, self.handling = None, False
        self._left = at
        self._raised_at = None
        self._also = {function.__code__ for function in also}
        self._known = {}

    def __enter__(self):
        self._before = sys.gettrace()
        sys.settrace(self._call)
        return self

    def __exit__(self, kind, error, trace):
        sys.settrace(self._before)

    def _call(self, frame, event, arg):
        code = frame.f_code
        inside = self._known.get(code)
        if inside is None:
            inside = self._known[code] = code in self._also or code.co_filename.startswith(_PLACES)
        return self._line if inside else None

    def _line(self, frame, event, arg):
        raised_at, self._raised_at = self._raised_at, None
        if event == "exception":
            self._raised_at = frame, frame.f_lineno
        elif event == "line":
            if raised_at == (frame, frame.f_lineno):
                # From CPython 3.12 on, `with lock: ...` is told of once more when an exception leaves it,
                # before C code gives the lock back. No signal can come between the two.
                return self._line
            self._left -= 1
            if not self._left:
                code = frame.f_code
                self.place = f"{Path(code.co_filename).stem}.{code.co_qualname}:{frame.f_lineno}"
                sys.settrace(None)
                self.handling = sys.exc_info()[1] is not None
                raise Broken
        return self._line


class Woken:
    """A waiter that notes that it was woken, or refused."""

    def __init__(self):
        self.woken = 0
        self.error = None

    def refuse(self, error):
        self.error = error

    def wake(self):
        self.woken += 1
        return True


class Bench:
    """A scheduler under a clock that stands, an observer, and verbs to post events for tickets and jobs.

    Attributes:
        seen: the entries that the observer was given.
        wakers: who waits, by ticket.
        also: functions that count as the package's: policies and observers of the test.
        after: what else must hold once the next event was handled.
        kept: whether some frames, and what they hold, may be kept for ever; see `Breaker`.
    """

    def __init__(
        self,
        policy="fcfs",
        slots=1,
        *,
        profile=None,
        timeout_s=None,
        also=(),
        backends=None,
        threads=False,
        record=None,
        watched=True,
    ):
        self.now = 100.0
        pools = [Backend(slots=slots)] if backends is None else backends
        self.scheduler = Scheduler(
            backends=pools,
            policy=policy,
            profile=profile,
            queue_timeout_s=timeout_s,
            record=record,
            clock=lambda: self.now,
        )
        self.driver = self.scheduler._driver
        self.driver._tickets = itertools.count(10_000)  # those of slots; tests name the others
        self.machine = self.driver._machine
        service = self.driver._service
        self.signs = []
        thinkers = [service.belief_former, service.learner, *([] if record is None else [service._recorder])]
        for background in (*(own._background for own in thinkers), service.learner._networking):
            if threads:
                background._run = int  # its threads start, and find nothing to do
            else:
                background.there_is_work = partial(self.signs.append, None)
        self.seen, self.wakers, self.also = [], {}, list(also)
        self.after = lambda: None
        self.kept, self.watched = False, watched
        self.first = self.machine.story.last + 1
        if watched:
            self.driver.subscribe(self.seen.append)

    # -- what happens ------------------------------------------------------------------

    def post(self, event):
        self.driver.post(event)

    def job(self, number, application, resumes=None, stage_events=(), **fields):
        """A job arrives under this number. The driver numbers its own from 1: use either way."""
        info = JobInfo(application=application, **fields)
        self.post(JobArrived(number, info, resumes, stage_events))

    def ask(self, ticket, job=None, stage="", *, backend="default", forced=False, run=None):
        """A ticket asks for a slot, and waits. Whether it was broken off or not, it stays."""
        if not forced:
            waker = self.wakers[ticket] = Woken()
            self.driver._waiters[ticket] = waker
        try:
            self.post(CallRequested(ticket, backend, stage, job, forced, run))
        except BaseException:
            asked = (one[1] for one in tuple(self.driver._inbox) if type(one) is tuple)
            if self.driver.claim(ticket) is None and ticket not in (
                e.ticket for e in asked if "ticket" in e._fields
            ):
                self.wakers.pop(ticket, None)  # it was broken off before it had asked
                self.driver._waiters.pop(ticket, None)
            raise

    def release(self, *tickets, **how):
        for ticket in tickets:
            # Who waits takes itself off the list first; who has a slot did so when it was told.
            self.wakers.pop(ticket, None)
            self.driver._waiters.pop(ticket, None)
            self.driver.release(ticket, **how)

    def paused(self):
        """The jobs that are paused."""
        truth = self.machine._committed.items()
        return {job for at, job in truth if type(at) is tuple and at[0] == "paused" and job is not None}

    # -- what must hold ----------------------------------------------------------------

    def settle(self):
        """The next event comes; then everything is true again, whatever was broken off before."""
        # The timer's thread may be at it, too.
        until(lambda: not self.driver._lock.locked(), "the lock was not given back")
        self.driver.post(Ticked())
        until(lambda: not self.driver._inbox, "an event stays in the inbox")
        self.check()
        self.after()

    def check(self):
        """Every invariant holds, each job is what follows from its log, and who has a slot was told."""
        self.scheduler.check()
        until(lambda: not self._not_told(), "a ticket has its slot, or was dismissed, and was not told")
        with self.driver._lock:
            for job in self.machine.known():
                again = Job(job.number, job.info, job.template, job.arrival_s)
                again.model = job.model  # like its template, it is known when the job is made
                again._log = list(job._log)
                again.restore(len(again._log))
                assert facts(again) == facts(job), f"job {job.number} is not what its log says"

    def _not_told(self):
        waiting, driver = self.driver.view().waiting, self.driver
        return [
            ticket
            for ticket, waker in self.wakers.items()
            if ticket not in waiting and ticket in driver._waiters and not waker.woken
        ]

    def end(self):
        """Everyone gives back what they have; nothing may be left."""
        for _ in range(100):
            view = self.driver.view()
            for ticket in (*view.holding, *view.waiting, *self.wakers):
                self.release(ticket)
            self.check()
            for number in tuple(self.machine._jobs._ids):
                self.driver.end_job(number, Outcome.FINISHED)
            self.driver.look()
            if not view.holding and not view.waiting and not self.machine.jobs:
                break
        with self.scheduler.slot():
            assert self.scheduler.statistics().holding == 1
        self.check()
        self.driver.look()
        self.nothing_is_left()
        self._the_story_is_whole()

    def nothing_is_left(self):
        """No slot, ticket, waiter or event, and nothing in any index."""
        driver, machine = self.driver, self.machine
        view = driver.view()
        assert not view.waiting, "a ticket is left"
        assert not view.holding, "a slot is left"
        for pool in view.backends.values():
            assert pool.granted == pool.released
            assert (pool.holding, pool.waiting) == (0, 0)
        assert not driver._inbox, "an event is left"
        assert not driver._waiters, "a waiter is left"
        assert not machine.untold, "a ticket is left among those to wake"
        assert not machine._truth.staged
        assert machine.jobs == 0, "a job still counts as running"
        assert {job.number for job in machine.known()} == self.paused(), "a job is left"
        assert machine._jobs._jobs.keys() == self.paused(), "a job is left in an index"
        if driver._watched:  # those of slots that are garbage
            gc.collect()
            driver.pump()
        assert not driver._watched or self.kept, "a slot is still watched"
        assert not machine.ledger._queues.of, "a queue is left"

    def _the_story_is_whole(self):
        machine = self.machine
        for subscription in self.driver._subscriptions:
            subscription.catch_up()
        first_seen = list(dict.fromkeys(entry.number for entry in self.seen))
        assert not self.watched or first_seen == list(range(self.first, machine.story.last + 1)), (
            "an observer missed an entry"
        )
        entries = {entry.number: entry for entry in self.seen}
        assert all(entries[entry.number] is entry for entry in self.seen), "an entry was seen in two forms"
        told = list(entries.values()) if self.watched else self.driver.story()
        for kind in ("CallQueued", "SlotGranted", "CallReleased", "CallWithdrawn"):
            times = Counter(entry.ticket for entry in told if entry.kind == kind)
            assert all(count == 1 for count in times.values()), f"{kind} twice for one ticket"
        for kind in ("JobArrived", "JobEnded", "JobClosed"):
            times = Counter(entry.job for entry in told if entry.kind == kind)
            assert all(count == 1 for count in times.values()), f"{kind} twice for one job"
        counts, now = self.driver.totals, self.scheduler.statistics()
        whole = self.driver.story()
        granted = [entry for entry in whole if entry.kind == "SlotGranted"]
        assert now.granted == len(granted)
        assert now.released == sum(entry.kind == "CallReleased" for entry in whole)
        assert counts.holding == 0, "grants and releases were not counted alike"
        assert counts.jobs == sum(closes(entry) for entry in whole)
        assert counts.over_commitments == sum(entry.detail.reason in OVER for entry in granted)
        waited_s = sum(entry.detail.granted_s - entry.detail.asked_s for entry in granted)
        assert abs(counts.waited_s - waited_s) < 1e-6


def closes(entry):
    """Whether the entry tells of a job's end; one that is forgotten while it is paused has none."""
    if entry.kind == "JobClosed":
        return entry.detail.paused_since is None
    return entry.kind == "CallClosed"


_LAZY = {"_log", "_ended", "_heard", "_source", "applied", "sent", "template", "info", "_position"}


def facts(job):
    """What follows from a job's log, its position looked at."""
    position = job.position
    known = {name: getattr(job, name) for name in Job.__slots__ if name not in _LAZY}
    return known, position


@contextmanager
def swallowing():
    """Finalisers swallow what they raise; in the block, they need not tell of `Broken`."""
    before = sys.unraisablehook

    def hook(unraisable):
        if not isinstance(unraisable.exc_value, Broken):
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def break_everywhere(scene, *, collect=None):
    """Break the scene's operation off at each of its lines in turn, in a bench of its own each time.

    Args:
        scene: makes a bench and the operation on it.
        collect: called between the two, e.g. to collect garbage.

    Returns:
        How many lines there were, and what did not hold after a break: by its place.
    """
    points, failures = 0, {}
    with swallowing():
        while True:
            bench, operation = scene()
            breaker, context = Breaker(points + 1, bench.also), copy_context()
            try:
                with breaker:
                    context.run(operation)
            except Broken:
                pass
            del operation
            if breaker.place is None:
                bench.settle()
                bench.end()
                return points, failures
            points += 1
            bench.kept = breaker.handling
            if collect is not None:
                collect()
            try:
                bench.settle()
                call = context.run(current_call)
                assert call is None or call.over, "what comes later in this context would be part of the call"
                bench.end()
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                failures[f"{points} {breaker.place}"] = f"{type(error).__name__}: {error}"[:200]
            bench.driver._service.stop()
