"""The end of a run meets its calls at any moment: before they ask, while they wait, on the way of a grant."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref

import pytest
from support.seam import taken

from llmsched_langgraph import Application, CallCancelledError
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import inside, inside_stage
from llmsched_langgraph._runtime.run import RunScope, StageRun
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

PATIENCE_S = 20  # for what must happen; reached only by a test that fails

INFO = JobInfo(application=Application.of("app", ["a"]))


@pytest.fixture
def begin(request):
    """Start runs, which end with the test."""

    def start(scheduler):
        run = start_run(scheduler, INFO)
        request.addfinalizer(lambda: run.end(Outcome.CANCELLED))
        return run

    return start


def call(scheduler, *marks):
    """A call of a thread; returns whether it got its slot."""

    def marked():
        for mark in marks:
            mark.__enter__()
        with scheduler.slot():
            return True

    return contextvars.copy_context().run(marked)


async def acall(scheduler):
    async with scheduler.slot():
        return True


async def waiting(scheduler, number):
    while scheduler.statistics().waiting != number:
        await asyncio.sleep(0)


def granted(scheduler):
    return scheduler.statistics().granted


def test_threads_that_wait_are_dismissed(make_scheduler, begin, enqueue):
    """All threads of the run, in whatever stage run; those of other runs wait on."""
    scheduler = make_scheduler(1)
    run, other = begin(scheduler), begin(scheduler)
    holder = scheduler.slot()
    holder.acquire()
    stage = StageRun("a", StageRun("outer"))
    ended = [enqueue(call, scheduler, inside(run)) for _ in range(3)]
    ended += [enqueue(call, scheduler, inside(run), inside_stage(stage))]
    goes_on = enqueue(call, scheduler, inside(other))
    run.scope.cancel()
    for future in ended:
        with pytest.raises(CallCancelledError, match="ended while this call waited"):
            future.result(PATIENCE_S)
    assert scheduler.statistics().waiting == 1
    holder.release()
    assert goes_on.result(PATIENCE_S)
    assert not run.scope.waiting
    assert not stage.waiting


def test_calls_of_an_ended_run_are_refused_without_a_ticket(make_scheduler, begin):
    """Also if a slot is free, and again each time."""
    scheduler = make_scheduler(1)
    run = begin(scheduler)
    run.scope.cancel()
    with inside(run):
        for _ in range(2):
            with pytest.raises(CallCancelledError), scheduler.slot():
                pass
            with pytest.raises(CallCancelledError):
                asyncio.run(acall(scheduler))
    assert granted(scheduler) == 0
    assert scheduler._driver.story() == []


def test_runs_of_other_schedulers_inside_of_it(make_scheduler, begin):
    """They end with the run around them, and not the other way round."""
    here, elsewhere = make_scheduler(1), make_scheduler(1)
    outer = begin(here)
    with inside(outer):
        inner = begin(elsewhere)
        with inside(inner):
            innermost = begin(here)
    innermost.scope.cancel()
    for scheduler in (here, elsewhere):
        with inside(inner), scheduler.slot():
            pass
    outer.scope.cancel()
    for run in (inner, innermost):
        for scheduler in (here, elsewhere):
            with inside(run), pytest.raises(CallCancelledError), scheduler.slot():
                pass


def test_the_run_ends_between_the_request_and_the_wait(make_scheduler, begin, monkeypatch, spawn):
    """The call is in the backlog, and not registered yet: it sees the end itself."""
    scheduler = make_scheduler(1)
    run = begin(scheduler)
    request = scheduler._driver.request

    def end_meanwhile(*args):
        got = request(*args)
        run.scope.cancel()
        return got

    with taken(scheduler):
        monkeypatch.setattr(scheduler._driver, "request", end_meanwhile)
        with pytest.raises(CallCancelledError):
            spawn(call, scheduler, inside(run)).result(PATIENCE_S)
        run.scope.cancelled = False
        with pytest.raises(CallCancelledError), inside(run):
            asyncio.run(acall(scheduler))
        assert scheduler.statistics().waiting == 0
    assert granted(scheduler) == 1


@pytest.mark.parametrize("thread", [False, True], ids=["on the loop", "from a thread"])
def test_the_run_ends_while_the_grant_is_on_its_way_to_a_coroutine(make_scheduler, begin, thread):
    """The slot is granted, the coroutine not woken yet: it raises, and the next call gets the slot."""
    scheduler = make_scheduler(1)
    run = begin(scheduler)

    async def main():
        holder = scheduler.slot()
        await holder.aacquire()
        with inside(run):
            ended = asyncio.create_task(acall(scheduler))
        await waiting(scheduler, 1)
        following = asyncio.create_task(acall(scheduler))
        await waiting(scheduler, 2)

        def grant_and_end():
            holder.release()
            assert (granted(scheduler), scheduler.statistics().waiting) == (2, 1)
            run.scope.cancel()

        if thread:
            # The loop stands still meanwhile, so the coroutine cannot be woken in between.
            other = threading.Thread(target=grant_and_end)
            other.start()
            other.join(PATIENCE_S)
        else:
            grant_and_end()
        with pytest.raises(CallCancelledError):
            await ended
        assert await following

    asyncio.run(main())
    assert (granted(scheduler), scheduler.statistics().holding) == (3, 0)


def test_the_run_ends_while_the_grant_is_on_its_way_to_a_thread(make_scheduler, begin, enqueue, monkeypatch):
    """The same for a thread."""
    scheduler = make_scheduler(1)
    run = begin(scheduler)
    holder = scheduler.slot()
    holder.acquire()
    ended = enqueue(call, scheduler, inside(run))
    (ticket,) = scheduler._driver.view().waiting
    waiter = scheduler._driver._waiters[ticket]
    monkeypatch.setattr(type(waiter), "wake", lambda self: True)
    holder.release()
    assert granted(scheduler) == 2
    monkeypatch.undo()
    run.scope.cancel()
    waiter.wake()
    with pytest.raises(CallCancelledError):
        ended.result(PATIENCE_S)
    assert call(scheduler)


def test_many_calls_and_ends_at_once(make_scheduler, begin, spawn):
    """Threads ask, get, wait and give back while their runs end in other threads, each twice."""
    scheduler = make_scheduler(2)
    runs = [begin(scheduler) for _ in range(40)]
    started = threading.Barrier(9)

    def ask(number):
        started.wait(PATIENCE_S)
        refused = 0
        for run in runs[number % 2 :]:
            try:
                while not run.scope.cancelled:
                    call(scheduler, inside(run))
                call(scheduler, inside(run))
            except CallCancelledError:
                refused += 1
        return refused

    calls = [spawn(ask, number) for number in range(8)]
    started.wait(PATIENCE_S)
    for run in runs:
        before = granted(scheduler)
        while granted(scheduler) < before + 20 and not all(future.done() for future in calls):
            pass
        ends = [spawn(run.scope.cancel) for _ in range(2)]
        for end in ends:
            end.result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in calls] == [40, 39] * 4
    assert not any(run.scope.waiting for run in runs)


def test_a_stage_run_that_is_cancelled(make_scheduler, begin, spawn):
    """Its threads, and coroutines on their loops, are refused. On its own loop its background tasks go on."""
    scheduler = make_scheduler(1)
    run = begin(scheduler)

    async def main():
        stage = StageRun("a")
        stage.loop = asyncio.get_running_loop()
        with inside(run), inside_stage(stage), scheduler.slot() as holder:
            with inside_stage(StageRun("inner", stage)):
                context = contextvars.copy_context()
            assert holder.held
        holder = scheduler.slot()
        await holder.aacquire()
        task = context.run(asyncio.create_task, acall(scheduler))
        others = [spawn(context.copy().run, call, scheduler)]
        others += [spawn(context.copy().run, asyncio.run, acall(scheduler))]
        await waiting(scheduler, 3)
        stage.cancel()
        later = [spawn(context.copy().run, call, scheduler)]
        later += [spawn(context.copy().run, asyncio.run, acall(scheduler))]
        for future in (*others, *later):
            with pytest.raises(CallCancelledError):
                await asyncio.wrap_future(future)
        await waiting(scheduler, 1)
        holder.release()
        assert await task

    asyncio.run(main())


def test_a_call_of_a_closed_loop_is_collected_while_its_run_goes_on(make_scheduler, begin):
    """The run does not keep it in the backlog."""
    scheduler = make_scheduler(1)
    run = begin(scheduler)
    with taken(scheduler):
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda loop, context: None)  # it tells of the task
        with inside(run):
            task = loop.create_task(acall(scheduler))
        loop.run_until_complete(waiting(scheduler, 1))
        loop.close()
        del task, loop
        gc.collect()
        assert scheduler.statistics().waiting == 0


# -- node tasks ----------------------------------------------------------------------------


class Owner:
    """What awaits tasks."""


def keeping(scope, owner, coroutine):
    task = asyncio.ensure_future(coroutine)
    scope.keep(task, weakref.ref(owner))
    return task


def test_tasks_are_kept_until_they_end():
    """However they end."""

    async def fail():
        raise ZeroDivisionError

    async def main():
        scope, owner = RunScope(), Owner()
        tasks = [
            keeping(scope, owner, coroutine) for coroutine in (asyncio.sleep(0), fail(), asyncio.sleep(3600))
        ]
        tasks[2].cancel()
        assert scope.tasks.keys() == set(tasks)
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)
        assert not scope.tasks

    asyncio.run(main())


def test_only_tasks_that_nobody_awaits_are_cancelled():
    """Those at the top level of the run, whose reader has gone, and those whose owner is gone."""

    async def main():
        scope, root, alive, gone = RunScope(), Owner(), Owner(), Owner()
        scope.root = weakref.ref(root)
        top, inner, orphan = (
            keeping(scope, owner, asyncio.sleep(0.05 if owner is alive else 3600))
            for owner in (root, alive, gone)
        )
        del gone
        scope.cancel()
        late = keeping(scope, root, asyncio.sleep(3600))
        await asyncio.wait([top, inner, orphan, late])
        assert [task.cancelled() for task in (top, inner, orphan, late)] == [True, False, True, True]

    asyncio.run(main())


def test_a_task_that_is_being_cancelled_is_left_alone():
    """It may be cleaning up."""

    async def clean_up():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.05)
            cleaned.append(True)

    cleaned: list[bool] = []

    async def main():
        scope, root = RunScope(), Owner()
        scope.root = weakref.ref(root)
        task = keeping(scope, root, clean_up())
        await asyncio.sleep(0)
        task.cancel()
        for _ in range(3):
            scope.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([task])

    asyncio.run(main())
    assert cleaned == [True]


def test_tasks_are_cancelled_on_their_own_loops(spawn):
    """From any thread; those of a closed loop will never run again, and are left."""
    scope, root = RunScope(), Owner()
    scope.root = weakref.ref(root)
    ready = threading.Event()

    async def wait():
        task = keeping(scope, root, asyncio.sleep(3600))
        ready.set()
        await asyncio.wait([task])
        return task.cancelled()

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)
    left = loop.create_task(asyncio.sleep(3600))
    loop.run_until_complete(asyncio.sleep(0))
    scope.keep(left, scope.root)
    loop.close()
    ended = spawn(asyncio.run, wait())
    assert ready.wait(PATIENCE_S)
    scope.cancel()
    assert ended.result(PATIENCE_S)
    del left
