"""A run that fails or is cancelled leaves nothing behind that waits for a slot, or asks for one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import operator
import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import anyio
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from support.seam import auntil, until

from llmsched_langgraph import CallCancelledError, Scheduler, schedule
from llmsched_langgraph._adapter.job import Job, start
from llmsched_langgraph._runtime import context
from llmsched_langgraph.testing import PlainModel, assert_idle

uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")

pytestmark = pytest.mark.timeout(30)  # what waits for ever is a failure soon

LOOPS = pytest.mark.parametrize("loop_run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])


class State(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


@dataclass
class Scene:
    """Two schedulers whose only slots are held, so that every call of the test waits.

    Attributes:
        here: the scheduler of the graph that ends.
        elsewhere: another scheduler, for graphs inside of it.
        background: tasks that nodes leave behind.
        told: what nodes note.
    """

    here: Scheduler
    elsewhere: Scheduler
    model: Any = field(default_factory=PlainModel)
    background: list[asyncio.Task[Any]] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.holders = [self.here.slot(), self.elsewhere.slot()]
        for holder in self.holders:
            holder.acquire()

    def let_go(self) -> None:
        for holder in self.holders:
            holder.release()

    @property
    def schedulers(self) -> tuple[Scheduler, Scheduler]:
        return self.here, self.elsewhere

    @property
    def waiting(self) -> int:
        return sum(scheduler.statistics().waiting for scheduler in self.schedulers)

    def nothing_is_left(self) -> bool:
        """Whether no job runs and no call waits, although nobody got a slot."""
        return self.waiting == 0 and all(s.statistics().jobs_running == 0 for s in self.schedulers)


@pytest.fixture
def scene(make_scheduler):
    made = Scene(make_scheduler(1), make_scheduler(1))
    yield made
    made.let_go()


# -- what nodes do -------------------------------------------------------------------------

Node = Callable[[Scene], Callable[[State], Any]]


def one_node(node: Any, **options: Any) -> Any:
    return StateGraph(State).add_node("node", node, **options).add_edge(START, "node").compile()


def pair(node: Any) -> Any:
    """The node twice side by side."""
    builder = StateGraph(State).add_node("node", node)
    builder.add_conditional_edges(START, lambda _: [Send("node", {})] * 2, ["node"])
    return builder.compile()


def a_task(scene: Scene) -> Any:
    async def node(_: State) -> State:
        return {"answers": [(await scene.model.ainvoke("?")).text]}

    return node


def children(scene: Scene) -> Any:
    async def node(_: State) -> State:
        await asyncio.gather(scene.model.ainvoke("?"), asyncio.create_task(scene.model.ainvoke("?")))
        return {}

    return node


def another_call_after_an_error(scene: Scene) -> Any:
    """Errors are handled as some do: with the next call."""

    async def node(_: State) -> State:
        for _ in range(5):
            try:
                return {"answers": [(await scene.model.ainvoke("?")).text]}
            except Exception as error:
                scene.told.append(error)
        return {}

    return node


def retries(scene: Scene) -> Any:
    model = scene.model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)

    async def node(_: State) -> State:
        return {"answers": [(await model.ainvoke("?")).text]}

    return node


def fallbacks(scene: Scene) -> Any:
    model = scene.model.with_fallbacks([scene.model, scene.model])

    async def node(_: State) -> State:
        return {"answers": [(await model.ainvoke("?")).text]}

    return node


def background_task(scene: Scene) -> Any:
    """A task that nobody awaits, and that calls again when its call fails."""

    async def work() -> None:
        try:
            await scene.model.ainvoke("?")
        finally:
            await scene.model.ainvoke("?")

    async def node(_: State) -> State:
        scene.background.append(asyncio.create_task(work()))
        await scene.model.ainvoke("?")
        return {}

    return node


def threads(scene: Scene) -> Any:
    async def node(_: State) -> State:
        await asyncio.gather(*(asyncio.to_thread(scene.model.invoke, "?") for _ in range(2)))
        return {}

    return node


def a_plain_node(scene: Scene) -> Any:
    def node(_: State) -> State:
        return {"answers": [scene.model.invoke("?").text]}

    return node


def retries_in_a_plain_node(scene: Scene) -> Any:
    model = scene.model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)

    def node(_: State) -> State:
        return {"answers": [model.with_fallbacks([model]).invoke("?").text]}

    return node


def a_loop_in_a_thread(scene: Scene) -> Any:
    async def node(_: State) -> State:
        await asyncio.to_thread(asyncio.run, scene.model.ainvoke("?"))
        return {}

    return node


def a_loop_in_a_plain_node(scene: Scene) -> Any:
    def node(_: State) -> State:
        asyncio.run(scene.model.ainvoke("?"))
        return {}

    return node


def a_pool_of_its_own(scene: Scene) -> Any:
    def node(_: State) -> State:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda context: context.run(scene.model.invoke, "?"), [contextvars.copy_context()]))
        return {}

    return node


def a_subgraph(scene: Scene) -> Any:
    return pair(a_task(scene))


def a_subgraph_that_is_called(scene: Scene) -> Any:
    inner = pair(another_call_after_an_error(scene))

    async def node(_: State) -> State:
        return {"answers": [step for step in [await inner.ainvoke({})] if not step]}

    return node


def a_subgraph_on_a_loop_in_a_thread(scene: Scene) -> Any:
    inner = pair(a_task(scene))

    async def node(_: State) -> State:
        await asyncio.to_thread(lambda: asyncio.run(inner.ainvoke({})))
        return {}

    return node


def a_graph_scheduled_elsewhere(scene: Scene) -> Any:
    return schedule(pair(a_task(scene)), scene.elsewhere)


def threads_scheduled_elsewhere(scene: Scene) -> Any:
    return schedule(pair(a_plain_node(scene)), scene.elsewhere)


def a_graph_scheduled_elsewhere_in_a_thread(scene: Scene) -> Any:
    inner = schedule(pair(a_loop_in_a_plain_node(scene)), scene.elsewhere)

    async def node(_: State) -> State:
        await asyncio.to_thread(inner.invoke, {})
        return {}

    return node


def tasks_of_an_entrypoint(scene: Scene) -> Any:
    @task
    async def ask() -> str:
        return (await scene.model.ainvoke("?")).text

    @entrypoint()
    async def flow(_: Any) -> State:
        return {"answers": list(await asyncio.gather(ask(), ask()))}

    return flow


def a_slot_by_hand(scene: Scene) -> Any:
    async def node(_: State) -> State:
        async with scene.here.slot():
            scene.told.append("a slot")
        return {}

    return node


SHAPES: dict[Node, int] = {
    a_task: 1,
    children: 2,
    another_call_after_an_error: 1,
    retries: 1,
    fallbacks: 1,
    background_task: 2,
    threads: 2,
    a_plain_node: 1,
    retries_in_a_plain_node: 1,
    a_loop_in_a_thread: 1,
    a_loop_in_a_plain_node: 1,
    a_pool_of_its_own: 1,
    a_subgraph: 2,
    a_subgraph_that_is_called: 2,
    a_subgraph_on_a_loop_in_a_thread: 2,
    a_graph_scheduled_elsewhere: 2,
    threads_scheduled_elsewhere: 2,
    a_graph_scheduled_elsewhere_in_a_thread: 2,
    tasks_of_an_entrypoint: 2,
    a_slot_by_hand: 1,
}
"""Nodes of asynchronous graphs, with how many calls each has waiting at once."""

IN_THREADS: tuple[Node, ...] = (
    a_plain_node,
    retries_in_a_plain_node,
    a_loop_in_a_plain_node,
    a_pool_of_its_own,
    threads_scheduled_elsewhere,
)
"""Those of synchronous graphs."""


def side_by_side(scene: Scene, *nodes: Node, **others: Any) -> Any:
    """A graph that runs all of the nodes at once, and then each of them again."""
    builder = StateGraph(State)
    for name, node in {make.__name__: make(scene) for make in nodes}.items() | others.items():
        builder.add_node(name, node).add_node(f"{name} again", node)
        builder.add_edge(START, name).add_edge(name, f"{name} again")
    return builder.compile()


# -- how runs end --------------------------------------------------------------------------

End = Callable[[Any, Callable[[], Awaitable[None]]], Awaitable[None]]
"""Runs a graph, and ends the run when the awaitable is done."""


async def drain(steps: Any) -> None:
    async for _ in steps:
        pass


def hang_up(**how: Any) -> End:
    """AnyIO cancels whoever reads the stream, as web servers do when a client hangs up."""

    async def end(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(drain, graph.astream({}, **how))
            await held()
            group.cancel_scope.cancel()

    return end


async def hang_up_on_events(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(drain, graph.astream_events({}, version="v2"))
        await held()
        group.cancel_scope.cancel()


async def cancel(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
    run = asyncio.create_task(graph.ainvoke({}))
    await held()
    run.cancel()
    with suppress(asyncio.CancelledError):
        await run


async def timeout(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as limit:
            waiting = asyncio.create_task(held())
            waiting.add_done_callback(lambda _: limit.reschedule(0.0))
            await graph.ainvoke({})


async def wait_for(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
    run = asyncio.create_task(graph.ainvoke({}))
    await held()
    with suppress(TimeoutError):
        await asyncio.wait_for(run, 0.001)


async def a_sibling_of_the_run_fails(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
    async def fail() -> None:
        await held()
        raise ZeroDivisionError

    with suppress(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(graph.ainvoke({}))
            group.create_task(fail())


async def step_timeout(graph: Any, held: Callable[[], Awaitable[None]]) -> None:
    graph.step_timeout = 0.5
    run = asyncio.create_task(graph.ainvoke({}))
    await held()
    with suppress(TimeoutError):
        await run


MODES: tuple[Any, ...] = ("values", "updates", "messages", "custom", "debug", ["updates", "messages"])
ENDS: dict[str, End] = {
    **{f"hang up {mode}": hang_up(stream_mode=mode) for mode in MODES},
    "hang up subgraphs": hang_up(stream_mode="values", subgraphs=True),
    **{
        end.__name__.replace("_", " "): end
        for end in (
            *(hang_up_on_events, cancel, timeout, wait_for, a_sibling_of_the_run_fails, step_timeout),
        )
    },
}


def play(scene: Scene, graph: Any, calls: int, end: End, loop_run: Callable[[Any], Any]) -> None:
    """Run the graph, end the run when `calls` calls wait, and check that nothing is left.

    All the while nobody gets a slot. A run that comes later gets the only one.
    """
    graph = schedule(graph, scene.here)

    async def main() -> None:
        try:
            await end(graph, lambda: auntil(lambda: scene.waiting == calls))
            await auntil(scene.nothing_is_left)
            ended = await asyncio.gather(*scene.background, return_exceptions=True)
            assert [type(error) for error in ended] == [CallCancelledError] * len(ended)
        finally:
            scene.let_go()  # a test that fails must not leave threads behind
        await schedule(one_node(a_task(scene)), scene.here).ainvoke({})

    loop_run(main())  # its end waits for the loop's threads
    assert scene.model.meter.total == 1
    assert "a slot" not in scene.told
    assert not [error for error in scene.told if not isinstance(error, CallCancelledError)]
    for scheduler in scene.schedulers:
        assert_idle(scheduler)


@LOOPS
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)
def test_every_shape_of_node(scene, shape, loop_run):
    """A client hangs up: all that its run has waiting is dismissed, and its later calls are refused."""
    play(scene, side_by_side(scene, shape), SHAPES[shape], ENDS["hang up messages"], loop_run)


@pytest.mark.parametrize("end", ENDS)
def test_every_end(scene, end):
    """However a run with all shapes of nodes ends before its time, nothing of it is left."""
    play(scene, side_by_side(scene, *SHAPES), sum(SHAPES.values()), ENDS[end], asyncio.run)


def when_all_wait(scene: Scene, then: Callable[[], Any], calls: int = sum(SHAPES.values())) -> Any:
    """A node that does something when all calls of its siblings wait."""

    async def node(_: State) -> State:
        await auntil(lambda: scene.waiting == calls)
        then()
        await asyncio.sleep(3600)
        return {}

    return node


def fail() -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("mode", ["values", "custom"])
def test_a_sibling_fails(scene, mode):
    """One node raises an error while its siblings wait, in tasks, in threads, on other loops."""

    async def end(graph: Any, _: Any) -> None:
        with pytest.raises(ZeroDivisionError):
            await drain(graph.astream({}, stream_mode=mode))

    play(scene, side_by_side(scene, *SHAPES, fail=when_all_wait(scene, fail)), 0, end, asyncio.run)


@pytest.mark.parametrize("how", ["closed", "dropped", "dropped in a cycle"])
def test_a_stream_is_abandoned(scene, how):
    """The consumer reads no further, while nodes wait."""
    tell = when_all_wait(scene, lambda: get_stream_writer()("all wait"))

    async def end(graph: Any, _: Any) -> None:
        stream = graph.astream({}, stream_mode="custom")
        assert await anext(stream) == "all wait"
        if how == "closed":
            await stream.aclose()
        box = [stream]
        if how == "dropped in a cycle":
            box.append(box)
        del stream, box
        gc.collect()

    play(scene, side_by_side(scene, *SHAPES, tell=tell), 0, end, asyncio.run)


@pytest.mark.parametrize("how", ["a sibling fails", "closed", "dropped"])
def test_synchronous_runs(scene, how):
    """A synchronous run ends without the turns of its threads, and of the loops that they run."""
    calls = sum(SHAPES[shape] for shape in IN_THREADS)

    def node(_: State) -> State:
        until(lambda: scene.waiting == calls)
        if how == "a sibling fails":
            raise ZeroDivisionError
        get_stream_writer()("all wait")
        return {}

    graph = schedule(side_by_side(scene, *IN_THREADS, node=node), scene.here)
    many = {"max_concurrency": 32}

    def run() -> None:
        if how == "a sibling fails":
            with pytest.raises(ZeroDivisionError):
                graph.invoke({}, many)
            return
        stream = graph.stream({}, many, stream_mode="custom")
        assert next(stream) == "all wait"
        if how == "closed":
            stream.close()
        del stream
        gc.collect()

    with ThreadPoolExecutor(1) as pool:  # a run that waits for ever must fail the test, not block it
        try:
            pool.submit(run).result(20)
            assert scene.nothing_is_left()
        finally:
            scene.let_go()
    assert scene.model.meter.total == 0


# -- what goes on --------------------------------------------------------------------------


def leaves_behind(
    scene: Scene, kind: str, work: Callable[[], Awaitable[Any]], call: Callable[[], Any]
) -> None:
    """Start work that outlives its node, in a task or in a thread."""
    if kind == "task":
        scene.background.append(asyncio.create_task(work()))
    else:
        context = contextvars.copy_context()
        done: Any = asyncio.get_running_loop().run_in_executor(None, context.run, call)
        scene.background.append(done)


KINDS = pytest.mark.parametrize("kind", ["task", "thread"])


def test_background_threads_of_an_interrupted_synchronous_run(scene):
    """They go on, as those of asynchronous runs."""
    pool = ThreadPoolExecutor(1)

    def node(_: State) -> State:
        context = contextvars.copy_context()
        scene.told.append(pool.submit(context.run, lambda: [scene.model.invoke("?").text for _ in range(2)]))
        return {}

    def ask(_: State) -> State:
        until(lambda: scene.waiting == 1)
        return {"answers": [interrupt("sure?")]}

    builder = StateGraph(State).add_node("node", node).add_node("ask", ask)
    builder.add_edge(START, "node").add_edge(START, "ask")
    config: Any = {"configurable": {"thread_id": "1"}}
    with pool:
        schedule(builder.compile(checkpointer=InMemorySaver()), scene.here).invoke({}, config)
        assert scene.waiting == 1
        scene.let_go()
        assert scene.told[0].result() == ["yes", "yes"]


@KINDS
@pytest.mark.parametrize("ending", ["finished", "interrupted", "interrupted for good"])
def test_background_work_of_other_runs_goes_on(scene, kind, ending):
    """Calls that a finished or an interrupted run has left behind keep their place, and more may follow."""

    def call_twice() -> None:
        scene.model.invoke("?")
        scene.model.invoke("?")

    async def work() -> None:
        await scene.model.ainvoke("?")
        await scene.model.ainvoke("?")

    async def node(_: State) -> State:
        leaves_behind(scene, kind, work, call_twice)
        return {}

    def ask(_: State) -> State:
        return {"answers": [] if ending == "finished" else [interrupt("sure?")]}

    builder = StateGraph(State).add_node("node", node).add_node("ask", ask)
    builder.add_edge(START, "node").add_edge(START, "ask")
    saver = InMemorySaver() if ending == "interrupted" else None
    graph = schedule(builder.compile(checkpointer=saver), scene.here)

    async def main() -> None:
        if ending == "interrupted for good":
            with suppress(RuntimeError):  # LangGraph misses a checkpointer
                await graph.ainvoke({})
        else:
            await graph.ainvoke({}, {"configurable": {"thread_id": "1"}})
        await auntil(lambda: scene.waiting == 1)
        scene.let_go()
        await asyncio.gather(*scene.background)

    asyncio.run(main())
    assert scene.model.meter.total == 2


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_an_inner_graph_that_fails_does_not_end_the_outer_run(scene, where):
    """A node may handle the failure of a graph inside of it, and call on."""
    failing = side_by_side(scene, a_task, threads, fail=when_all_wait(scene, fail, calls=3))
    inner = schedule(failing, scene.elsewhere) if where == "elsewhere" else failing

    async def node(_: State) -> State:
        with pytest.raises(ZeroDivisionError):
            await inner.ainvoke({})
        assert scene.waiting == 0
        scene.let_go()
        return {"answers": [(await scene.model.ainvoke("?")).text]}

    assert asyncio.run(schedule(one_node(node), scene.here).ainvoke({})) == {"answers": ["yes"]}


def test_a_command_for_the_outer_graph_is_no_failure(scene):
    """An inner graph that ends with a command for the outer one leaves its background work alone."""

    async def inner_node(_: State) -> Any:
        scene.background.append(asyncio.create_task(scene.model.ainvoke("?")))
        await auntil(lambda: scene.waiting == 1)
        return Command(graph=Command.PARENT, goto="after")

    builder = StateGraph(State)
    builder.add_node("inner", schedule(one_node(inner_node), scene.elsewhere), destinations=("after",))
    builder.add_node("after", lambda _: {"answers": ["after"]}).add_edge(START, "inner")
    graph = schedule(builder.compile(), scene.here)

    async def main() -> None:
        assert await graph.ainvoke({}) == {"answers": ["after"]}
        assert scene.waiting == 1
        scene.let_go()
        await asyncio.gather(*scene.background)

    asyncio.run(main())
    assert scene.model.meter.total == 1


# -- what nodes and their leftovers see ----------------------------------------------------


@pytest.mark.parametrize("end", ["hang up messages", "cancel", "hang up values"])
def test_cleanups_are_not_interrupted(scene, end):
    """A cancelled node runs its `finally` to the end: it is cancelled once, and by nobody else."""

    async def node(_: State) -> State:
        try:
            await scene.model.ainvoke("?")
        finally:
            for _ in range(20):
                await asyncio.sleep(0)
            scene.told.append("cleaned up")
        return {}

    async def main() -> None:
        await ENDS[end](schedule(pair(node), scene.here), lambda: auntil(lambda: scene.waiting == 2))
        await auntil(lambda: scene.told == ["cleaned up"] * 2)

    asyncio.run(main())


def test_nodes_are_cancelled_and_not_given_errors(scene):
    """A node that answers errors with a value does not come to an end: it is cancelled."""

    async def node(_: State) -> State:
        try:
            await scene.model.ainvoke("?")
        except Exception as error:
            scene.told.append(error)
        except asyncio.CancelledError:
            scene.told.append("cancelled")
            raise
        return {"answers": ["no answer"]}

    async def main() -> None:
        graph = schedule(pair(node), scene.here)
        await ENDS["hang up messages"](graph, lambda: auntil(lambda: scene.waiting == 2))
        await auntil(lambda: len(scene.told) == 2)

    asyncio.run(main())
    assert scene.told == ["cancelled"] * 2


def test_requests_in_flight_are_cancelled(scene):
    """The requests of a run whose client hung up are cancelled, and their slots are free at once."""
    scene.let_go()
    scene.model.meter.gate.clear()
    graph = schedule(pair(a_task(scene)), scene.here)

    async def main() -> None:
        in_flight = lambda: auntil(lambda: (scene.model.meter.now, scene.waiting) == (1, 1))  # noqa: E731
        await ENDS["hang up messages"](graph, in_flight)
        await auntil(lambda: scene.model.meter.now == scene.here.statistics().holding == 0)
        assert scene.nothing_is_left()

    asyncio.run(main())
    assert scene.model.meter.total == 1


@pytest.mark.parametrize(
    "policy", [None, RetryPolicy(max_attempts=5, initial_interval=0.001, retry_on=Exception)]
)
def test_retries_of_nodes(scene, policy):
    """LangGraph's own retries of a node end with the run."""

    async def main() -> None:
        graph = one_node(a_loop_in_a_plain_node(scene), retry_policy=policy)
        await ENDS["hang up messages"](
            schedule(graph, scene.here), lambda: auntil(lambda: scene.waiting == 1)
        )
        await auntil(scene.nothing_is_left)

    asyncio.run(main())
    scene.let_go()
    assert scene.model.meter.total == 0


