"""The lag of a busy event loop is no work of the nodes that it delays; what tools take is recorded."""

from __future__ import annotations

import asyncio
import gc
import operator
import sys
import time
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import START, StateGraph
from langgraph.types import RetryPolicy, Send
from support.clock import Clock

from llmsched_langgraph import schedule
from llmsched_langgraph._adapter import steps
from llmsched_langgraph._jobs.layout import CODE_S
from llmsched_langgraph._runtime import lag
from llmsched_langgraph.traces import EndedJob, read_jobs

BLOCK_S = 0.05
"""How long other code keeps the loop busy in each iteration."""


class State(TypedDict, total=False):
    done: Annotated[list[str], operator.add]


class Model(BaseChatModel):
    """Takes a second of the loop's time, or of a thread."""

    seconds: float = 1.0

    @property
    def _llm_type(self) -> str:
        return "timed"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        time.sleep(self.seconds)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        await asyncio.sleep(self.seconds)
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])

    async def _astream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
        for piece in "yes":
            await asyncio.sleep(self.seconds / 3)
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


class Handler(AsyncCallbackHandler):
    """Listens to everything, as a tracer does."""

    async def on_chain_start(self, *args: Any, **kwargs: Any) -> None: ...
    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None: ...
    async def on_llm_end(self, *args: Any, **kwargs: Any) -> None: ...
    async def on_chain_end(self, *args: Any, **kwargs: Any) -> None: ...


MODEL = Model()
CHAIN = ChatPromptTemplate.from_template("how many?") | MODEL | StrOutputParser()


async def once() -> None:
    await MODEL.ainvoke("how many?")


async def after_giving_way() -> None:
    for _ in range(3):
        await asyncio.sleep(0)
        await once()
        await asyncio.sleep(0)


async def at_once() -> None:
    await asyncio.gather(*(once() for _ in range(3)))


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(once())


async def by_wait() -> None:
    await asyncio.wait([asyncio.create_task(once()) for _ in range(2)])


async def with_a_timeout() -> None:
    await asyncio.wait_for(once(), 600)


async def in_two_tasks() -> None:
    await asyncio.create_task(asyncio.wait_for(asyncio.create_task(once()), 600))


async def as_stream() -> None:
    async for _ in MODEL.astream("how many?"):
        pass


async def as_chain() -> None:
    await CHAIN.ainvoke({})


async def traced() -> None:
    await CHAIN.ainvoke({}, {"callbacks": [Handler(), Handler()]})


async def as_batch() -> None:
    await MODEL.abatch(["how many?", "how few?"])


ONLY_CALLS = (
    once,
    after_giving_way,
    at_once,
    in_a_group,
    by_wait,
    with_a_timeout,
    in_two_tasks,
    as_stream,
    as_chain,
    traced,
    as_batch,
)
"""What nodes do that only await their model, in as many ways."""


def node_of(work: Callable[[], Awaitable[object]]) -> Callable[[Any], Awaitable[State]]:
    async def node(state: Any) -> State:
        await work()
        return {}

    return node


def graph_of(*works: Any) -> Any:
    """A chain of nodes `n0`, `n1`, ...: coroutine functions without arguments, or nodes as they are."""
    builder, last = StateGraph(State), START
    for n, work in enumerate(works):
        builder.add_node(f"n{n}", work)
        builder.add_edge(last, f"n{n}")
        last = f"n{n}"
    return builder.compile(name="lagging")


