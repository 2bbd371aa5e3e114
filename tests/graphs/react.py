"""LangGraph's own prebuilt agent, with a hook before its model and a schema at its end."""

from __future__ import annotations

from typing import Any

from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, asked, loops
from graphs.scripted import ScriptedModel, uses

DEPRECATED = "ignore:create_react_agent has been moved"


class Verdict(BaseModel):
    """Whether to go."""

    go: bool


def tide(hour: int) -> str:
    """How high the sea stands at an hour."""
    return f"at {hour} it is {'high' if hour < 12 else 'low'}"


def last_ten(state: Any) -> dict[str, Any]:
    """What the model gets to see."""
    return {"llm_input_messages": state["messages"][-10:]}


model = ScriptedModel(
    script={
        ("swim at night",): "It is too dark.",
        ("swim at night", "too dark"): Verdict(go=False),
        ("swim at nine",): uses("tide", hour=9),
        ("swim at nine", "is high"): "Fine.",
        ("swim at nine", "is high", "Fine."): Verdict(go=True),
        ("swim today",): [uses("tide", hour=9), uses("tide", hour=15)],
        ("swim today", "is high", "is low"): "In the morning.",
        ("swim today", "is high", "is low", "In the morning."): Verdict(go=True),
    }
)

FIXTURE = Fixture(
    name="react_agent",
    build=lambda: create_react_agent(
        model, [tide], prompt="You know the sea.", pre_model_hook=last_ten, response_format=Verdict
    ),
    runs=(
        Run("no tool", asked("swim at night?"), False, calls=2, visits={"tools": 0}),
        Run("one call", asked("swim at nine?"), True, calls=3, visits={"agent": 2}),
        Run("two calls", asked("swim today?"), True, calls=3, visits={"tools": 2}),
    ),
    kinds={
        "pre_model_hook": "regular",
        "agent": "llm",
        "tools": "dynamic",
        "generate_structured_response": "llm",
    },
    outcome=lambda output: output["structured_response"].go,
    planned={"tools": "agent"},
    loops=loops({"pre_model_hook", "agent", "tools"}),
    ignored_warning=DEPRECATED,
)

FIXTURES = (FIXTURE,)
