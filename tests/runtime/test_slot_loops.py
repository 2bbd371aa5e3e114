"""Slots on event loops: cancellation, timeouts, closed loops, nesting, synchronous calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading

import pytest

from llmsched_langgraph import QueueTimeoutError, SchedulerClosedError
from llmsched_langgraph._runtime import slot as slot_module
from llmsched_langgraph._runtime.waiter import LoopWaiter, ThreadWaiter


async def take(scheduler, log, name, stage=""):
    """Take a slot, write one's name into the log, give it back."""
    async with scheduler.slot(stage=stage):
        log.append(name)


async def begin(*coroutines):
    """Tasks of these coroutines, each run until it first waits."""
    tasks = []
    for coroutine in coroutines:
        tasks.append(asyncio.create_task(coroutine))
        await asyncio.sleep(0)
    return tasks


def in_new_context(coroutine):
    """A task that does not inherit the slot of the code that makes it."""
    return asyncio.create_task(coroutine, context=contextvars.Context())


def aside(function, *args):
    """Run a function in a thread of its own and wait for it, the loop standing still."""
    thread = threading.Thread(target=function, args=args, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()


def same_thread(function, *args):
    function(*args)


WHERE = pytest.mark.parametrize("run", [same_thread, aside])


# -- order ------------------------------------------------------------------------------


def test_tasks_are_served_in_the_policys_order(make_scheduler, by_tag, tagged):
    """Tasks that wait get the slot in its order, equal ones in the order in which they came."""

    async def main():
        scheduler, log = make_scheduler(1, policy=by_tag), []

        async def call(name):
            with tagged(scheduler, name[0]):
                await take(scheduler, log, name)

        holder = scheduler.slot()
        await holder.aacquire()
        tasks = await begin(*map(call, ("3a", "1a", "2a", "1b", "3b", "2b")))
        assert scheduler.statistics().waiting == 6
        holder.release()
        await asyncio.gather(*tasks)
        return log

    assert asyncio.run(main()) == ["1a", "1b", "2a", "2b", "3a", "3b"]


def test_threads_and_loops_share_one_queue(make_scheduler, by_tag, tagged, enqueue):
    """A thread, this loop and a loop in another thread are served in one order."""
    scheduler, log = make_scheduler(1, policy=by_tag), []
    waiting = threading.Event()

    async def call(name):
        with tagged(scheduler, name[0]):
            await take(scheduler, log, name)

    def other_loop():
        async def main():
            task = asyncio.create_task(call("3 other loop"))
            await asyncio.sleep(0)
            waiting.set()
            await task

        asyncio.run(main())

    def thread():
        with tagged(scheduler, "2"), scheduler.slot():
            log.append("2 thread")

    async def main(spawn_other):
        holder = scheduler.slot()
        await holder.aacquire()
        tasks = await begin(call("4 this loop"))
        elsewhere = threading.Thread(target=spawn_other, daemon=True)
        elsewhere.start()
        assert await asyncio.to_thread(waiting.wait, 20)
        future = await asyncio.to_thread(enqueue, thread)
        tasks += await begin(call("1 this loop"))
        holder.release()
        await asyncio.gather(*tasks)
        await asyncio.to_thread(elsewhere.join, 20)
        future.result(20)

    asyncio.run(main(other_loop))
    assert log == ["1 this loop", "2 thread", "3 other loop", "4 this loop"]


# -- cancellation and timeouts ----------------------------------------------------------


def test_cancelled_while_waiting(make_scheduler):
    """A cancelled task leaves the backlog at once, and those behind it are served."""

    async def main():
        scheduler, log = make_scheduler(1), []
        holder = scheduler.slot()
        await holder.aacquire()
        first, second = await begin(take(scheduler, log, 1), take(scheduler, log, 2))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert scheduler.statistics().waiting == 1
        holder.release()
        await second
        assert log == [2]

    asyncio.run(main())


@WHERE
@pytest.mark.parametrize("cancel_first", [True, False])
def test_cancelled_at_the_moment_of_the_grant(make_scheduler, run, cancel_first):
    """Grant and cancellation in one step of the loop, in either order: the slot goes to the next."""

    async def main():
        scheduler, log = make_scheduler(1), []
        holder = scheduler.slot()
        await holder.aacquire()
        first, second = await begin(take(scheduler, log, 1), take(scheduler, log, 2))
        if cancel_first:
            first.cancel()
        run(holder.release)
        assert scheduler.statistics().holding == 1  # the first task's, which does not know yet
        if not cancel_first:
            first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        await second
        assert log == [2]
        assert scheduler.statistics().granted == 3

    asyncio.run(main())


def test_cancelled_inside_the_slot(make_scheduler):
    """A task cancelled in the block gives its slot to the next."""

    async def main():
        scheduler, log = make_scheduler(1), []

        async def stay():
            async with scheduler.slot():
                await asyncio.Event().wait()

        first, second = await begin(stay(), take(scheduler, log, 2))
        first.cancel()
        await asyncio.wait([first, second])
        assert first.cancelled()
        assert log == [2]

    asyncio.run(main())


def test_a_timeout_within_a_task_that_goes_on(make_scheduler):
    """`asyncio.timeout` around a waiting call leaves nothing behind; the task can ask again."""

    async def main():
        scheduler, log = make_scheduler(1), []
        holder = scheduler.slot()
        await holder.aacquire()

        async def patient():
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0), scheduler.slot():
                        pytest.fail("the slot was never free")
            assert scheduler.statistics().waiting == 0
            holder.release()
            await take(scheduler, log, "at last")

        await in_new_context(patient())
        assert log == ["at last"]

    asyncio.run(main())


