"""Threads of an event loop's default executor that wait for slots do not keep others from running."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from support.cycles import ends, went_ahead

from llmsched_langgraph._runtime import threads as threads_module
from llmsched_langgraph._runtime.cycles.stdlib import own_pool
from llmsched_langgraph._runtime.threads import SteppingAside, learn_pool

LOOPS = pytest.mark.parametrize("kind", ["asyncio", "uvloop"])


@LOOPS
def test_pool_that_was_busy_before(kind):
    """A waiting thread is replaced however many tasks the pool has run, which 3.11 counts as idle threads."""

    async def main() -> bool:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(2))
        learn_pool(loop)
        await asyncio.gather(*(loop.run_in_executor(None, bool) for _ in range(300)))
        come = threading.Event()

        def wait() -> bool:
            with SteppingAside(loop) as aside:
                aside.lend()
                return come.wait(30)

        waiting = [loop.run_in_executor(None, wait) for _ in range(20)]
        loop.run_in_executor(None, come.set)
        return all(await asyncio.gather(*waiting))

    assert _run(main(), kind)


@LOOPS
@pytest.mark.parametrize("size", [1, 3])
def test_calls_in_threads_of_any_loop(make_scheduler, kind, size):
    """More calls wait than the pool has threads, and the call that holds the slot needs one to continue."""
    scheduler = make_scheduler(1)

    def call() -> str:
        with scheduler.slot():
            return "yes"

    async def main() -> list[str]:
        loop, held = asyncio.get_running_loop(), asyncio.Event()
        pool = ThreadPoolExecutor(size)
        loop.set_default_executor(pool)

        async def holder() -> str:
            async with scheduler.slot():
                held.set()
                while scheduler.statistics().waiting < 3 * size:
                    await asyncio.sleep(0.001)
                return await loop.run_in_executor(None, str, "as a look-up of a host's name")

        first = asyncio.create_task(holder())
        await held.wait()
        answers = await asyncio.gather(first, *(asyncio.to_thread(call) for _ in range(3 * size)))
        # At once while they waited; afterwards the pool may start no more threads than before.
        assert pool._max_workers == size
        return answers[1:]

    assert ends(lambda: _run(main(), kind), scheduler) == ["yes"] * 3 * size
    assert not went_ahead(scheduler)


@LOOPS
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("tasks", [1, 20])
def test_calls_on_loops_in_threads_of_any_loop(make_scheduler, kind, size, tasks):
    """`asyncio.run` in a thread: the tasks that wait there lend one thread together."""
    scheduler, most = make_scheduler(1), 0

    async def call() -> str:
        async with scheduler.slot():
            return "yes"

    async def calls() -> list[str]:
        return await asyncio.gather(*(call() for _ in range(tasks)))

    async def main() -> list[list[str]]:
        nonlocal most
        loop, held = asyncio.get_running_loop(), asyncio.Event()
        pool = ThreadPoolExecutor(size)
        loop.set_default_executor(pool)

        async def holder() -> None:
            nonlocal most
            async with scheduler.slot():
                held.set()
                while scheduler.statistics().waiting < 2 * size * tasks:
                    await asyncio.sleep(0.001)
                await loop.run_in_executor(None, str, "as a look-up of a host's name")
                most = pool._max_workers

        first = asyncio.create_task(holder())
        await held.wait()
        answers = await asyncio.gather(
            *(asyncio.to_thread(lambda: asyncio.run(calls())) for _ in range(2 * size))
        )
        await first
        assert pool._max_workers == size
        return answers

    assert ends(lambda: _run(main(), kind), scheduler) == [["yes"] * tasks] * 2 * size
    assert not went_ahead(scheduler)
    assert size < most <= 3 * size
    assert not threads_module._shared


@LOOPS
def test_a_users_own_pool_keeps_its_size(make_scheduler, kind):
    """One thread is one thread: the work behind a call that waits there waits, too."""
    scheduler, order = make_scheduler(1), []

    def call() -> None:
        with scheduler.slot():
            order.append("call")

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1) as pool:
            async with scheduler.slot():
                waiting = pool.submit(call)
                also = loop.run_in_executor(pool, order.append, "behind it")
                while not scheduler.statistics().waiting:
                    await asyncio.sleep(0)
                assert pool._max_workers == 1
                assert not also.done()
                order.append("holder")
            await also
            waiting.result()

    ends(lambda: _run(main(), kind), scheduler)
    assert order == ["holder", "call", "behind it"]


def test_a_pool_that_is_told_by_its_queue():
    """On a loop that does not tell its pool, a full pool is known by the probe that stands in its queue."""
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")
    found = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        pool = ThreadPoolExecutor(1)
        loop.set_default_executor(pool)

        def wait(own: ThreadPoolExecutor) -> None:
            while (known := threads_module._is_default(own, loop)) is None:
                time.sleep(0.001)
            found.append(known)

        await loop.run_in_executor(None, wait, pool)
        with ThreadPoolExecutor(1) as other:
            await loop.run_in_executor(other, wait, other)

    uvloop.run(main())
    assert found == [True, False]


@LOOPS
@pytest.mark.parametrize("on_loops", [False, True])
def test_a_loop_that_is_busy_when_its_thread_begins_to_wait(make_scheduler, monkeypatch, kind, on_loops):
    """The thread lends another one as soon as the loop tells its pool, however long it was busy."""
    scheduler, looks = make_scheduler(1), []
    is_default = threads_module._is_default

    def look(pool: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop | None) -> bool | None:
        looks.append(loop)
        return is_default(pool, loop)

    monkeypatch.setattr(threads_module, "_is_default", look)

    def call() -> str:
        with scheduler.slot():
            return "yes"

    async def acall() -> str:
        async with scheduler.slot():
            return "yes"

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        work, outside = (lambda: asyncio.run(acall())) if on_loops else call, contextvars.copy_context()
        async with scheduler.slot():
            waiting = [outside.run(asyncio.ensure_future, asyncio.to_thread(work)) for _ in range(2)]
            await asyncio.sleep(0)  # the first one has the only thread; now this loop is busy
            while scheduler.statistics().waiting < 1 or looks.count(loop) < (8 if kind == "uvloop" else 1):
                time.sleep(0.001)
            while scheduler.statistics().waiting < 2:
                await asyncio.sleep(0.001)
            await loop.run_in_executor(None, str, "as a look-up of a host's name")
        return await asyncio.gather(*waiting)

    assert ends(lambda: _run(main(), kind), scheduler) == ["yes"] * 2
    assert not went_ahead(scheduler)


def test_work_that_is_not_connected_with_its_loop_yet():
    """A thread may be faster than the loop that waits for its work: it tries again, and then gives up."""
    found = []

    def tries() -> None:
        with SteppingAside(None) as aside:
            found.append([aside.lend() for _ in range(5)])

    with ThreadPoolExecutor(1) as pool:
        pool.submit(tries).result()
    tries()
    assert found == [[0.01, 0.1, 1.0, None, None], [None] * 5]


def test_tasks_on_a_loop_in_a_thread_that_look_too_early(make_scheduler, monkeypatch):
    """A loop is connected with its thread's work after all tasks there began to wait: they look again."""
    scheduler, looks = make_scheduler(1), 0

    def early() -> tuple[Any, asyncio.AbstractEventLoop | None]:
        nonlocal looks
        looks += 1
        pool, loop = own_pool()
        return pool, None if looks <= 25 else loop

    monkeypatch.setattr(threads_module, "own_pool", early)

    async def call() -> str:
        async with scheduler.slot():
            return "yes"

    async def calls() -> list[str]:
        return await asyncio.gather(*(call() for _ in range(20)))

    def work() -> list[str]:
        return asyncio.run(calls())

    async def main() -> list[list[str]]:
        loop, outside = asyncio.get_running_loop(), contextvars.copy_context()
        loop.set_default_executor(ThreadPoolExecutor(1))
        async with scheduler.slot():
            waiting = [outside.run(asyncio.ensure_future, asyncio.to_thread(work)) for _ in range(2)]
            while scheduler.statistics().waiting < 40:
                await asyncio.sleep(0.001)
            await loop.run_in_executor(None, str, "as a look-up of a host's name")
        return await asyncio.gather(*waiting)

    assert ends(lambda: asyncio.run(main()), scheduler) == [["yes"] * 20] * 2
    assert not went_ahead(scheduler)


def _run(main: Coroutine[None, None, Any], kind: str) -> Any:
    try:
        if kind == "asyncio":
            return asyncio.run(main)
        return pytest.importorskip("uvloop", reason="uvloop is not installed").run(main)
    finally:
        main.close()
