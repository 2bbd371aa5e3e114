"""Waits for a slot that can never end: one call goes ahead for each, is counted, and says why."""

from __future__ import annotations

import asyncio
import gc
import logging
import queue
import threading
import time
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, ThreadPoolExecutor, as_completed, wait
from contextlib import contextmanager
from contextvars import Context, copy_context

import pytest
from support.cycles import ends, went_ahead

from llmsched_langgraph import Application
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Outcome
from llmsched_langgraph._runtime.context import inside, inside_stage
from llmsched_langgraph._runtime.cycles import stdlib
from llmsched_langgraph._runtime.cycles import watcher as watcher_module
from llmsched_langgraph._runtime.cycles.graph import GUESS_S
from llmsched_langgraph._runtime.run import StageRun
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph._runtime.streams import ahold, hold
from llmsched_langgraph._runtime.threads import SteppingAside, learn_pool
from llmsched_langgraph.policies import JobInfo

SLOTS = pytest.mark.parametrize("slots", [1, 2])
CALL_S = 0.01
HELD_S = 0.1  # long enough for the calls behind it to wait; how long does not matter


class Nothing:
    """A meter that looks at nothing."""

    def see(self, item):
        pass

    def usage(self):
        return UNKNOWN_USAGE


class Program:
    """Calls on one scheduler, as the programs of these tests make them."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.answers = 0
        self._lock = threading.Lock()

    def answer(self):
        with self._lock:
            self.answers += 1
        return "yes"

    def call(self, *_):
        with self.scheduler.slot():
            time.sleep(CALL_S)
            return self.answer()

    async def acall(self, seconds=CALL_S):
        async with self.scheduler.slot():
            await asyncio.sleep(seconds)
            return self.answer()

    def stream(self, pieces=3):
        def items():
            for piece in range(pieces):
                time.sleep(CALL_S)
                yield piece

        return hold(self.scheduler.slot(), items, Nothing())

    def astream(self, pieces=3):
        async def items():
            for piece in range(pieces):
                await asyncio.sleep(CALL_S)
                yield piece

        return ahold(self.scheduler.slot(), items, Nothing())

    async def beside(self, slots, block):
        """Hold every slot by coroutines of this loop, and call `block` on the loop's thread meanwhile."""
        holders = [asyncio.create_task(self.acall(HELD_S)) for _ in range(slots)]
        while self.scheduler.statistics().holding < slots:
            await asyncio.sleep(0)
        result = block()
        await asyncio.gather(*holders)
        return result


@pytest.fixture
def make_program(make_scheduler):
    return lambda slots: Program(make_scheduler(slots))


def run_on(kind, main):
    if kind == "asyncio":
        return asyncio.run(main)
    import uvloop

    return uvloop.run(main)


# -- the thread of the loop waits, and the coroutines on the loop hold the slots -----------


def by_results(program):
    with ThreadPoolExecutor(3) as pool:
        return [future.result() for future in [pool.submit(program.call) for _ in range(3)]]


def by_exception(program):
    with ThreadPoolExecutor(3) as pool:
        return [future.exception() or "yes" for future in [pool.submit(program.call) for _ in range(3)]]


def by_map(program):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(program.call, range(3)))


def by_as_completed(program):
    with ThreadPoolExecutor(3) as pool:
        return [future.result() for future in as_completed([pool.submit(program.call) for _ in range(3)])]


def by_waiting_for_the_first(program):
    with ThreadPoolExecutor(3) as pool:
        undone, results = {pool.submit(program.call) for _ in range(3)}, []
        while undone:
            done, undone = wait(undone, return_when=FIRST_COMPLETED)
            results += [future.result() for future in done]
        return results


def by_waiting_for_all(program):
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(program.call) for _ in range(3)]
        wait(futures, return_when=ALL_COMPLETED)
        return [future.result() for future in futures]


def by_shutdown(program):
    results = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            pool.submit(lambda: results.append(program.call()))
    return results


