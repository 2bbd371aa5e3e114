"""The graph that the web server and the queue's workers run: a draft, then its revision.

It is scheduled by the process's default scheduler, whose slots `LLMSCHED_URL` shares with other processes.
"""

from __future__ import annotations

import os
from typing import TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph

from llmsched_langgraph import schedule

# OPENAI_BASE_URL and OPENAI_API_KEY are read by ChatOpenAI itself.
model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "sim-model"))


class Answer(TypedDict, total=False):
    """A question comes in; its draft is revised into the answer."""

    question: str
    draft: str
    answer: str


def draft(state: Answer) -> Answer:
    return {"draft": model.invoke(f"Answer briefly: {state['question']}").text}


def revise(state: Answer) -> Answer:
    return {"answer": model.invoke(f"Improve this answer to {state['question']}\n{state['draft']}").text}


builder = StateGraph(Answer)
builder.add_node(draft)
builder.add_node(revise)
builder.add_edge(START, "draft")
builder.add_edge("draft", "revise")
builder.add_edge("revise", END)

graph = schedule(builder.compile(name="answers"))
