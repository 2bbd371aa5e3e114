"""Slots in threads: order, every way out of the block, nesting, closing."""

from __future__ import annotations

import contextvars
import re
import signal
import threading
import time

import pytest

from llmsched_langgraph import Application, Backend, QueueTimeoutError, SchedulerClosedError
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime import context as context_module
from llmsched_langgraph._runtime import slot as slot_module
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph._runtime.waiter import ThreadWaiter
from llmsched_langgraph.policies import JobInfo

APPLICATION = Application.of("app", ["s"])


def take(scheduler, log, name, stage=""):
    """Take a slot, write one's name into the log, give it back."""
    with scheduler.slot(stage=stage):
        log.append(name)


def outcomes(scheduler):
    """How calls ended that held a slot, or that gave up waiting for one."""
    endings = {"CallReleased": lambda call: call.outcome, "CallWithdrawn": lambda outcome: outcome}
    entries = scheduler._driver.story()
    return [endings[entry.kind](entry.detail) for entry in entries if entry.kind in endings]


# -- order ------------------------------------------------------------------------------


def test_threads_are_served_in_the_policys_order(make_scheduler, by_tag, tagged, enqueue):
    """Threads that wait get the slot in its order, equal ones in the order in which they came."""
    scheduler, log = make_scheduler(1, policy=by_tag), []

    def call(name):
        with tagged(scheduler, name[0]):
            take(scheduler, log, name)

    held = scheduler.slot()
    with tagged(scheduler, "0"):
        held.acquire()  # not as a block, of which the calls would be part
        futures = [enqueue(call, name) for name in ("3a", "1a", "2a", "1b", "3b", "2b")]
        assert scheduler.statistics().waiting == 6
        held.release()
    for future in futures:
        future.result(20)
    assert log == ["1a", "1b", "2a", "2b", "3a", "3b"]


def test_what_was_learned_decides_the_order(make_scheduler, enqueue):
    """Under the default policy a call of a stage known to be short goes before one known to be long."""
    now = [0.0]
    scheduler, log = make_scheduler(1, clock=lambda: now[0]), []
    for stage, work_s in (("long", 30.0), ("short", 0.1)) * 5:
        with scheduler.slot(stage=stage):
            now[0] += work_s
    scheduler.learn()
    scheduler._driver._machine._at_once = True  # or the slot may be given before the belief is there
    with scheduler.slot():
        futures = [enqueue(take, scheduler, log, stage, stage) for stage in ("long", "short")]
    for future in futures:
        future.result(20)
    assert log == ["short", "long"]


def test_more_slots_wake_as_many_threads(make_scheduler, enqueue):
    """Raising the slots lets waiting threads in at once, without anybody giving one back."""
    scheduler, log = make_scheduler(1), []
    inside_now, leave = threading.Semaphore(0), threading.Event()

    def stay():
        with scheduler.slot():
            inside_now.release()
            leave.wait(20)

    with scheduler.slot():
        futures = [enqueue(stay) for _ in range(3)]
        scheduler.resize(3)
        assert inside_now.acquire(timeout=20)
        assert inside_now.acquire(timeout=20)
        assert (scheduler.statistics().holding, scheduler.statistics().waiting) == (3, 1)
        leave.set()
    for future in futures:
        future.result(20)
    assert log == []


def test_waiting_is_measured_by_the_clock(make_scheduler, enqueue):
    """Total waiting time is that between request and grant on the scheduler's clock."""
    now = [0.0]
    scheduler = make_scheduler(1, clock=lambda: now[0])
    with scheduler.slot():
        future = enqueue(take, scheduler, [], "late")
        now[0] = 7.5
    future.result(20)
    assert scheduler.statistics().waited_s == 7.5
    assert scheduler.statistics().peak == 1


# -- ways out ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("boom"), Outcome.FAILED),
        (KeyboardInterrupt(), Outcome.CANCELLED),
        (SystemExit(), Outcome.CANCELLED),
        (GeneratorExit(), Outcome.CANCELLED),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_in_the_block_gives_the_slot_back(make_scheduler, error, outcome):
    """Whatever leaves the block passes through unchanged, and the slot is back with its outcome."""
    scheduler = make_scheduler(1)
    with pytest.raises(type(error)) as caught, scheduler.slot():
        raise error
    assert caught.value is error
    assert scheduler.statistics().holding == 0
    assert outcomes(scheduler) == [outcome]


