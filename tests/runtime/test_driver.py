"""The driver: an inbox that loses nothing, from any thread at any time."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
import threading

import pytest

from llmsched_langgraph import Application, Backend, SchedulerClosedError
from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._core.events import CallRequested
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome
from llmsched_langgraph._runtime import driver as driver_module
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.driver import PUT_BY
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph._runtime.streams import hold
from llmsched_langgraph.errors import CallCancelledError
from llmsched_langgraph.policies import JobInfo

APPLICATION = Application.of("app", ["s"])
INFO = JobInfo(application=APPLICATION)


class Nothing:
    """A meter that looks at nothing."""

    def see(self, item):
        pass

    def usage(self):
        return UNKNOWN_USAGE


class Waiter:
    """A waiter that counts how often it was woken, and does something when it is."""

    def __init__(self, then=lambda: None):
        self.woken = 0
        self.error = None
        self.then = then

    def refuse(self, error):
        self.error = error

    def wake(self):
        self.woken += 1
        self.then()
        return True


def request(scheduler, *, job=None, waiter=None):
    """A new ticket for a slot; if it has to wait, its waiter is registered."""
    driver = scheduler._driver
    ticket = driver.new_ticket()
    if not driver.request(CallRequested(ticket, "default", "s", job, False, None)) and waiter is not None:
        driver.register(ticket, waiter)
    return ticket


def told(scheduler):
    """The story in short: kinds and tickets."""
    return [(entry.kind, entry.ticket) for entry in scheduler._driver.story() if entry.ticket]


class Calling:
    """A policy that calls back each time it is asked."""

    name = "calling"

    def __init__(self):
        self.back = lambda: None

    def order(self, job, now):
        self.back()
        return 0.0


def abandoned_stream(scheduler):
    """A stream in the middle, which holds a slot and which only its reference keeps alive."""
    stream = hold(scheduler.slot(), lambda: iter("abc"), Nothing())
    next(stream)
    return stream


def test_a_finaliser_may_release_in_the_middle_of_a_decision(make_scheduler, spawn):
    """A stream that dies while its scheduler decides (same thread, lock held) gives its slot back."""
    policy = Calling()
    scheduler = make_scheduler(1, policy=policy)

    def main():
        streams = [abandoned_stream(scheduler)]
        policy.back = streams.clear
        ticket = request(scheduler)  # asking for this slot kills the stream that holds it
        assert streams == []
        scheduler.check()
        now = scheduler.statistics()
        scheduler._driver.release(ticket)
        return now.holding, now.granted

    assert spawn(main).result(20) == (1, 2)


def test_a_finaliser_may_release_while_somebody_looks(make_scheduler, spawn, monkeypatch):
    """A stream that dies while `check` holds the lock gives its slot back right afterwards."""
    scheduler = make_scheduler(1)

    def main():
        streams = [abandoned_stream(scheduler)]
        monkeypatch.setattr(type(scheduler._driver._machine), "check", lambda machine, now: streams.clear())
        scheduler.check()
        monkeypatch.undo()
        scheduler.check()
        return scheduler.statistics().holding

    assert spawn(main).result(20) == 0


def test_a_policy_may_post_events(make_scheduler, spawn):
    """What is posted from within a decision is handled after it, in order, by the same thread."""
    policy = Calling()
    scheduler = make_scheduler(1, policy=policy)

    def main():
        first = request(scheduler)

        def once():
            policy.back = lambda: None
            scheduler._driver.release(first)
            scheduler._driver.release(first + 1)

        policy.back = once
        request(scheduler)
        return told(scheduler)

    assert spawn(main).result(20) == [
        ("SlotGranted", 1),
        ("CallQueued", 2),
        ("CallReleased", 1),
        ("SlotGranted", 2),
        ("CallReleased", 2),
    ]


def test_what_is_posted_as_the_lock_is_given_back_is_not_left_behind(make_scheduler, spawn):
    """An event posted after the last look into the inbox, while the lock is still held, is handled."""
    scheduler = make_scheduler(1)
    driver = scheduler._driver
    slot = scheduler.slot()
    slot.acquire()
    lock = driver._lock

    class LateLock:
        """A lock in whose last moment another thread posts."""

        def locked(self):
            return lock.locked()

        def __enter__(self):
            lock.acquire()

        def __exit__(self, *error):
            if driver._lock is self:
                driver._lock = lock
                late = threading.Thread(target=slot.release, daemon=True)
                late.start()
                late.join(20)
                assert driver.backends["default"].holding == 1, "the lock was free"
            lock.release()

    driver._lock = LateLock()
    spawn(driver.configure, Backend(slots=1)).result(20)
    assert driver.backends["default"].holding == 0


def test_jobs_without_calls_cost_nothing(make_scheduler):
    """They are counted, and that is all: the machine never hears of them."""
    scheduler = make_scheduler(1)
    runs = [start_run(scheduler, INFO) for _ in range(3)]
    runs[0].tell()
    assert scheduler.statistics().jobs_running == 3
    for run in runs:
        run.end(Outcome.FINISHED)
    now = scheduler.statistics()
    assert (now.jobs_running, now.jobs_ended) == (0, 3)
    assert scheduler._driver.story() == []


def test_no_call_is_ahead_of_the_arrival_of_its_job(make_scheduler, spawn):
    """Two threads of a job make its first calls at once: whichever announces it, both calls belong to it."""
    scheduler, rounds = make_scheduler(2), 300
    runs = [start_run(scheduler, INFO) for _ in range(rounds)]
    barrier = threading.Barrier(2)

    def calls():
        for run in runs:
            barrier.wait(20)
            with inside(run), scheduler.slot(stage="s"):
                pass

    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for future in [spawn(calls) for _ in range(2)]:
            future.result(50)
    finally:
        sys.setswitchinterval(interval_s)
    for run in runs:
        run.end(Outcome.FINISHED)
    assert scheduler.statistics().jobs_ended == rounds
    assert scheduler.profile.jobs(DIRECT.fingerprint) == 0


def test_what_no_call_waits_for_is_put_by(make_scheduler):
    """Jobs that come and go are taken in with the next event, by a look, or when there are many."""
    scheduler = make_scheduler(1, policy="justitia")  # a policy that hears of every job
    driver = scheduler._driver
    runs = [start_run(scheduler, INFO) for _ in range(3)]
    assert len(driver._inbox) == 3
    assert scheduler.statistics().jobs_running == 3
    assert not driver._inbox
    for run in runs:
        run.end(Outcome.FINISHED)
    with scheduler.slot():
        assert driver.jobs == 0
    for _ in range(3 * PUT_BY):
        start_run(scheduler, INFO).end(Outcome.FINISHED)
    assert len(driver._inbox) <= PUT_BY
    assert scheduler.statistics().jobs_ended >= 3 * PUT_BY


def test_a_look_waits_for_the_thread_that_decides(make_scheduler, spawn, monkeypatch):
    """What a thread has told before it looks is in what it sees, though another thread is handling it."""
    monkeypatch.setattr(driver_module, "LOOK_S", 20.0)
    policy = Calling()
    scheduler = make_scheduler(1, policy=policy)
    deciding, go_on = threading.Event(), threading.Event()

    def hold_up():
        policy.back = lambda: None
        deciding.set()
        assert go_on.wait(20)

    first = request(scheduler)
    policy.back = hold_up
    second = spawn(request, scheduler)
    assert deciding.wait(20)
    scheduler._driver.release(first)  # left to the thread that decides
    assert scheduler._driver._inbox
    look = spawn(scheduler.statistics)
    go_on.set()
    now = look.result(20)
    assert (now.granted, now.released) == (2, 1)
    scheduler._driver.release(second.result(20))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="POSIX alone")
def test_a_signal_handler_may_look_at_any_moment(make_scheduler):
    """Also while its own thread holds the lock: it sees what is there, and nothing hangs."""
    scheduler, looks = make_scheduler(1), []

    def look(number, frame):
        now = scheduler.statistics()
        looks.append(now.granted - now.released == now.holding)
        signal.setitimer(signal.ITIMER_REAL, 0.0003)  # the next one, once this one is through

    previous = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, 0.0003)
    try:
        while len(looks) < 200:
            with scheduler.slot():
                pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, previous)
    assert all(looks)


@pytest.fixture
def make_still(make_scheduler):
    """Make schedulers with nothing in the background that might wake a waiter again: a test calls `tick`."""

    def make(*args, **kwargs):
        scheduler = make_scheduler(*args, **kwargs)
        scheduler._driver._timer.within = lambda seconds: None
        scheduler._driver._service.learner.observe = lambda *news: None
        return scheduler

    return make


def test_waiters_are_woken_after_the_lock_is_given_back(make_still, spawn):
    """A waiter that looks at the scheduler as it is woken finds the lock free."""
    scheduler = make_still(1)
    looked = []

    def look():
        scheduler.check()
        looked.append(told(scheduler)[-1])

    waiter = Waiter(look)
    first = request(scheduler)
    second = request(scheduler, waiter=waiter)
    assert waiter.woken == 0
    spawn(scheduler._driver.release, first).result(20)
    assert waiter.woken == 1
    assert looked == [("SlotGranted", second)]
    scheduler._driver.told(second)
    scheduler._driver.release(second)


def test_a_waiter_that_was_told_is_not_woken(make_still):
    """Neither a later release nor the close wakes who knows of its slot."""
    scheduler, waiter = make_still(1), Waiter()
    driver = scheduler._driver
    first, second = request(scheduler), request(scheduler, waiter=waiter)
    driver.release(first)
    assert driver.outcome(second, waiter)
    driver.told(second)
    woken = waiter.woken
    scheduler.resize(5)
    driver.tick()
    scheduler.close()
    driver.release(second)
    assert waiter.woken == woken == 1
    assert waiter.error is None


def test_a_waiter_that_was_not_told_is_woken_again(make_still):
    """An interrupt may cost the first wake-up; the timer gives another one."""
    scheduler = make_still(1)
    driver = scheduler._driver

    def interrupted():
        waiter.then = lambda: None
        raise KeyboardInterrupt

    waiter = Waiter(interrupted)
    first, second = request(scheduler), request(scheduler, waiter=waiter)
    with pytest.raises(KeyboardInterrupt):
        driver.release(first)
    driver.tick()
    assert waiter.woken >= 2
    assert driver.outcome(second, waiter)
    driver.told(second)
    driver.release(second)


def test_a_released_waiter_is_not_woken(make_scheduler):
    """Who gave up in the backlog is not woken any more, not even by the close."""
    scheduler, waiter = make_scheduler(1), Waiter()
    first, second = request(scheduler), request(scheduler, waiter=waiter)
    scheduler._driver.release(second)
    scheduler._driver.release(first)
    scheduler.close()
    assert waiter.woken == 0
    scheduler._driver.told(second)


def test_a_waiter_that_is_gone_hands_on_its_slot(make_still):
    """A waiter that cannot be woken is released, and the next in the queue gets the slot."""
    scheduler = make_still(1)
    gone, next_one = Waiter(), Waiter()
    gone.wake = lambda: False
    first = request(scheduler)
    request(scheduler, waiter=gone)
    third = request(scheduler, waiter=next_one)
    scheduler._driver.release(first)
    assert next_one.woken == 1
    assert scheduler.statistics().granted == 3
    scheduler._driver.told(third)
    scheduler._driver.release(third)


# -- dismissal and close ----------------------------------------------------------------


def test_a_dismissed_ticket_is_woken_and_raises(make_still):
    """It is woken once it is out of the backlog, and finds the error that it was refused with."""
    scheduler, waiter = make_still(1), Waiter()
    driver = scheduler._driver
    first, second = request(scheduler), request(scheduler, waiter=waiter)
    waiter.refuse(error := LookupError("not wanted"))
    assert driver.outcome(second, waiter) is False  # until it is dismissed
    driver.dismiss(second)
    assert waiter.woken == 1
    with pytest.raises(LookupError) as caught:
        driver.outcome(second, waiter)
    assert caught.value is error
    driver.told(second)
    driver.release(first)
    assert told(scheduler)[2:] == [("CallWithdrawn", second), ("CallReleased", first)]


def test_a_dismissal_that_comes_after_the_grant_changes_nothing(make_scheduler):
    """The slot is there: who waits for it takes it, though it was refused."""
    scheduler, waiter = make_scheduler(1), Waiter()
    driver = scheduler._driver
    first, second = request(scheduler), request(scheduler, waiter=waiter)
    waiter.refuse(LookupError("not wanted"))
    driver.release(first)
    driver.dismiss(second)
    assert driver.outcome(second, waiter)
    driver.told(second)
    driver.release(second)
    driver.dismiss(second)
    driver.dismiss(1_000)
    assert told(scheduler)[-1] == ("CallReleased", second)


def test_a_slot_that_is_dismissed_before_it_waits(make_scheduler, spawn, monkeypatch):
    """The run is stopped between the request of its call and its wait: the wait ends at once."""
    scheduler = make_scheduler(1)
    driver, holder, slot = scheduler._driver, scheduler.slot(), scheduler.slot()
    holder.acquire()
    register = driver.register
    monkeypatch.setattr(driver, "register", lambda *args: (slot.dismiss(), register(*args)))

    def wait():
        with pytest.raises(CallCancelledError):
            slot.acquire()

    spawn(wait).result(20)
    assert scheduler.statistics().waiting == 0
    holder.release()


@pytest.mark.parametrize("when", ["before the request", "before the wait", "in the wait"])
def test_close_at_any_moment_of_a_call(make_scheduler, spawn, monkeypatch, when):
    """A call that does not have its slot when the scheduler is closed raises, however far it has come."""
    scheduler = make_scheduler(1)
    driver, holder = scheduler._driver, scheduler.slot()
    holder.acquire()
    request_, register, outcome = driver.request, driver.register, driver.outcome

    def closing(then):
        def close_first(*args):
            if not driver.closed:
                scheduler.close()
            return then(*args)

        return close_first

    if when == "before the request":
        monkeypatch.setattr(driver, "request", closing(request_))
    elif when == "before the wait":
        monkeypatch.setattr(driver, "register", closing(register))
    else:
        monkeypatch.setattr(driver, "outcome", closing(outcome))

    def wait():
        with pytest.raises(SchedulerClosedError):
            scheduler.slot().acquire()

    spawn(wait).result(20)
    now = scheduler.statistics()
    assert (now.holding, now.waiting) == (1, 0)
    holder.release()


def test_a_slot_that_is_granted_as_the_scheduler_is_closed_is_kept(make_scheduler):
    """A call that holds its slot goes on, though its waiter does not know of it yet."""
    scheduler, waiter = make_scheduler(1), Waiter()
    driver = scheduler._driver
    first, second = request(scheduler), request(scheduler, waiter=waiter)
    driver.release(first)
    scheduler.close()
    assert driver.outcome(second, waiter)
    driver.told(second)
    assert scheduler.statistics().holding == 1
    driver.release(second)


# -- policies and learning --------------------------------------------------------------


def test_a_failing_policy_is_logged_once(make_scheduler, caplog):
    """Its first error is logged with the policy's name; every call is served all the same."""

    class Failing:
        name = "failing"

        def order(self, job, now):
            raise ZeroDivisionError("my bug")

        def hear(self, event):
            raise KeyError("another bug")

    scheduler = make_scheduler(1, policy=Failing())
    with caplog.at_level(logging.ERROR, logger="llmsched_langgraph"):
        tickets = [request(scheduler) for _ in range(3)]  # one at once, two that wait
        for ticket in tickets:
            scheduler._driver.release(ticket)
        scheduler.statistics()
    (message,) = [record.getMessage() for record in caplog.records]
    instead = "gets order 0 (smaller is served first), ties by arrival (logged once)"
    assert (
        message == f"policy 'failing' failed; a job that it cannot order {instead}: KeyError('another bug')"
    )
    failures = [entry.detail for entry in scheduler._driver.story() if entry.kind == "PolicyFailed"]
    assert {type(failure) for failure in failures} == {KeyError, ZeroDivisionError}
    assert [ticket for kind, ticket in told(scheduler) if kind == "SlotGranted"] == tickets