class Recorder:
    """Runs graphs on a scheduler that records, and reads what is recorded.

    In `virtual` the loop has a time of its own, which other code moves on by `BLOCK_S` in each iteration if
    `busy`; in `real` other code runs beside the graph.
    """

    def __init__(self, make_scheduler: Any, path: Any) -> None:
        self._make, self._path = make_scheduler, path

    def virtual(self, graph: Any, *, busy: bool = True, given: Any = None) -> EndedJob:
        clock = Clock()
        scheduler = self._make(9, clock=clock, record=self._path)

        async def other() -> None:
            while True:
                clock.now += BLOCK_S
                await asyncio.sleep(0)

        async def main() -> None:
            beside = asyncio.create_task(other()) if busy else None
            await schedule(graph, scheduler).ainvoke(given or {})
            if beside is not None:
                beside.cancel()

        clock.run(main())
        (job,) = self._read(scheduler)
        return job

    def real(
        self, graph: Any, *, runs: int = 1, slots: int = 9, other: Callable[[], Awaitable[None]] | None = None
    ) -> list[EndedJob]:
        scheduler = self._make(slots, record=self._path)
        scheduled = schedule(graph, scheduler)

        async def main() -> None:
            beside = None if other is None else asyncio.ensure_future(other())
            await asyncio.gather(*(scheduled.ainvoke({}) for _ in range(runs)))
            if beside is not None:
                beside.cancel()

        asyncio.run(main())
        return self._read(scheduler)

    def _read(self, scheduler: Any) -> list[EndedJob]:
        scheduler._driver._service.keep()
        return list(read_jobs(self._path))


@pytest.fixture
def recorder(make_scheduler, tmp_path):
    return Recorder(make_scheduler, tmp_path / "jobs.jsonl")


def code(job, name="n0"):
    """The seconds of a node's own code, by stage in order of time."""
    return [stage.calls[0].seconds for stage in job.stages if stage.name == f"{name} (code)"]


def tool(job, name="n0"):
    """The seconds of a node without calls."""
    (seconds,) = [s.calls[0].seconds for s in job.stages if (s.name, s.kind) == (name, "tool")]
    return seconds


# -- nodes that only await their model ------------------------------------------------------


@pytest.mark.parametrize("work", ONLY_CALLS, ids=lambda work: work.__name__)
@pytest.mark.parametrize("busy", [True, False])
def test_a_node_that_only_awaits_its_model_has_no_code(recorder, work, busy):
    """However late the loop comes back to it: before, between and after its calls."""
    job = recorder.virtual(graph_of(node_of(work), node_of(work)), busy=busy)
    assert all(stage.kind == "llm" for stage in job.stages)
    if busy:  # each way to the model and back takes some iterations
        calls_s = sum(call.ended_s - call.asked_s for call in job.llm_calls())
        assert job.jct_s - calls_s > 2 * CODE_S or len(list(job.llm_calls())) > 2


def test_a_node_that_retries_has_no_code(recorder):
    """The time between its attempts is the retry policy's."""
    failures = iter([True, True, False])

    async def node(state: State) -> State:
        await once()
        if next(failures):
            raise ConnectionError
        return {}

    builder = StateGraph(State)
    policy = RetryPolicy(initial_interval=0.0, jitter=False, max_attempts=3)
    builder.add_node("n0", node, retry_policy=policy).add_edge(START, "n0")
    assert code(recorder.virtual(builder.compile(name="lagging"))) == []


def test_parallel_nodes_have_no_code(recorder):
    """A fan-out of ten, and a graph inside a node."""
    inner = graph_of(node_of(once), node_of(as_stream))
    builder = StateGraph(State).add_node("plan", node_of(once)).add_node("work", node_of(once))
    builder.add_node("inner", inner)
    builder.add_edge(START, "plan").add_edge("work", "inner")
    builder.add_conditional_edges("plan", lambda _: [Send("work", {})] * 10, ["work"])
    job = recorder.virtual(builder.compile(name="lagging"))
    assert {stage.kind for stage in job.stages} == {"llm"}
    assert len(list(job.llm_calls())) == 13


def test_many_runs_at_once_have_no_code(recorder):
    """On one loop, which they keep busy themselves."""
    quick = Model(seconds=0.01)

    async def ask() -> None:
        await quick.ainvoke("how many?")

    jobs = recorder.real(graph_of(node_of(ask)), runs=150, slots=4)
    assert len(jobs) == 150
    # On a machine that is busy itself, a step of a node may take long.
    assert len([job for job in jobs if code(job)]) < 5


