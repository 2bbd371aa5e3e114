"""Model calls that nodes make in threads of their own take slots, whichever way the threads are started."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from multiprocessing.pool import ThreadPool
from typing import TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import TimeoutPolicy

from llmsched_langgraph import schedule
from llmsched_langgraph._runtime.context import current_run
from llmsched_langgraph.testing import PlainModel, StreamingModel, SyncOnlyModel

PATIENCE_S = 20
CALLS, SLOTS = 6, 2


class State(TypedDict, total=False):
    answer: object


def graph_of(node, scheduler, name="n", **settings):
    builder = StateGraph(State).add_node(name, node, **settings).add_edge(START, name)
    return schedule(builder.compile(), scheduler)


def until(condition):
    late_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < late_s, "it did not come to that"
        time.sleep(0.001)


def each_in_a_thread(call, make=threading.Thread):
    """The answers of as many threads as there are calls."""
    answers = [Future() for _ in range(CALLS)]
    threads = [make(target=lambda box=box: box.set_result(call())) for box in answers]
    for thread in threads:
        thread.start()
    return [box.result(PATIENCE_S) for box in answers]


def nested(call):
    with ThreadPoolExecutor(2) as outer:

        def several(_):
            with ThreadPoolExecutor(3) as inner:
                return list(inner.map(lambda _: call(), range(3)))

        return [answer for answers in outer.map(several, range(2)) for answer in answers]


def lazily(call):
    """Answers taken one by one; the calls began with the first."""
    with ThreadPoolExecutor(CALLS) as pool:
        answers = pool.map(lambda _: call(), range(CALLS))
        return [next(answers) for _ in range(CALLS)]


def by_callbacks(call):
    boxes = [Future() for _ in range(CALLS)]
    with ThreadPoolExecutor(CALLS) as pool:
        go = threading.Event()
        for box in boxes:
            future = pool.submit(go.wait, PATIENCE_S)
            future.add_done_callback(lambda _, box=box: box.set_result(call()))
        go.set()
        return [box.result(PATIENCE_S) for box in boxes]


def by_submit(call):
    with ThreadPoolExecutor(CALLS) as pool:
        return [future.result(PATIENCE_S) for future in [pool.submit(call) for _ in range(CALLS)]]


def by_thread_pool(call):
    with ThreadPool(CALLS) as pool:
        return pool.map(lambda _: call(), range(CALLS))


def on_a_loop_of_a_thread(call):
    """A thread with an event loop, whose executor makes the calls."""

    async def main():
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(CALLS) as pool:
            return await asyncio.gather(*(loop.run_in_executor(pool, call) for _ in range(CALLS)))

    box = Future()
    threading.Thread(target=lambda: box.set_result(asyncio.run(main()))).start()
    return list(box.result(PATIENCE_S))


SYNC = {
    "threads": each_in_a_thread,
    "threads of threads": lambda call: each_in_a_thread(lambda: each_first(call)),
    "submit": by_submit,
    "map": lazily,
    "nested pools": nested,
    "ThreadPool": by_thread_pool,
    "callbacks": by_callbacks,
    "a loop in a thread": on_a_loop_of_a_thread,
}


def each_first(call):
    box = Future()
    threading.Thread(target=lambda: box.set_result(call())).start()
    return box.result(PATIENCE_S)


async def run_in_executor(call):
    with ThreadPoolExecutor(CALLS) as pool:
        loop = asyncio.get_running_loop()
        return list(await asyncio.gather(*(loop.run_in_executor(pool, call) for _ in range(CALLS))))


async def run_in_default_executor(call):
    loop = asyncio.get_running_loop()
    return list(await asyncio.gather(*(loop.run_in_executor(None, call) for _ in range(CALLS))))


async def to_thread(call):
    return list(await asyncio.gather(*(asyncio.to_thread(call) for _ in range(CALLS))))


async def by_executor_of_another_loop(call):
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with ThreadPoolExecutor(CALLS) as pool:
            futures = [asyncio.run_coroutine_threadsafe(_there(pool, call), loop) for _ in range(CALLS)]
            return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join, PATIENCE_S)
        loop.close()


async def _there(pool, call):
    return await asyncio.get_running_loop().run_in_executor(pool, call)


ASYNC = {
    "run_in_executor": run_in_executor,
    "default executor": run_in_default_executor,
    "to_thread": to_thread,
    "executor of another loop": by_executor_of_another_loop,
}


def watched(scheduler, model, run):
    """Run while the model's gate is closed until every call waits or holds; the answers."""
    model.meter.gate.clear()
    box = Future()
    threading.Thread(target=lambda: box.set_result(run()), daemon=True).start()
    try:
        until(lambda: scheduler.statistics().holding + scheduler.statistics().waiting == CALLS)
        assert (scheduler.statistics().holding, model.meter.now) == (SLOTS, SLOTS)
    finally:
        model.meter.gate.set()
    answers = box.result(PATIENCE_S)
    now = scheduler.statistics()
    assert (now.granted, now.jobs_ended, now.over_commitments, now.unmarked_calls) == (CALLS, 1, 0, 0)
    assert (model.meter.total, model.meter.peak) == (CALLS, SLOTS)
    return answers


