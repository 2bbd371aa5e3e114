"""New runs above a limit are refused or wait, before they cost anything; runs that have begun never do."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TypedDict

import pytest
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from support.seam import PATIENCE_S, auntil, until

from llmsched_langgraph import (
    ConfigurationError,
    OverloadedError,
    QueueTimeoutError,
    Scheduler,
    SchedulerClosedError,
    schedule,
)
from llmsched_langgraph.testing import VirtualClock


class State(TypedDict, total=False):
    name: str
    inner: str


class Scene:
    """A scheduled graph whose runs make one call, note that they began, and wait until they may end."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.began: list[str] = []
        self.may_end: dict[str, threading.Event] = {}
        builder = StateGraph(State).add_node("n", RunnableLambda(self.node, self.anode)).add_edge(START, "n")
        self.graph = schedule(builder.compile(), scheduler)

    def event(self, name):
        return self.may_end.setdefault(name, threading.Event())

    def node(self, state):
        with self.scheduler.slot():
            self.began.append(state["name"])
            assert self.event(state["name"]).wait(PATIENCE_S)

    async def anode(self, state):
        async with self.scheduler.slot():
            self.began.append(state["name"])
            await auntil(self.event(state["name"]).is_set)

    def invoke(self, name):
        return self.graph.invoke({"name": name})["name"]

    async def ainvoke(self, name):
        return (await self.graph.ainvoke({"name": name}))["name"]

    @property
    def waiting(self):
        return self.scheduler.statistics().jobs_deferred

    @property
    def inside(self):
        return len(self.scheduler._door._inside)


@pytest.fixture
def make_scene(make_scheduler):
    made = []

    def make(slots=8, **settings):
        made.append(Scene(make_scheduler(slots, **settings)))
        return made[-1]

    yield make
    gc.collect()
    for scene in made:
        assert (scene.waiting, scene.inside) == (0, 0), "somebody still stands at the door"
        assert not scene.scheduler._driver._subscriptions


# -- refusing ----------------------------------------------------------------------------------


class EndsMeanwhile(float):
    """A time. Reading it has the side effect that one run ends and another one arrives."""

    def __rsub__(self, now):
        self.door._left.append(0.0)
        self.door._pace._seen.append((0.0, 0))
        return now - float(self)


@pytest.mark.parametrize("setting", ["max_jobs", "max_queued"])
def test_a_refusal_while_other_runs_end(make_scheduler, setting):
    """What is remembered of them changes while the wait is estimated."""
    scheduler = make_scheduler(1, **{setting: 1})
    door = scheduler._door
    at_s = EndsMeanwhile(1.0)
    at_s.door = door
    door._left.append(at_s)
    door._pace._seen.append((at_s, 0))
    assert isinstance(door._refusal(0, on_loop=False), OverloadedError)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_run_above_the_limit_is_refused(make_scene, asynchronous):
    """It has not begun; as soon as another one ends, there is room."""
    scene = make_scene(max_jobs=2)

    def run(name):
        return asyncio.run(scene.ainvoke(name)) if asynchronous else scene.invoke(name)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(run, name) for name in "ab"]
        until(lambda: len(scene.began) == 2)
        with pytest.raises(
            OverloadedError, match=r"active runs: 2 \(max_jobs=2\); raise max_jobs, retry"
        ) as no:
            run("c")
        assert no.value.retry_after_s is None  # no run has ended yet
        assert scene.scheduler.statistics().jobs_refused == 1
        assert (len(scene.began), scene.scheduler.statistics().jobs_running) == (2, 2)
        scene.event("a").set()
        running[0].result(PATIENCE_S)
        scene.event("c").set()
        assert run("c") == "c"
        scene.event("b").set()
    assert scene.scheduler.statistics().jobs_ended == 3


