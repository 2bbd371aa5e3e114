"""`create_agent` that answers with a schema: by the call of a tool, and in the provider's own format."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, asked, loops
from graphs.scripted import ScriptedModel, uses


class Invoice(BaseModel):
    """What is owed, by whom."""

    debtor: str
    cents: int


def structured(output: Any) -> Any:
    """The fields of the answer."""
    return output["structured_response"].model_dump()


accountant = ScriptedModel(
    script={
        ("Ada owes 5",): Invoice(debtor="Ada", cents=500),
        ("Bob owes a bit",): uses("Invoice", debtor="Bob", cents="a bit"),
        ("Bob owes a bit", "Failed to parse"): Invoice(debtor="Bob", cents=1),
        ("Eve owes much",): uses("Invoice", debtor="Eve", cents="much"),
        ("Eve owes much", "Failed to parse"): uses("Invoice", debtor="Eve"),
        ("Eve owes much", "Field required"): Invoice(debtor="Eve", cents=10**6),
    }
)

TOOL_STRATEGY = Fixture(
    name="agent_tool_strategy",
    build=lambda: create_agent(accountant, response_format=ToolStrategy(Invoice)),
    runs=(
        Run("at once", asked("Ada owes 5"), {"debtor": "Ada", "cents": 500}, calls=1),
        Run("second try", asked("Bob owes a bit"), {"debtor": "Bob", "cents": 1}, 2, visits={"model": 2}),
        Run("third try", asked("Eve owes much"), {"debtor": "Eve", "cents": 10**6}, 3, visits={"model": 3}),
    ),
    kinds={"model": "llm"},
    outcome=structured,
    loops=loops({"model"}),
)


def ledger(name: str) -> str:
    """What somebody owes, from the books."""
    return f"{name}: {len(name)}00 cents"


def build_provider_strategy() -> Any:
    """The model is a local of the function that builds the agent."""
    model = ScriptedModel(
        script={
            ("Ada owes 5",): Invoice(debtor="Ada", cents=500),
            ("what Bob owes",): uses("ledger", name="Bob"),
            ("what Bob owes", "Bob: 300"): Invoice(debtor="Bob", cents=300),
            ("who owes more",): [uses("ledger", name="Ada"), uses("ledger", name="Clara")],
            ("who owes more", "Ada: 300", "Clara: 500"): Invoice(debtor="Clara", cents=500),
        }
    )
    return create_agent(model, [ledger], response_format=ProviderStrategy(Invoice))


PROVIDER_STRATEGY = Fixture(
    name="agent_provider_strategy",
    build=build_provider_strategy,
    runs=(
        Run("at once", asked("Ada owes 5"), {"debtor": "Ada", "cents": 500}, calls=1),
        Run("after a tool", asked("what Bob owes"), {"debtor": "Bob", "cents": 300}, calls=2),
        Run(
            "after two tools",
            asked("who owes more"),
            {"debtor": "Clara", "cents": 500},
            2,
            visits={"tools": 2},
        ),
    ),
    kinds={"model": "llm", "tools": "dynamic"},
    outcome=structured,
    planned={"tools": "model"},
    loops=loops({"model", "tools"}),
)

FIXTURES = (TOOL_STRATEGY, PROVIDER_STRATEGY)
