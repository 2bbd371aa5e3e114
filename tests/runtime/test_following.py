"""Threads that a run starts are part of it until it ends; nothing else about threads and pools changes."""

from __future__ import annotations

import asyncio
import gc
import inspect
import pickle
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from multiprocessing.pool import ThreadPool

import pytest
from support.seam import taken

from llmsched_langgraph import Application, CallCancelledError, ConfigurationError, Scheduler
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime import following
from llmsched_langgraph._runtime.call import current_call
from llmsched_langgraph._runtime.context import (
    ATTEMPT,
    PAUSED,
    RUN,
    STAGE,
    current_run,
    current_stage_run,
    inside,
    inside_stage,
)
from llmsched_langgraph._runtime.run import StageRun
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

PATIENCE_S = 20
INFO = JobInfo(application=Application.of("following", ["n"]))
OTHER = ContextVar("other", default="unset")


@pytest.fixture(autouse=True)
def _installed():
    following.install()


@contextmanager
def running(scheduler, stage="n"):
    """The block is a stage run of a job."""
    run = start_run(scheduler, INFO)
    try:
        with inside(run), inside_stage(StageRun(stage)):
            yield run
    finally:
        run.end(Outcome.FINISHED)


def mark():
    """The number of the job that the code is part of, and its stage."""
    run, stage = current_run(), current_stage_run()
    return None if run is None else run.job, None if stage is None else stage.name


def everything():
    """All that the package and others keep in the context."""
    return (*mark(), current_call(), ATTEMPT.get(), PAUSED.get(), OTHER.get())


def in_thread(function, **kwargs):
    box = Future()
    thread = threading.Thread(target=lambda: box.set_result(function()), **kwargs)
    thread.start()
    thread.join(PATIENCE_S)
    return box.result(0)