def test_runs_that_fail_or_are_dropped_make_room(make_scene):
    """Streams that are closed or forgotten, runs that raise, runs that cannot begin."""
    scene = make_scene(max_jobs=1)
    scene.event("a").set()
    for _ in range(2):
        stream = scene.graph.stream({"name": "a"}, stream_mode="values")
        next(stream)
        with pytest.raises(OverloadedError):
            scene.invoke("a")
        stream.close()
        stream = scene.graph.stream({"name": "a"}, stream_mode="values")
        next(stream)
        del stream
        gc.collect()
        with pytest.raises(KeyError):
            scene.graph.invoke({"inner": "no name"})
        with pytest.raises(ConfigurationError):
            scene.graph.invoke({"name": "a"}, {"metadata": {"llmsched_priority": 99}})
    assert scene.invoke("a") == "a"


def test_max_queued(make_scene):
    """No run begins while so many calls wait."""
    scene = make_scene(1, max_queued=2)
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(scene.invoke, "a")]
        until(lambda: scene.began)
        running += [pool.submit(scene.invoke, name) for name in "bc"]
        until(lambda: scene.scheduler.statistics().waiting == 2)
        with pytest.raises(OverloadedError, match=r"waiting calls: 2 \(max_queued=2\)") as no:
            scene.invoke("d")
        assert "raise max_queued" in str(no.value)
        for name in "abcd":
            scene.event(name).set()
        assert [one.result(PATIENCE_S) for one in running] == ["a", "b", "c"]
        assert scene.invoke("d") == "d"


def test_when_to_come_again(make_scheduler):
    """By the rate at which runs ended of late."""
    clock = VirtualClock()
    scene = Scene(make_scheduler(8, max_jobs=1, clock=clock))
    scene.event("a").set()
    for _ in range(5):
        clock.advance(10.0)
        scene.invoke("a")
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(scene.invoke, "b")
        until(lambda: scene.began[-1] == "b")
        clock.advance(10.0)
        with pytest.raises(OverloadedError, match="there may be room in") as no:
            scene.invoke("c")
        assert no.value.retry_after_s == pytest.approx(10.0, rel=0.2)
        scene.event("b").set()
        running.result(PATIENCE_S)


def test_when_to_come_again_by_calls(make_scheduler):
    """By the rate at which calls were released of late."""
    clock = VirtualClock()
    scene = Scene(make_scheduler(1, max_queued=1, clock=clock))
    scene.event("a").set()
    for _ in range(10):
        scene.invoke("a")
        clock.advance(2.0)
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(scene.invoke, "b")]
        until(lambda: scene.began[-1] == "b")
        running.append(pool.submit(scene.invoke, "c"))
        until(lambda: scene.scheduler.statistics().waiting == 1)
        with pytest.raises(OverloadedError) as no:
            scene.invoke("d")
        assert no.value.retry_after_s == pytest.approx(2.0, rel=0.2)
        for name in "bc":
            scene.event(name).set()


# -- deferring ---------------------------------------------------------------------------------


def test_deferred_threads_begin_in_their_order(make_scene):
    scene = make_scene(max_jobs=1, at_door="defer")
    names = "abcdef"
    with ThreadPoolExecutor(len(names)) as pool:
        running = []
        for number, name in enumerate(names):
            running.append(pool.submit(scene.invoke, name))
            until(lambda number=number: scene.began and scene.waiting == number)
        assert scene.began == ["a"]
        for name in names:
            until(lambda name=name: scene.began[-1] == name)
            scene.event(name).set()
        assert [one.result(PATIENCE_S) for one in running] == list(names)
    assert scene.began == list(names)
    assert scene.scheduler.statistics().jobs_refused == 0


def test_deferred_tasks_begin_in_their_order(make_scene):
    """The loop goes on meanwhile."""
    scene = make_scene(max_jobs=2, at_door="defer")
    names = "abcdef"

    async def main():
        running = []
        for number, name in enumerate(names):
            running.append(asyncio.create_task(scene.ainvoke(name)))
            await auntil(lambda number=number: len(scene.began) + scene.waiting == number + 1)
        assert sorted(scene.began) == ["a", "b"]
        for name in names:
            scene.event(name).set()
            assert await running[names.index(name)] == name

    asyncio.run(main())
    assert scene.began[2:] == list(names[2:])