def test_a_fallback_is_no_fresh_run(scene):
    """A graph that is called as a fallback, after the end of the run, belongs to it, and is refused."""
    other = schedule(one_node(a_task(scene)), scene.here)
    third = schedule(one_node(a_task(scene)), scene.elsewhere)

    async def work() -> None:
        for call in (
            scene.model.ainvoke("?"),
            other.ainvoke({}),
            third.ainvoke({}),
            scene.model.ainvoke("?"),
        ):
            with pytest.raises(CallCancelledError) as caught:
                await call
            scene.told.append(str(caught.value))

    async def node(_: State) -> State:
        scene.background.append(asyncio.create_task(work()))
        await auntil(lambda: scene.waiting == 1)
        raise ZeroDivisionError

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await schedule(one_node(node), scene.here).ainvoke({})
        await asyncio.gather(*scene.background)
        assert scene.nothing_is_left()

    asyncio.run(main())
    assert "ended while this call waited" in scene.told[0]
    assert all("contextvars.Context().run" in told for told in scene.told[1:])
    asked = [entry for entry in scene.here._driver.story() if entry.kind == "CallQueued"]
    assert len(asked) == 1  # refused calls do not come into the queue


def test_work_started_in_an_empty_context_outlives_its_run(scene):
    """The cure that the error names."""

    async def node(_: State) -> State:
        create = asyncio.get_running_loop().create_task
        scene.background.append(
            contextvars.Context().run(create, schedule(one_node(a_task(scene)), scene.here).ainvoke({}))
        )
        raise ZeroDivisionError

    async def main() -> list[Any]:
        with pytest.raises(ZeroDivisionError):
            await schedule(one_node(node), scene.here).ainvoke({})
        await auntil(lambda: scene.waiting == 1)
        scene.let_go()
        return await asyncio.gather(*scene.background)

    assert asyncio.run(main()) == [{"answers": ["yes"]}]


