"""Builds three LangGraph applications: a ReAct agent, a planner that fans out, a fixed chain.

Does not schedule: the graphs also run on the stock runner. Their prompts carry `<sim>` directives that set
the length of the embedded backend's answers; to a real model the directives are plain text.
"""

from __future__ import annotations

import json
import operator
from typing import Annotated, Any, TypedDict

from langchain.agents import create_agent
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from openai import AsyncOpenAI


def simulate(**turn: Any) -> str:
    """Return the directive that scripts the embedded backend's next answer."""
    return f"<sim>{json.dumps(turn)}</sim>"


@tool
async def search(query: str) -> str:
    """Search the encyclopedia."""
    return f"Three articles mention {query}."


@tool
async def look_up(article: str) -> str:
    """Read one article."""
    return f"{article}: first mentioned in 1851, and often since."


def react_agent(model: BaseChatModel) -> Any:
    """Return a ReAct loop: the model calls tools until it answers."""
    return create_agent(
        model, [search, look_up], system_prompt="Answer with the help of the tools.", name="react"
    )


class Report(TypedDict, total=False):
    """State of the planner: a topic becomes sections, each section notes, all notes a summary."""

    topic: str
    plan_tokens: int
    section_tokens: list[int]
    summary_tokens: int
    sections: list[str]
    notes: Annotated[list[str], operator.add]
    summary: str


class Section(TypedDict):
    """Input of one `research` run."""

    section: str
    tokens: int


def planner(model: BaseChatModel) -> Any:
    """Plan the sections, research each in parallel (`Send`), then write a summary."""

    async def plan(state: Report) -> Report:
        sections = [f"{state['topic']}, part {n + 1}" for n in range(len(state["section_tokens"]))]
        script = simulate(output_tokens=state["plan_tokens"], content=json.dumps(sections))
        answer = await model.ainvoke(f"Plan a report on {state['topic']} as a JSON list. {script}")
        return {"sections": json.loads(answer.text)}

    def fan_out(state: Report) -> list[Send]:
        return [
            Send("research", Section(section=section, tokens=tokens))
            for section, tokens in zip(state["sections"], state["section_tokens"], strict=True)
        ]

    async def research(state: Section) -> Report:
        script = simulate(output_tokens=state["tokens"])
        answer = await model.ainvoke(f"Take notes on {state['section']}. {script}")
        return {"notes": [answer.text]}

    async def write(state: Report) -> Report:
        notes = "\n".join(state["notes"])
        script = simulate(output_tokens=state["summary_tokens"])
        answer = await model.ainvoke(f"Summarise these notes. {script}\n{notes}")
        return {"summary": answer.text}

    builder = StateGraph(Report)
    builder.add_node("plan", plan)
    builder.add_node("research", research)
    builder.add_node("write", write)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", fan_out, ["research"])
    builder.add_edge("research", "write")
    builder.add_edge("write", END)
    return builder.compile(name="planner")


class Article(TypedDict, total=False):
    """State of the chain: a subject becomes a draft, then a better one, then a title."""

    subject: str
    tokens: list[int]
    text: str
    title: str


def chain(model: BaseChatModel, client: AsyncOpenAI, model_name: str) -> Any:
    """Return a chain of three calls, the last of them through the raw `openai` client."""

    async def draft(state: Article) -> Article:
        script = simulate(output_tokens=state["tokens"][0])
        answer = await model.ainvoke(f"Write two sentences on {state['subject']}. {script}")
        return {"text": answer.text}

    async def polish(state: Article) -> Article:
        script = simulate(output_tokens=state["tokens"][1])
        answer = await model.ainvoke(f"Make this read better. {script}\n{state['text']}")
        return {"text": answer.text}

    async def entitle(state: Article) -> Article:
        script = simulate(output_tokens=state["tokens"][2])
        answer = await client.chat.completions.create(
            model=model_name,
            messages=[{"role": "user", "content": f"Give this a title. {script}\n{state['text']}"}],
        )
        return {"title": answer.choices[0].message.content or ""}

    builder = StateGraph(Article)
    builder.add_sequence([("draft", draft), ("polish", polish), ("entitle", entitle)])
    builder.add_edge(START, "draft")
    builder.add_edge("entitle", END)
    return builder.compile(name="chain")