def test_an_error_in_the_block_gives_the_slot_back(make_scheduler):
    """An error passes through unchanged, and the slot is back."""

    async def main():
        scheduler = make_scheduler(1)
        error = ValueError("boom")
        with pytest.raises(ValueError, match="boom") as caught:
            async with scheduler.slot():
                raise error
        assert caught.value is error
        assert scheduler.statistics().holding == 0

    asyncio.run(main())


def test_queue_timeout(make_scheduler):
    """A call that waited too long raises, and says where, behind how many, how long, and what helps."""

    async def main():
        scheduler = make_scheduler(1, queue_timeout_s=0.01)
        holder = scheduler.slot()
        await holder.aacquire()
        tasks = await begin(take(scheduler, [], 1), take(scheduler, [], 2))
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [QueueTimeoutError] * 2
        assert "waited 0.0 s for the slot of backend 'default'" in str(errors[0])
        # The first one that gives up sees both wait.
        assert any("with 1 held and 2 calls waiting; raise queue_timeout_s" in str(error) for error in errors)
        assert scheduler.statistics().waiting == 0
        holder.release()
        await take(scheduler, [], 3)

    asyncio.run(main())


def test_a_slot_that_comes_in_time_beats_the_timeout(make_scheduler):
    """A granted call is served, however little of its time was left."""

    async def main():
        scheduler, log = make_scheduler(1, queue_timeout_s=60), []
        holder = scheduler.slot()
        await holder.aacquire()
        tasks = await begin(take(scheduler, log, 1))
        aside(holder.release)
        await asyncio.gather(*tasks)
        assert log == [1]

    asyncio.run(main())


# -- closed loops -----------------------------------------------------------------------


