"""Synchronous iterations in threads of AnyIO: when their host task is cancelled, the run ends."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypedDict

import anyio
import pytest
from anyio.to_thread import run_sync
from langchain_core.callbacks import BaseCallbackHandler
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from support.seam import auntil, taken, until

from llmsched_langgraph import CallCancelledError, schedule
from llmsched_langgraph._adapter import collected
from llmsched_langgraph._adapter.collected import collecting
from llmsched_langgraph._runtime import hosts
from llmsched_langgraph.testing import Meter, PlainModel, StreamingModel

pytestmark = pytest.mark.timeout(60)


class State(TypedDict, total=False):
    text: str


def graph_of(model: Any, scheduler: Any, nodes: int = 3) -> Any:
    """Nodes in a row that call the model, in the thread of the consumer or in one of LangGraph's."""
    builder = StateGraph(State)
    names = [f"node{n}" for n in range(nodes)]
    for name in names:
        builder.add_node(name, lambda _: {"text": model.invoke("?").text})
    for before, after in zip([START, *names], names, strict=False):
        builder.add_edge(before, after)
    return schedule(builder.compile(), scheduler)


@contextmanager
def no_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def running(scheduler: Any) -> int:
    return scheduler.statistics().jobs_running


def waiting(scheduler: Any) -> int:
    return scheduler.statistics().waiting


def test_the_names_of_anyio():
    """The installed AnyIO has the private names, and an ordinary thread has no host."""

    async def main() -> None:
        with anyio.CancelScope() as scope:
            assert await run_sync(hosts.host) is scope
            assert not hosts.cancelled(scope)
            scope.cancel()
            assert hosts.cancelled(scope)

    asyncio.run(main())
    assert hosts.host() is None
    assert hosts._able is True


@pytest.mark.parametrize("mode", ["updates", "messages", "values"])
def test_a_call_that_waits_when_the_host_is_cancelled(make_scheduler, mode):
    """The run ends with AnyIO's own cancellation, of which the host makes no error."""
    scheduler = make_scheduler(1)
    steps = graph_of(PlainModel(), scheduler).stream({}, stream_mode=mode)

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def consume() -> None:
                while True:
                    await run_sync(next, steps, None)

            group.start_soon(consume)
            await auntil(lambda: waiting(scheduler) == 1)
            group.cancel_scope.cancel()
        await auntil(lambda: (running(scheduler), waiting(scheduler)) == (0, 0))

    with no_collections(), taken(scheduler):
        asyncio.run(main())


def test_invoke_in_a_thread_of_a_cancelled_task(make_scheduler):
    scheduler = make_scheduler(1)
    graph = graph_of(PlainModel(), scheduler)

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(run_sync, graph.invoke, {})
            await auntil(lambda: waiting(scheduler) == 1)
            group.cancel_scope.cancel()
        assert (running(scheduler), waiting(scheduler)) == (0, 0)

    with taken(scheduler):
        asyncio.run(main())


class Ends(BaseCallbackHandler):
    """Notes with which errors chains end."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def on_chain_error(self, error: BaseException, **_: Any) -> None:
        self.errors.append(type(error).__name__)


def test_between_two_steps(make_scheduler):
    """LangGraph's own iterator is closed, although somebody still has the generator around it."""
    scheduler, ends = make_scheduler(1), Ends()
    steps = graph_of(PlainModel(), scheduler).stream({}, {"callbacks": [ends]}, stream_mode="updates")

    async def main() -> None:
        with anyio.CancelScope() as scope:
            assert await run_sync(next, steps) == {"node0": {"text": "yes"}}
            assert running(scheduler) == 1
            scope.cancel()
        await auntil(lambda: running(scheduler) == 0 and ends.errors)

    with no_collections():
        asyncio.run(main())
    assert ends.errors == ["GeneratorExit"]
    with pytest.raises(CallCancelledError, match="the task that iterated"):
        next(steps)
    steps.close()


def test_an_answer_that_a_thread_reads(make_scheduler):
    """A streamed answer ends at its next piece: the request is not served to its end for nobody."""
    scheduler, model = make_scheduler(1), StreamingModel(meter=Meter("x" * 1_000))
    pieces, go_on = [], threading.Event()

    def node(_: State) -> State:
        for piece in model.stream("?"):
            pieces.append(piece)
            assert go_on.wait(20)
        return {}

    graph = schedule(StateGraph(State).add_node(node).add_edge(START, "node").compile(), scheduler)
    steps = graph.stream({}, stream_mode="messages")

    async def main() -> None:
        with anyio.CancelScope() as scope:
            await run_sync(next, steps)
            scope.cancel()
        await auntil(lambda: running(scheduler) == 0)
        go_on.set()
        await auntil(lambda: scheduler.statistics().holding == 0)

    with no_collections():
        asyncio.run(main())
    assert len(pieces) == 1
    assert model.meter.now == 0


def test_a_timeout_after_which_the_host_goes_on(make_scheduler):
    """A scope with a deadline does not end the run: this host asks for the next step afterwards."""
    scheduler = make_scheduler(1)
    steps = graph_of(PlainModel(), scheduler).stream({}, stream_mode="updates")
    looks = []

    async def main() -> list[Any]:
        found = []
        holder = scheduler.slot()
        holder.acquire()
        with anyio.move_on_after(0.01) as scope:
            seen = asyncio.get_running_loop().run_in_executor(None, release_after_a_look, holder, scope)
            found.append(await run_sync(next, steps))
        assert scope.cancel_called
        await seen
        found += [await run_sync(next, steps), await run_sync(next, steps)]
        assert await run_sync(next, steps, None) is None
        return found

    def release_after_a_look(holder: Any, scope: Any) -> None:
        until(lambda: scope.cancel_called)
        looked = len(looks)
        until(lambda: len(looks) > looked + 1)
        holder.release()

    look = hosts.Iteration.look
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hosts.Iteration, "look", lambda self: looks.append(self) or look(self))
        assert [list(step) for step in asyncio.run(main())] == [["node0"], ["node1"], ["node2"]]
    assert running(scheduler) == 0