@pytest.fixture
def interrupt():
    """Interrupt the main thread once; repeated, for a signal that comes just before a lock is lost on it."""
    left = [None]

    def once(number, frame):
        try:
            left.pop()  # atomic: another signal may come inside this handler
        except IndexError:
            return
        raise KeyboardInterrupt

    def send():
        while left:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            time.sleep(0.01)

    previous = signal.signal(signal.SIGINT, once)
    yield send
    signal.signal(signal.SIGINT, previous)


def test_keyboard_interrupt_while_waiting(make_scheduler, spawn, queued, interrupt):
    """Ctrl-C in a thread that waits takes its call out of the backlog; others are served."""
    scheduler, log = make_scheduler(1), []
    holder = scheduler.slot()
    holder.acquire()  # without marking this context: the call below is another one
    interrupter = spawn(lambda: queued.acquire(timeout=20) and interrupt())
    with pytest.raises(KeyboardInterrupt), scheduler.slot():
        pytest.fail("the slot was never free")
    interrupter.result(20)
    assert scheduler.statistics().waiting == 0
    holder.release()
    take(scheduler, log, "next")
    assert log == ["next"]
    assert outcomes(scheduler) == [Outcome.CANCELLED, Outcome.FINISHED, Outcome.FINISHED]


def test_queue_timeout(make_scheduler):
    """A call that waited too long raises, and says where, behind how many, how long, and what helps."""
    scheduler = make_scheduler(1, queue_timeout_s=0.01)
    slot = scheduler.slot()
    with slot:
        error = wait_elsewhere(scheduler)
        assert scheduler.statistics().waiting == 0
    assert isinstance(error, TimeoutError)
    assert re.search(r"waited \d+\.\d s for the slot of backend 'default'", str(error))
    assert "with 1 held and 1 call waiting; raise queue_timeout_s" in str(error)


def test_a_backend_may_have_a_queue_timeout_of_its_own(make_scheduler):
    """It goes before the scheduler's."""
    backends = [Backend("fast", 1, ("fast",), queue_timeout_s=0.01), Backend("slow", 1)]
    for backend, settings in zip(backends, ({}, {"queue_timeout_s": 0.01}), strict=True):
        scheduler = make_scheduler(None, backends=backends, **settings)
        with scheduler.slot(backend.name):
            error = wait_elsewhere(scheduler, backend.name)
        assert f"the slot of backend {backend.name!r}" in str(error)


def wait_elsewhere(scheduler, model=None):
    """The error of a call in a context of its own that waits for a slot in vain."""

    def wait():
        with pytest.raises(QueueTimeoutError) as caught, scheduler.slot(model):
            pytest.fail("the slot was never free")
        return caught.value

    return contextvars.Context().run(wait)


def test_a_grant_that_comes_with_the_timeout_is_not_lost(make_scheduler, monkeypatch):
    """A slot that is granted in the very moment in which its caller gives up goes to the next."""
    scheduler = make_scheduler(1, queue_timeout_s=1e-9)
    holder = scheduler.slot()
    holder.acquire()

    class TooLate(ThreadWaiter):
        def wait(self, timeout_s):
            holder.release()  # which grants this waiter the slot
            assert not self._baton.locked()
            return False

    with monkeypatch.context() as patch:
        patch.setattr(slot_module, "ThreadWaiter", TooLate)
        with pytest.raises(QueueTimeoutError), scheduler.slot():
            pytest.fail("it gave up")
    take(scheduler, [], "next")
    assert scheduler.statistics().granted == 3


@pytest.mark.parametrize("timeout_s", [1e12, float("inf")])
def test_an_endless_queue_timeout(make_scheduler, enqueue, timeout_s):
    """A timeout longer than any lock can wait is as good as none."""
    scheduler, log = make_scheduler(1, queue_timeout_s=timeout_s), []
    with scheduler.slot():
        future = enqueue(take, scheduler, log, "late")
    future.result(20)
    assert log == ["late"]


def test_release_from_many_threads_counts_once(make_scheduler, spawn):
    """Release is legal any number of times from any thread: one slot comes back once."""
    scheduler = make_scheduler(1)
    slot, barrier = scheduler.slot(), threading.Barrier(8)
    slot.acquire()
    ticket = slot._ticket

    def release():
        barrier.wait(20)
        scheduler._driver.release(ticket)

    for future in [spawn(release) for _ in range(8)]:
        future.result(20)
    assert (scheduler.statistics().released, scheduler.statistics().holding) == (1, 0)
    slot.release()
    slot.release()
    assert scheduler.statistics().released == 1


