"""Waits for a slot that a time limit ends: no call goes ahead, unless it ends the holder, too."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context

import anyio
import pytest
from support.cycles import ends, went_ahead

LIMIT_S = 0.4  # in which the wait is looked at several times
LONG_S = 30.0  # reached only by a test that fails


@asynccontextmanager
async def of_a_function(seconds):
    async with asyncio.timeout(seconds):
        yield


@contextmanager
def anyio_of_a_function(seconds):
    with anyio.fail_after(seconds):
        yield


async def within(limit, seconds, awaited):
    """Await it in a time limit; the result, or that the code gave up."""
    try:
        match limit:
            case "wait_for":
                return await asyncio.wait_for(awaited, seconds)
            case "fail_after":
                with anyio.fail_after(seconds):
                    return await awaited
            case "move_on_after":
                with anyio.move_on_after(seconds):
                    return await awaited
                return "gave up"
            case "anyio of a function":
                with anyio_of_a_function(seconds):
                    return await awaited
            case "timeout_at":
                at = None if seconds is None else asyncio.get_running_loop().time() + seconds
                async with asyncio.timeout_at(at):
                    return await awaited
            case "of a function":
                async with of_a_function(seconds):
                    return await awaited
            case _:
                async with asyncio.timeout(seconds):
                    return await awaited
    except TimeoutError:
        return "gave up"


LIMITS = pytest.mark.parametrize(
    "limit",
    [
        "timeout",
        "timeout_at",
        "wait_for",
        "of a function",
        "fail_after",
        "move_on_after",
        "anyio of a function",
    ],
)


class Program:
    def __init__(self, scheduler):
        self.scheduler = scheduler

    async def call(self):
        async with self.scheduler.slot():
            return "yes"

    async def elsewhere(self, coroutine):
        """Await it in a task that is no part of the block around: its calls need slots of their own."""
        return await asyncio.create_task(coroutine, context=Context())

    def holding(self, main):
        """The result of a program whose own thread holds the slot; the others wait for it."""

        def run():
            slot = self.scheduler.slot()
            slot.acquire()
            try:
                return asyncio.run(main)
            finally:
                slot.release()

        return ends(run, self.scheduler)

    def loop(self, main):
        return ends(lambda: asyncio.run(main), self.scheduler)


@pytest.fixture
def program(make_scheduler):
    return Program(make_scheduler(1))


@LIMITS
def test_the_thread_that_holds_the_slot_runs_the_loop(program, limit):
    assert program.holding(within(limit, LIMIT_S, program.call())) == "gave up"
    assert not went_ahead(program.scheduler)


@LIMITS
def test_two_waits_of_one_loop(program, limit):
    """One that is limited is enough for `gather` to end: the other one is looked at afterwards."""

    async def main():
        short = within(limit, LIMIT_S, program.call())
        return await asyncio.gather(short, within(limit, 3 * LIMIT_S, program.call()))

    assert program.holding(main()) == ["gave up", "gave up"]
    assert not went_ahead(program.scheduler)


@LIMITS
@pytest.mark.parametrize("where", ["in the block", "in the other task"])
def test_a_limit_inside_of_the_block_that_holds_the_slot(program, limit, where):
    async def main():
        async with program.scheduler.slot():
            if where == "in the block":
                return await within(limit, LIMIT_S, program.elsewhere(program.call()))
            return await program.elsewhere(within(limit, LIMIT_S, program.call()))

    assert program.loop(main()) == "gave up"
    assert not went_ahead(program.scheduler)


@LIMITS
def test_a_limit_around_the_block_that_holds_the_slot(program, limit):
    """It would end the block with the wait: the call goes ahead."""

    async def block():
        async with program.scheduler.slot():
            return await program.elsewhere(program.call())

    assert program.loop(within(limit, LONG_S, block())) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


@LIMITS
def test_no_limit(program, limit):
    """One that is None is none."""
    seconds = float("inf") if "after" in limit or "anyio" in limit else None
    assert program.holding(within(limit, seconds, program.call())) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


def test_a_limit_that_is_over(program):
    """What the code does after it was cancelled is not limited any more."""

    async def main():
        try:
            async with asyncio.timeout(0):
                try:
                    await asyncio.sleep(LONG_S)
                finally:
                    answer = await program.call()
        except TimeoutError:
            return answer

    assert program.holding(main()) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


def test_a_limit_on_a_loop_that_stands(program):
    """Its timer cannot run: the thread of the loop waits for a call itself."""

    def from_thread():
        async def call():
            return await program.call()

        return asyncio.run(call())

    async def main():
        async with program.scheduler.slot(), asyncio.timeout(LONG_S):
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(Context().run, from_thread).result()

    assert program.loop(main()) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


def test_a_limit_that_was_not_entered(program):
    """One that the code only refers to limits nothing."""

    async def main():
        kept = asyncio.timeout(LONG_S), anyio.CancelScope(deadline=anyio.current_time() + LONG_S)
        one, other = kept
        answer = await program.call()
        return answer, one.expired(), other.cancel_called

    assert program.holding(main()) == ("yes", False, False)
    assert len(went_ahead(program.scheduler)) == 1