@pytest.mark.parametrize("model_class", [SyncOnlyModel, StreamingModel])
@pytest.mark.parametrize("way", SYNC.values(), ids=SYNC.keys())
@pytest.mark.parametrize("how", ["invoke", "ainvoke"])
def test_calls_in_threads_of_a_function(make_scheduler, way, how, model_class):
    scheduler, model = make_scheduler(SLOTS), model_class()
    graph = graph_of(lambda state: {"answer": way(lambda: model.invoke("?").text)}, scheduler)
    runs = {"invoke": lambda: graph.invoke({}), "ainvoke": lambda: asyncio.run(graph.ainvoke({}))}
    assert watched(scheduler, model, runs[how])["answer"] == ["yes"] * CALLS


@pytest.mark.parametrize("way", ASYNC.values(), ids=ASYNC.keys())
def test_calls_in_threads_of_a_coroutine(make_scheduler, way):
    scheduler, model = make_scheduler(SLOTS), PlainModel()

    async def node(state):
        return {"answer": await way(lambda: model.invoke("?").text)}

    graph = graph_of(node, scheduler)
    assert watched(scheduler, model, lambda: asyncio.run(graph.ainvoke({})))["answer"] == ["yes"] * CALLS


def test_streams_in_threads(make_scheduler):
    """A slot until the last piece."""
    scheduler, model = make_scheduler(SLOTS), StreamingModel()

    def node(state):
        return {"answer": by_submit(lambda: "".join(piece.text for piece in model.stream("?")))}

    graph = graph_of(node, scheduler)
    assert watched(scheduler, model, lambda: graph.invoke({}))["answer"] == ["yes"] * CALLS


def test_the_stage_of_a_call_in_a_thread_is_that_of_its_node(make_scheduler):
    """What is learned of the node includes what its threads do."""
    scheduler, model, seen = make_scheduler(SLOTS), PlainModel(), []
    graph = graph_of(lambda state: {"answer": by_submit(lambda: model.invoke("?").text)}, scheduler, "vote")
    with scheduler.subscribe(seen.append):
        graph.invoke({})
    calls = [entry.detail for entry in seen if entry.kind == "CallReleased"]
    assert {(call.stage, call.stage_occurrence.path, call.run is None) for call in calls} == {
        ("vote", "vote", False)
    }


def test_a_graph_that_a_node_runs_in_a_thread_is_part_of_its_run(make_scheduler):
    """As one that it runs itself; its stages are inside the node's."""
    scheduler, model, seen = make_scheduler(SLOTS), PlainModel(), []
    inner = graph_of(lambda state: {"answer": model.invoke("?").text}, scheduler, "ask")

    def node(state):
        return {"answer": by_submit(lambda: inner.invoke({})["answer"])}

    outer = graph_of(node, scheduler, "all")
    with scheduler.subscribe(seen.append):
        assert outer.invoke({})["answer"] == ["yes"] * CALLS
    assert scheduler.statistics().jobs_ended == 1
    assert {entry.detail.stage for entry in seen if entry.kind == "CallReleased"} == {"all/ask"}


def test_a_pool_that_concurrent_runs_share(make_scheduler):
    """Each call is its own run's, whoever's thread makes it."""
    scheduler, model, seen = make_scheduler(SLOTS), SyncOnlyModel(), []
    with ThreadPoolExecutor(3) as pool:

        def node(state):
            def call():
                return current_run().job, model.invoke("?").text

            own = current_run().job
            answers = [future.result(PATIENCE_S) for future in [pool.submit(call) for _ in range(4)]]
            return {"answer": answers == [(own, "yes")] * 4}

        graph = graph_of(node, scheduler)
        with scheduler.subscribe(seen.append):
            assert all(each["answer"] for each in graph.batch([{}] * 5))
    jobs = [entry.job for entry in seen if entry.kind == "CallReleased"]
    assert sorted(jobs.count(job) for job in set(jobs)) == [4] * 5
    assert model.meter.peak <= SLOTS


