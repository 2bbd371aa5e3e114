"""Scheduled graphs in processes that are forked while graphs run."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TypedDict

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt
from support.forks import PATIENCE_S, answer, fork, in_child, needs_fork, quietly

from llmsched_langgraph import schedule
from llmsched_langgraph.testing import PlainModel, SyncOnlyModel

pytestmark = needs_fork


class State(TypedDict, total=False):
    answer: object


def graph_of(*nodes, scheduler=None):
    """The nodes one after the other."""
    builder = StateGraph(State)
    names = [f"n{number}" for number, _ in enumerate(nodes)]
    for name, node in zip(names, nodes, strict=True):
        builder.add_node(name, node)
    for before, after in zip([START, *names], names, strict=False):
        builder.add_edge(before, after)
    compiled = builder.compile()
    return compiled if scheduler is None else schedule(compiled, scheduler)


def asking(model, scheduler=None):
    return graph_of(lambda state: {"answer": model.invoke("?").text}, scheduler=scheduler)


def figures(scheduler):
    now = scheduler.statistics()
    return now.granted, now.holding, now.waiting, now.jobs_running, now.jobs_ended


@pytest.fixture
def busy(make_scheduler):
    """A scheduler all of whose slots are held by a run, and a graph of another model on it."""
    model, other, threads = SyncOnlyModel(), PlainModel(), []
    scheduler = make_scheduler(1)
    graph = asking(other, scheduler)
    model.meter.gate.clear()
    threads.append(threading.Thread(target=asking(model, scheduler).invoke, args=({},)))
    threads[0].start()
    while not model.meter.now:
        pass
    yield scheduler, graph
    assert figures(scheduler)[:4] == (1, 1, 0, 1)
    model.meter.gate.set()
    threads[0].join(PATIENCE_S)
    assert figures(scheduler) == (1, 0, 0, 0, 1)


@pytest.mark.parametrize("how", ["invoke", "ainvoke", "stream", "batch"])
def test_a_child_of_a_process_whose_slots_are_all_held(busy, how):
    scheduler, graph = busy

    def child():
        match how:
            case "invoke":
                answers = [graph.invoke({})]
            case "ainvoke":

                async def main():
                    return await asyncio.gather(*(graph.ainvoke({}) for _ in range(5)))

                answers = asyncio.run(main())
            case "stream":
                answers = [values for values in graph.stream({}, stream_mode="values") if values]
            case "batch":
                answers = graph.batch([{}] * 5)
        scheduler.check()
        return (
            {each["answer"] for each in answers},
            len(answers),
            figures(scheduler),
            scheduler.statistics().peak,
        )

    answers, runs, now, peak = in_child(child)
    assert (answers, peak) == ({"yes"}, 1)
    assert now == (runs, 0, 0, 0, runs)


def test_multiprocessing_from_another_thread(busy):
    """As its default was on Linux up to Python 3.13."""
    _, graph = busy
    fork_context = multiprocessing.get_context("fork")
    answers = fork_context.SimpleQueue()

    def start():
        process = fork_context.Process(target=lambda: answers.put(graph.invoke({})["answer"]))
        with quietly():
            process.start()
        process.join(PATIENCE_S)
        if process.exitcode is None:
            process.kill()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(PATIENCE_S)
    assert not answers.empty()
    assert answers.get() == "yes"


def test_a_node_that_uses_a_pool_of_processes(make_scheduler):
    """Each process runs graphs of its own; the node's run goes on in the parent alone."""
    scheduler, model = make_scheduler(1), PlainModel()
    inner = asking(model, scheduler)

    def work(state):
        global _in_process

        def _in_process(number):
            return inner.invoke({})["answer"], figures(scheduler), os.getpid()

        before = model.invoke("?").text
        with quietly(), ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
            answers = list(pool.map(_ask_in_process, range(6), timeout=PATIENCE_S))
        return {"answer": (before, answers, model.invoke("?").text)}

    before, answers, after = graph_of(work, scheduler=scheduler).invoke({})["answer"]
    assert before == after == "yes"
    assert {text for text, *_ in answers} == {"yes"}
    for _, (granted, holding, waiting, running, ended), pid in answers:
        assert (holding, waiting, running, ended) == (0, 0, 0, granted)
        assert pid != os.getpid()
    assert figures(scheduler) == (2, 0, 0, 0, 1)