def test_a_job_is_learned_from_when_its_last_call_is_back(make_scheduler):
    """A run that ended before its call counts as ended, and teaches, once the call is back."""
    now = [0.0]
    scheduler = make_scheduler(1, clock=lambda: now[0])
    run = start_run(scheduler, INFO)
    with inside(run), scheduler.slot(stage="s"):
        now[0] = 4.0
        run.end(Outcome.FINISHED)
        assert scheduler.statistics().jobs_running == 0
        assert scheduler.statistics().jobs_ended == 0
    assert scheduler.statistics().jobs_ended == 1
    learned = scheduler.profile.applications[APPLICATION.fingerprint]
    assert (learned.jobs, learned.mean_s) == (1, 4.0)


def test_the_machine_is_told_what_was_learned(make_scheduler):
    """What jobs taught is known to the policy at the next decision."""
    seen = []

    class Spy:
        name = "spy"

        def order(self, job, now):
            seen.append(job.runs)
            return 0.0

    scheduler = make_scheduler(1, policy=Spy())
    for _ in range(3):
        holder = request(scheduler)
        run = start_run(scheduler, INFO)
        waiting = request(scheduler, job=run.job)
        for ticket in (holder, waiting):
            scheduler._driver.release(ticket)
        run.end(Outcome.FINISHED)
        scheduler.learn()
    assert [runs for runs, _ in itertools.groupby(seen)] == [0, 1, 2]


