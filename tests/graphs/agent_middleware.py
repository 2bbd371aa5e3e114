"""`create_agent` with middleware: our own without a model, the library's summary, review and retry."""

from __future__ import annotations

import threading
from typing import Annotated, Any

from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    HumanInTheLoopMiddleware,
    SummarizationMiddleware,
    ToolRetryMiddleware,
    hook_config,
)
from langchain.tools import InjectedToolCallId, tool
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from graphs.fixture import Fixture, Run, asked, last_text, loops, resume
from graphs.scripted import ScriptedModel, uses

# -- our own -------------------------------------------------------------------------------


class Doorkeeper(AgentMiddleware):
    """Turns some away before the model sees them, marks what the model says, and closes the door."""

    def __init__(self, banned: str) -> None:
        super().__init__()
        self.banned = banned
        self.let_in = 0

    def before_agent(self, state: Any, runtime: Any) -> None:
        self.let_in += 1

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        if self.banned in state["messages"][-1].text:
            return {"messages": [AIMessage("Not in here.")], "jump_to": "end"}
        return None

    def after_model(self, state: Any, runtime: Any) -> None:
        assert state["messages"][-1].type == "ai"

    def after_agent(self, state: Any, runtime: Any) -> None:
        self.let_in -= 1


class PassThrough(AgentMiddleware):
    """Middleware without a node of its own."""

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request)

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request)


@tool
def menu(day: str) -> str:
    """What there is to eat on a day."""
    return f"soup on {day}"


waiter = ScriptedModel(
    script={
        ("hungry",): uses("menu", day="Monday"),
        ("hungry", "soup on Monday"): "Soup.",
        ("all week",): [uses("menu", day="Monday"), uses("menu", day="Tuesday")],
        ("all week", "on Monday", "on Tuesday"): "Soup and soup.",
        ("good evening",): "Good evening.",
    }
)

OWN = Fixture(
    name="agent_own_middleware",
    build=lambda: create_agent(waiter, [menu], middleware=[Doorkeeper("dog"), PassThrough()]),
    runs=(
        Run("turned away", asked("me and my dog"), "Not in here.", calls=0, visits={"model": 0}),
        Run("no tool", asked("good evening"), "Good evening.", calls=1, visits={"Doorkeeper.after_model": 1}),
        Run("one call", asked("hungry"), "Soup.", calls=2, visits={"Doorkeeper.before_model": 2}),
        Run("two calls", asked("menu for all week"), "Soup and soup.", calls=2, visits={"tools": 2}),
    ),
    kinds={
        "Doorkeeper.before_agent": "regular",
        "Doorkeeper.before_model": "regular",
        "model": "llm",
        "Doorkeeper.after_model": "regular",
        "tools": "dynamic",
        "Doorkeeper.after_agent": "regular",
    },
    outcome=last_text,
    planned={"tools": "model"},
    loops=loops({"Doorkeeper.before_model", "model", "Doorkeeper.after_model", "tools"}),
)

# -- the library's summary -----------------------------------------------------------------


def build_summarizing() -> Any:
    """The node before the model has a model of its own."""
    summarizer = ScriptedModel(script={("Context Extraction Assistant",): "The story so far."})
    reader = ScriptedModel(
        script={
            ("short book",): "Read.",
            ("long book",): [uses("read_page", number=1), uses("read_page", number=2)],
            ("long book", "page 1", "page 2"): uses("read_page", number=3),
            ("story so far",): "All read.",
            ("endless book",): [uses("read_page", number=n) for n in (1, 2, 3, 4)],
            ("story so far", "page 4"): [uses("read_page", number=n) for n in (5, 6, 7, 8)],
            ("story so far", "page 8"): "Gave up.",
        }
    )
    memory = SummarizationMiddleware(summarizer, trigger=("messages", 5), keep=("messages", 2))
    return create_agent(reader, [read_page], middleware=[memory])


@tool
def read_page(number: int) -> str:
    """Read a page."""
    return f"page {number}"