@pytest.mark.parametrize("beginning", [True, False])
def test_a_single_block_of_the_loop_is_no_code(recorder, beginning):
    """Just after the run began, or just after its call ended."""
    now = asyncio.Event()
    quick = Model(seconds=0.01)

    async def ask(state: State) -> State:
        if beginning:
            now.set()
            await asyncio.sleep(0)
        await quick.ainvoke("how many?")
        if not beginning:
            now.set()
            await asyncio.sleep(0)
        return {}

    async def other() -> None:
        await now.wait()
        for _ in range(3):
            time.sleep(0.15)
            await asyncio.sleep(0)

    (job,) = recorder.real(graph_of(ask), other=other)
    assert code(job) == []


def test_the_wait_for_a_thread_is_no_code(recorder):
    """Synchronous nodes of asynchronous graphs run in the loop's pool; here it has one thread."""
    quick, slow = Model(seconds=0.01), threading_tool(0.15)

    def ask(state: State) -> State:
        quick.invoke("how many?")
        return {}

    scheduler = recorder._make(9, record=recorder._path)
    scheduled = schedule(graph_of(ask, slow), scheduler)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await asyncio.gather(*(scheduled.ainvoke({}) for _ in range(5)))

    asyncio.run(main())
    jobs = recorder._read(scheduler)
    assert [code(job) for job in jobs] == [[]] * 5
    assert all(tool(job, "n1") > 0.14 for job in jobs)
    assert min(tool(job, "n1") for job in jobs) < 0.3
    assert max(tool(job, "n1") for job in jobs) < 0.7  # the last of them waited for 0.6 s, and then ran


def threading_tool(seconds: float) -> Callable[[State], State]:
    def use(state: State) -> State:
        time.sleep(seconds)
        return {}

    return use


@pytest.mark.parametrize("blocker", ["a node of another run", "a callback of the program"])
@pytest.mark.parametrize("kind", ["coroutine", "thread", "tasks"])
def test_a_node_is_not_as_long_as_what_blocks_its_loop(recorder, blocker, kind):
    """It waits for a tool for 0.05 s, and the loop is blocked for 0.6 s meanwhile."""
    waiting: list[asyncio.Event] = []

    async def wait(state: State) -> State:
        waiting[0].set()
        if kind == "tasks":
            await asyncio.gather(asyncio.sleep(0.05), asyncio.sleep(0.01))
        else:
            await asyncio.sleep(0.05)
        return {}

    def wait_in_a_thread(state: State) -> State:
        waiting[1].call_soon_threadsafe(waiting[0].set)
        time.sleep(0.05)
        return {}

    async def block(state: Any = None) -> State:
        await waiting[0].wait()
        time.sleep(0.6)
        return {}

    tool_ = wait_in_a_thread if kind == "thread" else wait
    scheduler = recorder._make(9, record=recorder._path)
    waits = schedule(graph_of(tool_, node_of(once_quick)), scheduler)
    blocks = schedule(graph_of(block, node_of(once_quick)), scheduler)

    async def main() -> None:
        waiting[:] = asyncio.Event(), asyncio.get_running_loop()
        other = blocks.ainvoke({}) if blocker == "a node of another run" else block()
        await asyncio.gather(waits.ainvoke({}), other)

    asyncio.run(main())
    seconds = sorted(tool(job) for job in recorder._read(scheduler))
    assert seconds[0] < 0.4
    if blocker == "a node of another run":
        assert seconds[1] >= 0.6


# -- nodes that take time of their own -------------------------------------------------------


async def wait_for_a_timer() -> None:
    await asyncio.sleep(2.0)


async def wait_for_several() -> None:
    await asyncio.gather(*(asyncio.sleep(seconds) for seconds in (0.5, 2.0, 1.0)))


async def wait_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(2.0))


