"""uvloop, which serves the Agent Server and most others, hides its thread pool; waiting must not fill it."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, TypedDict

import pytest
from langchain_core.language_models import FakeListChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from llmsched_langgraph import schedule

uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed")


class State(TypedDict, total=False):
    answers: Annotated[list[str], operator.add]


def test_threads_that_wait_leave_the_pool_usable(make_scheduler):
    """More threads than the pool has wait for one slot, and the call that holds it still gets a thread."""
    model = FakeListChatModel(responses=["Paris."])  # its asynchronous calls run in the loop's pool

    def wait_in_thread(_: State) -> State:
        return {"answers": [model.invoke("Capital?").text]}

    async def wait_on_loop(_: State) -> State:
        return {"answers": [(await model.ainvoke("Capital?")).text]}

    builder = StateGraph(State)
    builder.add_node(wait_in_thread)
    builder.add_node(wait_on_loop)
    targets = ["wait_in_thread", "wait_on_loop"]
    builder.add_conditional_edges(START, lambda _: [Send(name, {}) for name in targets * 20], targets)
    for name in targets:
        builder.add_edge(name, END)
    # Without a way out the threads of a failed test would wait for ever.
    scheduler = make_scheduler(slots=1, queue_timeout_s=5)
    graph = schedule(builder.compile(), scheduler)

    async def main() -> list[State]:
        async with asyncio.timeout(20):
            return await asyncio.gather(*(graph.ainvoke({}) for _ in range(3)))

    for state in uvloop.run(main()):
        assert state["answers"] == ["Paris."] * 40
    assert scheduler.statistics().peak == 1
