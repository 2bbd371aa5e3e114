"""A graph whose every superstep spends the same: one call of 15 tokens, one second, one unit of money."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph

from llmsched_langgraph import Backend, Scheduler
from llmsched_langgraph.testing import PlainModel, VirtualClock

ROUNDS = 5
MODEL = "large-1"
PRICES = {"other-*": (7.0, 7.0), "large-*": (60_000.0, 80_000.0), "*": (9.0, 9.0)}
"""By which a call of `SpendingModel` costs 1."""

TWO_CALLS = {
    "tokens": {"tokens": 30},
    "calls": {"calls": 2},
    "slot_s": {"slot_s": 2.0},
    "cost": {"cost": 2.0},
    "deadline": 2.0,
}
"""By kind of limit: what lets two calls pass."""


class SpendingModel(PlainModel):
    """A model that reports 10 prompt tokens and 5 output tokens, and lets a second pass."""

    clock: Any = None
    model: str = MODEL

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self.meter:
            return self._answer()

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self.meter:
            return self._answer()

    def _answer(self) -> ChatResult:
        if self.clock is not None:
            self.clock.advance(1.0)
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        message = AIMessage(content=self.meter.respond(), usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])


class State(TypedDict, total=False):
    n: Annotated[int, operator.add]
    log: Annotated[list[int], operator.add]


def loop(model: SpendingModel, rounds: int = ROUNDS, **options: Any) -> Any:
    """A graph that calls the model in each of `rounds` supersteps, and then ends with one that does not."""

    def step(state: State) -> State:
        model.invoke("?")
        return {"n": 1, "log": [state.get("n", 0)]}

    async def astep(state: State) -> State:
        await model.ainvoke("?")
        return {"n": 1, "log": [state.get("n", 0)]}

    builder = StateGraph(State).add_node("step", RunnableLambda(step, astep))
    builder.add_node("last", lambda state: {"n": 100})
    builder.add_edge(START, "step").add_edge("last", END)
    builder.add_conditional_edges(
        "step", lambda state: "step" if state["n"] < rounds else "last", ["step", "last"]
    )
    return builder.compile(**options)


WHOLE = {"n": ROUNDS + 100, "log": list(range(ROUNDS))}
"""The final state of `loop`."""


def priced(**settings: Any) -> tuple[Scheduler, SpendingModel]:
    """Return a scheduler with prices, and a model that moves the scheduler's clock."""
    clock = VirtualClock()
    backends = [Backend(slots=4, prices=PRICES)]
    return Scheduler(backends=backends, clock=clock, **settings), SpendingModel(clock=clock)


def configured(limit: Any, thread: str = "t", **more: Any) -> dict[str, Any]:
    """Return a configuration with this limit, a budget as a dict or a deadline."""
    config: dict[str, Any] = {"configurable": {"thread_id": thread}, **more}
    if limit is not None:
        key = "llmsched_budget" if isinstance(limit, dict) else "llmsched_deadline_s"
        config["metadata"] = {key: limit}
    return config
