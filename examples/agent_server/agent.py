"""Two scheduled graphs for LangGraph's Agent Server: a tool-calling agent, and a report that fans out."""

from __future__ import annotations

import asyncio
import operator
import os
from typing import Annotated, Any
from weakref import WeakKeyDictionary

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from openai import DefaultAsyncHttpxClient
from typing_extensions import TypedDict  # pydantic, which makes the schemas, needs this one on 3.11

from llmsched_langgraph import schedule


class ClientPerLoop(DefaultAsyncHttpxClient):
    """An HTTP client with connections of its own for each event loop.

    Only needed for BG_JOB_ISOLATED_LOOPS=true: the server then runs each run on an event loop of its
    own, and the connections of one loop cannot serve another.
    """

    def __init__(self) -> None:
        super().__init__()
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = WeakKeyDictionary()

    async def send(self, *args: Any, **kwargs: Any) -> Any:
        """Send the request over a connection of the running loop."""
        loop = asyncio.get_running_loop()
        client = self._clients.get(loop)
        if client is None:
            client = self._clients[loop] = DefaultAsyncHttpxClient()
        return await client.send(*args, **kwargs)


# OPENAI_BASE_URL and OPENAI_API_KEY are read by ChatOpenAI itself.
model = ChatOpenAI(
    model=os.environ.get("OPENAI_MODEL", "sim-model"),
    http_async_client=ClientPerLoop(),
)


@tool
async def look_up(subject: str) -> str:
    """Look a subject up in the encyclopedia."""
    return f"{subject}: first mentioned in 1851, and often since."


@tool
async def publish(text: str) -> str:
    """Publish a text for all to read."""
    return f"Published: {text}"


agent = schedule(
    create_agent(
        model,
        [look_up, publish],
        system_prompt="Answer with the help of the tools.",
        middleware=[HumanInTheLoopMiddleware(interrupt_on={"publish": True})],
        name="agent",
    )
)


class Report(TypedDict, total=False):
    """Topics come in; each gets a note, and all notes make a summary."""

    topics: list[str]
    notes: Annotated[list[str], operator.add]
    summary: str


class Topic(TypedDict):
    """What one `research` sees."""

    topic: str


def fan_out(state: Report) -> list[Send]:
    return [Send("research", Topic(topic=topic)) for topic in state["topics"]]


def research(state: Topic) -> Report:
    # A plain `def` node: LangGraph runs it in a thread, and the thread waits for its slot.
    return {"notes": [model.invoke(f"Take notes on {state['topic']}.").text]}


async def write(state: Report) -> Report:
    notes = "\n".join(state["notes"])
    return {"summary": (await model.ainvoke(f"Summarise these notes.\n{notes}")).text}


builder = StateGraph(Report)
builder.add_node(research)
builder.add_node(write)
builder.add_conditional_edges(START, fan_out, ["research"])
builder.add_edge("research", "write")
builder.add_edge("write", END)

report = schedule(builder.compile(name="report"))
