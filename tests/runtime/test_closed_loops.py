"""Loops that are closed under their calls, or that sleep although a task was cancelled: slots come back."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import warnings
from contextlib import suppress
from contextvars import copy_context

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from support.seam import until

from llmsched_langgraph import schedule
from llmsched_langgraph.testing import PlainModel

PATIENCE_S = 20


@pytest.fixture(autouse=True)
def dropped():
    """Tasks that are collected while they are pending say so; here they are meant to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
        gc.collect()


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request):
    if request.param == "asyncio":
        return asyncio.new_event_loop
    return pytest.importorskip("uvloop").new_event_loop


def run_until(loop, condition):
    """Run the loop until the condition holds, and leave its tasks where they are."""

    async def main():
        while not condition():
            await asyncio.sleep(0)

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE_S))


def asking(scheduler):
    """How many calls hold a slot or wait for one."""
    now = scheduler.statistics()
    return now.holding + now.waiting


@pytest.fixture
def abandon(new_loop):
    """Runs coroutines on a loop until so many calls more are under way, and closes it; returns the tasks."""

    def start(scheduler, *coroutines, calls=None):
        loop = new_loop()
        loop.set_exception_handler(lambda *_: None)
        tasks = [loop.create_task(coroutine) for coroutine in coroutines]
        wanted = asking(scheduler) + (len(coroutines) if calls is None else calls)
        run_until(loop, lambda: asking(scheduler) == wanted or any(task.done() for task in tasks))
        loop.close()
        assert [task for task in tasks if task.done()] == []
        return tasks

    return start


async def hold(scheduler):
    async with scheduler.slot():
        await asyncio.Event().wait()


def take(scheduler):
    with scheduler.slot():
        return True


async def atake(scheduler):
    async with scheduler.slot():
        return True


def test_the_slot_is_seen_to_be_free(make_scheduler, abandon):
    """By whoever looks, though nobody waits."""
    scheduler = make_scheduler(3)
    kept = abandon(scheduler, *(hold(scheduler) for _ in range(3)))
    assert scheduler.statistics().holding == 0
    scheduler.check()
    assert scheduler.statistics().released == 3
    assert [take(scheduler) for _ in range(4)] == [True] * 4
    del kept


def test_who_asks_gets_it(make_scheduler, abandon):
    """A thread and a coroutine of another loop, from a closed one, time and again."""
    scheduler = make_scheduler(1, queue_timeout_s=PATIENCE_S)
    kept = []
    for _ in range(3):
        kept += abandon(scheduler, hold(scheduler))
        assert take(scheduler)
        kept += abandon(scheduler, hold(scheduler))
        assert asyncio.run(atake(scheduler))


def test_who_waits_already_gets_it(make_scheduler, spawn, new_loop):
    """The loop is closed while a thread waits behind its call."""
    scheduler = make_scheduler(1, queue_timeout_s=PATIENCE_S)
    loop = new_loop()
    kept = loop.create_task(hold(scheduler))
    run_until(loop, lambda: asking(scheduler))
    waiting = spawn(take, scheduler)
    while not scheduler.statistics().waiting:
        pass
    assert scheduler.statistics().holding == 1
    loop.close()
    assert waiting.result(PATIENCE_S)
    del kept


def test_calls_of_closed_loops_hold_and_wait(make_scheduler, abandon, spawn):
    """None of those that wait gets the slot for good, and nothing of them stays in the driver."""
    scheduler = make_scheduler(1, queue_timeout_s=PATIENCE_S)
    kept = abandon(scheduler, *(hold(scheduler) for _ in range(6)))
    assert spawn(take, scheduler).result(PATIENCE_S)
    assert (scheduler.statistics().holding, scheduler.statistics().waiting) == (0, 0)
    assert not scheduler._driver._waiters
    scheduler.check()
    del kept


def test_a_stopped_loop_is_not_a_closed_one(make_scheduler, new_loop):
    """It may go on: its call is in flight, and keeps its slot."""
    scheduler, go = make_scheduler(1), asyncio.Event()

    async def call():
        async with scheduler.slot():
            await go.wait()
        return scheduler.statistics().holding

    loop = new_loop()
    task = loop.create_task(call())
    run_until(loop, lambda: asking(scheduler))
    for _ in range(2):
        scheduler._driver.tick()
        assert scheduler.statistics().holding == 1
    go.set()
    assert loop.run_until_complete(task) == 0
    loop.close()


def test_a_call_of_a_thread_outlives_every_loop(make_scheduler, new_loop):
    """It began on the loop's thread, synchronously, and goes on without the loop."""
    scheduler = make_scheduler(1)

    async def main():
        slot = scheduler.slot()
        slot.acquire()
        return slot

    loop = new_loop()
    slot = loop.run_until_complete(main())
    loop.close()
    scheduler._driver.tick()
    assert scheduler.statistics().holding == 1
    slot.release()


def test_a_thread_that_took_the_slot_over_keeps_it(make_scheduler, new_loop):
    """Its request is in flight, whatever became of the coroutine that waits for it."""
    scheduler = make_scheduler(1)
    began, go, ended = threading.Event(), threading.Event(), threading.Event()

    def request():
        with scheduler.slot():
            began.set()
            assert go.wait(PATIENCE_S)
        ended.set()

    async def call(loop):
        async with scheduler.slot():
            await loop.run_in_executor(None, copy_context().run, request)

    loop = new_loop()
    task = loop.create_task(call(loop))
    loop.run_until_complete(loop.run_in_executor(None, began.wait, PATIENCE_S))
    loop.close()
    scheduler._driver.tick()
    assert scheduler.statistics().holding == 1
    go.set()
    assert ended.wait(PATIENCE_S)
    assert scheduler.statistics().holding == 0
    del task


