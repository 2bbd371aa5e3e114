"""The libraries that join agents: `langgraph-supervisor`, `langgraph-swarm` and `deepagents`."""

from __future__ import annotations

from typing import Any

from deepagents import create_deep_agent
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langgraph_supervisor import create_supervisor
from langgraph_swarm import create_handoff_tool, create_swarm

from graphs.fixture import Fixture, Run, asked, last_text, loops
from graphs.react import DEPRECATED
from graphs.scripted import ScriptedModel, uses

# -- a supervisor of two workers -----------------------------------------------------------


def multiply(a: int, b: int) -> str:
    """Multiply two numbers."""
    return f"product={a * b}"


def web_search(query: str) -> str:
    """Search the web."""
    return f"found: {query} is 7"


boss = ScriptedModel(
    script={
        ("Boss", "hello"): "Hello.",
        ("Boss", "six times seven"): uses("transfer_to_mathematician"),
        ("Boss", "six times seven", "It is 42."): "42.",
        ("Boss", "square the wonders"): uses("transfer_to_researcher"),
        ("Boss", "square the wonders", "There are 7."): uses("transfer_to_mathematician"),
        ("Boss", "square the wonders", "There are 7.", "It is 49."): "49.",
        ("Boss", "the wonders alone"): uses("transfer_to_researcher"),
        ("Boss", "the wonders alone", "There are 7."): "7.",
    }
)


def build_supervisor() -> Any:
    """The workers are closed over by functions of the library; the supervisor is a subgraph."""
    mathematician = create_agent(
        ScriptedModel(
            script={
                ("Reckon", "six times seven"): uses("multiply", a=6, b=7),
                ("Reckon", "product=42"): "It is 42.",
                ("Reckon", "square the wonders"): uses("multiply", a=7, b=7),
                ("Reckon", "product=49"): "It is 49.",
            }
        ),
        [multiply],
        system_prompt="Reckon.",
        name="mathematician",
    )
    researcher = create_agent(
        ScriptedModel(
            script={
                ("Search", "wonders"): uses("web_search", query="wonders"),
                ("Search", "found:", "is 7"): "There are 7.",
            }
        ),
        [web_search],
        system_prompt="Search.",
        name="researcher",
    )
    return create_supervisor([researcher, mathematician], model=boss, prompt="You are the Boss.").compile()


SUPERVISOR = Fixture(
    name="supervisor",
    build=build_supervisor,
    runs=(
        Run("nobody", asked("hello"), "Hello.", calls=1),
        Run("one worker", asked("six times seven"), "42.", calls=4, visits={"researcher": 0}),
        Run("one, then the other", asked("square the wonders"), "49.", calls=7),
        Run("the other worker", asked("the wonders alone"), "7.", calls=4, visits={"researcher": 1}),
    ),
    kinds={
        "supervisor/agent": "llm",
        "supervisor/tools": "dynamic",
        "researcher": "dynamic",
        "researcher/model": "llm",
        "researcher/tools": "dynamic",
        "mathematician": "dynamic",
        "mathematician/model": "llm",
        "mathematician/tools": "dynamic",
    },
    outcome=last_text,
    planned={
        "supervisor/tools": "supervisor/agent",
        "researcher": "supervisor/agent",
        "researcher/tools": "researcher/model",
        "mathematician": "supervisor/agent",
        "mathematician/tools": "mathematician/model",
    },
    loops=loops(
        {"supervisor", "researcher", "mathematician"},
        {"supervisor/agent", "supervisor/tools"},
        {"researcher/model", "researcher/tools"},
        {"mathematician/model", "mathematician/tools"},
    ),
    ignored_warning=DEPRECATED,
)

# -- a swarm of two ------------------------------------------------------------------------


def book(what: str) -> str:
    """Book something."""
    return f"booked {what}"


travellers = ScriptedModel(
    script={
        ("Flights", "to Rome"): uses("book", what="flight"),
        ("Flights", "to Rome", "booked flight"): "You fly.",
        ("Flights", "need a bed"): uses("transfer_to_hotels"),
        ("Hotels", "need a bed"): uses("book", what="bed"),
        ("Hotels", "need a bed", "booked bed"): "You sleep.",
        ("Flights", "bed and plane"): uses("transfer_to_hotels"),
        ("Hotels", "bed and plane"): uses("book", what="bed"),
        ("Hotels", "bed and plane", "booked bed"): uses("transfer_to_flights"),
        ("Flights", "bed and plane", "booked bed"): uses("book", what="plane"),
        ("Flights", "bed and plane", "booked bed", "booked plane"): "You sleep and fly.",
        ("Hotels", "need a bed", "You sleep.", "thanks"): "Good night.",
    }
)


