"""Measures what scheduling costs: ratios of two ways of doing the same, measured in turn in one run.

    python benchmarks/overhead.py [--repeats 25] [--quick] [--only graphs slots decisions]

The process's CPU time counts; wall time stands beside it. A ratio is the median over the repeats, in
brackets the middle half of them. No absolute time of this machine is worth a claim; the microseconds in
the tables of slots and decisions only say how large the things are that the ratios compare.

aiolimiter and pydantic-ai are compared with if they are there: `pip install aiolimiter pydantic-ai-slim`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import os
import statistics
from collections.abc import Awaitable, Callable
from typing import Any, TypedDict

from decisions import decisions, fan_outs
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from measuring import Clock, Cost, in_turn, microseconds, print_table, ratio, versus

from llmsched_langgraph import Scheduler, schedule

# -- (a) graphs --------------------------------------------------------------------------


class State(TypedDict):
    """What the graphs carry: a number."""

    number: int


class InstantModel(BaseChatModel):
    """A chat model that answers at once."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])


MODEL = InstantModel()
NODES = 10


def add(state: State) -> State:
    return {"number": state["number"] + 1}


async def aadd(state: State) -> State:
    return {"number": state["number"] + 1}


def ask(state: State) -> State:
    MODEL.invoke("how many?")
    return {"number": state["number"] + 1}


async def aask(state: State) -> State:
    await MODEL.ainvoke("how many?")
    return {"number": state["number"] + 1}


def chain(node: Callable[..., Any]) -> Any:
    """A graph of `NODES` times the node, one after the other."""
    builder = StateGraph(State)
    before = START
    for at in range(NODES):
        builder.add_node(name := f"node_{at}", node)
        builder.add_edge(before, name)
        before = name
    return builder.compile()


def run_in_thread(graph: Any, runs: int) -> Cost:
    with Clock(runs) as clock:
        for _ in range(runs):
            graph.invoke({"number": 0})
    return clock.cost


def run_on_loop(graph: Any, runs: int) -> Cost:
    async def main() -> Cost:
        with Clock(runs) as clock:
            for _ in range(runs):
                await graph.ainvoke({"number": 0})
        return clock.cost

    return asyncio.run(main())


def graphs(repeats: int, scale: int) -> None:
    print(f"A chain of {NODES} nodes, scheduled / bare:\n")
    rows = []
    for title, node, run in (
        ("`ainvoke`, async nodes that do nothing", aadd, run_on_loop),
        ("`invoke`, plain nodes that do nothing", add, run_in_thread),
        ("`ainvoke`, async nodes with one call each of a model that answers at once", aask, run_on_loop),
        ("`invoke`, plain nodes with one such call each", ask, run_in_thread),
    ):
        bare, scheduler = chain(node), Scheduler(8)
        scheduled = schedule(chain(node), scheduler)

        def case(graph: Any, run: Callable[[Any, int], Cost] = run) -> Callable[[], Cost]:
            return lambda: run(graph, 2 * scale)

        costs = in_turn({"bare": case(bare), "scheduled": case(scheduled)}, repeats)
        scheduler.check()
        rows.append([title, *versus(costs, "scheduled", "bare")])
    print_table(["", "CPU", "wall"], rows)


# -- (b) one slot that is free -----------------------------------------------------------


One = Callable[[], Awaitable[None]]
"""Takes one slot and gives it back."""


def on_loop(times: int, make: Callable[[], One]) -> Callable[[], Cost]:
    async def main() -> Cost:
        one = make()  # some limiters are bound to the loop that they are first used on
        await one()
        with Clock(times) as clock:
            for _ in range(times):
                await one()
        return clock.cost

    return lambda: asyncio.run(main())


def nothing() -> One:
    async def one() -> None:
        pass

    return one


def semaphore() -> One:
    limit = asyncio.Semaphore(8)

    async def one() -> None:
        async with limit:
            pass

    return one


def aiolimiter() -> One:
    limit = importlib.import_module("aiolimiter").AsyncLimiter(1e9, 1)  # a rate at which nobody waits

    async def one() -> None:
        async with limit:
            pass

    return one


def pydantic_ai() -> One:
    module = importlib.import_module("pydantic_ai.concurrency")
    limit = module.ConcurrencyLimiter(8)

    async def one() -> None:
        async with module.get_concurrency_context(limit, "benchmark"):
            pass

    return one


def free_slot(scheduler: Scheduler) -> One:
    async def one() -> None:
        async with scheduler.slot():
            pass

    return one


def in_run(times: int) -> Callable[[], Cost]:
    """Slots inside a run of a graph, as the gate takes them: timed in its node."""

    def measure() -> Cost:
        scheduler, costs = Scheduler(8), []

        async def node(state: State) -> State:
            with Clock(times) as clock:
                for _ in range(times):
                    async with scheduler.slot(stage="node"):
                        pass
            costs.append(clock.cost)
            return state

        graph = schedule(StateGraph(State).add_node(node).add_edge(START, "node").compile(), scheduler)
        for _ in range(2):  # the second time there is something learned
            asyncio.run(graph.ainvoke({"number": 0}))
        scheduler.check()
        return costs[-1]

    return measure


RIVALS = {
    "`aiolimiter.AsyncLimiter`": ("aiolimiter", aiolimiter),
    "pydantic-ai `ConcurrencyLimiter`": ("pydantic_ai", pydantic_ai),
}


def slots(repeats: int, scale: int) -> None:
    times = 200 * scale
    ours = "`scheduler.slot()`"
    cases = {
        "`asyncio.Semaphore`": on_loop(times, semaphore),
        ours: on_loop(times, lambda: free_slot(Scheduler(8))),
        "`scheduler.slot()`, fcfs": on_loop(times, lambda: free_slot(Scheduler(8, policy="fcfs"))),
        "`scheduler.slot()` in a run": in_run(times),
        "awaiting an empty `async def`": on_loop(times, nothing),
    }
    for name, (module, rival) in RIVALS.items():
        if importlib.util.find_spec(module) is None:
            print(f"{name} is skipped: not installed.\n")
        else:
            cases[name] = on_loop(times, rival)
    costs = in_turn(cases, repeats)
    print("`async with` one slot that is free, against others:\n")
    rows = [
        [
            name,
            microseconds(costs[name]),
            ratio([c.cpu for c in costs[ours]], [c.cpu for c in costs[name]]),
            ratio([c.wall for c in costs[ours]], [c.wall for c in costs[name]]),
        ]
        for name in sorted(cases, key=lambda name: statistics.median(c.cpu for c in costs[name]))
    ]
    print_table(["", "us of CPU", f"{ours} costs times it, CPU", "wall"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=25, help="measurements of each case")
    parser.add_argument("--quick", action="store_true", help="short measurements, for a first look")
    parts = ("graphs", "slots", "decisions")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, help="parts to measure")
    options = parser.parse_args()
    os.environ["LANGSMITH_TRACING"] = "false"
    scale = 2 if options.quick else 10
    if "graphs" in options.only:
        graphs(options.repeats, scale)
    if "slots" in options.only:
        slots(options.repeats, scale)
    if "decisions" in options.only:
        decisions(options.repeats, (100, 10_000 if options.quick else 100_000))
        fan_outs(min(options.repeats, 5), (100, 1_000) if options.quick else (100, 1_000, 10_000))


if __name__ == "__main__":
    main()