def abandon_a_waiter(scheduler, log):
    """A task that waits on a loop that is closed, which nobody will ever run again."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # that the task is destroyed is the point
    task = loop.create_task(take(scheduler, log, "nobody"))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    return task


@WHERE
@pytest.mark.parametrize("made_in", [same_thread, aside])
def test_a_waiter_whose_loop_is_closed_hands_the_slot_on(make_scheduler, enqueue, run, made_in):
    """A grant to a task that will never run again goes to the next in the queue, wherever it is made."""
    scheduler, log, tasks = make_scheduler(1), [], []

    def thread():
        with scheduler.slot():
            log.append("thread")

    holder = scheduler.slot()
    holder.acquire()
    made_in(lambda: tasks.extend(abandon_a_waiter(scheduler, log) for _ in range(2)))
    future = enqueue(thread)
    assert scheduler.statistics().waiting == 3
    run(holder.release)
    future.result(20)
    assert log == ["thread"]
    assert scheduler.statistics().waiting == 0


def test_a_waiter_that_is_destroyed_leaves_the_queue(make_scheduler):
    """A task that is collected as garbage while it waits releases its ticket by itself."""
    scheduler = make_scheduler(1)
    holder = scheduler.slot()
    holder.acquire()
    task = abandon_a_waiter(scheduler, [])
    assert scheduler.statistics().waiting == 1
    task.get_coro().close()
    assert scheduler.statistics().waiting == 0
    holder.release()


# -- waiters ----------------------------------------------------------------------------


@pytest.mark.parametrize("timeout_s", [None, 60.0])
@pytest.mark.parametrize("error", [None, SchedulerClosedError("closed")])
@WHERE
def test_a_loop_waiter_woken_before_or_during_the_wait(run, error, timeout_s):
    """A wake-up is never lost, whether it comes first or later, and the error is there when it comes."""

    def wake(waiter):
        waker = waiter.waker()
        if error is not None:
            waker.refuse(error)
            assert waker.error is error
        assert waker.wake()

    async def outcome(waiter):
        try:
            return await waiter.wait(timeout_s), waiter.error
        finally:
            waiter.done()

    async def main():
        early, late = LoopWaiter(), LoopWaiter()
        run(wake, early)
        (waiting,) = await begin(outcome(late))
        run(wake, late)
        return [await outcome(early), await waiting]

    assert asyncio.run(main()) == [(True, error)] * 2


@WHERE
def test_a_loop_waiter_may_be_woken_often(run):
    """Wake-ups before the wait count as one; after it, the next one ends the next wait."""

    async def main():
        waiter = LoopWaiter()
        for _ in range(3):
            run(waiter.wake)
        woken = [await waiter.wait(60.0), await waiter.wait(0.001)]
        run(waiter.wake)
        woken.append(await waiter.wait(60.0))
        waiter.done()
        return woken

    assert asyncio.run(main()) == [True, False, True]


def test_a_waker_does_not_keep_its_waiter():
    """Once the coroutine is gone there is nobody to wake, and the waker says so."""

    async def main():
        waiter = LoopWaiter()
        waker = waiter.waker()
        assert waker.wake()
        await waiter.wait(60.0)
        waiter.done()
        del waiter
        gc.collect()
        waker.refuse(SchedulerClosedError("closed"))
        return waker.wake(), waker.error

    assert asyncio.run(main()) == (False, None)


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_a_thread_waiter_woken_before_the_wait(timeout_s):
    """However many wake-ups come before the wait, they end it at once, and one wait only."""
    waiter = ThreadWaiter()
    for _ in range(3):
        assert waiter.wake()
    assert waiter.error is None
    assert waiter.wait(timeout_s)
    assert not waiter.wait(0.001)
    waiter.refuse(error := SchedulerClosedError("closed"))
    assert waiter.wake()
    assert waiter.wait(timeout_s)
    assert waiter.error is error


def test_waiters_that_nobody_wakes():
    """A wait that is too long says so by False and raises nothing."""

    async def main():
        return await LoopWaiter().wait(0.001)

    assert ThreadWaiter().wait(0.001) is False
    assert asyncio.run(main()) is False


# -- one slot for one call --------------------------------------------------------------


def test_nested_slots_and_child_tasks_take_one(make_scheduler):
    """Nested slots, tasks made inside the call and threads that it calls all ride on its slot."""

    async def main():
        scheduler, log = make_scheduler(1), []

        def in_thread():
            with scheduler.slot():
                log.append("thread")

        async with scheduler.slot(), scheduler.slot():
            await asyncio.gather(take(scheduler, log, 1), take(scheduler, log, 2))
            await asyncio.to_thread(in_thread)
        assert log == [1, 2, "thread"]
        assert scheduler.statistics().granted == 1

    asyncio.run(main())


def test_a_task_that_outlives_the_slot_takes_its_own(make_scheduler):
    """A child task that asks when the outer slot is back is a call like any other."""

    async def main():
        scheduler, log = make_scheduler(1), []
        go = asyncio.Event()

        async def later():
            await go.wait()
            await take(scheduler, log, "child")

        async with scheduler.slot():
            (child,) = await begin(later())
        holder = scheduler.slot()
        await holder.aacquire()
        go.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert scheduler.statistics().waiting == 1
        holder.release()
        await child
        assert log == ["child"]
        assert scheduler.statistics().granted == 3

    asyncio.run(main())


def test_a_task_outside_the_call_waits(make_scheduler):
    """A task that was made before the slot was taken is another call."""

    async def main():
        scheduler, log = make_scheduler(1), []
        go = asyncio.Event()

        async def other():
            await go.wait()
            await take(scheduler, log, "other")

        (task,) = await begin(other())
        async with scheduler.slot():
            go.set()
            for _ in range(3):
                await asyncio.sleep(0)
            assert scheduler.statistics().waiting == 1
            log.append("first")
        await task
        assert log == ["first", "other"]

    asyncio.run(main())


def test_a_slot_is_used_once(make_scheduler):
    """The second use of a Slot is an error and costs no slot."""

    async def main():
        scheduler = make_scheduler(2)
        slot = scheduler.slot()
        async with slot:
            pass
        with pytest.raises(RuntimeError, match="a slot is for one call"):
            async with slot:
                pytest.fail("it was used before")
        assert scheduler.statistics().granted == 1

    asyncio.run(main())


# -- synchronous calls on a loop --------------------------------------------------------


def test_a_synchronous_call_on_a_loop_goes_ahead(make_scheduler, monkeypatch, caplog):
    """It cannot wait, so it goes over the slots: counted each time, logged once, and given back."""
    monkeypatch.setattr(slot_module, "_warned", False)
    scheduler = make_scheduler(1)

    async def main():
        async with scheduler.slot():
            for _ in range(2):
                with contextvars.copy_context().run(lambda: scheduler.slot()):
                    assert scheduler.statistics().holding == 1  # it rides: nothing is forced
            assert scheduler.statistics().over_commitments == 0
        holder = scheduler.slot()
        await holder.aacquire()
        (waiting,) = await begin(take(scheduler, [], "patient"))
        with scheduler.slot():
            assert scheduler.statistics().holding == 2
        with scheduler.slot():
            pass
        now = scheduler.statistics()
        assert (now.holding, now.waiting, now.over_commitments, now.peak) == (1, 1, 2, 2)
        holder.release()
        await waiting

    with caplog.at_level(logging.WARNING, logger="llmsched_langgraph"):
        asyncio.run(main())
    (message,) = [record.getMessage() for record in caplog.records]
    assert "its thread runs an event loop" in message


# -- close ------------------------------------------------------------------------------


def test_close_sends_waiting_tasks_away(make_scheduler):
    """Every waiting task raises; who is in a slot stays and gives it back."""

    async def main():
        scheduler = make_scheduler(1)
        async with scheduler.slot():
            tasks = [in_new_context(take(scheduler, [], "in vain")) for _ in range(3)]
            await asyncio.sleep(0)
            assert scheduler.statistics().waiting == 3
            aside(scheduler.close)
            errors = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(error) for error in errors] == [SchedulerClosedError] * 3
            assert scheduler.statistics().holding == 1
            with pytest.raises(SchedulerClosedError):
                await in_new_context(take(scheduler, [], "too late"))
        assert scheduler.statistics().holding == 0

    asyncio.run(main())


@pytest.mark.parametrize("timeout_s", [None, 60.0])
def test_close_and_cancellation_at_once(make_scheduler, caplog, timeout_s):
    """A task cancelled in the same step in which the scheduler is closed ends cancelled, silently."""

    async def main():
        scheduler = make_scheduler(1, queue_timeout_s=timeout_s)
        holder = scheduler.slot()
        await holder.aacquire()
        (task,) = await begin(take(scheduler, [], "in vain"))
        scheduler.close()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        holder.release()

    asyncio.run(main())
    gc.collect()  # an error that nobody looked at is logged when its future dies
    assert caplog.records == []