SUMMARIZING = Fixture(
    name="agent_summarizing",
    build=build_summarizing,
    runs=(
        Run("nothing to sum up", asked("short book"), "Read.", calls=1),
        Run("summed up once", asked("long book"), "All read.", calls=4, visits={"tools": 3}),
        Run("summed up twice", asked("endless book"), "Gave up.", calls=5, visits={"tools": 8}),
    ),
    kinds={"SummarizationMiddleware.before_model": "llm", "model": "llm", "tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "model"},
    loops=loops({"SummarizationMiddleware.before_model", "model", "tools"}),
)

# -- the library's review by a human -------------------------------------------------------


@tool
def send_mail(to: str, text: str) -> str:
    """Send a mail."""
    return f"sent {text!r} to {to}"


secretary = ScriptedModel(
    script={
        ("only asking",): "Ask on.",
        ("write to Ann",): uses("send_mail", to="Ann", text="Hi"),
        ("write to Ann", "sent 'Hi' to Ann"): "Ann knows.",
        ("write to Ann", "sent 'Hi' to Bob"): "Bob knows.",
        ("write to Ann", "too short"): uses("send_mail", to="Ann", text="Dear Ann"),
        ("write to Ann", "too short", "sent 'Dear Ann' to Ann"): "Ann knows all.",
    }
)


def build_reviewed() -> Any:
    """Mails wait for a human."""
    review = HumanInTheLoopMiddleware(interrupt_on={"send_mail": True})
    return create_agent(secretary, [send_mail], middleware=[review], checkpointer=InMemorySaver())


def decides(**decision: Any) -> Any:
    """The human's word on one tool call."""
    return resume({"decisions": [decision]})


_edited = {"name": "send_mail", "args": {"to": "Bob", "text": "Hi"}}

REVIEWED = Fixture(
    name="agent_reviewed",
    build=build_reviewed,
    runs=(
        Run("no review", asked("only asking"), "Ask on.", calls=1, visits={"tools": 0}),
        Run("approved", asked("write to Ann"), "Ann knows.", calls=2, then=(decides(type="approve"),)),
        Run(
            "edited",
            asked("write to Ann"),
            "Bob knows.",
            calls=2,
            then=(decides(type="edit", edited_action=_edited),),
        ),
        Run(
            "rejected, then approved",
            asked("write to Ann"),
            "Ann knows all.",
            calls=3,
            then=(decides(type="reject", message="too short"), decides(type="approve")),
            visits={"tools": 1},
        ),
    ),
    kinds={"model": "llm", "HumanInTheLoopMiddleware.after_model": "regular", "tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "model"},
    loops=loops({"model", "HumanInTheLoopMiddleware.after_model", "tools"}),
)

# -- the library's retry of tools ----------------------------------------------------------


def build_retrying() -> Any:
    """The line to the weather station fails the first time that it is used for a call."""
    heard: set[str] = set()
    lock = threading.Lock()

    @tool
    def station(place: str, tool_call_id: Annotated[str, InjectedToolCallId]) -> str:
        """The weather at a place."""
        with lock:
            first = tool_call_id not in heard
            heard.add(tool_call_id)
        if first and place != "here":
            raise ConnectionError("the line is dead")
        return f"rain at {place}" if place != "nowhere" else "no such place"

    retry = ToolRetryMiddleware(max_retries=2, initial_delay=0, jitter=False)
    return create_agent(belief_former, [station], middleware=[retry])


belief_former = ScriptedModel(
    script={
        ("weather here",): uses("station", place="here"),
        ("weather here", "rain at here"): "Rain.",
        ("weather there",): uses("station", place="there"),
        ("weather there", "rain at there"): "Rain there.",
        ("weather around",): [uses("station", place="east"), uses("station", place="west")],
        ("weather around", "at east", "at west"): "Rain all around.",
    }
)

RETRYING = Fixture(
    name="agent_retrying_tools",
    build=build_retrying,
    runs=(
        Run("at once", asked("weather here"), "Rain.", calls=2),
        Run("second attempt", asked("weather there"), "Rain there.", calls=2, visits={"tools": 1}),
        Run("two of them", asked("weather around"), "Rain all around.", calls=2, visits={"tools": 2}),
    ),
    kinds={"model": "llm", "tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "model"},
    loops=loops({"model", "tools"}),
)

FIXTURES = (OWN, SUMMARIZING, REVIEWED, RETRYING)
