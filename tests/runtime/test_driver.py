"""The driver: an inbox that loses nothing, whoever posts and whenever."""

from __future__ import annotations

import logging
import threading

import pytest
from llmsched_langgraph.core.exploration import Exploration

from llmsched_langgraph.dag.application import DIRECT, Application
from llmsched_langgraph.dag.progress import UNKNOWN_USAGE, Outcome
from llmsched_langgraph.runtime.driver import PUT_BY
from llmsched_langgraph.runtime.scheduler import inside
from llmsched_langgraph.runtime.streams import hold

APPLICATION = Application.of("app", ["s"])


class Nothing:
    """A meter that looks at nothing."""

    def see(self, item):
        pass

    def usage(self):
        return UNKNOWN_USAGE


class Waiter:
    """A waiter that remembers how often it was woken, and does something when it is."""

    def __init__(self, then=lambda: None):
        self.woken = []
        self.then = then

    def wake(self, error=None):
        self.woken.append(error)
        self.then()
        return True


class Calling:
    """A policy that calls back each time it is asked."""

    name = "calling"

    def __init__(self):
        self.back = lambda: None

    def priority(self, job, profile, now):
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
        with scheduler.slot():  # asking for this slot kills the stream that holds it
            assert streams == []
            return scheduler.statistics().holding

    assert spawn(main).result(20) == 1
    assert scheduler.statistics().granted == 2


def test_a_finaliser_may_release_while_somebody_looks(make_scheduler, spawn, monkeypatch):
    """A stream that dies while `check` holds the lock gives its slot back right afterwards."""
    scheduler = make_scheduler(1)

    def main():
        streams = [abandoned_stream(scheduler)]
        check = scheduler._driver._dispatcher.machine.check
        monkeypatch.setattr(type(scheduler._driver._dispatcher.machine), "check", lambda m: streams.clear())
        scheduler.check()
        monkeypatch.undo()
        check()
        return scheduler.statistics().holding

    assert spawn(main).result(20) == 0


def test_a_policy_may_post_events(make_scheduler, spawn):
    """What is posted from within a decision is handled after it, in order, by the same thread."""
    policy = Calling()
    scheduler = make_scheduler(1, policy=policy)

    def main():
        driver, first, second = scheduler._driver, Waiter(), Waiter()
        driver.request(1, first, "default", job=None, stage="s")

        def once():
            policy.back = lambda: None
            driver.release(1)
            driver.release(2)

        policy.back = once
        driver.request(2, second, "default", job=None, stage="s")
        return first.woken, second.woken

    assert spawn(main).result(20) == ([None], [None])


def test_what_is_posted_as_the_lock_is_given_back_is_not_left_behind(make_scheduler, spawn):
    """An event posted after the last look into the inbox, while the lock is still held, is handled."""
    scheduler = make_scheduler(1)
    driver = scheduler._driver
    slot = scheduler.slot()
    slot.acquire()
    lock = driver._lock

    class LateLock:
        """A lock in whose last moment somebody else posts."""

        def acquire(self, blocking=True):
            return lock.acquire(blocking)

        def release(self):
            driver._lock = lock
            late = threading.Thread(target=slot.release, daemon=True)
            late.start()
            late.join(20)
            assert driver.ledgers["default"].holding == 1, "the lock was free"
            lock.release()

    driver._lock = LateLock()
    spawn(driver.resize, "default", 1).result(20)
    assert driver.ledgers["default"].holding == 0


def test_what_nobody_waits_for_is_put_by(make_scheduler):
    """Jobs that come and go are taken in with the next event, by whoever looks, or when there are many."""
    scheduler = make_scheduler(1)
    driver = scheduler._driver
    runs = [scheduler.start_job(APPLICATION) for _ in range(3)]
    assert len(driver._inbox) == 3
    assert scheduler.statistics().jobs_running == 3
    assert not driver._inbox
    for run in runs:
        scheduler.end_job(run, Outcome.FINISHED)
    with scheduler.slot():
        assert driver.jobs == 0
    for _ in range(3 * PUT_BY):
        scheduler.end_job(scheduler.start_job(APPLICATION), Outcome.FINISHED)
    assert len(driver._inbox) <= PUT_BY
    assert scheduler.statistics().jobs_ended >= 3 * PUT_BY


def test_waiters_are_woken_after_the_lock_is_given_back(make_scheduler, spawn):
    """A waiter that looks at the scheduler as it is woken finds the lock free."""
    scheduler = make_scheduler(1)
    looked = []

    def look():
        scheduler.check()
        looked.append(scheduler._driver.story()[-1].ticket)

    waiter = Waiter(look)
    spawn(lambda: scheduler._driver.request(1, waiter, "default", job=None, stage="s")).result(20)
    assert waiter.woken == [None]
    assert looked == [1]
    scheduler._driver.release(1)


