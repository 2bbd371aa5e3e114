"""What the runtime tests share: schedulers that are checked at the end, threads that are joined."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import Future
from contextlib import contextmanager

import pytest

from llmsched_langgraph import Application, Scheduler
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime import slot as slot_module
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph._runtime.waiter import ThreadWaiter
from llmsched_langgraph.policies import JobInfo

PATIENCE_S = 20  # for what must happen; reached only by a test that fails


class ByTag:
    """A policy whose order is the number that a job has as its tag."""

    name = "by tag"

    def order(self, job, now):
        return float(job.info.tags[0])


def check_idle(scheduler):
    """Assert that nothing is held, nothing waits, and nothing is left in the driver."""
    driver = scheduler._driver
    assert driver._lock.acquire(timeout=PATIENCE_S), "the driver's lock was never given back"
    driver._lock.release()
    now = scheduler.statistics()
    assert (now.holding, now.waiting) == (0, 0)
    assert now.granted == now.released
    scheduler.check()
    assert not driver._waiters
    assert not driver._inbox
    assert not driver._machine.untold


@pytest.fixture
def make_scheduler():
    """Make schedulers; at the end each must be idle and sound."""
    made = []

    def make(*args, **kwargs):
        made.append(Scheduler(*args, **kwargs))
        return made[-1]

    yield make
    gc.collect()
    for scheduler in made:
        check_idle(scheduler)


@pytest.fixture
def idle():
    """The check that every scheduler undergoes at the end, for use in between."""
    return check_idle


@pytest.fixture
def by_tag():
    return ByTag()


@contextmanager
def tagged_job(scheduler, tag):
    """The block is a job with that tag."""
    run = start_run(scheduler, JobInfo(application=Application.of("tagged"), tags=(tag,)))
    try:
        with inside(run):
            yield
    finally:
        run.end(Outcome.FINISHED)


@pytest.fixture
def tagged():
    return tagged_job


@pytest.fixture
def spawn():
    """Run a function in a thread; the future has its result or error. All threads are joined."""
    threads = []

    def start(function, *args):
        future = Future()

        def run():
            try:
                future.set_result(function(*args))
            except BaseException as error:
                future.set_exception(error)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()
        return future

    yield start
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "a thread hangs"


@pytest.fixture
def queued(monkeypatch):
    """Counts threads that are about to block in the backlog: `queued.acquire(timeout=...)` for each."""
    semaphore = threading.Semaphore(0)

    class AnnouncedWaiter(ThreadWaiter):
        def wait(self, timeout_s):
            if self._baton.locked():
                semaphore.release()
            return super().wait(timeout_s)

    monkeypatch.setattr(slot_module, "ThreadWaiter", AnnouncedWaiter)
    return semaphore


@pytest.fixture
def enqueue(spawn, queued):
    """Run a function in a thread, and return when that thread waits in the backlog."""

    def start(function, *args):
        future = spawn(function, *args)
        assert queued.acquire(timeout=PATIENCE_S), "the thread did not come to wait"
        return future

    return start