async def wait_twice() -> None:
    await asyncio.sleep(1.0)
    await asyncio.sleep(1.0)


@pytest.mark.parametrize("work", [wait_for_a_timer, wait_for_several, wait_in_a_group, wait_twice])
@pytest.mark.parametrize("busy", [True, False])
def test_the_time_of_tools_stays(recorder, work, busy):
    """Two seconds of a timer, however busy the loop is; each await may be off by an iteration or two."""
    job = recorder.virtual(graph_of(node_of(work), node_of(once)), busy=busy)
    assert tool(job) == pytest.approx(2.0, abs=(4 * BLOCK_S if busy else 1e-6))


@pytest.mark.parametrize("busy", [True, False])
def test_the_time_of_a_node_that_does_nothing_is_none(recorder, busy):
    """It only waits for its turn."""

    async def nothing(state: State) -> State:
        return {}

    def nor(state: State) -> State:
        return {}

    job = recorder.virtual(graph_of(nothing, node_of(once), nor), busy=busy)
    assert tool(job) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("busy", [True, False])
def test_what_a_node_does_beside_its_calls_is_code(recorder, busy):
    """It waits for something before a call, between calls and after them."""

    async def work() -> None:
        await asyncio.sleep(2.0)
        await once()
        await asyncio.sleep(3.0)
        await asyncio.gather(once(), once())
        await asyncio.sleep(4.0)

    seconds = code(recorder.virtual(graph_of(node_of(work)), busy=busy))
    assert seconds == pytest.approx([2.0, 3.0, 4.0], abs=(2 * BLOCK_S if busy else 1e-6))


@pytest.mark.parametrize("busy", [True, False])
def test_a_node_that_blocks_its_loop_does_so_in_its_own_time(recorder, busy):
    """Code without an await is a step of the node, and no lag."""
    clock_of: list[Clock] = []

    async def work() -> None:
        loop: Any = asyncio.get_running_loop()
        clock_of.append(loop.time)
        loop.time.now += 0.5
        await once()
        loop.time.now += 0.7
        await asyncio.sleep(0)
        loop.time.now += 0.4

    seconds = code(recorder.virtual(graph_of(node_of(work)), busy=busy))
    assert seconds == pytest.approx([0.5, 1.1], abs=1e-6)
    assert isinstance(clock_of[0], Clock)


def test_real_tools_beside_real_lag(recorder):
    """Many runs at once on a real loop: what each waits for is recorded, and hardly more."""

    async def wait() -> None:
        await asyncio.sleep(0.5)

    jobs = recorder.real(graph_of(node_of(once_quick), node_of(wait)), runs=30)
    seconds = sorted(tool(job, "n1") for job in jobs)
    assert seconds[0] > 0.4
    assert seconds[len(seconds) // 2] < 0.8


async def once_quick() -> None:
    await Model(seconds=0.01).ainvoke("how many?")


# -- what the measurement leaves alone -------------------------------------------------------


@pytest.mark.parametrize("missing", [("_Sequence",), ("_Function",), ("_Sequence", "_Function")])
def test_without_the_private_names_runs_are_the_same(recorder, monkeypatch, missing):
    """Another LangGraph: steps are unknown, calls and stages are not."""
    steps._parts.clear()
    for name in missing:
        monkeypatch.setattr(steps, name, None)
    (job,) = recorder.real(graph_of(node_of(once_quick), threading_tool(0.01)))
    steps._parts.clear()
    assert [(stage.name, stage.kind) for stage in job.stages] == [("n0", "llm"), ("n1", "tool")]


def test_the_private_names_are_there():
    """In the installed LangGraph."""
    assert steps._Sequence is not None
    assert steps._Function is not None


class OddError(Exception):
    pass


def test_errors_pass_unchanged(make_scheduler):
    """The node's exception, with its cause."""

    async def fail(state: State) -> State:
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.001)
        except TimeoutError as error:
            raise OddError("odd") from error
        return {}

    scheduled = schedule(graph_of(fail), make_scheduler(1))
    with pytest.raises(OddError) as caught:
        asyncio.run(scheduled.ainvoke({}))
    assert isinstance(caught.value.__cause__, TimeoutError)
    assert caught.value.__context__ is caught.value.__cause__


