"""The order in which runs of one call get the only slot, when all of them wait for it first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypedDict

from langchain_core.runnables import RunnableLambda
from langgraph.graph import START, StateGraph

from llmsched_langgraph import Scheduler, schedule
from support.seam import auntil


class State(TypedDict, total=False):
    name: str


def as_user(config: dict[str, Any], **user: str) -> dict[str, Any]:
    """Return the configuration with more keys under `configurable`, as a server adds them."""
    return {**config, "configurable": {**config.get("configurable", {}), **user}}


def graph_of_one_call(scheduler: Scheduler) -> tuple[Scheduler, Any, list[str]]:
    """Return the scheduler, a scheduled graph, and the names of its runs in the order of their calls."""
    order: list[str] = []

    def node(state: State) -> None:
        with scheduler.slot():
            order.append(state["name"])

    async def anode(state: State) -> None:
        async with scheduler.slot():
            order.append(state["name"])

    builder = StateGraph(State).add_node("n", RunnableLambda(node, anode))
    return scheduler, schedule(builder.add_edge(START, "n").compile(), scheduler), order


async def in_turn(scheduler: Scheduler, *runs: Coroutine[Any, Any, Any]) -> None:
    """Begin the runs one after the other while the slot is held, so that their calls all wait."""
    held = scheduler.slot()
    tasks: list[asyncio.Task[Any]] = []
    await held.aacquire()  # not as a block, of which the runs would be part
    for run in runs:
        tasks.append(asyncio.create_task(run))
        await auntil(lambda: scheduler.statistics().waiting == len(tasks))
    held.release()
    await asyncio.gather(*tasks)


def order_of(made: tuple[Scheduler, Any, list[str]], *configs: Any) -> str:
    """Return the order of the calls of one run for each configuration, each a hexadecimal digit."""
    scheduler, graph, order = made
    runs = [graph.ainvoke({"name": f"{number:x}"}, config) for number, config in enumerate(configs)]
    asyncio.run(in_turn(scheduler, *runs))
    scheduler.check()
    return "".join(order)
