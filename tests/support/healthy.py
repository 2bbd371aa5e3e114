"""Makes random programs in which every wait for a slot ends by itself, however long it takes.

    python tests/support/healthy.py FIRST COUNT      (many more than the tests run)

Requests take up to seconds, readers of streams take their time, event loops are busy or sleep, and code that
holds a slot waits for other work. No call may go above the slots.
"""

from __future__ import annotations

import asyncio
import operator
import random
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, StateGraph
from langgraph.types import Send

from llmsched_langgraph import Scheduler, schedule

SLOW_S = 1.3
"""Longer than anything must last before it is taken for a wait that never ends."""


class State(TypedDict, total=False):
    out: Annotated[list[Any], operator.add]


class Meter:
    """Counts requests in flight."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.peak = max(self.peak, self.now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self.now -= 1


class Model(BaseChatModel):
    """Answers after a random time, at once or piece by piece."""

    meter: Any
    chance: Any
    longest_s: float

    @property
    def _llm_type(self) -> str:
        return "healthy"

    def _some_s(self) -> float:
        return self.chance.uniform(self.longest_s / 5, self.longest_s)

    def _generate(self, *_: Any, **__: Any) -> ChatResult:
        with self.meter:
            time.sleep(self._some_s())
        return _ok()

    async def _agenerate(self, *_: Any, **__: Any) -> ChatResult:
        with self.meter:
            await asyncio.sleep(self._some_s())
        return _ok()


class Streaming(Model):
    def _stream(self, *_: Any, **__: Any) -> Any:
        with self.meter:
            for piece in "abc":
                time.sleep(self._some_s() / 3)
                yield ChatGenerationChunk(message=AIMessageChunk(piece))

    async def _astream(self, *_: Any, **__: Any) -> Any:
        with self.meter:
            for piece in "abc":
                await asyncio.sleep(self._some_s() / 3)
                yield ChatGenerationChunk(message=AIMessageChunk(piece))


class Vote(BaseChatModel):
    """Asks another model several times at once."""

    inner: Any
    votes: int

    @property
    def _llm_type(self) -> str:
        return "vote"

    def _generate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        self.inner.batch([messages] * self.votes)
        return _ok()

    async def _agenerate(self, messages: Any, *_: Any, **__: Any) -> ChatResult:
        await asyncio.gather(*(self.inner.ainvoke(messages) for _ in range(self.votes)))
        return _ok()


def _ok() -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=AIMessage("ok"))])


KINDS = (
    "call",
    "stream",
    "slow reader",
    "reader with children",
    "reader of a thread",
    "batch in a thread",
    "vote",
    "pool",
    "to_thread",
    "busy loop",
    "sleeping loop",
    "loop waits for other work",
    "subgraph",
    "slot",
    "slot around a graph",
    "other scheduler",
)


class Program:
    """One random program. `str()` of it says what it is.

    Attributes:
        meter: counts its requests.
        schedulers: what it uses; only the first one's requests are counted.
    """

    def __init__(self, seed: int) -> None:
        chance = self.chance = random.Random(seed)
        self.seed = seed
        self.meter = Meter()
        self.slots = chance.choice([1, 2, 3])
        self.schedulers = [Scheduler(self.slots), Scheduler(1)]
        longest_s = chance.choice([0.05, 0.3, SLOW_S])
        self.model = Streaming(meter=self.meter, chance=random.Random(seed), longest_s=longest_s)
        brief = Model(meter=self.meter, chance=random.Random(seed), longest_s=min(longest_s, 0.3))
        self.vote = Vote(inner=brief, votes=chance.randint(2, 4))
        self.kinds = chance.sample(KINDS, chance.randint(2, 4))
        self.asynchronous = chance.random() < 0.6
        self.uvloop = chance.random() < 0.3
        self.two_loops = chance.random() < 0.3
        self.runs = chance.randint(1, 3)

    def __str__(self) -> str:
        how = "uvloop" if self.uvloop else "asyncio"
        return (
            f"seed {self.seed}: {self.slots} slots, {self.runs} runs, "
            f"{how if self.asynchronous else 'threads'}, {', '.join(self.kinds)}"
        )

    def run(self) -> None:
        """Run it to its end."""
        graph = self._graph()
        if not self.asynchronous:
            with ThreadPoolExecutor(self.runs) as pool:
                list(pool.map(graph.invoke, [{}] * self.runs))
            return

        async def main() -> None:
            rest = self.runs
            elsewhere = []
            if self.two_loops and self.runs > 1:
                rest -= 1
                elsewhere.append(asyncio.to_thread(lambda: asyncio.run(graph.ainvoke({}))))
            await asyncio.gather(*elsewhere, *(graph.ainvoke({}) for _ in range(rest)))

        if self.uvloop:
            import uvloop

            uvloop.run(main())
        else:
            asyncio.run(main())

    def _graph(self) -> Any:
        chance, builder = self.chance, StateGraph(State)
        for number, kind in enumerate(self.kinds):
            plain = not self.asynchronous or chance.random() < 0.2
            builder.add_node(f"n{number}", self._node(kind) if plain else self._anode(kind))
            after = START if not number or chance.random() < 0.6 else f"n{number - 1}"
            builder.add_edge(after, f"n{number}")
        return schedule(builder.compile(), self.schedulers[0])

    def _subgraph(self) -> Any:
        builder = StateGraph(State)
        builder.add_node("p", lambda state: {})
        builder.add_node("q", lambda state: (self.model.invoke("?"), {})[1])
        builder.add_edge(START, "p")
        builder.add_conditional_edges("p", lambda state: [Send("q", {})] * 2, ["q"])
        return builder.compile()

    def _node(self, kind: str) -> Callable[[State], State]:
        model, scheduler, other = self.model, *self.schedulers
        slow_s = self.chance.choice([0.05, SLOW_S])

        def node(state: State) -> State:
            if kind in ("stream", "reader with children"):
                for _ in model.stream("?"):
                    pass
            elif kind in ("slow reader", "reader of a thread"):
                for _ in model.stream("?"):
                    time.sleep(slow_s)
            elif kind == "batch in a thread":
                model.batch(["a", "b", "c"])
            elif kind == "vote":
                self.vote.invoke("?")
            elif kind in ("pool", "to_thread"):
                with ThreadPoolExecutor(3) as pool:
                    list(pool.map(lambda _: self._slot(0.05), "abc"))
            elif kind == "subgraph":
                self._subgraph().invoke({})
            elif kind == "slot":
                self._slot(slow_s)
            elif kind == "slot around a graph":
                with scheduler.slot():
                    schedule(self._subgraph(), scheduler).invoke({})
            elif kind == "other scheduler":
                with other.slot(), scheduler.slot(), self.meter:
                    time.sleep(0.1)
            elif kind == "loop waits for other work":
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(time.sleep, slow_s).result()
                model.invoke("?")
            else:
                model.invoke("?")
            return {}

        return node

    def _slot(self, seconds: float) -> None:
        with self.schedulers[0].slot(), self.meter:
            time.sleep(seconds)

    def _anode(self, kind: str) -> Callable[[State], Any]:
        model, scheduler, other = self.model, *self.schedulers
        slow_s = self.chance.choice([0.05, SLOW_S])

        async def node(state: State) -> State:
            if kind == "stream":
                async for _ in model.astream("?"):
                    pass
            elif kind == "slow reader":
                async for _ in model.astream("?"):
                    await asyncio.sleep(slow_s)
            elif kind == "reader with children":
                children = []
                async for _ in model.astream("?"):
                    children.append(asyncio.create_task(model.ainvoke("?")))
                    await asyncio.sleep(slow_s)
                await asyncio.gather(*children)
            elif kind == "reader of a thread":
                async for _ in model.astream("?"):
                    await asyncio.to_thread(time.sleep, slow_s)
            elif kind == "vote":
                await self.vote.ainvoke("?")
            elif kind in ("to_thread", "batch in a thread"):
                await asyncio.gather(*(asyncio.to_thread(model.invoke, "?") for _ in range(3)))
            elif kind == "busy loop":
                await model.ainvoke("?")
                until_s = time.monotonic() + 0.4
                while time.monotonic() < until_s:
                    sum(range(1000))
            elif kind == "sleeping loop":
                time.sleep(slow_s)
                await asyncio.wait_for(model.ainvoke("?"), 60)
            elif kind in ("loop waits for other work", "pool"):
                with ThreadPoolExecutor(2) as pool:
                    pool.submit(time.sleep, slow_s).result()
                await model.ainvoke("?")
            elif kind == "subgraph":
                await self._subgraph().ainvoke({})
            elif kind == "slot":
                async with scheduler.slot():
                    with self.meter:
                        await asyncio.sleep(slow_s)
            elif kind == "slot around a graph":
                async with scheduler.slot():
                    await schedule(self._subgraph(), scheduler).ainvoke({})
            elif kind == "other scheduler":
                async with other.slot(), scheduler.slot():
                    with self.meter:
                        await asyncio.sleep(0.1)
            else:
                await model.ainvoke("?")
            return {}

        return node

    def check(self) -> None:
        """Assert that no call went above the slots."""
        for scheduler in self.schedulers:
            scheduler.check()
            now = scheduler.statistics()
            assert (now.over_commitments, now.holding, now.waiting) == (0, 0, 0), f"{self}: {now}"
        assert self.meter.peak <= self.slots, str(self)


def main() -> None:
    from llmsched_langgraph._runtime.cycles.watcher import WATCHER
    from support.cycles import ends

    first, count = (int(argument) for argument in sys.argv[1:3])
    calls, waited_s, bad = 0, 0.0, 0
    for seed in range(first, first + count):
        program = Program(seed)
        ends(program.run, *program.schedulers)
        try:
            program.check()
        except AssertionError as error:
            bad += 1
            print("BAD", error, flush=True)
        for scheduler in program.schedulers:
            calls += scheduler.statistics().granted
            waited_s += scheduler.statistics().waited_s
    print(f"{count} programs, {calls} calls, {waited_s:.0f} s waited, {WATCHER.looks} looks, {bad} bad")


if __name__ == "__main__":
    main()