def by_join(program):
    results = []
    threads = [threading.Thread(target=lambda: results.append(program.call())) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def by_a_loop_in_a_thread(program):
    async def calls():
        return await asyncio.gather(*(program.acall() for _ in range(3)))

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, calls()).result()


def by_a_loop_that_lives_in_a_thread(program):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def calls():
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(program.acall()) for _ in range(3)]
        return [await asyncio.shield(task) for task in tasks]

    try:
        return asyncio.run_coroutine_threadsafe(calls(), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def by_pools_in_pools(program):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(by_map, program).result()


def by_more_work_than_threads(program):
    """The loop's thread waits for work that has not begun, behind calls that wait."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(program.call)
        pool.submit(program.call)
        return [pool.submit(program.call).result(), "yes", "yes"]


BLOCKS = [
    by_results,
    by_exception,
    by_map,
    by_as_completed,
    by_waiting_for_the_first,
    by_waiting_for_all,
    by_shutdown,
    by_join,
    by_a_loop_in_a_thread,
    by_a_loop_that_lives_in_a_thread,
    by_pools_in_pools,
    by_more_work_than_threads,
]


@SLOTS
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_calls_that_a_loops_thread_waits_for(make_program, block, slots):
    """They go ahead one by one, because the coroutines that hold the slots cannot continue."""
    program = make_program(slots)
    result = ends(lambda: asyncio.run(program.beside(slots, lambda: block(program))), program.scheduler)
    assert (result, program.answers) == (["yes"] * 3, 3 + slots)
    assert [entry.detail.concurrency for entry in went_ahead(program.scheduler)] == [slots + 1] * 3


def test_calls_that_the_thread_of_a_uvloop_waits_for(make_program):
    """Its loops are not written in Python, and do the same."""
    pytest.importorskip("uvloop", reason="uvloop is not installed")
    program = make_program(1)
    result = ends(lambda: run_on("uvloop", program.beside(1, lambda: by_map(program))), program.scheduler)
    assert result == ["yes"] * 3
    assert len(went_ahead(program.scheduler)) == 3


def test_a_slot_of_another_thread_is_waited_for(make_program):
    """If one holder can continue, the wait ends, and no call goes ahead, however long it takes."""
    program, go = make_program(2), threading.Event()

    def elsewhere():
        with program.scheduler.slot():
            go.wait(30)

    def block():
        looks = watcher_module.WATCHER.looks
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(program.call)
            while watcher_module.WATCHER.looks < looks + 3:
                time.sleep(0.001)
            assert not future.done()
            go.set()
            return future.result()

    async def main():
        other = asyncio.create_task(asyncio.to_thread(elsewhere))
        while program.scheduler.statistics().holding < 1:
            await asyncio.sleep(0)
        mine = asyncio.create_task(program.acall(HELD_S))
        while program.scheduler.statistics().holding < 2:
            await asyncio.sleep(0)
        result = block()
        await asyncio.gather(mine, other)
        return result

    assert ends(lambda: asyncio.run(main()), program.scheduler) == "yes"
    assert not went_ahead(program.scheduler)


def test_a_loop_that_only_now_and_then_runs(make_program):
    """A thread runs a loop step by step, and waits in between for a slot that the loop's coroutine holds."""
    program = make_program(1)

    def main():
        loop = asyncio.new_event_loop()
        task = loop.create_task(program.acall(HELD_S))
        loop.run_until_complete(asyncio.sleep(CALL_S))
        first = program.call()
        second = loop.run_until_complete(task)
        loop.close()
        return [first, second]

    assert ends(main, program.scheduler) == ["yes"] * 2
    assert len(went_ahead(program.scheduler)) == 1


# -- the code that holds the slot waits ----------------------------------------------------


def test_a_task_that_waits_for_another_ones_call(make_program):
    """It was made before the slot was taken, so it is another call; the holder awaits it."""
    program = make_program(1)

    async def main():
        go = asyncio.Event()

        async def other():
            await go.wait()
            return await program.acall()

        task = asyncio.create_task(other())
        async with program.scheduler.slot():
            go.set()
            return await asyncio.gather(task, asyncio.sleep(0, "no call"))

    assert ends(lambda: asyncio.run(main()), program.scheduler) == ["yes", "no call"]
    assert len(went_ahead(program.scheduler)) == 1


def test_a_task_that_waits_for_a_thread(make_program):
    """The thread of a pool of its own, without the call's context, makes a call."""
    program = make_program(1)

    async def main():
        with ThreadPoolExecutor(1) as pool:
            async with program.scheduler.slot():
                return await asyncio.get_running_loop().run_in_executor(pool, program.call)

    assert ends(lambda: asyncio.run(main()), program.scheduler) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


@SLOTS
def test_a_pool_of_one(make_program, slots):
    """Each holder needs the only thread of a pool, in which a call waits: the holders' work is behind it."""
    program, pool, ready = make_program(slots), ThreadPoolExecutor(1), threading.Barrier(slots + 1)

    def holder():
        with program.scheduler.slot():
            ready.wait(30)
            queued.wait(30)
            return pool.submit(str, "held").result()

    queued = threading.Event()

    def main():
        with ThreadPoolExecutor(slots) as holders:
            futures = [holders.submit(holder) for _ in range(slots)]
            ready.wait(30)
            waiting = pool.submit(program.call)
            while not program.scheduler.statistics().waiting:
                time.sleep(0)
            queued.set()
            return [future.result() for future in (*futures, waiting)]

    assert ends(main, program.scheduler) == ["held"] * slots + ["yes"]
    pool.shutdown()
    assert len(went_ahead(program.scheduler)) == 1


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_pool_whose_threads_wait_for_threads_that_wait_gets_another_one(make_program, kind):
    """A holder needs a thread of the loop's pool, and calls of other threads keep all: none goes ahead."""
    pytest.importorskip(kind, reason="uvloop is not installed")
    program = make_program(1)

    async def holds(occupied):
        async with program.scheduler.slot():
            await occupied.wait()
            return await asyncio.to_thread(program.answer)

    async def main():
        loop, occupied = asyncio.get_running_loop(), asyncio.Event()
        pool = ThreadPoolExecutor(2)
        loop.set_default_executor(pool)
        learn_pool(loop)
        holder = asyncio.create_task(holds(occupied))
        while not program.scheduler.statistics().holding:
            await asyncio.sleep(0)
        parts = [asyncio.create_task(asyncio.to_thread(by_map, program)) for _ in range(3)]
        while program.scheduler.statistics().waiting < 4:  # two threads for each part that has begun
            await asyncio.sleep(0.001)
        occupied.set()
        found = await asyncio.gather(holder, *parts)
        return found, pool._max_workers

    found, threads = ends(lambda: run_on(kind, main()), program.scheduler)
    assert found == ["yes"] + [["yes"] * 3] * 3
    assert threads == 2  # what was lent is given back
    assert went_ahead(program.scheduler) == []


def test_a_pool_that_may_soon_get_a_thread(make_program, monkeypatch):
    """On a busy machine, a waiting thread may lend its pool another one late. No call goes ahead before."""
    program, lend = make_program(1), SteppingAside.lend
    looks = watcher_module.WATCHER.looks

    def late(self):
        return lend(self) if watcher_module.WATCHER.looks >= looks + 4 else 0.01

    monkeypatch.setattr(SteppingAside, "lend", late)

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        async with program.scheduler.slot():
            waiting = loop.run_in_executor(None, Context().run, program.call)
            while not program.scheduler.statistics().waiting:
                await asyncio.sleep(0)
            result = await asyncio.to_thread(str, "held")
        return [result, await waiting]

    assert ends(lambda: asyncio.run(main()), program.scheduler) == ["held", "yes"]
    assert not went_ahead(program.scheduler)


@pytest.mark.parametrize("around", [2, 3])
def test_schedulers_in_a_circle(make_scheduler, around):
    """Each thread holds a slot of one scheduler and waits for one of the next: one call goes ahead."""
    programs, ready = [Program(make_scheduler(1)) for _ in range(around)], threading.Barrier(around)

    def one(at):
        with programs[at].scheduler.slot():
            ready.wait(30)
            return programs[(at + 1) % around].call()

    def main():
        with ThreadPoolExecutor(around) as pool:
            return list(pool.map(one, range(around)))

    assert ends(main, *(program.scheduler for program in programs)) == ["yes"] * around
    assert sum(len(went_ahead(program.scheduler)) for program in programs) == 1


def test_schedulers_crossed_by_tasks(make_scheduler):
    """The same on one event loop."""
    programs = [Program(make_scheduler(1)) for _ in range(2)]

    async def main():
        ready = asyncio.Barrier(2)

        async def one(mine, other):
            async with mine.scheduler.slot():
                await ready.wait()
                async with asyncio.TaskGroup() as group:
                    task = group.create_task(other.acall())
            return task.result()

        return await asyncio.gather(one(*programs), one(*reversed(programs)))

    assert ends(lambda: asyncio.run(main()), *(own.scheduler for own in programs)) == ["yes"] * 2
    assert sum(len(went_ahead(program.scheduler)) for program in programs) == 1


def test_a_circle_that_one_holder_leaves(make_scheduler):
    """Two schedulers are crossed, but another slot of one of them comes back: nobody goes ahead."""
    first, second = Program(make_scheduler(2)), Program(make_scheduler(1))
    ready, go = threading.Barrier(3), threading.Event()

    def one(mine, other):
        with mine.scheduler.slot():
            ready.wait(30)
            return other.call()

    def other():
        with first.scheduler.slot():
            ready.wait(30)
            go.wait(30)

    def main():
        with ThreadPoolExecutor(3) as pool:
            looks = watcher_module.WATCHER.looks
            futures = [pool.submit(one, first, second), pool.submit(one, second, first), pool.submit(other)]
            while watcher_module.WATCHER.looks < looks + 4:
                time.sleep(0.001)
            go.set()
            return [future.result() for future in futures]

    assert ends(main, first.scheduler, second.scheduler) == ["yes", "yes", None]
    assert not went_ahead(first.scheduler)
    assert not went_ahead(second.scheduler)


# -- streams: the reader waits ---------------------------------------------------------------


@contextmanager
def a_run(program):
    """A run with one stage, of which the code in the block is part."""
    own = start_run(program.scheduler, JobInfo(application=Application.of("streams", ["node"])))
    try:
        with inside(own), inside_stage(StageRun("node")):
            yield
    finally:
        own.end(Outcome.FINISHED)


@pytest.fixture
def in_a_run():
    """Runs a program as one run with one stage."""

    def run(program, function, *args):
        with a_run(program):
            return function(*args)

    return run


@SLOTS
def test_a_reader_that_makes_calls(make_program, slots):
    """A thread asks about each piece of its streams."""
    program = make_program(slots)

    def main():
        streams = [program.stream() for _ in range(slots)]
        return [(pieces, program.call()) for pieces in zip(*streams, strict=True)]

    assert ends(main, program.scheduler) == [((piece,) * slots, "yes") for piece in range(3)]
    assert len(went_ahead(program.scheduler)) == 3


@SLOTS
def test_a_reader_that_awaits_calls(make_program, slots):
    """A task does, and awaits three calls at once about each piece."""
    program = make_program(slots)

    async def main():
        others = [program.astream() for _ in range(slots - 1)]
        found = []
        async for piece in program.astream():
            assert [await anext(other) for other in others] == [piece] * (slots - 1)
            found.append(await asyncio.gather(*(program.acall() for _ in range(3))))
        return found

    assert ends(lambda: asyncio.run(main()), program.scheduler) == [["yes"] * 3] * 3
    assert went_ahead(program.scheduler)


def test_a_reader_that_waits_for_a_thread(make_program):
    """A thread of a pool, in the reader's context, makes the call."""
    program = make_program(1)

    def main():
        with ThreadPoolExecutor(1) as pool:
            return [pool.submit(copy_context().run, program.call).result() for _ in program.stream()]

    assert ends(main, program.scheduler) == ["yes"] * 3
    assert len(went_ahead(program.scheduler)) == 3


def test_a_reader_that_waits_for_another_tasks_call(make_program):
    """The task was there before the stream."""
    program = make_program(1)

    async def main():
        questions, answers = asyncio.Queue(), asyncio.Queue()

        async def other():
            while (piece := await questions.get()) is not None:
                answers.put_nowait((piece, await program.acall()))

        task, found = asyncio.create_task(other()), []
        async for piece in program.astream():
            questions.put_nowait(piece)
            found.append(await answers.get())
        questions.put_nowait(None)
        await task
        return found

    def run():
        own = start_run(program.scheduler, JobInfo(application=Application.of("streams")))
        try:
            with inside(own):
                return asyncio.run(main())
        finally:
            own.end(Outcome.FINISHED)

    assert ends(run, program.scheduler) == [(piece, "yes") for piece in range(3)]
    assert went_ahead(program.scheduler)


def test_streams_read_in_step(make_program):
    """Two streams on one slot, read piece by piece in turn."""
    program = make_program(1)

    async def main():
        other = program.astream()
        return [(piece, await anext(other)) async for piece in program.astream()]

    assert ends(lambda: asyncio.run(main()), program.scheduler) == [(0, 0), (1, 1), (2, 2)]
    assert len(went_ahead(program.scheduler)) == 1


@SLOTS
def test_a_pump(make_program, in_a_run, slots):
    """A task reads the stream into a queue, and the code that makes calls takes from the queue."""
    program = make_program(slots)

    async def one():
        pieces = asyncio.Queue(maxsize=1)

        async def pump():
            async for piece in program.astream():
                await pieces.put(piece)
            await pieces.put(None)

        task, found = asyncio.create_task(pump()), []
        while (piece := await pieces.get()) is not None:
            found.append((piece, await program.acall()))
        await task
        return found

    async def main():
        return await asyncio.gather(*(one() for _ in range(slots)))

    found = ends(lambda: in_a_run(program, asyncio.run, main()), program.scheduler)
    assert found == [[(piece, "yes") for piece in range(3)]] * slots
    assert went_ahead(program.scheduler)


def test_a_pump_in_threads(make_program, in_a_run):
    """The same with a thread and a `queue.Queue`."""
    program = make_program(1)

    def main():
        pieces = queue.Queue(maxsize=1)

        def pump():
            for piece in program.stream():
                pieces.put(piece)
            pieces.put(None)

        thread = threading.Thread(target=copy_context().run, args=(pump,))
        thread.start()
        found = []
        while (piece := pieces.get()) is not None:
            found.append((piece, program.call()))
        thread.join()
        return found

    assert ends(lambda: in_a_run(program, main), program.scheduler) == [(piece, "yes") for piece in range(3)]
    assert went_ahead(program.scheduler)


def test_a_loop_that_waits_for_what_a_thread_puts(make_program, in_a_run):
    """A queue does not tell who fills it: here a thread of the run, whose call waits for the loop's slot."""
    program = make_program(1)

    def block():
        answers = queue.Queue()
        work = copy_context().run, lambda: answers.put(program.call())
        thread = threading.Thread(target=work[0], args=work[1:])
        thread.start()
        answer = answers.get()
        thread.join()
        return answer

    def main():
        return asyncio.run(program.beside(1, block))

    assert ends(lambda: in_a_run(program, main), program.scheduler) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_loop_that_waits_for_a_thread_while_another_run_holds_the_slot(make_program, kind):
    """The run whose code blocks the loop is not the run of the coroutine that holds the slot."""
    pytest.importorskip(kind, reason="uvloop is not installed")
    program = make_program(1)

    def block():
        answers = queue.Queue()
        threading.Thread(target=copy_context().run, args=(lambda: answers.put(program.call()),)).start()
        return answers.get()

    async def holds(held):
        with a_run(program):
            async with program.scheduler.slot():
                held.set()
                await asyncio.sleep(0)
        return "held"

    async def blocks(held):
        with a_run(program):
            await held.wait()
            return block()

    async def main():
        held = asyncio.Event()
        return await asyncio.gather(holds(held), blocks(held))

    assert ends(lambda: run_on(kind, main()), program.scheduler) == ["held", "yes"]
    assert len(went_ahead(program.scheduler)) == 1


@pytest.mark.parametrize("kept", [True, False])
def test_a_stream_that_a_stage_leaves_open(make_program, kept):
    """The stage is over, nobody reads its stream: another run's call goes ahead, or the stream is closed."""
    program, streams = make_program(1), []

    async def stage():
        stream = program.astream()
        await anext(stream)
        if kept:
            streams.append(stream)

    async def main():
        run = start_run(program.scheduler, JobInfo(application=Application.of("streams", ["node"])))
        own = StageRun("node")
        with inside(run), inside_stage(own):
            task = asyncio.create_task(stage())
        await task
        own.over = True
        result = await asyncio.create_task(program.acall())
        for stream in streams:
            await stream.aclose()
        run.end(Outcome.FINISHED)
        return result

    assert ends(lambda: asyncio.run(main()), program.scheduler) == "yes"
    assert len(went_ahead(program.scheduler)) == kept


def test_a_stream_left_open_by_a_thread_whose_number_is_used_again(make_program):
    """The thread of a stage that is over has ended; a new thread, which moves, has its number."""
    program, opened = make_program(1), []

    def stage(run, own):
        with inside(run), inside_stage(own):
            stream = program.stream()
            next(stream)
            opened.append(stream)

    def main():
        run = start_run(program.scheduler, JobInfo(application=Application.of("streams", ["node"])))
        own = StageRun("node")
        thread = threading.Thread(target=stage, args=(run, own))
        thread.start()
        thread.join()
        own.over = True
        moves = threading.Event()
        other = threading.Thread(target=lambda: moves.wait(60.0), daemon=True)
        other.start()
        (died,) = program.scheduler._driver._watched.values()
        died().thread = other.ident
        with inside(run):
            result = program.call()
        moves.set()
        opened.pop().close()
        run.end(Outcome.FINISHED)
        return result

    assert ends(main, program.scheduler) == "yes"
    assert len(went_ahead(program.scheduler)) == 1


@pytest.mark.parametrize("over", [True, False])
def test_a_stream_left_open_by_a_thread_that_does_other_work(make_program, over):
    """Its run is over: what the thread does has nothing to do with it. Until then it may be about to read."""
    program, opened, there, moves = make_program(1), [], threading.Event(), threading.Event()
    run = start_run(program.scheduler, JobInfo(application=Application.of("streams", ["node"])))
    own = StageRun("node")

    def stage():
        with inside(run), inside_stage(own):
            opened.append(program.stream())
            next(opened[0])
        own.over = True
        if over:
            run.end(Outcome.FINISHED)
        there.set()
        moves.wait(60.0)
        opened[0].close()

    def main():
        thread = threading.Thread(target=stage)
        thread.start()
        there.wait()
        other = start_run(program.scheduler, JobInfo(application=Application.of("calls", ["node"])))
        with inside(other):
            if not over:
                threading.Timer(2.5 * GUESS_S, moves.set).start()
            result = program.call()
        other.end(Outcome.FINISHED)
        moves.set()
        thread.join()
        run.end(Outcome.FINISHED)
        return result

    assert ends(main, program.scheduler) == "yes"
    assert len(went_ahead(program.scheduler)) == over


# -- what is told ---------------------------------------------------------------------------


def test_it_is_said_once_why_and_what_to_do(make_program, caplog, monkeypatch):
    """The log names the backend, the reason and the cure, once per process and reason."""
    monkeypatch.setattr(watcher_module.WATCHER, "_told", set())
    program = make_program(1)
    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        ends(lambda: asyncio.run(program.beside(1, lambda: by_map(program))), program.scheduler)
        ends(lambda: [program.call() for _ in program.stream()], program.scheduler)
    loop, stream = (record.getMessage() for record in caplog.records)
    assert (
        "backend 'default' above its limit, because it would have waited for ever: the thread of an" in loop
    )
    assert "use `await model.abatch(...)`" in loop
    assert "a stream that holds a slot is not read" in stream
    assert "Read a stream to its end" in stream


def test_without_the_private_names_it_is_said_once(make_program, caplog, monkeypatch):
    """On a Python that differs nothing is detected, the log says what to do, and a timeout ends the wait."""
    monkeypatch.setattr(watcher_module, "why_not", lambda: "there is no such thing")
    monkeypatch.setattr(watcher_module.WATCHER, "_able", None)
    program = make_program(1)
    looks = watcher_module.WATCHER.looks

    def block():
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(program.call)
            while watcher_module.WATCHER.looks < looks + 3:
                time.sleep(0.001)
            assert not future.done()
        return

    async def main():
        with ThreadPoolExecutor(1) as pool:
            async with program.scheduler.slot():
                future = pool.submit(program.call)
                while watcher_module.WATCHER.looks < looks + 3:
                    time.sleep(0.001)
                assert not future.done()
            return future.result()

    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        assert ends(lambda: asyncio.run(main()), program.scheduler) == "yes"
    (said,) = caplog.records
    assert "not detected on this Python (there is no such thing); give the Scheduler a queue_timeout_s" in (
        said.getMessage()
    )
    assert not went_ahead(program.scheduler)


@pytest.mark.parametrize("collects", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_no_garbage_is_collected_while_the_frames_are_read(monkeypatch, collects, fails):
    """With a Python that would hold a lock meanwhile; afterwards the collector is as it was."""
    seen = []

    def frames():
        seen.append(gc.isenabled())
        if fails:
            raise MemoryError
        return {1: None}

    monkeypatch.setattr(stdlib, "all_frames", frames)
    monkeypatch.setattr(stdlib, "COLLECTS_IN_IT", collects)
    try:
        for enabled in (True, False):
            gc.enable() if enabled else gc.disable()
            if fails:
                with pytest.raises(MemoryError):
                    stdlib.current_frames()
            else:
                assert stdlib.current_frames() == {1: None}
            assert gc.isenabled() == enabled
    finally:
        gc.enable()
    assert seen == [not collects, False]


def test_a_look_that_fails_is_the_last_one(make_program, caplog, monkeypatch):
    """An error in it is logged once, and costs nobody a slot."""
    monkeypatch.setattr(watcher_module.WATCHER, "_able", None)
    monkeypatch.setattr(watcher_module.Graph, "dead", lambda self: 1 / 0)
    program = make_program(1)

    def main():
        with program.scheduler.slot():
            thread = threading.Thread(target=program.call)
            thread.start()
            while not caplog.records:
                time.sleep(0.001)
        thread.join()
        return "ended"

    with caplog.at_level(logging.WARNING, "llmsched_langgraph"):
        assert ends(main, program.scheduler) == "ended"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert watcher_module.WATCHER._able is False


def test_work_that_is_queued_with_its_context_is_seen():
    """In whatever way the pool keeps a function and its arguments."""
    go, pool, context = threading.Event(), ThreadPoolExecutor(1), copy_context()

    def direct():
        """Queued itself."""

    def inside():
        """Queued as an argument."""

    with pool:
        pool.submit(go.wait)
        pool.submit(direct)
        pool.submit(context.run, inside)
        queued = [stdlib.is_queued(function, pool) for function in (direct, inside, go.set)]
        go.set()
    assert queued == [True, True, False]