def build_swarm() -> Any:
    """Both agents hold the same model; who is active is remembered with the thread."""
    agents = [
        create_agent(
            travellers,
            [book, create_handoff_tool(agent_name=other)],
            system_prompt=f"{name.title()} are your trade.",
            name=name,
        )
        for name, other in [("flights", "hotels"), ("hotels", "flights")]
    ]
    return create_swarm(agents, default_active_agent="flights").compile(checkpointer=InMemorySaver())


SWARM = Fixture(
    name="swarm",
    build=build_swarm,
    runs=(
        Run("stays", asked("to Rome"), "You fly.", calls=2, visits={"hotels/model": 0}),
        Run("handed over", asked("I need a bed"), "You sleep.", calls=3, visits={"hotels/tools": 1}),
        Run("and back", asked("bed and plane"), "You sleep and fly.", calls=5),
        Run("stays with the other", asked("I need a bed"), "Good night.", calls=4, then=(asked("thanks"),)),
    ),
    kinds={
        "flights": "dynamic",
        "flights/model": "llm",
        "flights/tools": "dynamic",
        "hotels": "dynamic",
        "hotels/model": "llm",
        "hotels/tools": "dynamic",
    },
    outcome=last_text,
    planned={
        "flights": "hotels/model",
        "flights/tools": "flights/model",
        "hotels": "flights/model",
        "hotels/tools": "hotels/model",
    },
    loops=loops({"flights", "hotels"}, {"flights/model", "flights/tools"}, {"hotels/model", "hotels/tools"}),
)

# -- a deep agent with a subagent of its own -----------------------------------------------


def archive(topic: str) -> str:
    """Look into the archive."""
    return f"archive says: {topic} is old"


deep = ScriptedModel(
    script={
        ("Lead", "hello"): "Hello.",
        ("Lead", "on castles"): uses("task", description="Check castles", subagent_type="historian"),
        ("Lead", "on castles", "Castles are old."): "Castles: old.",
        ("Lead", "keep a note"): uses("write_file", file_path="/note.md", content="castles"),
        ("Lead", "keep a note", "/note.md"): "Kept.",
        ("Lead", "on everything"): [
            uses("task", description="Check castles", subagent_type="historian"),
            uses("task", description="Check bridges", subagent_type="general-purpose"),
        ],
        ("Lead", "on everything", "Castles are old.", "Bridges are new."): "Done.",
        ("Historian", "Check castles"): uses("archive", topic="castles"),
        ("Historian", "Check castles", "castles is old"): "Castles are old.",
        ("Check bridges",): "Bridges are new.",
    }
)

DEEP = Fixture(
    name="deep_agent",
    build=lambda: create_deep_agent(
        model=deep,
        tools=[archive],
        system_prompt="You are the Lead.",
        subagents=[
            {
                "name": "historian",
                "description": "Knows the past",
                "system_prompt": "You are the Historian.",
                "tools": [archive],
            }
        ],
    ),
    runs=(
        Run("nothing to do", asked("hello"), "Hello.", calls=1),
        Run("a file", asked("keep a note"), "Kept.", calls=2, visits={"tools": 1, "tools/model": 0}),
        Run("a subagent", asked("on castles"), "Castles: old.", calls=4, visits={"tools/tools": 1}),
        Run("two subagents", asked("on everything"), "Done.", calls=5, visits={"tools": 2, "tools/model": 3}),
    ),
    kinds={
        "PatchToolCallsMiddleware.before_agent": "regular",
        "model": "llm",
        "tools": "dynamic",
        "_ParentNotifierMiddleware.after_agent": "regular",
        # Every subagent has these, and all of them run inside the one node `tools`.
        "tools/PatchToolCallsMiddleware.before_agent": "regular",
        "tools/model": "llm",
        "tools/tools": "dynamic",
    },
    outcome=last_text,
    planned={"tools": "model", "tools/tools": "tools/model"},
    loops=loops({"model", "tools"}, {"tools/model", "tools/tools"}),
)

FIXTURES = (SUPERVISOR, SWARM, DEEP)