def test_a_profile_that_is_read_has_every_job_in_it(make_scheduler):
    """Jobs are learned from in batches, but no profile that is read lacks one."""
    scheduler = make_scheduler(1)
    for calls in range(1, 101):
        with scheduler.slot(stage="s"):
            pass
        if calls % 7 == 0:
            assert scheduler.profile.jobs(DIRECT.fingerprint) == calls
        assert scheduler.statistics().jobs_ended == calls
    assert scheduler.profile.jobs(DIRECT.fingerprint) == 100


def test_a_policy_may_read_its_schedulers_profile(make_scheduler, spawn):
    """Also in the middle of a decision it is whole."""
    seen = []

    class Reading:
        name = "reading"

        def order(self, job, now):
            seen.append(scheduler.profile.jobs(DIRECT.fingerprint))
            return 0.0

    scheduler = make_scheduler(1, policy=Reading())

    def main():
        for _ in range(50):
            for ticket in [request(scheduler), request(scheduler)]:
                scheduler._driver.release(ticket)
            scheduler._driver.release(request(scheduler))  # which never waits

    spawn(main).result(20)
    assert [jobs for jobs, _ in itertools.groupby(seen)] == list(range(0, 150, 3))


@pytest.mark.parametrize("tickets", [(), (1,), (2, 3)])
def test_story(make_scheduler, tickets):
    """The story can be had for some tickets; it is the machine's."""
    scheduler = make_scheduler(1)
    for _ in range(3):
        with scheduler.slot():
            pass
    story = scheduler._driver.story(*tickets)
    assert {entry.ticket for entry in story if entry.ticket} == set(tickets or (1, 2, 3))
    assert not tickets or all(entry.ticket for entry in story)
