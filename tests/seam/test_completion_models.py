"""Completion models (`LLM`) take turns like chat models: for each prompt, as long as it is worked at."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, TypedDict

import pytest
from langchain_core.language_models.llms import LLM
from langchain_core.outputs import GenerationChunk
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from pydantic import ConfigDict, Field
from support.seam import auntil

from llmsched_langgraph import schedule
from llmsched_langgraph.testing import Meter

pytestmark = pytest.mark.timeout(20)  # a deadlock is a failure soon


class SimpleLLM(LLM):
    """A model with nothing but `_call`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    meter: Meter = Field(default_factory=Meter)

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        with self.meter:
            return self.meter.respond()


class NativeLLM(SimpleLLM):
    """A model that answers on event loops as well."""

    async def _acall(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        with self.meter:
            return await self.meter.arespond()


class StreamingLLM(SimpleLLM):
    """A model that streams, in threads only."""

    def _stream(
        self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        with self.meter:
            for piece in self.meter.respond():
                yield GenerationChunk(text=piece)


class Wrapper(LLM):
    """A model that asks another model."""

    inner: Any

    @property
    def _llm_type(self) -> str:
        return "wrapper"

    def _call(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return self.inner.invoke(prompt)


class NativeWrapper(Wrapper):
    """A model that asks another model, on event loops as well."""

    async def _acall(self, prompt: str, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> str:
        return await self.inner.ainvoke(prompt)


class State(TypedDict, total=False):
    text: str


def graph_of(node: Any, width: int = 1) -> Any:
    builder = StateGraph(State).add_node("ask", node)
    builder.add_conditional_edges(START, lambda _: [Send("ask", {}) for _ in range(width)], ["ask"])
    return builder.compile()


def asking(model: Any, way: str) -> Any:
    """A node that asks the model in one of its ways; each comes to three answers."""

    async def node(state: State) -> None:
        match way:
            case "ainvoke":
                answers = [await model.ainvoke("?") for _ in range(3)]
            case "abatch":
                answers = await model.abatch(["?"] * 3)
            case "astream":
                answers = ["".join([piece async for piece in model.astream("?")]) for _ in range(3)]
        assert answers == ["yes"] * 3

    def sync_node(state: State) -> None:
        match way:
            case "invoke":
                answers = [model.invoke("?") for _ in range(3)]
            case "batch":
                answers = model.batch(["?"] * 3)
            case "stream":
                answers = ["".join(model.stream("?")) for _ in range(3)]
        assert answers == ["yes"] * 3

    return node if way.startswith("a") else sync_node


WAYS = ["invoke", "batch", "stream", "ainvoke", "abatch", "astream"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [SimpleLLM, NativeLLM, StreamingLLM])
def test_calls_take_turns(make_scheduler, kind, way):
    """However they are asked, never two prompts are worked at on one slot, and each has its turn."""
    scheduler, model = make_scheduler(1), kind()
    graph = schedule(graph_of(asking(model, way), width=3), scheduler)
    asyncio.run(graph.ainvoke({}))
    assert (model.meter.peak, model.meter.total) == (1, 9)
    assert scheduler.statistics().granted == 9
    assert scheduler.statistics().over_commitments == 0
    assert scheduler.statistics().prompt_tokens == scheduler.statistics().output_tokens == 9


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", [Wrapper, NativeWrapper])
def test_models_that_call_models(make_scheduler, kind, way):
    """The outermost call takes the slot, and the one inside rides on it."""
    scheduler, model = make_scheduler(1), SimpleLLM()
    graph = schedule(graph_of(asking(kind(inner=model), way), width=2), scheduler)
    asyncio.run(graph.ainvoke({}))
    assert (model.meter.peak, model.meter.total) == (1, 6)
    assert scheduler.statistics().over_commitments == 0


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("kind", [SimpleLLM, NativeLLM])
def test_calls_that_fail(make_scheduler, kind, way):
    """A call that fails gives its slot back."""
    scheduler, model = make_scheduler(1), kind()
    model.meter.fail_with = ZeroDivisionError("the model broke")
    with pytest.raises(ZeroDivisionError):
        asyncio.run(schedule(graph_of(asking(model, way)), scheduler).ainvoke({}))
    assert scheduler.statistics().holding == 0


@pytest.mark.parametrize("way", ["ainvoke", "abatch"])
def test_cancelled_calls_are_followed(make_scheduler, way):
    """Nothing stops a thread that works at a prompt: a cancelled call holds its slot until that has ended."""
    scheduler, model = make_scheduler(1), SimpleLLM()
    graph = schedule(graph_of(asking(model, way)), scheduler)

    async def main() -> None:
        model.meter.gate.clear()
        running = asyncio.create_task(graph.ainvoke({}))
        await auntil(lambda: model.meter.now == 1)
        waiting = asyncio.create_task(graph.ainvoke({}))
        await auntil(lambda: scheduler.statistics().waiting == 1)
        for cancelled in (waiting, running):
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert (model.meter.now, scheduler.statistics().holding) == (1, 1)
        assert scheduler.statistics().waiting == 0
        following = asyncio.create_task(graph.ainvoke({}))
        await auntil(lambda: scheduler.statistics().waiting == 1)
        model.meter.gate.set()
        await following

    asyncio.run(main())
    assert (model.meter.peak, model.meter.total) == (1, 4)
    assert scheduler.statistics().holding == 0


def test_cancelled_native_calls(make_scheduler):
    """A call that runs on the loop is over when it is cancelled."""
    scheduler, model = make_scheduler(1), NativeLLM()
    graph = schedule(graph_of(asking(model, "ainvoke")), scheduler)

    async def main() -> None:
        model.meter.gate.clear()
        running = asyncio.create_task(graph.ainvoke({}))
        await auntil(lambda: model.meter.now == 1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (model.meter.now, scheduler.statistics().holding) == (0, 0)

    asyncio.run(main())