class Overriding(threading.Thread):
    """A thread with a `run` of its own."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.answer = None

    def run(self):
        self.answer = self.function()


class Submitting(ThreadPoolExecutor):
    """A pool with a `submit` of its own."""

    def submit(self, fn, /, *args, **kwargs):
        return super().submit(partial(fn, *args), **kwargs)


class Unrelated(ThreadPoolExecutor):
    """A pool whose `submit` does not call that of its base."""

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        threading.Thread(target=lambda: future.set_result(fn(*args, **kwargs))).start()
        return future


def by_overriding(function):
    thread = Overriding(function)
    thread.start()
    thread.join(PATIENCE_S)
    return thread.answer


def by_timer(function):
    box = Future()
    threading.Timer(0.0, lambda: box.set_result(function())).start()
    return box.result(PATIENCE_S)


def by_own_run_attribute(function):
    box, thread = Future(), threading.Thread()
    thread.run = lambda: box.set_result(function())
    thread.start()
    return box.result(PATIENCE_S)


def by_pool(function, make=ThreadPoolExecutor, **kwargs):
    with make(2, **kwargs) as pool:
        return pool.submit(function).result(PATIENCE_S)


def by_map(function):
    with ThreadPoolExecutor(2) as pool:
        answers = set(pool.map(lambda _: function(), range(5)))
    (answer,) = answers
    return answer


def by_thread_pool(function, method="map"):
    with ThreadPool(2) as pool:
        match method:
            case "apply":
                return pool.apply(function)
            case "apply_async":
                return pool.apply_async(func=function).get(PATIENCE_S)
            case "starmap" | "starmap_async":
                answers = getattr(pool, method)(lambda _, __: function(), [(1, 2)] * 4)
            case _:
                answers = getattr(pool, method)(lambda _: function(), range(4))
        answers = answers.get(PATIENCE_S) if method.endswith("async") else answers
        (answer,) = set(answers)
        return answer


def by_callback(function):
    box = Future()
    with ThreadPoolExecutor(1) as pool:
        go = threading.Event()
        future = pool.submit(go.wait, PATIENCE_S)
        future.add_done_callback(lambda _: box.set_result(function()))
        go.set()
        return box.result(PATIENCE_S)


def by_late_callback(function):
    box, future = Future(), Future()
    future.set_result(None)
    future.add_done_callback(lambda _: box.set_result(function()))
    return box.result(PATIENCE_S)


def by_executor(function, pool=None):
    async def main():
        return await asyncio.get_running_loop().run_in_executor(pool, function)

    return asyncio.run(main())


def by_executor_of_another_loop(function):
    """A coroutine that runs on the loop of another thread, which uses its executor."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def there():
        return await asyncio.get_running_loop().run_in_executor(None, function)

    try:
        return asyncio.run_coroutine_threadsafe(there(), loop).result(PATIENCE_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


WAYS = {
    "thread": in_thread,
    "daemon": partial(in_thread, daemon=True),
    "thread of a thread": lambda function: in_thread(lambda: in_thread(function)),
    "thread of a pool": lambda function: by_pool(lambda: in_thread(function)),
    "overridden run": by_overriding,
    "run of the object": by_own_run_attribute,
    "timer": by_timer,
    "submit": by_pool,
    "map": by_map,
    "nested pools": lambda function: by_pool(lambda: by_map(function)),
    "pool of a thread": lambda function: in_thread(lambda: by_map(function)),
    "initializer": partial(by_pool, initializer=lambda: None),
    "overridden submit": partial(by_pool, make=Submitting),
    "submit without its base": partial(by_pool, make=Unrelated),
    "callback": by_callback,
    "callback of a future that is done": by_late_callback,
    "callback of a thread": lambda function: in_thread(lambda: by_callback(function)),
    "run_in_executor": by_executor,
    "run_in_executor of a pool": lambda function: by_executor(function, ThreadPoolExecutor(1)),
    "executor of another loop": by_executor_of_another_loop,
    **{
        f"ThreadPool.{method}": partial(by_thread_pool, method=method)
        for method in (
            *("map", "map_async", "apply", "apply_async", "starmap", "starmap_async"),
            *("imap", "imap_unordered"),
        )
    },
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_work_in_a_thread_is_part_of_the_run_that_starts_it(make_scheduler, way):
    """Of the run, the stage and the call, and with nothing else of the context."""
    scheduler, token = make_scheduler(2), OTHER.set("set")
    try:
        with running(scheduler) as run, scheduler.slot() as call:
            found = way(everything)
        assert found[:2] == (run.job, "n")
        if way not in (by_late_callback, by_executor_of_another_loop):
            assert found[2:] == (call, None, (), "unset")
    finally:
        OTHER.reset(token)


def test_calls_in_a_pool_take_turns_on_the_slot_of_the_call_around_them(make_scheduler):
    """With one slot they neither wait for each other for ever nor go ahead over it."""
    scheduler, together = make_scheduler(1), threading.Barrier(3)

    def one(_):
        together.wait(PATIENCE_S)
        with scheduler.slot():
            return scheduler.statistics().holding

    with running(scheduler), scheduler.slot(), ThreadPoolExecutor(3) as pool:
        assert list(pool.map(one, range(3))) == [1, 1, 1]
    assert scheduler.statistics().over_commitments == 0
    scheduler.check()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_work_outside_runs_has_no_mark(make_scheduler, way):
    scheduler = make_scheduler(1)
    assert way(mark) == (None, None)
    with running(make_scheduler(1)):
        pass
    assert way(mark) == (None, None)
    with running(Scheduler(1, follow_threads=False)):
        if way not in (by_late_callback, by_executor_of_another_loop):
            assert way(mark) == (None, None)
    scheduler.check()


def test_an_error_of_the_work_is_that_of_the_future(make_scheduler):
    error = LookupError("mine")

    def fail():
        raise error

    with running(make_scheduler(1)), ThreadPoolExecutor(1) as pool:
        assert pool.submit(fail).exception(PATIENCE_S) is error
        with ThreadPool(1) as other, pytest.raises(LookupError, match="mine"):
            other.apply(fail)


def test_an_error_of_a_thread_is_told_as_ever(make_scheduler, monkeypatch):
    told = []
    monkeypatch.setattr(threading, "excepthook", told.append)
    with running(make_scheduler(1)):
        thread = threading.Thread(target={}.__getitem__, args=("mine",))
        thread.start()
        thread.join(PATIENCE_S)
    assert [(args.exc_type, str(args.exc_value), args.thread) for args in told] == [
        (KeyError, "'mine'", thread)
    ]


def test_the_calls_of_threads_take_slots(make_scheduler):
    """No more at once than there are."""
    scheduler, held, lock = make_scheduler(2), [0, 0], threading.Lock()

    def call(_):
        with scheduler.slot():
            with lock:
                held[0] += 1
                held[1] = max(held)
            scheduler.check()
            with lock:
                held[0] -= 1

    with running(scheduler), ThreadPoolExecutor(8) as pool, ThreadPool(8) as other:
        first = [pool.submit(call, number) for number in range(20)]
        other.map(call, range(20))
        for each in first:
            each.result(PATIENCE_S)
    assert held[1] <= 2
    assert (scheduler.statistics().granted, scheduler.statistics().jobs_ended) == (40, 1)


# -- for each submission, and no longer than the run --------------------------------------


def test_a_pool_that_two_runs_share(make_scheduler):
    """Each piece of work is part of the run that submitted it, whichever thread does it."""
    schedulers = [make_scheduler(2), make_scheduler(2)]
    with ThreadPoolExecutor(1) as pool, ThreadPool(1) as other:
        for scheduler in schedulers:
            with running(scheduler) as run:
                assert pool.submit(mark).result(PATIENCE_S) == (run.job, "n")
                assert other.apply(mark) == (run.job, "n")
                assert pool.submit(lambda: current_run().scheduler).result(PATIENCE_S) is scheduler
            assert pool.submit(mark).result(PATIENCE_S) == (None, None)
            assert other.apply(mark) == (None, None)


def test_the_thread_that_a_submission_starts_gets_no_mark(make_scheduler):
    """Nor what the pool does in it before the work."""
    begun = []
    with (
        ThreadPoolExecutor(1, initializer=lambda: begun.append((RUN.get(), STAGE.get()))) as pool,
        running(make_scheduler(1)) as run,
    ):
        assert pool.submit(mark).result(PATIENCE_S) == (run.job, "n")
        assert RUN.get() is run
        # From the pool's own thread, between two pieces of work.
        pool._work_queue.put(type("Item", (), {"run": lambda *_: begun.append((RUN.get(), STAGE.get()))})())
        pool.submit(bool).result(PATIENCE_S)
    assert begun == [(None, None), (None, None)]


def test_a_pool_with_threads_of_its_own_kind_gives_them_no_mark(make_scheduler):
    """They are started by a submission as well."""

    class Own(ThreadPoolExecutor):
        def _adjust_thread_count(self):
            if not self._threads:
                self._threads.add(threading.Thread(target=self.work))
                next(iter(self._threads)).start()

        def work(self):
            context = getattr(self, "_create_worker_context", None)  # from Python 3.14 on
            for _ in range(2):
                item = self._work_queue.get()
                begun.append(RUN.get())
                item.run(*([] if context is None else [context()]))

    begun, pool = [], Own(1)
    with running(make_scheduler(1)) as run:
        assert pool.submit(mark).result(PATIENCE_S) == (run.job, "n")
        assert pool.submit(mark).result(PATIENCE_S) == (run.job, "n")
    assert begun == [None, None]
    next(iter(pool._threads)).join(PATIENCE_S)


def test_a_pool_of_processes_starts_its_threads_without_a_mark(make_scheduler, monkeypatch):
    """They serve all runs."""
    from concurrent.futures import process

    marks, run = [], process._ExecutorManagerThread.run
    monkeypatch.setattr(
        process._ExecutorManagerThread, "run", lambda self: (marks.append(RUN.get()), run(self))[1]
    )
    import multiprocessing

    with (
        running(make_scheduler(1)),
        process.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool,
    ):
        assert pool.submit(int, "3").result(PATIENCE_S) == 3
    assert marks == [None]


def test_the_packages_own_threads_have_no_mark(make_scheduler):
    """A timer that a run's call starts goes on for all others."""
    scheduler, marks = make_scheduler(1), []
    tick = scheduler._driver.tick

    def ticking():
        marks.append(RUN.get())
        return tick()

    scheduler._driver.tick = ticking
    with running(scheduler), taken(scheduler), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: scheduler.slot().__enter__().release())
        while not marks:
            pass
        scheduler.resize(2)
        waiting.result(PATIENCE_S)
    assert set(marks) == {None}


@pytest.mark.parametrize("outcome", Outcome)
def test_a_thread_that_outlives_its_run_is_part_of_none(make_scheduler, outcome):
    """It is refused nothing, however its run ended, and its calls are jobs of their own."""
    scheduler, seen = make_scheduler(1), []
    ended, stages = threading.Event(), []
    box = Future()

    def live():
        before = mark()
        assert ended.wait(PATIENCE_S)
        with scheduler.slot():
            pass
        box.set_result((before, mark(), in_thread(mark), by_map(mark)))

    run = start_run(scheduler, INFO)
    with inside(run), inside_stage(StageRun("n")):
        stages.append(STAGE.get())
        threading.Thread(target=live, daemon=True).start()
    if outcome is not Outcome.FINISHED:
        stages[0].cancel()
    run.end(outcome)
    with scheduler.subscribe(seen.append):
        ended.set()
        assert box.result(PATIENCE_S) == ((run.job, "n"), (None, None), (None, None), (None, None))
    assert [entry.kind for entry in seen] == ["SlotGranted", "CallReleased", "CallClosed"]


def test_work_that_begins_after_its_run_has_finished_goes_on(make_scheduler):
    """Like a task that the run left behind: its calls take slots, as jobs of their own."""
    go, scheduler = threading.Event(), make_scheduler(1)

    def call():
        with scheduler.slot():
            return scheduler.statistics().holding

    with ThreadPoolExecutor(1) as pool:
        pool.submit(go.wait, PATIENCE_S)
        with running(scheduler):
            late = pool.submit(call)
        go.set()
        assert late.result(PATIENCE_S) == 1
    scheduler.check()


@pytest.mark.parametrize("own", [False, True])
def test_threads_of_a_run_that_was_cancelled(make_scheduler, own):
    """Work in a pool is refused, as the run's tasks are; a thread of its own may serve other runs later."""
    go, scheduler, got = threading.Event(), make_scheduler(1), []

    def call():
        assert go.wait(PATIENCE_S)
        try:
            with scheduler.slot():
                got.append("served")
        except CallCancelledError:
            got.append("refused")

    with ThreadPoolExecutor(1) as pool:
        with running(scheduler) as run:
            thread = threading.Thread(target=call)
            thread.start() if own else pool.submit(call)
        run.scope.cancel()
        go.set()
    if own:
        thread.join(PATIENCE_S)
    assert got == ["served" if own else "refused"]
    scheduler.check()


def test_a_run_that_was_interrupted_has_ended_for_its_threads(make_scheduler):
    scheduler, go, box = make_scheduler(1), threading.Event(), Future()
    run = start_run(scheduler, INFO)
    with inside(run):
        threading.Thread(target=lambda: (go.wait(PATIENCE_S), box.set_result(mark())), daemon=True).start()
    run.end(Outcome.FINISHED, paused_on="thread")
    go.set()
    assert box.result(PATIENCE_S) == (None, None)


def test_a_copied_context_stays_part_of_a_run_that_has_ended(make_scheduler):
    """Background work of a run goes on: its calls take slots, as jobs of their own."""
    scheduler = make_scheduler(1)

    async def main():
        go = asyncio.Event()

        async def background():
            await go.wait()
            async with scheduler.slot():
                pass
            return await asyncio.to_thread(mark)

        with running(scheduler) as run:
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        go.set()
        return await task == (run.job, "n")

    assert asyncio.run(main())
    assert scheduler.statistics().granted == 1


def test_calls_of_threads_of_a_stage_run_that_was_stopped_are_refused(make_scheduler, queued):
    """Those that wait, and later ones, as long as the run goes on."""
    scheduler, again = make_scheduler(1), threading.Event()

    def calls():
        errors = []
        for _ in range(2):
            try:
                with scheduler.slot():
                    errors.append(None)
            except CallCancelledError as error:
                errors.append(type(error))
            again.wait(PATIENCE_S)
        return errors

    with running(scheduler), taken(scheduler), ThreadPoolExecutor(1) as pool:
        future = pool.submit(calls)
        assert queued.acquire(timeout=PATIENCE_S)
        STAGE.get().cancel()
        again.set()
        assert future.result(PATIENCE_S) == [CallCancelledError] * 2


def test_a_stage_that_must_beat_does_so_from_its_threads(make_scheduler, queued):
    """A heartbeat may need the context of the stage, which the thread does not have."""
    scheduler, beats, place = make_scheduler(1), [], ContextVar("place")

    def beat():
        beats.append((place.get(), threading.current_thread()))

    token = place.set("the stage")
    run, stage = start_run(scheduler, INFO), StageRun("n", idle_timeout_s=0.02, heartbeat=beat)
    try:
        with inside(run), inside_stage(stage), taken(scheduler), ThreadPoolExecutor(2) as pool:
            inner = pool.submit(lambda: in_thread(lambda: scheduler.slot().__enter__().release()))
            direct = pool.submit(lambda: scheduler.slot().__enter__().release())
            while len({thread for _, thread in beats}) < 2:
                pass
            scheduler.resize(3)
            inner.result(PATIENCE_S)
            direct.result(PATIENCE_S)
    finally:
        place.reset(token)
        run.end(Outcome.FINISHED)
    assert {where for where, _ in beats} == {"the stage"}


# -- what must not change -----------------------------------------------------------------


def test_methods_look_as_before():
    """Names, signatures and pickles."""
    for cls, name in (
        (ThreadPoolExecutor, "submit"),
        (threading.Thread, "start"),
        (Future, "add_done_callback"),
        (ThreadPool, "map"),
    ):
        method = getattr(cls, name)
        assert (method.__name__, method.__doc__) == (name, method.__wrapped__.__doc__)
        assert inspect.signature(method) == inspect.signature(method.__wrapped__)
        if cls is not ThreadPool:  # its methods are those of `Pool` by name
            assert pickle.loads(pickle.dumps(method)) is method


def test_installing_twice_is_installing_once():
    methods = ThreadPoolExecutor.submit, threading.Thread.start
    following.install()
    assert (ThreadPoolExecutor.submit, threading.Thread.start) == methods


def test_wrong_uses_raise_as_before(make_scheduler):
    class Unfinished(threading.Thread):
        def __init__(self):
            pass

    with running(make_scheduler(1)):
        thread = threading.Thread(target=bool)
        thread.start()
        thread.join(PATIENCE_S)
        for other in (thread, Unfinished()):
            with pytest.raises(RuntimeError):
                other.start()
        assert "run" not in vars(thread)
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(TypeError, match="missing 1 required positional argument: 'fn'"):
                pool.submit()
            with pytest.raises(TypeError):
                pool.submit(fn=bool)
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            pool.submit(bool)


def test_a_thread_that_is_running_cannot_be_started_again(make_scheduler):
    go = threading.Event()
    with running(make_scheduler(1)):
        thread = Overriding(lambda: go.wait(PATIENCE_S) and mark())
        thread.start()
        with pytest.raises(RuntimeError):
            thread.start()
        go.set()
        thread.join(PATIENCE_S)
        assert thread.answer[1] == "n"


def test_a_thread_that_cannot_start_is_as_it_was(make_scheduler, monkeypatch):
    """And may be started later, outside the run."""
    thread = Overriding(mark)
    with running(make_scheduler(1)), monkeypatch.context() as patch:
        name = "_start_joinable_thread" if sys.version_info >= (3, 13) else "_start_new_thread"

        def refuse(*args, **kwargs):
            raise RuntimeError("can't start new thread")

        patch.setattr(threading, name, refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            thread.start()
    assert "run" not in vars(thread)
    thread.start()
    thread.join(PATIENCE_S)
    assert thread.answer == (None, None)


def test_a_thread_is_itself_while_it_runs_and_garbage_afterwards(make_scheduler):
    """Its `run` is that of its class, and it is in no reference cycle."""
    gc.collect()
    gc.disable()
    try:
        with running(make_scheduler(1)):
            thread = Overriding(lambda: vars(threading.current_thread()).get("run"))
            thread.start()
            thread.join(PATIENCE_S)
            assert thread.answer is None
            collected = weakref.ref(thread)
            del thread
            assert collected() is None
    finally:
        gc.enable()


def test_work_that_is_pickled_is_the_function(make_scheduler):
    """By a pool that sends its work elsewhere."""
    with running(make_scheduler(1)):
        work = following._followed(len)
    assert pickle.loads(pickle.dumps(work)) is len
    assert (work.__name__, repr(work), work("abc")) == ("len", repr(len), 3)
    assert not hasattr(work, "nothing")


def test_a_function_that_brings_its_context_is_left_alone(make_scheduler):
    """`asyncio.to_thread` and LangChain's executors: all of the context is there, and costs nothing more."""
    from contextvars import copy_context

    from langchain_core.runnables.config import ContextThreadPoolExecutor

    with running(make_scheduler(1)) as run:
        context = copy_context()
        for work in (context.run, partial(context.run, mark)):
            assert following._followed(work) is work
        token = OTHER.set("set")
        with ContextThreadPoolExecutor(1) as pool:
            assert pool.submit(everything).result(PATIENCE_S) == (
                run.job,
                "n",
                None,
                None,
                PAUSED.get(),
                "set",
            )
        assert asyncio.run(asyncio.to_thread(everything)) == (run.job, "n", None, None, PAUSED.get(), "set")
        OTHER.reset(token)


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_a_setting_that_is_none(wrong):
    with pytest.raises(ConfigurationError, match="follow_threads must be True or False"):
        Scheduler(1, follow_threads=wrong)


# -- other libraries that replace the same methods ----------------------------------------

INSTRUMENTED = """
import threading
from concurrent.futures import ThreadPoolExecutor

import wrapt

seen = []

def instrument():  # as OpenTelemetry does
    def submit(wrapped, pool, args, kwargs):
        seen.append("submit")
        return wrapped(lambda *a, **k: (seen.append("work"), args[0](*a, **k))[1], *args[1:], **kwargs)

    def start(wrapped, thread, args, kwargs):
        seen.append("start")
        return wrapped(*args, **kwargs)

    def run(wrapped, thread, args, kwargs):
        seen.append("run")
        return wrapped(*args, **kwargs)

    wrapt.wrap_function_wrapper(ThreadPoolExecutor, "submit", submit)
    wrapt.wrap_function_wrapper(threading.Thread, "start", start)
    wrapt.wrap_function_wrapper(threading.Timer, "start", start)
    wrapt.wrap_function_wrapper(threading.Thread, "run", run)
"""

PROPAGATING = """
import functools, threading
from concurrent.futures import ThreadPoolExecutor

seen = []

def instrument():  # as Sentry does
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def wrapped_run(function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            seen.append("run")
            return function(threading.current_thread(), *args[1:], **kwargs)
        return run

    @functools.wraps(start)
    def starting(self, *args, **kwargs):
        seen.append("start")
        self.run = wrapped_run(getattr(self.run, "__func__", self.run))
        return start(self, *args, **kwargs)

    def submitting(self, fn, *args, **kwargs):
        seen.append("submit")
        @functools.wraps(fn)
        def work(*a, **k):
            seen.append("work")
            return fn(*a, **k)
        return submit(self, work, *args, **kwargs)

    threading.Thread.start = starting
    ThreadPoolExecutor.submit = submitting
"""

CHECK = """
from llmsched_langgraph import Scheduler
from llmsched_langgraph._application.application import Application
from llmsched_langgraph._core.events import JobInfo
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime import following
from llmsched_langgraph._runtime.call import current_call
from llmsched_langgraph._runtime.context import current_run, inside
from llmsched_langgraph._runtime.scheduler import start_run

if FIRST:
    instrument()
    following.install()
else:
    following.install()
    instrument()

class Own(threading.Thread):
    def run(self):
        self.mark = current_run()

def marks():
    found = []
    def find():
        found.append(current_run())
    for thread in (Own(), threading.Thread(target=find), threading.Timer(0, find)):
        thread.start()
        thread.join(20)
        found += [thread.mark] if isinstance(thread, Own) else []
    with ThreadPoolExecutor(1) as pool:
        found.append(pool.submit(current_run).result(20))
        found += pool.map(lambda _: current_run(), range(2))
    return [None if run is None else run.job for run in found]

scheduler = Scheduler(1)
run = start_run(scheduler, JobInfo(application=Application.of("a", ["n"])))
with inside(run):
    assert marks() == [run.job] * 6
run.end(Outcome.FINISHED)
inside_run, seen[:] = sorted(seen), []
assert marks() == [None] * 6
assert {"submit", "work", "start", "run"} <= set(seen)
assert inside_run == sorted(seen), (inside_run, seen)
"""


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("library", [INSTRUMENTED, PROPAGATING], ids=["proxies", "closures"])
def test_another_library_that_replaces_the_same_methods(library, first):
    """Both work, whichever came first."""
    if library is INSTRUMENTED:
        pytest.importorskip("wrapt")
    program = library + CHECK.replace("FIRST", str(first))
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