def test_a_slot_of_a_closed_loop_is_not_taken_over(make_scheduler, abandon):
    """It is somebody else's by now: the thread asks for one of its own."""
    scheduler = make_scheduler(1)
    slots = []

    async def call():
        async with scheduler.slot() as slot:
            slots.append(slot)
            await asyncio.Event().wait()

    kept = abandon(scheduler, call())
    assert take(scheduler)
    with slots[0].inside():
        inner = scheduler.slot()
        thread = threading.Thread(target=copy_context().run, args=(inner.acquire,))
        thread.start()
        thread.join(PATIENCE_S)
    assert inner.held
    assert scheduler.statistics().granted == 3
    inner.end()
    del kept


def test_its_end_later_changes_nothing(make_scheduler, abandon):
    """The task is collected, or its coroutine closed, after the slot has gone to another call."""
    scheduler = make_scheduler(1)
    kept = abandon(scheduler, hold(scheduler))
    holder = scheduler.slot()
    holder.acquire()
    kept.clear()
    gc.collect()
    assert scheduler.statistics().holding == 1
    holder.release()
    coroutine = hold(scheduler)
    kept = abandon(scheduler, coroutine)
    holder = scheduler.slot()
    holder.acquire()
    coroutine.close()
    assert scheduler.statistics().holding == 1
    holder.release()


def test_a_coroutine_without_a_loop_of_asyncio(make_scheduler):
    """Under another framework, say: with a free slot there is nothing to wait for."""
    scheduler = make_scheduler(1)
    with pytest.raises(StopIteration) as ended:
        atake(scheduler).send(None)
    assert ended.value.value is True


class Slow(GenericFakeChatModel):
    """A model whose answer never comes."""

    async def _agenerate(self, *args, **kwargs):
        await asyncio.Event().wait()

    async def _astream(self, *args, **kwargs):
        await asyncio.Event().wait()
        yield


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of LangGraph's frames
@pytest.mark.parametrize("way", ["ainvoke", "abatch", "astream", "agen"])
def test_graphs_give_back_all_their_slots(make_scheduler, abandon, way):
    """However they are run; the task that the user kept has the whole run in its frames."""
    scheduler = make_scheduler(2, queue_timeout_s=PATIENCE_S)
    model = Slow(messages=iter([AIMessage("never")]))

    async def answer(state):
        return {"messages": [await model.ainvoke(state["messages"])]}

    builder = StateGraph(MessagesState).add_node(answer).add_edge(START, "answer")
    graph = schedule(builder.compile(), scheduler)
    question = {"messages": [("user", "?")]}
    streams = []

    async def run():
        if way == "ainvoke":
            await graph.ainvoke(question)
        elif way == "abatch":
            await graph.abatch([question] * 3)
        elif way == "astream":
            async for _ in graph.astream(question, stream_mode="messages"):
                pass
        else:
            streams.append(events := graph.astream_events(question, version="v2"))
            async for _ in events:
                pass

    kept = abandon(scheduler, run(), run(), calls=6 if way == "abatch" else 2)
    assert take(scheduler)
    assert (scheduler.statistics().holding, scheduler.statistics().waiting) == (0, 0)
    kept.clear()
    streams.clear()


class Silent(PlainModel):
    """Never answers."""

    async def _agenerate(self, messages, *args, **kwargs):
        with self.meter:
            await asyncio.Event().wait()


def test_tasks_that_another_thread_cancels_without_waking_their_loops(make_scheduler):
    """The request in flight ends, and the waiting call, although nothing else happens on their loops."""
    scheduler, model = make_scheduler(1), Silent()
    builder = StateGraph(dict)

    async def node(_):
        await model.ainvoke("?")

    graph = schedule(builder.add_node(node).add_edge(START, "node").compile(), scheduler)
    tasks, ended = [], []

    def serve():
        async def main():
            tasks.append(asyncio.current_task())
            await graph.ainvoke({})

        with suppress(asyncio.CancelledError):
            asyncio.run(main())
        ended.append(True)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: (scheduler.statistics().holding, scheduler.statistics().waiting) == (1, 1))
    until(lambda: model.meter.now == 1)
    for task in tasks:
        task.cancel()  # not thread-safe: the loop sleeps on
    until(lambda: len(ended) == 2)
    assert model.meter.now == 0


@pytest.mark.parametrize("how", ["looked at", "at the door"])
def test_a_run_ends_with_its_loop_though_somebody_keeps_its_task(make_scheduler, new_loop, how, monkeypatch):
    """It neither counts as running nor keeps its place: AnyIO keeps each task that was in a scope."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # for LangGraph's coroutines on a closed loop
    scheduler = make_scheduler(1, max_jobs=1)

    async def waits(state):
        await asyncio.Event().wait()

    graph = schedule(StateGraph(MessagesState).add_node(waits).add_edge(START, "waits").compile(), scheduler)
    loop = new_loop()
    loop.set_exception_handler(lambda *_: None)
    kept = loop.create_task(graph.ainvoke({"messages": []}))
    run_until(loop, lambda: scheduler.statistics().jobs_running == 1)
    loop.close()
    if how == "looked at":
        assert scheduler.statistics().jobs_running == 0
    other = StateGraph(MessagesState).add_node("done", lambda state: {}).add_edge(START, "done").compile()
    schedule(other, scheduler).invoke({"messages": []})  # there is room for one run
    assert scheduler.statistics().jobs_running == 0
    scheduler.check()
    del kept
    gc.collect()