def _ask_in_process(number):
    return _in_process(number)


def test_a_node_whose_child_calls_a_model_itself(make_scheduler):
    """It is outside the run there: the call takes no slot, and waits for none."""
    scheduler, model = make_scheduler(1), PlainModel()

    def node(state):
        with scheduler.slot():
            return {"answer": in_child(lambda: (model.invoke("?").text, figures(scheduler)))}

    assert graph_of(node, scheduler=scheduler).invoke({})["answer"] == ("yes", (0, 0, 0, 0, 0))


@pytest.mark.parametrize("batch", [False, True])
def test_a_graph_that_goes_on_in_both_processes(make_scheduler, batch):
    """The rest of its calls takes slots of the child there, and every run of the child ends."""
    scheduler, model = make_scheduler(1), PlainModel()
    reader, writer = os.pipe()
    pids = []

    def forking(state):
        model.invoke("?")
        with quietly():
            pids.append(os.fork())

    graph = graph_of(
        forking,
        lambda state: {"answer": model.invoke("?").text},
        lambda state: {"answer": state["answer"] + asking(model, scheduler).invoke({})["answer"]},
        scheduler=scheduler,
    )
    done = graph.batch([{}])[0] if batch else graph.invoke({})
    if not pids[0]:
        scheduler.check()
        answer(writer, lambda: (done, figures(scheduler)[:4]))
    os.close(writer)
    said = pickle.loads(os.read(reader, 1 << 16))
    os.close(reader)
    os.waitpid(pids[0], 0)
    assert said == (True, ({"answer": "yesyes"}, (2, 0, 0, 0)))
    assert figures(scheduler)[:4] == (3, 0, 0, 0)


def test_a_fork_in_a_coroutine(make_scheduler):
    """The child runs graphs on a loop of its own, while the parent's loop and calls go on."""
    scheduler, model = make_scheduler(2), PlainModel()
    inner = asking(model, scheduler)

    async def several():
        return await asyncio.gather(*(inner.ainvoke({}) for _ in range(6)))

    async def node(state):
        others = [asyncio.create_task(inner.ainvoke({})) for _ in range(4)]
        await asyncio.sleep(0)
        said = in_child(lambda: (len(asyncio.run(several())), scheduler.statistics().peak <= 2))
        await asyncio.gather(*others)
        return {"answer": said}

    assert asyncio.run(graph_of(node, scheduler=scheduler).ainvoke({}))["answer"] == (6, True)
    assert figures(scheduler)[1:] == (0, 0, 0, 1)


def test_workers_that_were_forked_before_the_first_run(make_scheduler):
    """As under a server that loads the application and forks: each has all slots."""
    scheduler, model = make_scheduler(2), SyncOnlyModel()
    graph = asking(model, scheduler)

    def worker():
        assert len(graph.batch([{}] * 12, {"max_concurrency": 6})) == 12
        return figures(scheduler), model.meter.peak <= 2

    workers = [fork(worker) for _ in range(3)]
    assert [each.result() for each in workers] == [((12, 0, 0, 0, 12), True)] * 3
    assert figures(scheduler) == (0,) * 5


def test_an_interrupted_run_is_resumed_in_the_child(make_scheduler):
    """As a job of the child: its first part was the parent's."""
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.types import Command

    scheduler, model = make_scheduler(1), PlainModel()

    def node(state):
        return {"answer": (model.invoke("?").text, interrupt("?"), model.invoke("?").text)}

    builder = StateGraph(State).add_node("n", node).add_edge(START, "n")
    graph = schedule(builder.compile(checkpointer=InMemorySaver()), scheduler)
    config = {"configurable": {"thread_id": "1"}}
    graph.invoke({}, config)

    def child():
        return graph.invoke(Command(resume="go on"), config)["answer"], figures(scheduler)

    assert in_child(child) == (("yes", "go on", "yes"), (2, 0, 0, 0, 1))
    assert graph.invoke(Command(resume="go on"), config)["answer"] == ("yes", "go on", "yes")
    assert figures(scheduler) == (3, 0, 0, 0, 1)
