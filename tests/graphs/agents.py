"""`create_agent`: alone, with tools, with a tool that asks a model, and with an agent as a tool."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain.tools import tool

from graphs.fixture import Fixture, Run, asked, last_text, loops
from graphs.scripted import ScriptedModel, uses

# -- alone ---------------------------------------------------------------------------------

poet = ScriptedModel(script={(): "No season.", ("spring",): "Green again.", ("autumn",): "Leaves go."})

PLAIN = Fixture(
    name="agent_plain",
    build=lambda: create_agent(poet, system_prompt="You are a poet of few words."),
    runs=(
        Run("spring", asked("A poem on spring"), "Green again.", calls=1),
        Run("autumn", asked("A poem on autumn"), "Leaves go.", calls=1),
        Run("other", asked("A poem on tax"), "No season.", calls=1),
    ),
    kinds={"model": "llm"},
    outcome=last_text,
)

# -- with tools ----------------------------------------------------------------------------


@tool
def add(a: int, b: int) -> str:
    """Add two numbers."""
    return f"sum={a + b}"


def population(city: str) -> str:
    """Look up how many people live in a city."""
    return f"{city} has {len(city)} million"


clerk = ScriptedModel(
    script={
        ("hello",): "Hello to you.",
        ("2 and 3",): uses("add", a=2, b=3),
        ("2 and 3", "sum=5"): "Five.",
        ("Oslo or Rome",): [uses("population", city="Oslo"), uses("population", city="Rome")],
        ("Oslo or Rome", "Oslo has", "Rome has"): "They are equal.",
        ("both together",): [uses("population", city="Bern"), uses("population", city="Bonn")],
        ("both together", "Bern has 4", "Bonn has 4"): uses("add", a=4, b=4),
        ("both together", "sum=8"): "Eight million.",
    }
)

TOOLS = Fixture(
    name="agent_tools",
    build=lambda: create_agent(clerk, [add, population], system_prompt="You are a clerk."),
    runs=(
        Run("no tool", asked("hello"), "Hello to you.", calls=1, visits={"model": 1, "tools": 0}),
        Run("one call", asked("What is 2 and 3?"), "Five.", calls=2, visits={"tools": 1}),
        Run("two calls at once", asked("Oslo or Rome?"), "They are equal.", calls=2, visits={"tools": 2}),
        Run("two rounds", asked("Bern and Bonn, both together?"), "Eight million.", 3, visits={"tools": 3}),
    ),
    kinds={"model": "llm", "tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "model"},
    loops=loops({"model", "tools"}),
)

# -- a tool that asks a model itself -------------------------------------------------------

translator = ScriptedModel(script={("Translate", "cat"): "Katze", ("Translate", "dog"): "Hund"})


@tool
def translate(word: str) -> str:
    """Translate a word into German."""
    return "German: " + translator.invoke(f"Translate: {word}").text


tutor = ScriptedModel(
    script={
        ("cat",): uses("translate", word="cat"),
        ("cat", "Katze"): "It is Katze.",
        ("pets",): [uses("translate", word="cat"), uses("translate", word="dog")],
        ("pets", "Katze", "Hund"): "They are Katze and Hund.",
        ("thanks",): "My pleasure.",
    }
)

LLM_TOOL = Fixture(
    name="agent_llm_tool",
    build=lambda: create_agent(tutor, [translate]),
    runs=(
        Run("none", asked("thanks"), "My pleasure.", calls=1),
        Run("one", asked("What is a cat?"), "It is Katze.", calls=3, visits={"tools": 1}),
        Run("two at once", asked("What are pets?"), "They are Katze and Hund.", calls=4, visits={"tools": 2}),
    ),
    kinds={"model": "llm", "tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "model"},
    calls_llm=frozenset({"tools"}),
    loops=loops({"model", "tools"}),
)

# -- an agent as a tool --------------------------------------------------------------------


def build_agent_of_agents() -> Any:
    """The expert is known to nothing but the closure of the tool."""
    expert = create_agent(
        ScriptedModel(
            script={
                ("comets",): uses("catalogue", kind="comets"),
                ("comets", "3 comets"): "There are three.",
                ("moons",): uses("catalogue", kind="moons"),
                ("moons", "9 moons"): "There are nine.",
                ("dragons",): "There are none.",
            }
        ),
        [catalogue],
        system_prompt="You are an astronomer.",
    )

    @tool
    def ask_astronomer(question: str) -> str:
        """Ask the astronomer."""
        answer = expert.invoke({"messages": [("user", question)]})
        return f"astronomer: {answer['messages'][-1].text}"

    chief = ScriptedModel(
        script={
            ("count comets",): uses("ask_astronomer", question="How many comets?"),
            ("count comets", "are three"): "3.",
            ("count everything",): [
                uses("ask_astronomer", question="How many comets?"),
                uses("ask_astronomer", question="How many moons?"),
                uses("ask_astronomer", question="How many dragons?"),
            ],
            ("count everything", "three", "nine", "none"): "12.",
            ("never mind",): "Well then.",
        }
    )
    return create_agent(chief, [ask_astronomer])


def catalogue(kind: str) -> str:
    """How many there are of a kind of body."""
    return {"comets": "3 comets", "moons": "9 moons"}[kind]


AGENT_OF_AGENTS = Fixture(
    name="agent_of_agents",
    build=build_agent_of_agents,
    runs=(
        Run("none", asked("never mind"), "Well then.", calls=1),
        Run("one", asked("count comets"), "3.", calls=4, visits={"tools": 1, "tools/model": 2}),
        Run(
            "three at once",
            asked("count everything"),
            "12.",
            calls=7,
            visits={"tools": 3, "tools/model": 5, "tools/tools": 2},
        ),
    ),
    kinds={"model": "llm", "tools": "dynamic", "tools/model": "llm", "tools/tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "model", "tools/tools": "tools/model"},
    loops=loops({"model", "tools"}, {"tools/model", "tools/tools"}),
)

FIXTURES = (PLAIN, TOOLS, LLM_TOOL, AGENT_OF_AGENTS)