def test_threads_and_loops_share_the_door(make_scene):
    """Never more than the limit, whoever comes; all end."""
    scene, most = make_scene(max_jobs=3, at_door="defer"), []
    node, anode = scene.node, scene.anode

    def watched(state):
        most.append(scene.inside)
        node(state)

    async def awatched(state):
        most.append(scene.inside)
        await anode(state)

    builder = StateGraph(State).add_node("n", RunnableLambda(watched, awatched)).add_edge(START, "n")
    scene.graph = schedule(builder.compile(), scene.scheduler)
    scene.event("x").set()

    async def some():
        return await asyncio.gather(*[scene.ainvoke("x") for _ in range(10)])

    with ThreadPoolExecutor(12) as pool:
        loops = [pool.submit(asyncio.run, some()) for _ in range(2)]
        threads = [pool.submit(scene.invoke, "x") for _ in range(20)]
        assert [len(one.result(PATIENCE_S)) for one in loops] == [10, 10]
        assert [one.result(PATIENCE_S) for one in threads] == ["x"] * 20
    assert max(most) <= 3
    assert scene.scheduler.statistics().jobs_ended == 40


def test_deferred_by_max_queued(make_scene):
    """A run begins as soon as fewer calls wait, though no run has ended."""
    scene = make_scene(1, max_queued=1, at_door="defer")
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(scene.invoke, "a")]
        until(lambda: scene.began == ["a"])
        running.append(pool.submit(scene.invoke, "b"))
        until(lambda: scene.scheduler.statistics().waiting == 1)
        running.append(pool.submit(scene.invoke, "c"))
        until(lambda: scene.waiting == 1)
        scene.event("a").set()
        until(lambda: scene.began[-1] == "b")
        until(lambda: scene.waiting == 0 and scene.scheduler.statistics().waiting == 1)
        for name in "bc":
            scene.event(name).set()
        assert [one.result(PATIENCE_S) for one in running] == ["a", "b", "c"]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_wait_at_the_door_ends_in_time(make_scene, asynchronous):
    scene = make_scene(max_jobs=1, at_door="defer", queue_timeout_s=0.05)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(scene.invoke, "a")
        until(lambda: scene.began)
        with pytest.raises(QueueTimeoutError, match=r"waited .* s to begin: active runs: 1 \(max_jobs=1\)"):
            asyncio.run(scene.ainvoke("b")) if asynchronous else scene.invoke("b")
        scene.event("a").set()
        running.result(PATIENCE_S)
    assert scene.began == ["a"]


def test_cancelled_while_deferred(make_scene):
    """Those behind it move up; nothing of it is left."""
    scene = make_scene(max_jobs=1, at_door="defer")

    async def main():
        first = asyncio.create_task(scene.ainvoke("a"))
        await auntil(lambda: scene.began)
        second = asyncio.create_task(scene.ainvoke("b"))
        await auntil(lambda: scene.waiting == 1)
        third = asyncio.create_task(scene.ainvoke("c"))
        await auntil(lambda: scene.waiting == 2)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        assert scene.waiting == 1
        for name in "ac":
            scene.event(name).set()
        assert await first == "a"
        assert await third == "c"

    asyncio.run(main())
    assert scene.began == ["a", "c"]


def test_let_in_and_cancelled_at_once(make_scene):
    """A place that a cancelled task was given goes to the next one."""
    scene = make_scene(max_jobs=1, at_door="defer")

    async def main():
        for _ in range(20):
            held = scene.scheduler._door.enter(free=True)
            second, third = (asyncio.create_task(scene.ainvoke(name)) for name in "bc")
            await auntil(lambda: scene.waiting == 2)
            held.leave()
            second.cancel()  # in the same step of the loop: its place was given to it
            scene.event("c").set()
            assert await third == "c"
            assert second.cancelled() or second.done()
            await asyncio.gather(second, return_exceptions=True)

    asyncio.run(main())
    assert "b" not in scene.began