def test_a_shield(make_scheduler):
    """A cancelled scope around a shielded one does not count."""

    async def main() -> None:
        with anyio.CancelScope() as outer, anyio.CancelScope(shield=True) as inner:
            outer.cancel()
            assert not hosts.cancelled(await run_sync(hosts.host))
            inner.shield = False
            assert hosts.cancelled(inner)

    asyncio.run(main())


def test_an_iteration_that_is_dropped_is_collected(make_scheduler):
    """Nothing keeps it while its host goes on."""
    scheduler = make_scheduler(1)

    async def main() -> None:
        steps = graph_of(PlainModel(), scheduler).stream({}, stream_mode="updates")
        gone = weakref.ref(steps)
        await run_sync(next, steps)
        assert running(scheduler) == 1
        del steps
        await auntil(lambda: gc.collect() >= 0 and gone() is None)
        assert running(scheduler) == 0

    asyncio.run(main())


def test_an_anyio_without_the_names(make_scheduler, monkeypatch, caplog):
    """It is said once, and streams work as before."""
    monkeypatch.setattr(hosts, "_able", None)
    monkeypatch.setattr(hosts, "_NAMES", ("cancel_called", "_no_such_name"))
    scheduler = make_scheduler(1)

    async def main() -> list[Any]:
        steps = graph_of(PlainModel(), scheduler).stream({}, stream_mode="updates")
        return [await run_sync(next, steps, None) for _ in range(4)]

    assert asyncio.run(main())[-1] is None
    (told,) = [record.message for record in caplog.records if record.name == "llmsched_langgraph"]
    assert "CancelScope has no _no_such_name" in told


# -- streams that the garbage collector closes -------------------------------------------------


def streaming(scheduler: Any, node: Any, *, nested: bool) -> Any:
    """Return an iterator over the pieces that a node writes, maybe of a graph inside another one."""
    inner = schedule(StateGraph(State).add_node("n", node).add_edge(START, "n").compile(), scheduler)
    if not nested:
        return inner.stream({}, stream_mode="custom")
    found: list[Any] = []

    def outer(state: State) -> State:
        found.append(inner.stream({}, stream_mode="custom"))
        next(found[0])
        return {}

    schedule(StateGraph(State).add_node("o", outer).add_edge(START, "o").compile(), scheduler).invoke({})
    return found.pop()


@pytest.mark.parametrize("nested", [False, True])
def test_a_stream_that_is_collected_in_a_thread_of_its_run(make_scheduler, nested):
    """Closing it there waits for that thread, which would wait for itself."""
    scheduler, dropped, over = make_scheduler(1), threading.Event(), threading.Event()

    def node(state: State) -> State:
        get_stream_writer()("a piece")
        assert dropped.wait(20)
        gc.collect()
        over.set()
        return {}

    with no_collections():
        stream = streaming(scheduler, node, nested=nested)
        if not nested:
            assert next(stream) == "a piece"
        cycle = [stream]
        cycle.append(cycle)
        del stream, cycle
        dropped.set()
        assert over.wait(20)
    until(lambda: running(scheduler) == 0)
    scheduler.check()


def test_a_stream_that_is_collected_on_a_loop_that_its_run_needs(make_scheduler):
    """A node of it waits for a coroutine of that loop."""
    scheduler, asks, over = make_scheduler(1), threading.Event(), threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def node(state: State) -> State:
            get_stream_writer()("a piece")
            asks.wait(20)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(20)
            over.set()
            return {}

        stream = streaming(scheduler, node, nested=False)
        assert next(stream) == "a piece"
        cycle = [stream]
        cycle.append(cycle)
        del stream, cycle
        asks.set()
        gc.collect()
        assert await asyncio.to_thread(over.wait, 20)

    with no_collections():
        asyncio.run(main())
    until(lambda: running(scheduler) == 0)
    scheduler.check()


def test_the_names_of_langgraph():
    """They are there; without them it is said once, and streams end as in LangGraph."""
    assert collected.why_not() is None
    assert collected.install()


def test_without_the_names_of_langgraph(caplog, monkeypatch):
    monkeypatch.setattr(collected, "_installed", None)
    monkeypatch.setattr(collected, "_executor", lambda: None)
    assert not collected.install()
    assert not collected.install()
    [record] = caplog.records
    assert "is not supported by llmsched-langgraph (there is no BackgroundExecutor)" in record.message


@pytest.mark.parametrize("enabled", [False, True])
def test_collections_are_seen(enabled):
    """Inside one, and not outside."""

    class Dropped:
        def __del__(self) -> None:
            seen.append(collecting())

    seen: list[bool] = []
    (gc.enable if enabled else gc.disable)()
    try:
        seen.append(collecting())
        dropped = Dropped()
        dropped.own = dropped
        del dropped
        gc.collect()
    finally:
        gc.enable()
    assert seen == [False, True]


def test_a_stream_that_is_closed_is_over(make_scheduler):
    """Its threads have ended when `close` returns, as in LangGraph."""
    scheduler, go, over = make_scheduler(1), threading.Event(), []

    def node(state: State) -> State:
        get_stream_writer()("a piece")
        assert go.wait(20)
        over.append(True)
        return {}

    stream = streaming(scheduler, node, nested=False)
    next(stream)
    threading.Timer(0.05, go.set).start()
    stream.close()
    assert over == [True]
    assert running(scheduler) == 0
