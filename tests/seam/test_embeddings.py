"""Embeddings are calls like any other, if a backend claims their model."""

from __future__ import annotations

import asyncio
from typing import TypedDict

import pytest
from langchain_core.embeddings import Embeddings
from langgraph.graph import START, StateGraph

from llmsched_langgraph import Backend, schedule


class State(TypedDict, total=False):
    n: int


class Own(Embeddings):
    """Embeddings that note how many slots are held while they work; asynchronous ones run in a thread."""

    def __init__(self, scheduler, model="embed-small"):
        self.scheduler, self.model, self.seen = scheduler, model, []
        self.base_url = "http://embed.test/v1"

    def embed_documents(self, texts):
        self.seen.append(self.scheduler.statistics().holding)
        return [[0.0] for _ in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class OwnAsync(Own):
    """The same, with a hook of its own for the event loop."""

    async def aembed_documents(self, texts):
        return self.embed_documents(texts)


def run(embeddings, scheduler, asynchronous):
    def node(state):
        embeddings.embed_query("?")
        embeddings.embed_documents(["a", "b"])
        return {}

    async def anode(state):
        await embeddings.aembed_query("?")
        await embeddings.aembed_documents(["a", "b"])
        return {}

    chosen = anode if asynchronous else node
    graph = schedule(StateGraph(State).add_node("a", chosen).add_edge(START, "a").compile(), scheduler)
    if asynchronous:
        asyncio.run(graph.ainvoke({}))
    else:
        graph.invoke({})
    scheduler.check()
    return scheduler.statistics().granted


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("cls", [Own, OwnAsync])
@pytest.mark.parametrize(
    "claim", [{"models": ["embed-*"]}, {"base_urls": ["http://embed.test"]}], ids=["model", "url"]
)
def test_claimed_embeddings_take_slots(make_scheduler, asynchronous, cls, claim):
    """One per call, whatever hooks it passes."""
    scheduler = make_scheduler(backends=[Backend("embed", slots=1, **claim), Backend("rest", slots=1)])
    embeddings = cls(scheduler)
    assert run(embeddings, scheduler, asynchronous) == 2
    assert embeddings.seen == [1, 1]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    "backends",
    [[Backend("all", slots=1)], [Backend("chat", slots=1, models=["gpt-*"]), Backend("rest", slots=1)]],
)
def test_other_embeddings_do_not(make_scheduler, asynchronous, backends):
    """A backend without models serves chat models; embeddings are often local, or another service."""
    scheduler = make_scheduler(backends=backends)
    embeddings = Own(scheduler)
    assert run(embeddings, scheduler, asynchronous) == 0
    assert embeddings.seen == [0, 0]