class Interrupted(BaseException):
    """What a signal handler raises, such as that of Ctrl-C."""


MARKING = {context.Mark.__enter__.__code__, context.Mark.__exit__.__code__, context.unmark.__code__}
STARTING = {start.__code__, Job.__init__.__code__}


@pytest.mark.parametrize("event", ["line", "return"])
@pytest.mark.parametrize("codes", [MARKING, STARTING], ids=["marking", "starting"])
def test_an_interrupt_leaves_no_run_behind(codes, event, request):
    """Wherever a signal comes while code is marked as a run's, or a run starts: the next one is its own."""
    scheduler = Scheduler(1)
    builder = StateGraph(State).add_node("a", lambda state: {}).add_node("b", lambda state: {})
    graph = schedule(builder.add_edge(START, "a").add_edge("a", "b").compile(), scheduler)
    left = 0

    def line(frame, kind, arg):
        nonlocal left
        if kind == event:
            left -= 1
            if not left:
                sys.settrace(None)
                raise Interrupted
        return line

    def enter(frame, kind, arg):
        return line if frame.f_code in codes else None

    before, broken = sys.gettrace(), 0
    gc.collect()
    gc.freeze()  # what is older need not be looked through after each break
    request.addfinalizer(gc.unfreeze)
    while left <= 0:
        broken, left = broken + 1, broken + 1
        try:
            sys.settrace(enter)
            graph.invoke({})
        except Interrupted:
            pass
        finally:
            sys.settrace(before)
        assert (context.RUN.get(), context.STAGE.get()) == (None, None)
        gc.collect()
        assert scheduler.statistics().jobs_running == 0
    assert broken > (10 if event == "line" else 2)
    graph.invoke({})
    assert_idle(scheduler)