# -- one slot for one call --------------------------------------------------------------


@pytest.mark.parametrize("nested", [True, False])
def test_a_slot_is_used_once(make_scheduler, nested):
    """The second use of a Slot is an error, inside the first one as after it, and costs no slot."""
    scheduler = make_scheduler(2)
    slot = scheduler.slot()

    def again():
        with pytest.raises(RuntimeError, match="a slot is for one call"), slot:
            pytest.fail("it was used before")

    with slot:
        if nested:
            again()
            assert scheduler.statistics().holding == 1
    again()
    assert scheduler.statistics().granted == 1


def test_nested_slots_take_one(make_scheduler):
    """A call that passes several doors holds one slot, to the end of the outermost."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        for _ in range(2):
            with scheduler.slot() as middle, scheduler.slot():
                assert not middle.held
                assert scheduler.statistics().holding == 1
            assert scheduler.statistics().holding == 1
    assert scheduler.statistics().granted == 1


def test_the_context_is_left_as_it_was(make_scheduler):
    """A slot is marked in the context for the time of its block only: afterwards nothing refers to it."""
    scheduler = make_scheduler(1)
    with scheduler.slot() as slot:
        assert context_module.CALL.get()() is slot
    assert context_module.CALL.get() is None


def test_a_thread_in_a_copied_context_rides_along(make_scheduler, spawn):
    """A thread that runs in a copy of the call's context is part of the call."""
    scheduler, log = make_scheduler(1), []
    with scheduler.slot():
        spawn(contextvars.copy_context().run, take, scheduler, log, "part").result(20)
    assert log == ["part"]
    assert scheduler.statistics().granted == 1


def test_a_thread_without_the_context_takes_its_own(make_scheduler, enqueue):
    """A thread that was not given the context is another call: it waits."""
    scheduler, log = make_scheduler(1), []
    with scheduler.slot():
        future = enqueue(take, scheduler, log, "other")
        log.append("first")
    future.result(20)
    assert log == ["first", "other"]
    assert scheduler.statistics().granted == 2


def test_a_copied_context_outlives_the_slot(make_scheduler, spawn):
    """Code that still runs in the copied context when the slot is back takes a slot of its own."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        context = contextvars.copy_context()
    spawn(context.run, take, scheduler, [], "late").result(20)
    assert scheduler.statistics().granted == 2


# -- close ------------------------------------------------------------------------------


def test_close_sends_waiting_threads_away(make_scheduler, enqueue):
    """Every waiting thread raises an error of its own; who is in a slot stays and gives it back."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        futures = [enqueue(take, scheduler, [], "in vain") for _ in range(3)]
        scheduler.close()
        errors = [future.exception(20) for future in futures]
        assert [type(error) for error in errors] == [SchedulerClosedError] * 3
        assert "closed while the call waited" in str(errors[0])
        assert (scheduler.statistics().holding, scheduler.statistics().waiting) == (1, 0)
    assert scheduler.statistics().holding == 0


def test_errors_are_not_shared_between_threads(make_scheduler, enqueue):
    """An error object collects the traceback of who raises it, so each waiter gets another one."""
    scheduler = make_scheduler(1)
    with scheduler.slot():
        futures = [enqueue(take, scheduler, [], "in vain") for _ in range(2)]
        scheduler.close()
        one, other = (future.exception(20) for future in futures)
    assert one is not other


def test_close_while_a_request_is_under_way(make_scheduler):
    """A call that found the scheduler open and comes to its queue after the close is sent away too."""
    scheduler = None

    def clock():
        if closing:
            closing.pop()
            scheduler.close()
        return 0.0

    closing = []
    scheduler = make_scheduler(1, clock=clock, queue_timeout_s=0.05)
    holder = scheduler.slot()
    holder.acquire()
    closing.append(True)
    try:
        with pytest.raises(SchedulerClosedError), scheduler.slot():
            pytest.fail("the scheduler is closed")
    finally:
        holder.release()


def test_a_run_outlives_the_close(make_scheduler):
    """A run under way when the scheduler is closed can make no call any more, and can be ended."""
    scheduler = make_scheduler(1)
    run = start_run(scheduler, JobInfo(application=APPLICATION))
    scheduler.close()
    with inside(run), pytest.raises(SchedulerClosedError), scheduler.slot():
        pytest.fail("the scheduler is closed")
    run.end(Outcome.FAILED)
    assert scheduler.statistics().jobs_running == 0