def test_a_loop_that_ends_while_a_run_waits(make_scene):
    """Whoever waits behind it gets in."""
    scene = make_scene(max_jobs=1, at_door="defer")
    loop = asyncio.new_event_loop()

    async def begin():
        task = asyncio.create_task(scene.ainvoke("b"))
        await auntil(lambda: scene.waiting == 1)
        return task

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scene.invoke, "a")
        until(lambda: scene.began)
        task = loop.run_until_complete(begin())
        third = pool.submit(scene.invoke, "c")
        until(lambda: scene.waiting == 2)
        loop.close()
        for name in "ac":
            scene.event(name).set()
        assert first.result(PATIENCE_S) == "a"
        assert third.result(PATIENCE_S) == "c"
    task._log_destroy_pending = False
    del task
    assert scene.began == ["a", "c"]


def test_a_synchronous_run_on_a_loops_thread_is_refused(make_scene):
    """A wait would block the loop, on which the other runs may be."""
    scene = make_scene(max_jobs=1, at_door="defer")

    async def main():
        first = asyncio.create_task(scene.ainvoke("a"))
        await auntil(lambda: scene.began)
        with pytest.raises(OverloadedError, match="would block this thread's event loop: use ainvoke"):
            scene.invoke("b")
        scene.event("a").set()
        await first

    asyncio.run(main())


def test_deferred_threads_of_a_loops_pool(make_scene):
    """They leave the pool's threads to the runs that are active, whose synchronous nodes need one."""
    scene = make_scene(max_jobs=1, at_door="defer")
    builder = StateGraph(State).add_node("n", scene.node).add_edge(START, "n")
    graph = schedule(builder.compile(), scene.scheduler)

    async def main():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))
        held = scene.scheduler._door.enter(free=True)
        waiting = [asyncio.create_task(asyncio.to_thread(scene.invoke, "x")) for _ in range(4)]
        await auntil(lambda: scene.waiting >= 2)
        scene.event("x").set()
        scene.event("free").set()
        first = asyncio.create_task(graph.ainvoke({"name": "free"}))
        await auntil(lambda: scene.waiting >= 3)
        held.leave()
        assert await asyncio.gather(*waiting) == ["x"] * 4
        assert (await first)["name"] == "free"

    asyncio.run(main())


def test_a_scheduler_that_is_closed(make_scene):
    scene = make_scene(max_jobs=1, at_door="defer")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(scene.invoke, "a")
        until(lambda: scene.began)
        second = pool.submit(scene.invoke, "b")
        until(lambda: scene.waiting == 1)
        scene.scheduler.close()
        with pytest.raises(SchedulerClosedError):
            second.result(PATIENCE_S)
        scene.event("a").set()
        first.result(PATIENCE_S)


# -- who always enters -------------------------------------------------------------------------


