"""Time as an event: the timer's thread, and backends that are paused until a moment."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref

import pytest

from llmsched_langgraph import Scheduler, SchedulerClosedError
from llmsched_langgraph._core.events import CallRequested
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.pauses import Failure
from llmsched_langgraph._runtime import driver as driver_module
from llmsched_langgraph._runtime import timer as timer_module
from llmsched_langgraph._runtime.timer import IDLE_BEATS, Timer

PATIENCE_S = 20
LONG_S = 10_000.0


class Timed:
    """What is woken: notes by which thread, and answers what it is told to."""

    def __init__(self, answer=None):
        self.answer = answer
        self.threads = []
        self.ticked = threading.Semaphore(0)

    def tick(self):
        self.threads.append(threading.current_thread())
        due_s = self.answer() if callable(self.answer) else self.answer
        self.ticked.release()
        return due_s

    def await_tick(self):
        assert self.ticked.acquire(timeout=PATIENCE_S), "it was not woken"


@pytest.fixture
def beat(monkeypatch):
    """Sets how long a beat is, for the timer and the driver."""

    def set_to(seconds):
        monkeypatch.setattr(timer_module, "BEAT_S", seconds)
        monkeypatch.setattr(driver_module, "BEAT_S", seconds)

    return set_to


def ended(thread):
    """Wait for the end of a thread."""
    thread.join(PATIENCE_S)
    return not thread.is_alive()


# -- the thread -------------------------------------------------------------------------


def test_there_is_no_thread_until_it_is_needed(beat):
    beat(0.001)
    timed = Timed(answer=0.0)
    timer = Timer(timed)
    assert timer._thread is None
    timer.within(1.0)
    for _ in range(3):
        timed.await_tick()
    (thread,) = set(timed.threads)
    assert (thread.name, thread.daemon) == ("llmsched-timer", True)
    timed.answer = None
    assert ended(thread)


def test_the_thread_ends_when_it_is_not_needed(beat):
    """After a few looks that find nothing to do; the next one who needs it starts another one."""
    beat(0.001)
    timed = Timed(answer=None)
    timer = Timer(timed)
    for _ in range(2):
        timer.within(1.0)
        timed.await_tick()
        assert ended(timed.threads[-1])
        assert timer._thread is None
    assert len(set(timed.threads)) == 2
    assert len(timed.threads) == 2 * (IDLE_BEATS + 2)


def test_many_who_need_it_share_one_thread(beat, spawn):
    beat(0.001)
    timed = Timed(answer=0.0)
    timer, barrier = Timer(timed), threading.Barrier(8)

    def need():
        barrier.wait(PATIENCE_S)
        for _ in range(100):
            timer.within(0.0)

    for future in [spawn(need) for _ in range(8)]:
        future.result(PATIENCE_S)
    timed.await_tick()
    assert len(set(timed.threads)) == 1
    timed.answer = None
    assert ended(timed.threads[-1])


def test_it_rings_before_its_time(beat):
    """A thread that waits long looks at once if something is due sooner, and not for what is due later."""
    beat(LONG_S)
    timed = Timed(answer=LONG_S)
    timer = Timer(timed)
    timer.within(LONG_S)
    timed.await_tick()
    timer.within(2 * LONG_S)
    assert len(timed.threads) == 1
    timer.within(0.0)
    timed.await_tick()
    assert len(set(timed.threads)) == 1
    timed = None
    timer.within(0.0)
    assert ended(timer._thread)


def test_who_needs_it_as_it_ends_is_not_forgotten(beat):
    """In the very last look of a thread: either it stays, or there is another one."""
    beat(0.001)
    looks = []

    def answer():
        looks.append(threading.current_thread())
        if len(looks) == IDLE_BEATS + 2:  # the last one, behind which it ends
            assert timer._thread is None
            timer.within(0.0)

    timed = Timed(answer)
    timer = Timer(timed)
    timer.within(1.0)
    for _ in range(IDLE_BEATS + 3):
        timed.await_tick()
    assert len(set(looks)) == 2
    assert ended(looks[0])
    assert ended(looks[-1])


def test_what_it_finds_in_its_last_look_keeps_it(beat):
    beat(0.001)
    answers = iter([None] * (IDLE_BEATS + 1) + [0.0, 0.0])
    timed = Timed(lambda: next(answers, None))
    timer = Timer(timed)
    timer.within(1.0)
    for _ in range(IDLE_BEATS + 3):
        timed.await_tick()
    (thread,) = set(timed.threads)
    assert ended(thread)


def test_it_keeps_nothing_alive(beat):
    """Neither what it wakes nor itself: the thread ends with them, though there would be more to do."""
    beat(0.001)
    timed = Timed(answer=0.0)
    timer = Timer(timed)
    timer.within(1.0)
    timed.await_tick()
    thread, ends = timed.threads[0], [weakref.ref(timed), weakref.ref(timer)]
    del timed, timer
    assert ended(thread)
    assert [end() for end in ends] == [None, None]


def test_a_scheduler_is_not_kept_by_its_timer(beat):
    """It is collected while the thread of its timer waits."""
    beat(0.001)
    scheduler = Scheduler(1)

    def wait(driver):
        holder, waiting = driver.new_ticket(), driver.new_ticket()
        assert driver.request(CallRequested(holder, "default", "", None, False, None))
        assert not driver.request(CallRequested(waiting, "default", "", None, False, None))
        driver._timer.within(1.0)
        return weakref.ref(driver), driver._timer._thread

    gone, thread = wait(scheduler._driver)
    del scheduler
    while gone() is not None:
        gc.collect()
    assert ended(thread)


def test_a_scheduler_has_a_timer_only_while_a_call_waits(make_scheduler, spawn, enqueue, beat):
    """Calls that need not wait start no thread; after the last one that waited it ends."""
    beat(0.001)
    scheduler = make_scheduler(1)
    timer = scheduler._driver._timer

    def call():
        with scheduler.slot():
            return timer._thread

    assert spawn(call).result(PATIENCE_S) is None
    holder = scheduler.slot()
    holder.acquire()
    assert timer._thread is None
    future = enqueue(call)
    thread = timer._thread
    assert thread.is_alive()
    holder.release()
    future.result(PATIENCE_S)
    assert ended(thread)
    assert timer._thread is None


# -- backends that are paused -----------------------------------------------------------

LIMITED = Failure(status=429, retry_after_s=30.0, kind="RateLimitError")


class Paused:
    """A scheduler on a manual clock whose only slot was given back with word to wait, and a log of calls."""

    def __init__(self, make_scheduler, slots=1):
        self.now, self.log = 100.0, []
        self.scheduler = make_scheduler(slots, clock=lambda: self.now)
        self.driver = self.scheduler._driver

    def pause(self, failure=LIMITED):
        slot = self.scheduler.slot()
        slot.acquire()
        slot.release(Outcome.FAILED, failure)

    def call(self, name=""):
        with self.scheduler.slot():
            self.log.append((name, self.now))

    @property
    def figures(self):
        now = self.scheduler.statistics()
        return now.holding, now.waiting


@pytest.fixture
def paused(make_scheduler):
    return Paused(make_scheduler)


def test_no_grant_before_a_pause_is_over_and_one_after(paused, enqueue):
    """A call that asks in the pause of a free backend waits for its end, to the moment."""
    paused.pause()
    future = enqueue(paused.call)
    for now in (100.0, 115.0, 129.999):
        paused.now = now
        paused.driver.tick()
        paused.scheduler.check()  # no call waits that could go
        assert paused.figures == (0, 1)
    paused.now = 130.0
    paused.driver.tick()
    future.result(PATIENCE_S)
    assert paused.log == [("", 130.0)]
    assert paused.scheduler.statistics().waited_s == 30.0


def test_the_timer_ends_a_pause(paused, enqueue, beat):
    """No event comes, time alone passes: the thread of the timer grants."""
    beat(0.001)
    paused.pause()
    future = enqueue(paused.call)
    assert not future.done()
    paused.now = 130.0
    future.result(PATIENCE_S)


def test_the_timer_waits_no_longer_than_the_pause(paused, enqueue, beat):
    """Though a beat is much longer: it is rung for what is due sooner."""
    beat(LONG_S)
    waits = []
    timer = paused.driver._timer
    within = timer.within
    timer.within = lambda seconds: (waits.append(seconds), within(seconds))
    paused.pause()
    future = enqueue(paused.call)
    assert 30.0 in waits
    assert paused.driver.tick() == 30.0
    paused.now = 120.0
    assert paused.driver.tick() == 10.0
    paused.now = 130.0
    timer.within(0.0)
    future.result(PATIENCE_S)
    assert paused.driver.tick() is None


def test_those_behind_the_one_that_failed_wait_out_the_pause(paused, spawn, enqueue):
    """The slot that comes back with word to wait is not handed on before."""
    slot = paused.scheduler.slot()
    slot.acquire()
    futures = [enqueue(paused.call, name) for name in "ab"]
    slot.release(Outcome.FAILED, LIMITED)
    assert paused.figures == (0, 2)
    paused.now = 131.0
    paused.driver.tick()
    for future in futures:
        future.result(PATIENCE_S)
    assert paused.log == [("a", 131.0), ("b", 131.0)]


def test_a_call_on_a_loop_waits_out_a_pause(paused):
    """It is woken by the thread that finds that the time has come."""
    paused.pause()

    async def call():
        async with paused.scheduler.slot():
            paused.log.append(("loop", paused.now))

    async def main():
        task = asyncio.create_task(call())
        await asyncio.sleep(0)
        assert paused.figures == (0, 1)
        paused.now = 130.0
        await asyncio.to_thread(paused.driver.tick)
        await task

    asyncio.run(main())
    assert paused.log == [("loop", 130.0)]


@pytest.mark.parametrize("failure", [None, Failure(status=500), Failure(retry_after_s=0.0)])
def test_a_failure_without_a_pause_pauses_nothing(paused, failure):
    paused.pause(failure)
    paused.call()
    assert paused.log == [("", 100.0)]


def test_the_longer_pause_counts(make_scheduler, enqueue):
    """Two calls fail, and the later one names the earlier moment."""
    paused = Paused(make_scheduler, slots=2)
    slots = [paused.scheduler.slot() for _ in range(2)]
    for slot in slots:
        slot.acquire()
    slots[0].release(Outcome.FAILED, LIMITED)
    slots[1].release(Outcome.FAILED, Failure(retry_after_s=1.0))
    future = enqueue(paused.call)
    paused.now = 129.0
    paused.driver.tick()
    assert paused.figures == (0, 1)
    paused.now = 130.0
    paused.driver.tick()
    future.result(PATIENCE_S)


def test_a_call_that_cannot_wait_goes_ahead_in_a_pause(paused):
    """It goes over the limit if need be, and a pause is no more than that."""
    paused.pause()

    async def main():
        with paused.scheduler.slot():
            assert paused.figures == (1, 0)

    asyncio.run(main())
    assert paused.scheduler.statistics().over_commitments == 1


def test_close_in_a_pause(paused, enqueue):
    """Those who wait for its end raise at once."""
    paused.pause()
    future = enqueue(paused.call)
    paused.scheduler.close()
    assert isinstance(future.exception(PATIENCE_S), SchedulerClosedError)
    paused.now = 130.0
    paused.driver.tick()
    assert paused.log == []
