"""Threads and event loops on one scheduler, with every way of giving up, for several thousand calls."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time

import pytest

from llmsched_langgraph import Application, QueueTimeoutError
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph._runtime.streams import ahold, hold
from llmsched_langgraph.policies import POLICIES, JobInfo

SLOTS = 4
THREADS = 4
LOOPS = 3
JOBS = 200  # in each thread and in each of a loop's tasks
TASKS = 5  # in each loop
CALLS = 3  # in each job


class Gauge:
    """Counts who is in a slot, by its own reckoning."""

    def __init__(self):
        self.now = self.peak = self.total = 0
        self._lock = threading.Lock()

    def __enter__(self):
        with self._lock:
            self.now += 1
            self.total += 1
            self.peak = max(self.peak, self.now)

    def __exit__(self, *error):
        with self._lock:
            self.now -= 1


class Blind:
    """A meter that looks at nothing."""

    def see(self, item):
        pass

    def usage(self):
        return UNKNOWN_USAGE


def any_job(chance):
    """A job of one of three applications."""
    return JobInfo(application=Application.of(f"app {chance.randrange(3)}"))


class Crowd:
    """What the workers share: the scheduler, the gauge, and how calls go."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.gauge = Gauge()

    def job(self, chance):
        """One job: calls that finish, fail, time out, or are streams given up in the middle."""
        run = start_run(self.scheduler, any_job(chance))
        with inside(run):
            for _ in range(CALLS):
                try:
                    self.call(chance)
                except (QueueTimeoutError, ZeroDivisionError):
                    pass
        run.end(chance.choice(list(Outcome)))

    def call(self, chance):
        if chance.random() < 0.3:
            stream = hold(self.scheduler.slot(stage="stream"), self.items, Blind())
            for _ in range(chance.randrange(4)):
                next(stream, None)
            return
        with self.scheduler.slot(stage=chance.choice("abc")), self.gauge:
            time.sleep(chance.choice([0, 0, 0.0005]))
            if chance.random() < 0.1:
                raise ZeroDivisionError

    def items(self):
        with self.gauge:
            for n in range(3):
                time.sleep(0)
                yield n

    async def ajob(self, chance):
        """One job on a loop, the same and cancelled besides."""
        run = start_run(self.scheduler, any_job(chance))
        with inside(run):
            calls = [asyncio.create_task(self.acall(chance)) for _ in range(CALLS)]
            for call in calls:
                if chance.random() < 0.3:
                    for _ in range(chance.randrange(5)):
                        await asyncio.sleep(0)
                    call.cancel()
            for outcome in await asyncio.gather(*calls, return_exceptions=True):
                allowed = QueueTimeoutError | TimeoutError | ZeroDivisionError | asyncio.CancelledError
                assert outcome is None or isinstance(outcome, allowed), repr(outcome)
        run.end(chance.choice(list(Outcome)))

    async def acall(self, chance):
        if chance.random() < 0.3:
            stream = ahold(self.scheduler.slot(stage="stream"), self.aitems, Blind())
            for _ in range(chance.randrange(4)):
                await anext(stream, None)
            return
        async with asyncio.timeout(chance.choice([None, None, 0.0005])):
            async with self.scheduler.slot(stage=chance.choice("abc")):
                with self.gauge:
                    await asyncio.sleep(chance.choice([0, 0, 0.0005]))
                    if chance.random() < 0.1:
                        raise ZeroDivisionError

    async def aitems(self):
        with self.gauge:
            for n in range(3):
                await asyncio.sleep(0)
                yield n


def in_thread(crowd, seed):
    chance = random.Random(seed)
    for _ in range(JOBS):
        crowd.job(chance)


def in_loop(crowd, seed):
    async def worker(number):
        chance = random.Random(f"{seed} {number}")
        for _ in range(JOBS // 2):
            await crowd.ajob(chance)

    async def main():
        await asyncio.gather(*(worker(number) for number in range(TASKS)))

    asyncio.run(main())


@pytest.mark.parametrize("policy", ["srtf", "fair"])
def test_stress(make_scheduler, spawn, policy):
    """No slot is lost or given twice, whoever asks, however they give up."""
    assert policy in POLICIES
    crowd = Crowd(make_scheduler(SLOTS, policy=policy, queue_timeout_s=0.02))
    workers = [spawn(in_thread, crowd, f"{policy} {n}") for n in range(THREADS)]
    workers += [spawn(in_loop, crowd, f"{policy} loop {n}") for n in range(LOOPS)]
    while not all(worker.done() for worker in workers):
        crowd.scheduler.check()  # at any moment, by somebody who only looks
        now = crowd.scheduler.statistics()
        assert now.holding <= SLOTS
        assert now.granted - now.released == now.holding
        time.sleep(0.005)
    for worker in workers:
        worker.result()
    gc.collect()
    end = crowd.scheduler.statistics()
    assert crowd.gauge.now == 0
    assert 0 < crowd.gauge.peak <= end.peak <= SLOTS
    assert end.granted == end.released >= crowd.gauge.total > 2_000
    assert (end.holding, end.waiting, end.jobs_running) == (0, 0, 0)
    assert end.jobs_ended == THREADS * JOBS + LOOPS * TASKS * (JOBS // 2)
