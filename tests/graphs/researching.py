"""Research of a company, with a rate-limited model that reflects; a survey, with an agent for each part."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from pydantic import BaseModel

from graphs.fixture import Fixture, Run, loops
from graphs.scripted import ScriptedModel, uses

# -- company research: one model with a rate limiter, and reflection that searches again ---


class Company(TypedDict, total=False):
    company: str
    queries: list[str]
    notes: Annotated[list[str], operator.add]
    info: str
    rounds: int
    satisfied: bool


class Queries(BaseModel):
    """What to search for."""

    queries: list[str]


class Reflection(BaseModel):
    """Whether that is enough, and what else to search for."""

    satisfied: bool
    queries: list[str] = []


limiter = InMemoryRateLimiter(
    requests_per_second=100_000, check_every_n_seconds=0.0001, max_bucket_size=100_000
)
analyst = ScriptedModel(
    rate_limiter=limiter,
    script={
        ("Queries on", "Acme"): Queries(queries=["Acme"]),
        ("Queries on", "Bolt"): Queries(queries=["Bolt", "Bolt rivals"]),
        ("Queries on", "Crow"): Queries(queries=[]),
        ("Notes on", "Acme page"): "makes anvils",
        ("Notes on", "Bolt page"): "makes",
        ("Notes on", "Bolt rivals page"): "makes, has rivals",
        ("Notes on", "Bolt products page"): "bolts",
        ("Notes on", "Crow", ": ."): "unknown",
        ("Extract", "anvils"): "anvils",
        ("Extract", "makes, has rivals"): "?",
        ("Extract", "makes, has rivals", "bolts"): "bolts",
        ("Extract", "unknown"): "none",
        ("Reflect on", "anvils"): Reflection(satisfied=True),
        ("Reflect on", "?"): Reflection(satisfied=False, queries=["Bolt products"]),
        ("Reflect on", "bolts"): Reflection(satisfied=True),
        ("Reflect on", "none"): Reflection(satisfied=False),
    },
)


async def search(query: str) -> str:
    await asyncio.sleep(0)
    return f"{query} page"


def write_queries(state: Company) -> Company:
    structured = analyst.with_structured_output(Queries)
    return {"queries": structured.invoke(f"Queries on {state['company']}").queries}


def research_company(state: Company) -> Company:
    pages = [f"{query} page" for query in state["queries"]]
    return {"notes": [analyst.invoke(f"Notes on {state['company']}: {', '.join(pages)}.").text]}


async def aresearch_company(state: Company) -> Company:
    pages = await asyncio.gather(*(search(query) for query in state["queries"]))
    answer = await analyst.ainvoke(f"Notes on {state['company']}: {', '.join(pages)}.")
    return {"notes": [answer.text]}


def extract(state: Company) -> Company:
    return {"info": analyst.invoke(f"Extract: {'; '.join(state['notes'])}").text}


def reflect(state: Company) -> Company:
    found = analyst.with_structured_output(Reflection).invoke(f"Reflect on {state['info']}")
    return {"satisfied": found.satisfied, "queries": found.queries, "rounds": state.get("rounds", 0) + 1}


def enough(state: Company) -> Literal["research_company", "__end__"]:
    return END if state["satisfied"] or state["rounds"] > 1 else "research_company"


def build_company_research() -> Any:
    builder = StateGraph(Company)
    builder.add_node(write_queries)
    builder.add_node("research_company", RunnableLambda(research_company, aresearch_company))
    builder.add_node(extract)
    builder.add_node(reflect)
    builder.add_edge(START, "write_queries")
    builder.add_edge("write_queries", "research_company")
    builder.add_edge("research_company", "extract")
    builder.add_edge("extract", "reflect")
    builder.add_conditional_edges("reflect", enough)
    return builder.compile()


COMPANY_RESEARCH = Fixture(
    name="company_research",
    build=build_company_research,
    runs=(
        Run("at once", {"company": "Acme"}, "anvils", calls=4, visits={"reflect": 1}),
        Run("searched again", {"company": "Bolt"}, "bolts", calls=7, visits={"research_company": 2}),
        Run("given up", {"company": "Crow"}, "none", calls=7, visits={"reflect": 2}),
    ),
    kinds={"write_queries": "llm", "research_company": "llm", "extract": "llm", "reflect": "llm"},
    outcome=lambda output: output["info"],
    loops=loops({"research_company", "extract", "reflect"}),
)

# -- map and reduce, where each part is an agent with tools --------------------------------


class Survey(TypedDict, total=False):
    land: str
    towns: list[str]
    reports: Annotated[list[str], operator.add]
    summary: str


class Towns(BaseModel):
    """Where to go."""

    towns: list[str]


@tool
def measure(town: str, what: str) -> str:
    """Measure something in a town."""
    return f"{what} of {town} is {len(town)}"


surveyor = ScriptedModel(
    script={
        ("Towns of", "Moor"): Towns(towns=["Mud"]),
        ("Towns of", "Fell"): Towns(towns=["Crag", "Scree", "Tarn"]),
        ("Towns of", "Sea"): Towns(towns=[]),
        ("Survey", "Mud"): uses("measure", town="Mud", what="depth"),
        ("Survey", "Mud", "depth of Mud is 3"): "Mud: 3",
        ("Survey", "Crag"): [
            uses("measure", town="Crag", what="depth"),
            uses("measure", town="Crag", what="width"),
        ],
        ("Survey", "Crag", "depth of Crag is 4", "width of Crag is 4"): "Crag: 4",
        ("Survey", "Scree"): "Scree: closed",
        ("Survey", "Tarn"): uses("measure", town="Tarn", what="depth"),
        ("Survey", "Tarn", "depth of Tarn is 4"): uses("measure", town="Tarn", what="width"),
        ("Survey", "Tarn", "depth of Tarn is 4", "width of Tarn is 4"): "Tarn: 4",
        ("Sum up",): "Empty.",
        ("Sum up", "Mud: 3"): "Three.",
        ("Sum up", "Crag: 4", "Scree: closed", "Tarn: 4"): "Eight.",
    }
)


def build_survey() -> Any:
    agent = create_agent(surveyor, [measure], system_prompt="Survey the town.")

    def list_towns(state: Survey) -> Survey:
        found = surveyor.with_structured_output(Towns).invoke(f"Towns of {state['land']}")
        return {"towns": found.towns}

    def hand_out(state: Survey) -> list[Send] | str:
        return [Send("visit", {"town": town}) for town in state["towns"]] or "sum_up"

    def visit(task: dict[str, str]) -> Survey:
        answer = agent.invoke({"messages": [("user", task["town"])]})
        return {"reports": [answer["messages"][-1].text]}

    def sum_up(state: Survey) -> Survey:
        return {"summary": surveyor.invoke(f"Sum up {'; '.join(state.get('reports', []))}").text}

    builder = StateGraph(Survey)
    builder.add_node(list_towns)
    builder.add_node(visit)
    builder.add_node(sum_up)
    builder.add_edge(START, "list_towns")
    builder.add_conditional_edges("list_towns", hand_out, ["visit", "sum_up"])
    builder.add_edge("visit", "sum_up")
    return builder.compile()


SURVEY = Fixture(
    name="map_reduce_tools",
    build=build_survey,
    runs=(
        Run("nowhere", {"land": "Sea"}, "Empty.", calls=2, visits={"visit": 0}),
        Run("one town", {"land": "Moor"}, "Three.", calls=4, visits={"visit": 1, "visit/tools": 1}),
        Run("three towns", {"land": "Fell"}, "Eight.", 8, visits={"visit": 3, "visit/tools": 4, "sum_up": 1}),
    ),
    kinds={
        "list_towns": "llm",
        "visit": "dynamic",
        "visit/model": "llm",
        "visit/tools": "dynamic",
        "sum_up": "llm",
    },
    outcome=lambda output: output["summary"],
    planned={"visit": "list_towns", "visit/tools": "visit/model"},
    loops=loops({"visit/model", "visit/tools"}),
)

FIXTURES = (COMPANY_RESEARCH, SURVEY)