def test_a_thread_that_serves_many_runs(make_scheduler):
    """One that the first run starts, as a client of some service: later it belongs to none of them."""
    scheduler, model, asked, threads = make_scheduler(SLOTS), SyncOnlyModel(), [], []
    come = threading.Semaphore(0)

    def serve():
        while come.acquire(timeout=PATIENCE_S):
            box = asked.pop()
            if box is None:
                return
            box.set_result((current_run() is not None, model.invoke("?").text))

    def node(state):
        if not threads:
            threads.append(threading.Thread(target=serve))
            threads[0].start()
        box = Future()
        asked.append(box)
        come.release()
        return {"answer": box.result(PATIENCE_S)}

    graph = graph_of(node, scheduler)
    assert [graph.invoke({})["answer"] for _ in range(3)] == [(True, "yes"), (False, "yes"), (False, "yes")]
    asked.append(None)
    come.release()
    threads[0].join(PATIENCE_S)
    now = scheduler.statistics()
    assert (now.granted, now.unmarked_calls, now.jobs_ended) == (1, 2, 3)


@pytest.mark.parametrize("fails", [False, True])
def test_background_work_of_a_run_that_is_over(make_scheduler, fails):
    """It goes on, also if the run failed, and is part of no run: its call takes a slot of its own."""
    scheduler, model, box, go = make_scheduler(SLOTS), SyncOnlyModel(), Future(), threading.Event()

    def later():
        go.wait(PATIENCE_S)
        box.set_result((model.invoke("?").text, current_run()))

    def node(state):
        threading.Thread(target=later).start()
        if fails:
            raise KeyError("n")
        return {"answer": model.invoke("?").text}

    graph = graph_of(node, scheduler)
    if fails:
        with pytest.raises(KeyError):
            graph.invoke({})
    else:
        graph.invoke({})
    go.set()
    assert box.result(PATIENCE_S) == ("yes", None)
    now = scheduler.statistics()
    assert (now.granted, now.unmarked_calls) == (1 if fails else 2, 0)


def test_a_scheduled_graph_in_a_thread_that_outlived_its_run(make_scheduler):
    """Is a run of its own, with stages of its own."""
    scheduler, model, seen, go, box = make_scheduler(1), PlainModel(), [], threading.Event(), Future()
    inner = graph_of(lambda state: {"answer": model.invoke("?").text}, scheduler, "ask")

    def later():
        go.wait(PATIENCE_S)
        box.set_result(inner.invoke({})["answer"])

    def node(state):
        threading.Thread(target=later).start()

    graph_of(node, scheduler, "starts").invoke({})
    with scheduler.subscribe(seen.append):
        go.set()
        assert box.result(PATIENCE_S) == "yes"
    assert [entry.detail.stage for entry in seen if entry.kind == "CallReleased"] == ["ask"]
    assert scheduler.statistics().jobs_ended == 2


def test_a_node_with_an_idle_timeout_whose_threads_wait(make_scheduler):
    """Waiting in a thread is no idleness, nor is a graph that the thread runs."""
    scheduler, model = make_scheduler(1), SyncOnlyModel()
    inner = graph_of(lambda state: {"answer": model.invoke("?").text}, scheduler, "ask")

    async def node(state):
        loop = asyncio.get_running_loop()
        one = loop.run_in_executor(None, lambda: model.invoke("?").text)
        other = loop.run_in_executor(None, lambda: inner.invoke({})["answer"])
        return {"answer": (await one, await other)}

    graph = graph_of(node, scheduler, timeout=TimeoutPolicy(idle_timeout=timedelta(seconds=0.4)))
    slot = scheduler.slot()
    slot.acquire()
    threading.Timer(1.5, slot.release).start()
    assert asyncio.run(graph.ainvoke({}))["answer"] == ("yes", "yes")


def test_threads_are_not_followed_if_that_is_turned_off(make_scheduler):
    """Their calls are counted, as calls outside every run."""
    scheduler, model = make_scheduler(SLOTS, follow_threads=False), SyncOnlyModel()

    def node(state):
        return {"answer": [model.invoke("?").text, *by_submit(lambda: model.invoke("?").text)]}

    assert graph_of(node, scheduler).invoke({})["answer"] == ["yes"] * (CALLS + 1)
    now = scheduler.statistics()
    assert (now.granted, now.unmarked_calls) == (1, CALLS)
