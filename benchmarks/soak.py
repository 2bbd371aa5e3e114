"""Makes a great many calls that end in every way they can, and prints what is left: nothing, it should be.

    python benchmarks/soak.py [--calls 100000] [--slots 7] [--seed 0] [--json]

Threads and event loops run scheduled graphs at once on one scheduler. Runs finish, fail, are cancelled
at random moments, time out inside a node that goes on, or have their stream abandoned. Exit status 1
if a slot was lost, more were in use than there are, or anything grew with the number of calls.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import operator
import random
import statistics
import sys
import threading
import time
import types
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from llmsched_langgraph import Scheduler, schedule
from llmsched_langgraph._belief.model import model
from llmsched_langgraph._belief.profile import profile
from llmsched_langgraph._observe import forecasts, recent, waits

THREADS = LOOPS = 3
HISTORY, CACHED = 30, 32
WIDTH = 8
LIBC = ctypes.CDLL(None)
PARTS = 40
CODE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)
LIMITS = {
    "blocks_per_call": 0.08,
    "objects_per_call": 0.08,
    "kept_per_call": 0.08,
    "pages_late_to_early": 1.05,
}
"""How much may be left behind. A run makes eight calls at most: one object for each run would be too much.

Resident memory goes on growing a little for long, and ever more slowly, while not one more object is there:
the allocators' pools get holes that threads of other runs cannot fill. So pages have a limit of their own.
"""


class InFlight:
    """Requests that the models have in flight, counted by themselves."""

    lock = threading.Lock()
    now = peak = total = 0

    def __enter__(self) -> None:
        with self.lock:
            self.now += 1
            self.total += 1
            self.peak = max(self.peak, self.now)

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1


IN_FLIGHT = InFlight()


class Model(BaseChatModel):
    """Answers at once or a little later, and fails now and then."""

    @property
    def _llm_type(self) -> str:
        return "soak"

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        with IN_FLIGHT:
            return self._result()

    async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> ChatResult:
        with IN_FLIGHT:
            await asyncio.sleep(random.choice((0, 0, 0.001)))
            return self._result()

    def _stream(self, messages: Any, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with IN_FLIGHT:
            for word in ("one ", "two ", "three"):
                yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    async def _astream(self, messages: Any, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with IN_FLIGHT:
            for word in ("one ", "two ", "three"):
                await asyncio.sleep(0)
                yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    @staticmethod
    def _result() -> ChatResult:
        if random.random() < 0.005:
            raise ConnectionError("the backend went away")
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])


class State(TypedDict, total=False):
    """What the calls answered."""

    answers: Annotated[list[str], operator.add]


def graphs(scheduler: Scheduler) -> tuple[Any, Any]:
    """A fan-out of calls, asynchronous and synchronous."""
    model = Model()

    async def aask(state: State) -> State:
        try:
            async with asyncio.timeout(random.choice((None, None, None, 0.002))):
                return {"answers": [(await model.ainvoke("?")).text]}
        except TimeoutError:
            return {"answers": ["gave up"]}

    def ask(state: State) -> State:
        return {"answers": [model.invoke("?").text]}

    compiled = []
    for node in (aask, ask):
        builder = StateGraph(State).add_node("ask", node)
        builder.add_conditional_edges(START, lambda _: [Send("ask", {})] * WIDTH, ["ask"])
        compiled.append(schedule(builder.compile(), scheduler))
    return compiled[0], compiled[1]


async def one(graph: Any) -> None:
    """One run, ended in one of many ways."""
    way = random.random()
    try:
        if way < 0.5:
            await graph.ainvoke({})
        elif way < 0.7:
            await asyncio.wait_for(graph.ainvoke({}), random.random() * 0.02)
        elif way < 0.85:
            task = asyncio.create_task(graph.ainvoke({}))
            await asyncio.sleep(random.random() * 0.01)
            task.cancel()
            await task
        else:
            pieces = 0
            async for _ in graph.astream({}, stream_mode="messages"):
                pieces += 1
                if pieces > random.randrange(20):
                    break
    except (TimeoutError, asyncio.CancelledError, ConnectionError):
        pass


async def on_loop(graph: Any, until: int) -> None:
    async def worker() -> None:
        while IN_FLIGHT.total < until:
            await one(graph)

    await asyncio.gather(*(worker() for _ in range(8)))


def in_thread(graph: Any, until: int) -> None:
    while IN_FLIGHT.total < until:
        try:
            if random.random() < 0.8:
                graph.invoke({})
            else:
                for _ in graph.stream({}, stream_mode="messages"):
                    if random.random() < 0.2:
                        break
        except ConnectionError:
            pass


@dataclass(frozen=True)
class Footprint:
    """The footprint after one of `PARTS` equal parts of the calls: every run is over, every thread has ended.

    Attributes:
        pages: resident memory of the process. Allocators do not give all of it back.
        blocks: pieces of memory that Python has given out, one for each object and table, of any kind.
        objects: containers that the garbage collector knows, in the whole process.
        kept: objects of any kind that the scheduler keeps alive.
        kept_bytes: their size.
    """

    pages: int
    blocks: int
    objects: int
    kept: int
    kept_bytes: int

    @classmethod
    def of(cls, scheduler: Scheduler) -> Self:
        """Measure, with all garbage collected and the free memory of the C library given back."""
        _ = scheduler.profile  # what it has put by to learn from later is learned from now
        kept = list(reachable(scheduler))
        kept_bytes = sum(map(sys.getsizeof, kept))
        number = len(kept)
        del kept
        gc.collect()
        if hasattr(LIBC, "malloc_trim"):
            LIBC.malloc_trim(0)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(pages, sys.getallocatedblocks(), len(gc.get_objects()), number, kept_bytes)


def reachable(root: object) -> Iterator[object]:
    """Every object that `root` keeps alive; code does not count."""
    seen, border = {id(root)}, [root]
    while border:
        thing = border.pop()
        yield thing
        for referent in gc.get_referents(thing):
            if id(referent) not in seen and not isinstance(referent, CODE):
                seen.add(id(referent))
                border.append(referent)


def middle(figures: list[int]) -> tuple[float, float]:
    """The medians of the second to fourth tenth and of the last three.

    The first tenth fills what is bounded: caches, the story of the latest events, the profile.
    """
    tenth = len(figures) // 10
    return statistics.median(figures[tenth : 4 * tenth]), statistics.median(figures[-3 * tenth :])


def per_call(figures: list[int], calls: int) -> float:
    """How many more there are for each call that was made between the third tenth and the ninth."""
    early, late = middle(figures)
    return (late - early) / (calls * 0.6)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0, help="of the ways in which runs end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random.seed(options.seed)
    # What is remembered of earlier jobs is bounded. Here it is full after the first tenth, or it would grow.
    profile.HISTORY = HISTORY
    model.CACHED = CACHED
    forecasts.TRUTHS, waits.LATEST, recent.KEPT = HISTORY, CACHED, CACHED
    scheduler = Scheduler(options.slots)
    asynchronous, synchronous = graphs(scheduler)
    footprints: list[Footprint] = []
    begin = time.monotonic()
    for part in range(1, PARTS + 1):
        until = options.calls * part // PARTS
        threads = [
            threading.Thread(target=asyncio.run, args=(on_loop(asynchronous, until),)) for _ in range(LOOPS)
        ]
        threads += [threading.Thread(target=in_thread, args=(synchronous, until)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del thread, threads
        footprints.append(now := Footprint.of(scheduler))
        print(
            f"{IN_FLIGHT.total:>7} calls {time.monotonic() - begin:>4.0f} s {now.pages:>7} pages "
            f"{now.blocks:>7} blocks {now.objects:>7} objects, {now.kept} of {now.kept_bytes} bytes kept by "
            f"{scheduler}",
            file=sys.stderr,
        )
    end = scheduler.statistics()
    scheduler.check()
    early, late = middle([footprint.pages for footprint in footprints])
    grown = {
        "blocks_per_call": per_call([footprint.blocks for footprint in footprints], IN_FLIGHT.total),
        "objects_per_call": per_call([footprint.objects for footprint in footprints], IN_FLIGHT.total),
        "kept_per_call": per_call([footprint.kept for footprint in footprints], IN_FLIGHT.total),
        "pages_late_to_early": late / early,
    }
    result = {
        "calls": IN_FLIGHT.total,
        "slots": options.slots,
        "peak_of_models": IN_FLIGHT.peak,
        "over_commitments": end.over_commitments,
        "granted": end.granted,
        "released": end.released,
        "holding": end.holding,
        "waiting": end.waiting,
        "jobs_running": end.jobs_running,
        **{name: round(figure, 4) for name, figure in grown.items()},
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:>28}: {result[key]}" for key in result))
    failures = [
        what
        for what, failed in {
            "slots were lost": end.granted != end.released or end.holding > 0,
            "calls or runs were left behind": end.waiting > 0 or end.jobs_running > 0,
            "more slots were in use than there are": max(IN_FLIGHT.peak, end.peak) > options.slots,
            **{f"{name} is over {LIMITS[name]}": grown[name] > LIMITS[name] for name in grown},
        }.items()
        if failed
    ]
    for failure in failures:
        print(f"soak: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
