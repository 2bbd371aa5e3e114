"""Deep research: a supervisor and its researchers, with models that are configured when they are called."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal, TypedDict

from langchain.chat_models import init_chat_model
from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command
from pydantic import BaseModel

from graphs.configured import named
from graphs.fixture import Fixture, Run, loops
from graphs.scripted import uses


class Research(TypedDict, total=False):
    question: str
    brief: str
    desk: Annotated[list[AnyMessage], add_messages]
    notes: list[str]
    report: str


class Desk(TypedDict, total=False):
    brief: str
    desk: Annotated[list[AnyMessage], add_messages]
    notes: list[str]


class Study(TypedDict, total=False):
    topic: str
    talk: Annotated[list[AnyMessage], add_messages]
    finding: str


class Clarification(BaseModel):
    """Whether the question must be asked back."""

    unclear: bool
    reply: str


class Brief(BaseModel):
    """What to find out."""

    brief: str


@tool
def conduct_research(topic: str) -> str:
    """Let somebody research a topic."""
    return topic


@tool
def look_up(word: str) -> str:
    """Look up a word."""
    return f"{word}: found"


STRONG = named(
    "strong",
    {
        ("Clear?", "it"): Clarification(unclear=True, reply="What is it?"),
        ("Clear?", "tea"): Clarification(unclear=False, reply="Tea, then."),
        ("Clear?", "gold and salt"): Clarification(unclear=False, reply="Both, then."),
        ("Clear?", "nothing new"): Clarification(unclear=False, reply="As you like."),
        ("Brief for", "tea"): Brief(brief="On tea."),
        ("Brief for", "gold and salt"): Brief(brief="On gold and on salt."),
        ("Brief for", "nothing new"): Brief(brief="On the known."),
        ("Lead", "On tea."): uses("conduct_research", topic="tea"),
        ("Lead", "On tea.", "tea is old"): "Enough.",
        ("Lead", "On gold"): [uses("conduct_research", topic="gold"), uses("conduct_research", topic="salt")],
        ("Lead", "On gold", "gold is rare", "salt is not"): uses("conduct_research", topic="tea"),
        ("Lead", "On gold", "gold is rare", "salt is not", "tea is old"): "Enough.",
        ("Lead", "On the known."): "Enough.",
        ("Report", "tea is old"): "Old tea.",
        ("Report", "gold is rare", "salt is not"): "Dear gold.",
        ("Report", "known"): "Nothing.",
    },
)
CHEAP = named(
    "cheap",
    {
        ("Study", "tea"): uses("look_up", word="tea"),
        ("Study", "tea", "tea: found"): "read",
        ("Study", "gold"): [uses("look_up", word="gold"), uses("look_up", word="price")],
        ("Study", "gold", "gold: found", "price: found"): "read",
        ("Study", "salt"): "I know",
        ("Compress", "tea"): "tea is old",
        ("Compress", "gold"): "gold is rare",
        ("Compress", "salt"): "salt is not",
    },
)

configurable_model = init_chat_model(configurable_fields=("model", "max_tokens"))


def settings(config: RunnableConfig, role: str, default: str) -> dict[str, Any]:
    """What the run says about the model of a role."""
    return {"model": config["configurable"].get(role, default), "max_tokens": 100}


def clarify(state: Research, config: RunnableConfig) -> Command[Literal["write_brief", "__end__"]]:
    model = (
        configurable_model.with_structured_output(Clarification)
        .with_retry(stop_after_attempt=2)
        .with_config(settings(config, "lead", STRONG))
    )
    answer = model.invoke([HumanMessage(f"Clear? {state['question']}")])
    if answer.unclear:
        return Command(goto=END, update={"report": answer.reply})
    return Command(goto="write_brief")


def write_brief(state: Research, config: RunnableConfig) -> Command[Literal["supervise"]]:
    model = configurable_model.with_structured_output(Brief).with_config(settings(config, "lead", STRONG))
    return Command(goto="supervise", update={"brief": model.invoke(f"Brief for {state['question']}").brief})


def lead(state: Desk, config: RunnableConfig) -> Command[Literal["delegate"]]:
    model = (
        configurable_model.bind_tools([conduct_research])
        .with_retry(stop_after_attempt=2)
        .with_config(settings(config, "lead", STRONG))
    )
    asked = [SystemMessage(f"Lead: {state['brief']}"), *state.get("desk", [])]
    return Command(goto="delegate", update={"desk": [model.invoke(asked)]})


def _topics(state: Desk) -> list[Study]:
    return [{"topic": call["args"]["topic"]} for call in state["desk"][-1].tool_calls]


def _reported(state: Desk, studies: list[Any]) -> Command[Any]:
    calls = state["desk"][-1].tool_calls
    if not calls:
        notes = [message.text for message in state["desk"] if message.type == "tool"]
        return Command(goto=END, update={"notes": notes or ["known"]})
    told = [
        ToolMessage(study["finding"], tool_call_id=call["id"])
        for study, call in zip(studies, calls, strict=True)
    ]
    return Command(goto="lead", update={"desk": told})


def delegate(state: Desk, config: RunnableConfig) -> Command[Literal["lead", "__end__"]]:
    return _reported(state, researcher_graph.batch(_topics(state), config))


async def adelegate(state: Desk, config: RunnableConfig) -> Command[Literal["lead", "__end__"]]:
    studies = [researcher_graph.ainvoke(topic, config) for topic in _topics(state)]
    return _reported(state, await asyncio.gather(*studies))


def study(state: Study, config: RunnableConfig) -> Command[Literal["read"]]:
    model = configurable_model.bind_tools([look_up]).with_config(settings(config, "researcher", CHEAP))
    asked = [SystemMessage(f"Study {state['topic']}"), *state.get("talk", [])]
    return Command(goto="read", update={"talk": [model.invoke(asked)]})


def read(state: Study) -> Command[Literal["study", "compress"]]:
    calls = state["talk"][-1].tool_calls
    told = [
        ToolMessage(answer, tool_call_id=call["id"])
        for call, answer in zip(calls, look_up.batch([call["args"] for call in calls]), strict=True)
    ]
    return Command(goto="study" if calls else "compress", update={"talk": told})


def compress(state: Study, config: RunnableConfig) -> Study:
    model = configurable_model.with_config(settings(config, "researcher", CHEAP))
    return {"finding": model.invoke(f"Compress {state['topic']}").text}


def report(state: Research, config: RunnableConfig) -> Research:
    model = configurable_model.with_config(settings(config, "lead", STRONG))
    return {"report": model.invoke(f"Report: {', '.join(state['notes'])}").text}


def _researcher_graph() -> Any:
    builder = StateGraph(Study)
    builder.add_node(study)
    builder.add_node(read)
    builder.add_node(compress)
    builder.add_edge(START, "study")
    builder.add_edge("compress", END)
    return builder.compile()


researcher_graph = _researcher_graph()


def build_deep_research() -> Any:
    desk = StateGraph(Desk)
    desk.add_node(lead)
    desk.add_node("delegate", RunnableLambda(delegate, adelegate), destinations=("lead", END))
    desk.add_edge(START, "lead")
    builder = StateGraph(Research)
    builder.add_node(clarify)
    builder.add_node(write_brief)
    builder.add_node("supervise", desk.compile())
    builder.add_node(report)
    builder.add_edge(START, "clarify")
    builder.add_edge("supervise", "report")
    builder.add_edge("report", END)
    return builder.compile()


DEEP_RESEARCH = Fixture(
    name="deep_research",
    build=build_deep_research,
    runs=(
        Run("asked back", {"question": "it"}, "What is it?", calls=1, visits={"write_brief": 0}),
        Run(
            "no research", {"question": "nothing new"}, "Nothing.", calls=4, visits={"supervise/delegate": 1}
        ),
        Run("one researcher", {"question": "tea"}, "Old tea.", calls=8),
        Run(
            "two at once, then one",
            {"question": "gold and salt"},
            "Dear gold.",
            calls=14,
            visits={"supervise/delegate": 3, "supervise/delegate/study": 5, "supervise/delegate/read": 5},
        ),
    ),
    kinds={
        "clarify": "llm",
        "write_brief": "dynamic",
        "supervise/lead": "llm",
        "supervise/delegate": "dynamic",
        "supervise/delegate/study": "llm",
        "supervise/delegate/read": "dynamic",
        "supervise/delegate/compress": "llm",
        "report": "llm",
    },
    outcome=lambda output: output["report"],
    planned={
        "write_brief": "clarify",
        "supervise/delegate": "supervise/lead",
        "supervise/delegate/read": "supervise/delegate/study",
    },
    calls_llm=frozenset({"write_brief"}),
    loops=loops(
        {"supervise/lead", "supervise/delegate"}, {"supervise/delegate/study", "supervise/delegate/read"}
    ),
)

FIXTURES = (DEEP_RESEARCH,)
