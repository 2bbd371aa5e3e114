"""Every way to run a graph x every way that a run ends x every kind of call: the same as unscheduled.

Each cell plays one scene twice, on the bare graph and on the scheduled one with one slot, and compares
what came out. The graph sends two calls off at once, so that on one slot one of them always waits.
Then, for the scheduled one: nothing is held, nothing waits, no job runs, the model or the backend never
saw two requests at once, the graph's config is untouched, and the next run on the same slot goes well.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import operator
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import CachePolicy, Command, RetryPolicy, Send, TimeoutPolicy, interrupt
from support.seam import WAYS, ChatCaller, RawCaller, Way, assert_unmarked, auntil, in_any_order, until

from llmsched_langgraph import Scheduler, schedule
from llmsched_langgraph._runtime.cycles.stdlib import current_frames
from llmsched_langgraph.testing import Meter, PlainModel, StreamingModel, SyncOnlyModel

STEP_S = 0.15  # one that is reached by the step that is held up alone, also on a busy machine
SHORT_S = 0.02  # timeouts that are always reached: what they time is held up for as long as it takes
IDLE_S = 0.3  # one that must not be reached by a call that waits its turn

# -- the axes ------------------------------------------------------------------------------

CALLERS: dict[str, Callable[..., Any]] = {
    "plain model, async node": lambda backend, on: ChatCaller(PlainModel, asynchronous=True),
    "streaming model, async node": lambda backend, on: ChatCaller(StreamingModel, asynchronous=True),
    "sync-only model, async node": lambda backend, on: ChatCaller(SyncOnlyModel, asynchronous=True),
    "plain model, def node": lambda backend, on: ChatCaller(PlainModel, asynchronous=False),
    "streaming model, def node": lambda backend, on: ChatCaller(StreamingModel, asynchronous=False),
    "raw async": lambda backend, on: RawCaller(backend, on, asynchronous=True, streaming=False),
    "raw async stream": lambda backend, on: RawCaller(backend, on, asynchronous=True, streaming=True),
    "raw sync": lambda backend, on: RawCaller(backend, on, asynchronous=False, streaming=False),
    "raw sync stream": lambda backend, on: RawCaller(backend, on, asynchronous=False, streaming=True),
}

ENDINGS = [
    "finish",
    "raise",
    "retry",
    "cached",
    "interrupt",
    "cancel[waiting]",
    "cancel[running]",
    "give up[waiting]",
    "give up[running]",
    "close",
    "break",
    "drop",
    "run_timeout[waiting]",
    "run_timeout[running]",
    "idle_timeout[waiting]",
    "idle_timeout[running]",
    "step_timeout[waiting]",
    "step_timeout[running]",
    "loop closed[waiting]",
    "loop closed[running]",
]

ABANDONED = ("close", "break", "drop")

LEFT_OUT: list[tuple[str, Callable[[Way, str, str], bool]]] = [
    # Combinations that make no sense, and why.
    (
        "LangGraph refuses coroutine nodes in synchronous runs",
        lambda way, ending, caller: not way.asynchronous and is_asynchronous(caller),
    ),
    (
        "a synchronous run has nothing to cancel it by, and no loop of its own",
        lambda way, ending, caller: not way.asynchronous and ending.startswith(("cancel", "loop closed")),
    ),
    (
        "asyncio.timeout and node timeouts are for coroutine nodes",
        lambda way, ending, caller: (
            ending.startswith(("give up", "run_timeout", "idle_timeout")) and not is_asynchronous(caller)
        ),
    ),
    (
        "a result that comes as a whole has no iterator to abandon",
        lambda way, ending, caller: ending in ABANDONED and not way.iterates,
    ),
    (
        "raw calls emit no messages, so there is no step to stop at",
        lambda way, ending, caller: (
            ending in ABANDONED and way.mode == "messages" and caller.startswith("raw")
        ),
    ),
    (
        "without a checkpointer there are no checkpoints to stop at",
        lambda way, ending, caller: ending in ABANDONED and way.mode == "checkpoints",
    ),
    (
        "that a wait does not count as idle takes a while to see, and is the same for all modes",
        lambda way, ending, caller: (
            ending == "idle_timeout[waiting]" and way.name not in ("ainvoke", "astream[custom]")
        ),
    ),
    (
        "of raw calls LangGraph sees nothing, so one mode stands for all that tell of nodes only",
        lambda way, ending, caller: (
            caller.startswith("raw") and way.mode in ("values", "tasks", "debug", "checkpoints")
        ),
    ),
    (
        "what openai's connection pool keeps of a closed loop, scheduled or not, is collected when it likes",
        lambda way, ending, caller: ending.startswith("loop closed") and caller.startswith("raw async"),
    ),
    (
        "a loop is closed without a word to anyone, so one mode stands for all",
        lambda way, ending, caller: ending.startswith("loop closed") and way.mode not in (None, "updates"),
    ),
    (
        "the second run rightly waits, and does not idle, for the thread that the first one left behind",
        lambda way, ending, caller: (
            (way.name, ending) == ("abatch", "idle_timeout[running]") and caller.startswith("sync-only")
        ),
    ),
    # Not in the axes: a sync-only model in a def node, which is there what the plain one is; and a
    # synchronous call in a coroutine node. It cannot wait on the loop's thread and goes over the limit by
    # design: see test_sync_call_on_the_event_loop_goes_ahead.
]


# What Python says of coroutines that are collected half way, scheduled or not.
DESTROYED = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::RuntimeWarning", "ignore::ResourceWarning"
)


def is_asynchronous(caller: str) -> bool:
    return caller.endswith("async node") or caller.startswith("raw async")


def reason_to_leave_out(way: Way, ending: str, caller: str) -> str | None:
    return next((reason for reason, applies in LEFT_OUT if applies(way, ending, caller)), None)


def cells() -> list[Any]:
    return [
        pytest.param(
            way,
            ending,
            caller,
            id=f"{way.name}-{ending}-{caller}",
            marks=DESTROYED if ending.startswith("loop closed") else (),
        )
        for way, ending, caller in itertools.product(WAYS, ENDINGS, CALLERS)
        if reason_to_leave_out(way, ending, caller) is None
    ]


# -- the graph -----------------------------------------------------------------------------


class State(TypedDict, total=False):
    n: int
    answers: Annotated[list[str], operator.add]


GIVEN: State = {"answers": ["begin"]}


def build(caller: Any, ending: str = "finish") -> Any:
    """`before`, then two `ask` at once, each with one call, then `after`."""
    failed: set[int] = set()

    def breaks(state: State) -> bool:
        """Whether this call is to fail: each one in `raise`, the first one of each node in `retry`."""
        first = state["n"] not in failed
        failed.add(state["n"])
        return ending == "raise" or (ending == "retry" and first)

    def ask(state: State) -> State:
        get_stream_writer()("asking")
        return {"answers": [caller.ask(broken=breaks(state))]}

    async def aask(state: State) -> State:
        get_stream_writer()("asking")
        if not ending.startswith("give up"):
            return {"answers": [await caller.aask(broken=breaks(state))]}
        try:
            async with asyncio.timeout(SHORT_S):
                return {"answers": [await caller.aask()]}
        except TimeoutError:
            return {"answers": ["gave up"]}

    def after(state: State) -> State:
        if ending != "interrupt":
            return {"answers": ["end"]}
        return {"answers": [caller.ask() + interrupt("sure?")]}

    async def aafter(state: State) -> State:
        if ending != "interrupt":
            return {"answers": ["end"]}
        return {"answers": [await caller.aask() + interrupt("sure?")]}

    options: dict[str, Any] = {}
    if ending == "retry":
        options["retry_policy"] = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=Exception)
    elif ending == "cached":
        options["cache_policy"] = CachePolicy()
    elif ending.startswith("run_timeout"):
        options["timeout"] = TimeoutPolicy(run_timeout=SHORT_S)
    elif ending.startswith("idle_timeout"):
        options["timeout"] = TimeoutPolicy(idle_timeout=IDLE_S if "waiting" in ending else SHORT_S)
    builder = StateGraph(State)
    builder.add_node("before", lambda state: {"answers": ["before"]})
    builder.add_node("ask", aask if caller.asynchronous else ask, **options)
    builder.add_node("after", aafter if caller.asynchronous else after)
    builder.add_edge(START, "before")
    builder.add_conditional_edges("before", lambda _: [Send("ask", {"n": n}) for n in range(2)], ["ask"])
    builder.add_edge("ask", "after")
    graph = builder.compile(
        checkpointer=InMemorySaver() if ending == "interrupt" else None,
        cache=InMemoryCache() if ending == "cached" else None,
    )
    if ending.startswith("step_timeout"):
        graph.step_timeout = STEP_S
    return graph


FINISHED = ["begin", "before", "yes", "yes", "end"]


# -- the scene -----------------------------------------------------------------------------


class Scene:
    """One run of the graph, bare or scheduled, that ends in a certain way."""

    def __init__(self, way: Way, ending: str, caller: Any, scheduler: Scheduler | None) -> None:
        self.way = way
        self.ending, _, where = ending.rstrip("]").partition("[")
        self.caller = caller
        self.scheduler = scheduler
        self.graph = build(caller, ending)
        if scheduler is not None:
            self.graph = schedule(self.graph, scheduler)
            self.plain = schedule(build(caller), scheduler)  # for the run after
        self.config = dict(self.graph.config or {})
        self.configs = [{"configurable": {"thread_id": str(n)}} for n in range(2)]
        self.calls = 4 if way.batches else 2
        # Abandoned while calls are in flight, where there is a step to see at that moment.
        self.steps_in_flight = way.asynchronous and (way.events or way.mode == "custom")
        if ending == "idle_timeout[waiting]" and scheduler is None:
            where = ""  # unscheduled there is no such wait
        self.holds = bool(where) or (self.ending in ABANDONED and self.steps_in_flight)
        self.let_go_already = False
        self.slot = scheduler.slot() if scheduler is not None and where == "waiting" else None

    def play(self) -> Any:
        """What came of it, modulo ids; the run after goes well."""
        if self.holds:
            self.hold()
        if not self.way.asynchronous:
            outcome = self.end()
            until(self.quiet)
            assert self.scheduler is None or self.plain.invoke(GIVEN)["answers"] == FINISHED
        elif self.ending == "loop closed":
            outcome = self.close_loop()
            asyncio.run(self.in_session(self.run_after()))
        else:
            outcome = asyncio.run(self.in_session(self.aplay()))
        assert self.graph.config in (None, self.config)
        assert_unmarked()
        return outcome

    @property
    def meter(self) -> Meter:
        return self.caller.meter

    # -- holding calls up --

    def hold(self) -> None:
        """Hold calls up in the backlog or in flight; those of the bare graph always in flight."""
        if self.slot is not None:
            self.slot.acquire()
        else:
            self.meter.gate.clear()

    def let_go(self) -> None:
        self.let_go_already = True
        self.meter.gate.set()
        if self.slot is not None:
            self.slot.release()

    @property
    def waiting(self) -> int:
        return 0 if self.scheduler is None else self.scheduler.statistics().waiting

    @property
    def jobs_running(self) -> int:
        return 0 if self.scheduler is None else self.scheduler.statistics().jobs_running

    def held(self) -> bool:
        """Whether all calls have come to where they are held up."""
        if self.scheduler is None:
            return self.meter.now == self.calls
        if self.slot is not None:
            return self.waiting == self.calls
        return (self.meter.now, self.waiting) == (1, self.calls - 1)

    def quiet(self) -> bool:
        """Whether nothing is in flight, held or waiting."""
        holding = 0 if self.scheduler is None else self.scheduler.statistics().holding
        return self.meter.now == holding == self.waiting == 0

    # -- synchronous runs --

    def end(self) -> Any:
        match self.ending:
            case "cached":
                first, calls = self.run(), self.meter.total
                second = self.run()
                assert self.meter.total == calls
                return first, second
            case "interrupt":
                paused = self.run()
                assert self.quiet()
                return paused, self.run(Command(resume=" indeed"))
            case "close" | "break" | "drop":
                return self.abandon()
            case "step_timeout":
                over = threading.Event()
                thread = threading.Thread(target=self.let_go_after_timeout, args=(over,))
                thread.start()
                outcome = self.run()
                over.set()
                thread.join()
                return outcome
            case _:
                return self.run()

    def let_go_after_timeout(self, over: threading.Event) -> None:
        """A synchronous run that timed out waits for calls in flight; it is seen to do so by its stack."""
        runs = 2 if self.way.batches else 1
        # On one slot only one run has a call in flight; the calls of the other one were sent away.
        held_up = runs if self.scheduler is None else 1

        def timed_out() -> bool:
            ended = 0 if self.scheduler is None else self.scheduler.statistics().jobs_ended
            leaving = threads_in("__exit__", "pregel/_executor.py")
            return self.waiting == 0 and (leaving, ended) == (held_up, runs - held_up)

        try:
            until(lambda: over.is_set() or timed_out())
        finally:
            self.let_go()

    def run(self, given: Any = GIVEN) -> Any:
        try:
            return in_any_order(self.way.run(self.graph, given, self.configs))
        except Exception as error:
            return in_any_order(error)

    def abandon(self) -> Any:
        stream = self.way.iterator(self.graph, GIVEN, self.configs[0])
        for _ in stream:
            assert_unmarked()
            break
        if self.ending == "close":
            stream.close()
        elif self.ending == "drop":
            stream = in_a_cycle(stream)
        del stream
        gc.collect()
        assert self.jobs_running == 0
        return "abandoned"

    # -- asynchronous runs --

    async def in_session(self, coroutine: Any) -> Any:
        async with self.caller.session():
            try:
                return await coroutine
            finally:
                self.let_go()  # a test that fails must not leave threads behind

    async def aplay(self) -> Any:
        outcome = await self.aend()
        assert self.waiting == 0  # at once
        assert self.caller.threads or self.meter.now == 0
        await self.run_after()
        return outcome

    async def aend(self) -> Any:
        match self.ending:
            case "cached":
                first, calls = await self.arun(), self.meter.total
                second = await self.arun()
                assert self.meter.total == calls
                return first, second
            case "interrupt":
                paused = await self.arun()
                assert self.quiet()
                return paused, await self.arun(Command(resume=" indeed"))
            case "cancel":
                running = asyncio.create_task(self.arun())
                await auntil(self.held)
                running.cancel()
                return await running
            case "close" | "break" | "drop":
                return await self.aabandon()
            case "idle_timeout" if self.slot is not None:
                running = asyncio.create_task(self.arun())
                await auntil(self.held)
                await asyncio.sleep(1.5 * IDLE_S)
                self.let_go()
                return await running
            case _:
                return await self.arun()

    async def arun(self, given: Any = GIVEN) -> Any:
        try:
            return in_any_order(await self.way.arun(self.graph, given, self.configs))
        except (Exception, asyncio.CancelledError) as error:
            return in_any_order(error)

    async def aabandon(self) -> Any:
        stream = self.way.iterator(self.graph, GIVEN, self.configs[0])
        asking = 0
        async for step in stream:
            assert_unmarked()
            asking += tells_that_a_call_comes(step)
            if asking < self.calls and self.steps_in_flight:
                continue
            break
        if self.steps_in_flight:
            await auntil(self.held)
        if self.ending == "close":
            await stream.aclose()
        elif self.ending == "drop":
            stream = in_a_cycle(stream)
        del stream
        gc.collect()
        # What was dropped is closed by the loop, some turns later.
        await auntil(lambda: self.waiting == 0 and (self.caller.threads or self.meter.now == 0))
        await auntil(lambda: self.jobs_running == 0)
        return "abandoned"

    async def run_after(self) -> None:
        """The next run: its calls wait for those that are still in flight, and for nothing else."""
        if self.scheduler is not None:
            busy = self.meter.now + self.waiting
            following = asyncio.create_task(self.plain.ainvoke(GIVEN))
            if self.holds and not self.let_go_already:
                await auntil(lambda: self.meter.now + self.waiting == busy + 2)
            self.let_go()
            assert (await following)["answers"] == FINISHED
        self.let_go()
        await auntil(self.quiet)

    def close_loop(self) -> Any:
        """Close the loop under a run, without cancelling anything."""
        loop, threads = asyncio.new_event_loop(), ThreadPoolExecutor()
        loop.set_default_executor(threads)
        task = loop.create_task(self.in_session(self.arun()))
        loop.run_until_complete(auntil(self.held))
        loop.close()
        del task, loop
        gc.collect()
        if not self.caller.threads:
            self.caller.count_anew()  # what is dropped with its loop gets to its end late, or never
        self.let_go()
        threads.shutdown()  # their requests are this scene's, and must not be in flight in the next one
        if self.scheduler is not None:
            until(lambda: gc.collect() >= 0 and self.quiet() and self.jobs_running == 0)
        return "loop closed"


def tells_that_a_call_comes(step: Any) -> bool:
    """Whether this step says that a node is about to make its call."""
    if isinstance(step, dict) and "event" in step:
        return (step["event"], step["name"]) == ("on_chain_start", "ask")
    return step == "asking"


def threads_in(function: str, file: str) -> int:
    """How many threads are inside a function of that name from that file."""
    count = 0
    for frame in current_frames().values():
        codes = [frame.f_code for frame, _ in traceback.walk_stack(frame)]
        count += any(code.co_name == function and code.co_filename.endswith(file) for code in codes)
    return count


def in_a_cycle(thing: Any) -> None:
    """Drop it so that only a garbage collection finds it."""
    box = [thing]
    box.append(box)


# -- the tests -----------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "ending", "caller"), cells())
def test_cell(way, ending, caller, backend, make_scheduler):
    """A run that ends so comes to the same as unscheduled, and leaves nothing behind."""
    with closing(CALLERS[caller](backend, None)) as calls:
        bare = Scene(way, ending, calls, None).play()
    scheduler = make_scheduler(1)
    with closing(CALLERS[caller](backend, scheduler)) as calls:
        assert Scene(way, ending, calls, scheduler).play() == bare
        assert calls.peak == 1
    assert scheduler.statistics().jobs_running == 0
    assert scheduler.statistics().over_commitments == 0


def test_left_out():
    """Each reason to leave combinations out applies to some, and every value of each axis is in some cell."""
    every = list(itertools.product(WAYS, ENDINGS, CALLERS))
    assert all(any(applies(*cell) for cell in every) for _, applies in LEFT_OUT)
    kept = [cell for cell in every if reason_to_leave_out(*cell) is None]
    assert [len(set(values)) for values in zip(*kept, strict=True)] == [
        len(WAYS),
        len(ENDINGS),
        len(CALLERS),
    ]
