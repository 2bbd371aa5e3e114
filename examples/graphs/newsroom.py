"""Three graphs of a newsroom, to be looked at: `llmsched inspect examples/graphs/newsroom.py:article`.

They run, too, on any OpenAI-compatible server; `llmsched serve-sim` is one that needs no key.
"""

from __future__ import annotations

import operator
import os
from typing import Annotated, Literal

from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send
from pydantic import BaseModel
from typing_extensions import TypedDict

model = ChatOpenAI(
    model=os.environ.get("OPENAI_MODEL", "sim-model"),
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


# -- desk: an agent, one of whose tools is an agent ------------------------------------------


@tool
def search_archive(words: str) -> str:
    """Search what the paper has printed."""
    return f"Three articles mention {words}."


checker = create_agent(model, [search_archive], system_prompt="Check the claim.", name="checker")


@tool
async def check(claim: str) -> str:
    """Have a claim checked by a colleague."""
    answer = await checker.ainvoke({"messages": [("user", claim)]})
    return answer["messages"][-1].text


desk = create_agent(model, [check], system_prompt="Answer the reader's letter.", name="desk")


# -- article: a plan fans out, an editor may send it back ------------------------------------


class Outline(BaseModel):
    """Sections of an article."""

    sections: list[str]


class Article(TypedDict, total=False):
    """A topic comes in; an outline, sections and a verdict make an article."""

    topic: str
    outline: list[str]
    sections: Annotated[list[str], operator.add]
    text: str
    verdict: str


class Section(TypedDict):
    """What one `write` sees."""

    title: str


async def plan(state: Article) -> Article:
    outline = await model.with_structured_output(Outline).ainvoke(f"Outline an article on {state['topic']}.")
    return {"outline": outline.sections}


def assign(state: Article) -> list[Send]:
    return [Send("write", Section(title=title)) for title in state["outline"]]


async def write(state: Section) -> Article:
    return {"sections": [(await model.ainvoke(f"Write the section {state['title']}.")).text]}


def set_type(state: Article) -> Article:
    return {"text": "\n\n".join(state["sections"])}


async def edit(state: Article) -> Article:
    return {"verdict": (await model.ainvoke(f"Is this ready to print?\n\n{state['text']}")).text}


def decide(state: Article) -> Literal["plan", "__end__"]:
    return END if "yes" in state["verdict"].lower() else "plan"


article_builder = StateGraph(Article)
article_builder.add_node(plan)
article_builder.add_node(write)
article_builder.add_node(set_type)
article_builder.add_node(edit)
article_builder.add_edge(START, "plan")
article_builder.add_conditional_edges("plan", assign, ["write"])
article_builder.add_edge("write", "set_type")
article_builder.add_edge("set_type", "edit")
article_builder.add_conditional_edges("edit", decide)
article = article_builder.compile(name="article")


# -- letters: a model decides who answers ----------------------------------------------------


class Letter(TypedDict, total=False):
    """A letter comes in, a reply goes out."""

    letter: str
    reply: str


async def sort(state: Letter) -> Command[Literal["thank", "refer", "__end__"]]:
    said = (await model.ainvoke(f"Praise, question or spam?\n\n{state['letter']}")).text.lower()
    return Command(goto="thank" if "praise" in said else "refer" if "question" in said else END)


def thank(state: Letter) -> Letter:
    return {"reply": "Thank you for writing to us."}


async def refer(state: Letter) -> Letter:
    answer = await desk.ainvoke({"messages": [("user", state["letter"])]})
    return {"reply": answer["messages"][-1].text}


letters_builder = StateGraph(Letter)
letters_builder.add_node(sort)
letters_builder.add_node(thank)
letters_builder.add_node(refer)
letters_builder.add_edge(START, "sort")
letters_builder.add_edge("thank", END)
letters_builder.add_edge("refer", END)
letters = letters_builder.compile(name="letters")