@pytest.mark.parametrize("at_door", ["refuse", "defer"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_runs_inside_runs_enter(make_scheduler, at_door, asynchronous):
    """Those of the same scheduler, and those of two schedulers that call each other."""
    one, other = (make_scheduler(1, max_jobs=1, at_door=at_door) for _ in range(2))
    leaf = StateGraph(State).add_node("n", lambda state: {"inner": "leaf"}).add_edge(START, "n").compile()

    def around(graph, scheduler):
        def node(state):
            return graph.invoke(state)

        async def anode(state):
            return await graph.ainvoke(state)

        builder = StateGraph(State).add_node("n", RunnableLambda(node, anode)).add_edge(START, "n")
        return schedule(builder.compile(), scheduler)

    graph = around(around(around(schedule(leaf, one), other), one), one)
    found = asyncio.run(graph.ainvoke({"name": "a"})) if asynchronous else graph.invoke({"name": "a"})
    assert found == {"name": "a", "inner": "leaf"}
    assert (len(one._door._inside), len(other._door._inside)) == (0, 0)


@pytest.mark.parametrize("at_door", ["refuse", "defer"])
def test_a_resumed_run_enters(make_scene, at_door):
    """An interrupted one leaves, and comes back though there is no room."""
    scene = make_scene(max_jobs=1, at_door=at_door)
    builder = (
        StateGraph(State).add_node("ask", lambda state: {"inner": interrupt("?")}).add_edge(START, "ask")
    )
    asks = schedule(builder.compile(checkpointer=InMemorySaver()), scene.scheduler)
    config = {"configurable": {"thread_id": "t"}}
    assert "__interrupt__" in asks.invoke({"name": "i"}, config)
    assert scene.inside == 0
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(scene.invoke, "a")
        until(lambda: scene.began)
        assert asks.invoke(Command(resume="yes"), config)["inner"] == "yes"
        scene.event("a").set()
        running.result(PATIENCE_S)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_jobs": 0}, "max_jobs must be a whole number of at least 1"),
        ({"max_jobs": 2.5}, "max_jobs must be a whole number of at least 1"),
        ({"max_queued": True}, "max_queued must be a whole number of at least 1"),
        ({"max_jobs": 1, "at_door": "wait"}, 'at_door must be "refuse" or "defer", not \'wait\''),
        ({"at_door": None}, 'at_door must be "refuse" or "defer"'),
        ({"at_door": "defer"}, 'at_door="defer" defers nothing; give max_jobs or max_queued as well'),
    ],
)
def test_wrong_settings(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        Scheduler(2, **settings)


# -- streams -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("consumers", [1, 3])
def test_the_consumer_of_a_stream_starts_runs(make_scene, asynchronous, consumers):
    """The stream would wait for the run, which would wait for the place of the stream."""
    scene = make_scene(max_jobs=consumers, at_door="defer", queue_timeout_s=PATIENCE_S)
    scene.event("a").set()
    together, got = threading.Barrier(consumers), []

    def consume():
        for number, _ in enumerate(scene.graph.stream({"name": "a"}, stream_mode="values")):
            if not number:
                together.wait(PATIENCE_S)
            got.append(scene.invoke("a"))

    async def aconsume():
        async for _ in scene.graph.astream({"name": "a"}, stream_mode="values"):
            got.append(await asyncio.create_task(scene.ainvoke("a")))

    async def main():
        await asyncio.gather(*(aconsume() for _ in range(consumers)))

    if asynchronous:
        asyncio.run(main())
    else:
        with ThreadPoolExecutor(consumers) as pool:
            for consumer in [pool.submit(consume) for _ in range(consumers)]:
                consumer.result(2 * PATIENCE_S)
    assert got == ["a"] * len(got)
    assert len(got) >= consumers


@pytest.mark.parametrize("stream", ["ended", "closed", "of another scheduler"])
def test_only_the_consumer_of_an_open_stream_does(make_scene, stream):
    """What a stream left in the context of its consumer is void when it is over, and at other doors."""
    scene, other = make_scene(max_jobs=1, at_door="defer"), make_scene(max_jobs=1, at_door="defer")
    read = (other if stream == "of another scheduler" else scene).graph.stream(
        {"name": "a"}, stream_mode="values"
    )
    for of in (scene, other):
        of.event("a").set()
    next(read)
    if stream == "ended":
        list(read)
    if stream == "closed":
        read.close()
    with ThreadPoolExecutor(2) as pool:
        inside = pool.submit(scene.invoke, "b")
        until(lambda: scene.began[-1:] == ["b"])
        late = pool.submit(copy_context().run, scene.invoke, "a")
        until(lambda: scene.waiting == 1)
        scene.event("b").set()
        assert (inside.result(PATIENCE_S), late.result(PATIENCE_S)) == ("b", "a")
    read.close()