def test_a_waiter_is_woken_once(make_scheduler):
    """Neither a later release nor the close wakes who was granted a slot."""
    scheduler = make_scheduler(1)
    waiter = Waiter()
    scheduler._driver.request(1, waiter, "default", job=None, stage="s")
    scheduler.resize(5)
    scheduler.close()
    scheduler._driver.release(1)
    assert waiter.woken == [None]


def test_a_released_waiter_is_not_woken(make_scheduler):
    """Who gave up in the backlog is not woken any more, not even by the close."""
    scheduler = make_scheduler(1)
    first, second = Waiter(), Waiter()
    for ticket, waiter in ((1, first), (2, second)):
        scheduler._driver.request(ticket, waiter, "default", job=None, stage="s")
    scheduler._driver.release(2)
    scheduler._driver.release(1)
    scheduler.close()
    assert (first.woken, second.woken) == ([None], [])


def test_a_waiter_that_is_gone_hands_on_its_slot(make_scheduler):
    """A waiter that cannot be woken is released, and the next in the queue gets the slot."""
    scheduler = make_scheduler(1)
    gone, next_one = Waiter(), Waiter()
    gone.wake = lambda error=None: False
    scheduler._driver.request(1, Waiter(), "default", job=None, stage="s")
    scheduler._driver.request(2, gone, "default", job=None, stage="s")
    scheduler._driver.request(3, next_one, "default", job=None, stage="s")
    scheduler._driver.release(1)
    assert next_one.woken == [None]
    assert scheduler.statistics().granted == 3
    scheduler._driver.release(3)


def test_a_failing_policy_is_logged_once(make_scheduler, caplog):
    """The first error of each kind is logged with the policy's name; every call is served all the same."""

    class Lost(Exploration):
        def choose(self, jobs, now, *, grantable):
            raise KeyError("another bug")

    class Failing:
        name = "failing"
        exploration = Lost(epsilon=1.0)

        def priority(self, job, profile, now):
            raise ZeroDivisionError("my bug")

    scheduler = make_scheduler(1, policy=Failing())
    with caplog.at_level(logging.ERROR, logger="llmsched_langgraph"):
        for ticket in (1, 2, 3):  # one at once, two that wait
            scheduler._driver.request(ticket, Waiter(), "default", job=None, stage="s")
        for ticket in (1, 2, 3):
            scheduler._driver.release(ticket)
    assert [record.getMessage() for record in caplog.records] == [
        f"policy 'failing' failed; {instead} (said once): {error}"
        for instead, error in (
            ("the jobs it fails for go in order of arrival", "ZeroDivisionError('my bug')"),
            ("turns to explore go to the next in line", "KeyError('another bug')"),
        )
    ]
    assert scheduler.statistics().granted == 3


def test_a_job_is_learned_from_when_its_last_call_is_back(make_scheduler):
    """A run that ended before its call counts as ended, and teaches, once the call is back."""
    now = [0.0]
    scheduler = make_scheduler(1, clock=lambda: now[0])
    run = scheduler.start_job(APPLICATION)
    with inside(run), scheduler.slot(stage="s"):
        now[0] = 4.0
        scheduler.end_job(run, Outcome.FINISHED)
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

        def priority(self, job, profile, now):
            seen.append(profile.jobs(APPLICATION.fingerprint))
            return 0.0

    scheduler = make_scheduler(1, policy=Spy())
    for _ in range(3):
        run = scheduler.start_job(APPLICATION)
        with inside(run), scheduler.slot():
            pass
        scheduler.end_job(run, Outcome.FINISHED)
        scheduler.learn()
    assert seen == [0, 1, 2]


def test_whoever_reads_the_profile_finds_every_job_in_it(make_scheduler):
    """Jobs are learned from in batches, but nobody can see a profile in which one is missing."""
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

        def priority(self, job, profile, now):
            seen.append(scheduler.profile.jobs(DIRECT.fingerprint))
            return 0.0

    scheduler = make_scheduler(1, policy=Reading())

    def main():
        for _ in range(50):
            with scheduler.slot(stage="s"):
                pass

    spawn(main).result(20)
    assert seen == list(range(50))


@pytest.mark.parametrize("tickets", [(), (1,), (2, 3)])
def test_story(make_scheduler, tickets):
    """The story can be had for some tickets; it is the machine's."""
    scheduler = make_scheduler(1)
    for _ in range(3):
        with scheduler.slot():
            pass
    story = scheduler._driver.story(*tickets)
    numbers = [getattr(event, "ticket", None) for event in story]
    assert {number for number in numbers if number} == set(tickets or (1, 2, 3))
