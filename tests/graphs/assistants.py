"""Assistants: one that remembers, one that picks its model by name, and a supervisor who hands over."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict

from langchain.agents import create_agent
from langchain.chat_models import init_chat_model
from langchain_core.messages import AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from pydantic import BaseModel

from graphs.configured import named
from graphs.fixture import Fixture, Run, asked, last_text, loops
from graphs.scripted import ScriptedModel, uses

# -- a memory: facts in a store, a summary in place of old messages ------------------------


class Talk(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    summary: str


@tool
def remember(fact: str) -> str:
    """Remember a fact."""
    return fact


COMPANION = named(
    "companion",
    {
        ("hello",): "Hello.",
        ("my cat is Tom",): uses("remember", fact="cat Tom"),
        ("my cat is Tom", "kept: cat Tom"): "Noted.",
        ("Ann and Bob",): [uses("remember", fact="friend Ann"), uses("remember", fact="friend Bob")],
        ("Ann and Bob", "kept: friend Ann", "kept: friend Bob"): "Noted both.",
        ("who is Tom", "Known: cat Tom"): "Your cat.",
        ("goodbye", "Before: small talk"): "You said hello twice.",
    },
)
summarizer = ScriptedModel(script={("Sum up", "hello"): "small talk", ("Sum up", "Tom"): "a cat"})
chat_model = init_chat_model(configurable_fields="any")


def _names(config: RunnableConfig) -> tuple[str, ...]:
    return ("facts", config["configurable"]["thread_id"])


def _asked(state: Talk, facts: list[Any]) -> list[Any]:
    known = ", ".join(fact.value["fact"] for fact in facts)
    return [("system", f"Known: {known}. Before: {state.get('summary', '')}"), *state["messages"]]


def reply(state: Talk, config: RunnableConfig, *, store: BaseStore) -> Talk:
    prompt = _asked(state, store.search(_names(config)))
    model = chat_model.bind_tools([remember])
    return {"messages": [model.invoke(prompt, {"configurable": {"model": COMPANION}})]}


def keep(state: Talk, config: RunnableConfig, *, store: BaseStore) -> Talk:
    told = []
    for call in state["messages"][-1].tool_calls:
        store.put(_names(config), call["id"], call["args"])
        told.append(ToolMessage(f"kept: {call['args']['fact']}", tool_call_id=call["id"]))
    return {"messages": told}


def shorten(state: Talk) -> Talk:
    old = state["messages"][:-1]
    told = "\n".join(message.text for message in old)
    return {
        "summary": summarizer.invoke(f"Sum up: {told}").text,
        "messages": [RemoveMessage(id=message.id) for message in old],
    }


def goes_on(state: Talk) -> Literal["keep", "shorten", "__end__"]:
    if state["messages"][-1].tool_calls:
        return "keep"
    questions = [message for message in state["messages"] if message.type == "human"]
    return "shorten" if len(questions) > 1 else END


def build_memory() -> Any:
    builder = StateGraph(Talk)
    builder.add_node(reply)
    builder.add_node(keep)
    builder.add_node(shorten)
    builder.add_edge(START, "reply")
    builder.add_conditional_edges("reply", goes_on)
    builder.add_edge("keep", "reply")
    builder.add_edge("shorten", END)
    return builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore())


MEMORY = Fixture(
    name="memory_agent",
    build=build_memory,
    runs=(
        Run("nothing to keep", asked("hello"), "Hello.", calls=1, visits={"keep": 0}),
        Run("one fact", asked("my cat is Tom"), "Noted.", calls=2, visits={"keep": 1}),
        Run("two facts at once", asked("Ann and Bob"), "Noted both.", calls=2, visits={"keep": 1}),
        Run(
            "remembered, and summed up",
            asked("hello"),
            "You said hello twice.",
            calls=4,
            then=(asked("hello"), asked("goodbye")),
            visits={"shorten": 1},
        ),
        Run("looked up", asked("my cat is Tom"), "Your cat.", calls=4, then=(asked("who is Tom"),)),
    ),
    kinds={"reply": "llm", "keep": "dynamic", "shorten": "llm"},
    outcome=last_text,
    planned={"keep": "reply"},
    loops=loops({"reply", "keep"}),
)

# -- a ReAct agent: the model is loaded by its name in each call ---------------------------


def load_chat_model(name: str) -> Any:
    """The model that a configuration names as `provider/model`."""
    provider, _, model = name.partition("/")
    return init_chat_model(model, model_provider=provider)


@tool
def weather(town: str) -> str:
    """The weather in a town."""
    return f"{town}: {'rain' if len(town) > 4 else 'sun'}"


GUIDE = named(
    "guide",
    {
        ("hello",): "Hello.",
        ("Oslo?",): uses("weather", town="Oslo"),
        ("Oslo?", "Oslo: sun"): "Sun in Oslo.",
        ("Bergen or Bodo?",): [uses("weather", town="Bergen"), uses("weather", town="Bodo")],
        ("Bergen or Bodo?", "Bergen: rain", "Bodo: sun"): "Bodo.",
        ("trip",): uses("weather", town="Alta"),
        ("trip", "Alta: sun"): [uses("weather", town="Hammerfest"), uses("weather", town="Vardo")],
        ("trip", "Alta: sun", "Hammerfest: rain", "Vardo: rain"): "Stay in Alta.",
    },
)


def _loaded(config: RunnableConfig) -> Any:
    prompt = ChatPromptTemplate.from_messages([("system", "Guide people."), ("placeholder", "{messages}")])
    name = config["configurable"].get("model", GUIDE).replace(":", "/")
    return prompt | load_chat_model(name).bind_tools([weather])


def call_model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    return {"messages": [_loaded(config).invoke({"messages": state["messages"]})]}


async def acall_model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
    return {"messages": [await _loaded(config).ainvoke({"messages": state["messages"]})]}


def route_model_output(state: MessagesState) -> Literal["tools", "__end__"]:
    return "tools" if state["messages"][-1].tool_calls else END


def build_react_template() -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("call_model", RunnableLambda(call_model, acall_model))
    builder.add_node("tools", ToolNode([weather]))
    builder.add_edge(START, "call_model")
    builder.add_conditional_edges("call_model", route_model_output)
    builder.add_edge("tools", "call_model")
    return builder.compile()


REACT_TEMPLATE = Fixture(
    name="react_template",
    build=build_react_template,
    runs=(
        Run("no tool", asked("hello"), "Hello.", calls=1, visits={"tools": 0}),
        Run("one call", asked("Oslo?"), "Sun in Oslo.", calls=2, visits={"tools": 1}),
        Run("two at once", asked("Bergen or Bodo?"), "Bodo.", calls=2, visits={"tools": 1}),
        Run("two rounds", asked("trip"), "Stay in Alta.", calls=3, visits={"tools": 2, "call_model": 3}),
    ),
    kinds={"call_model": "llm", "tools": "dynamic"},
    outcome=last_text,
    planned={"tools": "call_model"},
    loops=loops({"call_model", "tools"}),
)

# -- a supervisor who hands over with commands, and agents who give back -------------------


class Next(BaseModel):
    """Who is next; nobody if the answer is there."""

    worker: Literal["librarian", "reckoner", "nobody"]
    answer: str = ""


@tool
def find_book(title: str) -> str:
    """Find a book."""
    return f"{title} has {len(title)} pages"


chief = ScriptedModel(
    script={
        ("Chief", "hello"): Next(worker="nobody", answer="Hello."),
        ("Chief", "pages of Emma"): Next(worker="librarian"),
        ("Chief", "pages of Emma", "It has 4."): Next(worker="nobody", answer="4."),
        ("Chief", "twice Emma"): Next(worker="librarian"),
        ("Chief", "twice Emma", "It has 4."): Next(worker="reckoner"),
        ("Chief", "twice Emma", "It has 4.", "That is 8."): Next(worker="nobody", answer="8."),
        ("Chief", "two and two"): Next(worker="reckoner"),
        ("Chief", "two and two", "That is 4."): Next(worker="nobody", answer="4!"),
    }
)


def build_handoffs() -> Any:
    librarian_agent = create_agent(
        ScriptedModel(
            script={
                ("Read", "Emma"): uses("find_book", title="Emma"),
                ("Read", "Emma", "has 4 pages"): "It has 4.",
            }
        ),
        [find_book],
        system_prompt="Read.",
    )
    reckoning = ScriptedModel(
        script={("Reckon", "twice", "It has 4."): "That is 8.", ("Reckon", "two and two"): "That is 4."}
    )

    def supervisor(state: MessagesState) -> Command[Literal["librarian", "reckoner", "__end__"]]:
        choice = chief.with_structured_output(Next).invoke([("system", "Chief"), *state["messages"]])
        if choice.worker == "nobody":
            return Command(goto=END, update={"messages": [("ai", choice.answer)]})
        return Command(goto=choice.worker)

    def librarian(state: MessagesState) -> Command[Literal["supervisor"]]:
        found = librarian_agent.invoke({"messages": state["messages"]})
        return Command(goto="supervisor", update={"messages": found["messages"][-1:]})

    def reckoner(state: MessagesState) -> Command[Literal["supervisor"]]:
        found = reckoning.invoke([("system", "Reckon"), *state["messages"]])
        return Command(goto="supervisor", update={"messages": [HumanMessage(found.text, name="reckoner")]})

    builder = StateGraph(MessagesState)
    builder.add_node(supervisor)
    builder.add_node(librarian)
    builder.add_node(reckoner)
    builder.add_edge(START, "supervisor")
    return builder.compile()


HANDOFFS = Fixture(
    name="supervisor_handoffs",
    build=build_handoffs,
    runs=(
        Run("nobody", asked("hello"), "Hello.", calls=1, visits={"librarian": 0, "reckoner": 0}),
        Run("an agent", asked("pages of Emma"), "4.", calls=4, visits={"librarian": 1, "supervisor": 2}),
        Run("a model", asked("two and two"), "4!", calls=3, visits={"reckoner": 1}),
        Run("one, then the other", asked("twice Emma"), "8.", calls=6, visits={"supervisor": 3}),
    ),
    kinds={
        "supervisor": "llm",
        "librarian": "dynamic",
        "librarian/model": "llm",
        "librarian/tools": "dynamic",
        "reckoner": "dynamic",
    },
    outcome=last_text,
    planned={"librarian": "supervisor", "librarian/tools": "librarian/model", "reckoner": "supervisor"},
    calls_llm=frozenset({"reckoner"}),
    loops=loops({"supervisor", "librarian", "reckoner"}, {"librarian/model", "librarian/tools"}),
)

FIXTURES = (MEMORY, REACT_TEMPLATE, HANDOFFS)
