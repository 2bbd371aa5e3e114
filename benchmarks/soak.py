"""Makes a great many calls that end in every way they can, and prints what is left: nothing, it should be.

    python benchmarks/soak.py [--calls 100000] [--slots 7] [--seed 0] [--json]

Threads and event loops run scheduled graphs at once on one scheduler. Runs finish, fail, are cancelled
at random moments, time out inside a node that goes on, or have their stream abandoned. Exit status 1
if a slot was lost, more were in use than there are, or memory grew from the first tenth to the last.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import operator
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from llmsched_langgraph import Scheduler, schedule

THREADS = LOOPS = 3
WIDTH = 8
GROWTH = 1.05
"""How much more memory the last tenth may use than the first: allocators do not give all of it back."""


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


def memory_pages() -> int:
    """Resident memory of this process, in pages."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--slots", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0, help="of the ways in which runs end")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    random.seed(options.seed)
    scheduler = Scheduler(options.slots)
    asynchronous, synchronous = graphs(scheduler)
    pages: list[int] = []
    begin = time.monotonic()
    for tenth in range(1, 11):
        until = options.calls * tenth // 10
        threads = [
            threading.Thread(target=asyncio.run, args=(on_loop(asynchronous, until),)) for _ in range(LOOPS)
        ]
        threads += [threading.Thread(target=in_thread, args=(synchronous, until)) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pages.append(memory_pages())
        print(f"{IN_FLIGHT.total} calls, {time.monotonic() - begin:.0f} s, {scheduler}", file=sys.stderr)
    now = scheduler.statistics()
    scheduler.check()
    result = {
        "calls": IN_FLIGHT.total,
        "slots": options.slots,
        "peak_of_models": IN_FLIGHT.peak,
        "granted": now.granted,
        "released": now.released,
        "holding": now.holding,
        "waiting": now.waiting,
        "jobs_running": now.jobs_running,
        "memory_last_to_first_tenth": round(pages[-1] / pages[0], 3),
    }
    print(json.dumps(result) if options.json else "\n".join(f"{key:>28}: {result[key]}" for key in result))
    sound = (
        now.granted == now.released
        and (now.holding, now.waiting, now.jobs_running) == (0, 0, 0)
        and max(IN_FLIGHT.peak, now.peak) <= options.slots
        and pages[-1] <= pages[0] * GROWTH
    )
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