@pytest.mark.parametrize("thrown", [True, False])
def test_an_error_is_freed_with_its_coroutine(thrown):
    """It must not refer to itself by the frames of the wrapper."""
    kept: list[weakref.ref[BaseException]] = []

    async def fail() -> None:
        try:
            await asyncio.sleep(0)
            raise OddError
        except OddError as error:
            kept.append(weakref.ref(error))
            raise

    run = steps.stepped(fail(), steps.Meter(lag.LoopLag(time.monotonic)))
    assert run.send(None) is None
    gc.collect()
    gc.disable()
    try:
        with suppress(OddError):
            run.throw(OddError()) if thrown else run.send(None)
        assert kept[0]() is None
    finally:
        gc.enable()


def test_a_cancelled_node_sees_its_cancellation(make_scheduler):
    """Its `finally` runs, and may await."""
    seen: list[str] = []
    waiting = asyncio.Event()

    async def node(state: State) -> State:
        try:
            waiting.set()
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            seen.append("cancelled")
            raise
        return {}

    scheduled = schedule(graph_of(node), make_scheduler(1))

    async def main() -> None:
        run = asyncio.create_task(scheduled.ainvoke({}))
        await waiting.wait()
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run

    asyncio.run(main())
    assert seen == ["cancelled"]


def test_a_graph_is_unchanged_by_its_runs(make_scheduler):
    """Its nodes are those that it had; what runs is a copy, which is freed with them."""
    graph = graph_of(node_of(once_quick), threading_tool(0.0))
    before = {
        name: (node.bound, node.node, tuple(node.node.steps))
        for name, node in graph.nodes.items()
        if name != START
    }
    scheduler = make_scheduler(1)
    asyncio.run(schedule(graph, scheduler).ainvoke({}))
    for name, (bound, whole, parts) in before.items():
        assert graph.nodes[name].bound is bound
        assert graph.nodes[name].node is whole
        assert tuple(whole.steps) == parts
        assert all(type(part) is not steps._Observed for part in parts)


# -- the loop's record -------------------------------------------------------------------------


def test_the_first_and_the_latest_lags_of_a_long_node_are_kept():
    """What is forgotten is in the middle; what is kept does not grow."""
    clock = Clock()
    meter = steps.Meter(lag.LoopLag(clock, timed=False))
    meter.awaited = None
    begins = []
    for _ in range(3 * steps.MOST_LAGS):
        begins.append(clock.now)
        meter.lag.due_s = clock.now  # as if a callback was pending
        clock.now += 1.0
        meter.note(begins[-1], clock.now, None)
        clock.now += 1.0  # a step of the node
    meter.lag.due_s, meter.since_s = clock.now, clock.now
    half = steps.MOST_LAGS // 2
    kept = meter.ended(1).lags
    assert [each.since_s for each in kept] == [*begins[:half], *begins[-half:]]
    assert {each.until_s - each.since_s for each in kept} == {1.0}


class Driver:
    """Has a clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock


def test_an_unwatched_loop_is_left_alone():
    """After the last watched code no callback is pending for long; a loop has one record."""

    async def main() -> list[Any]:
        driver = Driver()
        own = lag.lag_of(asyncio.get_running_loop(), driver)
        assert own is lag.lag_of(asyncio.get_running_loop(), driver)
        own.watched += 1
        own.measure()
        assert own.due_s < float("inf")
        own.watched -= 1
        while own.due_s < float("inf"):
            await asyncio.sleep(lag.PERIOD_S)
        own.watched += 2
        own.measure()
        own.measure()
        time.sleep(0.1)
        await asyncio.sleep(0.1)
        own.watched -= 2
        return own.busy(0.0, time.monotonic())

    ((since_s, until_s), *_) = asyncio.run(main())
    assert until_s - since_s > 0.07


def test_the_record_of_a_loop_goes_with_it():
    """Many loops in one process, one after the other."""
    driver = Driver()
    kept: list[weakref.ref[Any]] = []

    async def main() -> None:
        own = lag.lag_of(asyncio.get_running_loop(), driver)
        kept.append(weakref.ref(asyncio.get_running_loop()))
        own.watched += 1
        own.measure()
        await asyncio.sleep(0)

    for _ in range(5):
        asyncio.run(main())
    gc.collect()
    assert [loop() for loop in kept] == [None] * 5
    assert len(lag._lags[driver]) == 0


def test_a_pending_callback_keeps_no_run(make_scheduler):
    """Its context is empty, in whichever context the watch began."""
    scheduler = make_scheduler(1)
    scheduled = schedule(graph_of(node_of(once_quick)), scheduler)

    async def main() -> None:
        await scheduled.ainvoke({})
        (own,) = lag._lags[scheduler._driver].values()
        assert own.due_s < float("inf")
        assert len(own._context) == 0

    asyncio.run(main())


def test_busy_periods_are_those_in_which_the_callback_was_late():
    """To the second of a loop with a time of its own; the current iteration counts."""
    clock = Clock()

    async def main() -> None:
        own = lag.lag_of(asyncio.get_running_loop(), Driver(clock))
        assert not own.timed
        began_s = clock.now
        own.watched += 1
        own.measure()
        for _ in range(4):
            clock.now += 1.0
            await asyncio.sleep(0)
        clock.now += 0.5
        assert own.busy(began_s, clock.now) == [(began_s, began_s + 4.5)]
        assert own.busy(began_s + 1.5, began_s + 2.5) == [(began_s + 1.5, began_s + 2.5)]
        assert list(own.begins)[-4:] == [began_s + n for n in range(4)]
        await asyncio.sleep(100.0)
        assert own.busy(began_s + 5.0, clock.now) == []
        own.measure()
        clock.now += 1.0
        assert own.busy(began_s, clock.now) == [(began_s, began_s + 4.5), (clock.now - 1.0, clock.now)]
        own.watched -= 1

    clock.run(main())


def test_events_of_a_run_are_streamed(recorder):
    """LangGraph iterates over the nodes' output then; a node that only awaits its model has no code still."""
    clock = Clock()
    scheduler = recorder._make(9, clock=clock, record=recorder._path)
    scheduled = schedule(graph_of(node_of(once), node_of(as_stream)), scheduler)

    async def other() -> None:
        while True:
            clock.now += BLOCK_S
            await asyncio.sleep(0)

    async def main() -> int:
        beside = asyncio.create_task(other())
        events = [event async for event in scheduled.astream_events({}, version="v2")]
        beside.cancel()
        return len(events)

    assert clock.run(main()) > 10
    (job,) = recorder._read(scheduler)
    assert [stage.kind for stage in job.stages] == ["llm", "llm"]


def test_a_copy_is_complete_before_other_threads_see_it(make_scheduler, monkeypatch):
    """The first runs of a graph may come at the same time, from several threads."""
    builder = StateGraph(State).add_node("a", lambda state: {"done": ["a"]}).add_edge(START, "a")
    inner = builder.compile()
    graph = schedule(StateGraph(State).add_node("b", inner).add_edge(START, "b").compile(), make_scheduler(1))
    seen = []

    def look(frame, event, argument):
        if frame.f_code is steps.observe.__code__:
            seen.extend(vars(part).keys() >= {"steps", "name"} for part in steps._parts.values())
            return look
        return None

    steps._parts.clear()
    before = sys.gettrace()
    sys.settrace(look)
    try:
        assert asyncio.run(graph.ainvoke({})) == {"done": ["a"]}
    finally:
        sys.settrace(before)
    assert seen
    assert all(seen)
