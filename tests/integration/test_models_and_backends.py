"""Calls of scheduled graphs go to the backend that claims one of their names, however it was chosen."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from langchain.chat_models import init_chat_model
from langchain_core.language_models import FakeListChatModel
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from support.seam import httpx

from llmsched_langgraph import Backend, UnknownModelError, schedule, wrap_openai

ASKED = {"messages": [("user", "hi")]}
ANSWER = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}},
    ],
}


class Watch:
    """Backends by name, and the one whose slot is held when a request is sent."""

    def __init__(self, make_scheduler: Callable[..., Any], *pools: Backend) -> None:
        self.scheduler = make_scheduler(backends=pools)
        self.seen: list[str] = []
        transport = httpx.MockTransport(self._answer)
        self.clients = {
            "http_client": httpx.Client(transport=transport),
            "http_async_client": httpx.AsyncClient(transport=transport),
        }

    def _answer(self, request: Any) -> Any:
        self.note()
        return httpx.Response(200, json=ANSWER)

    def note(self) -> None:
        self.seen += [pool.name for pool in self.scheduler.statistics().backends if pool.holding]

    def run(self, node: Any) -> list[str]:
        """Run a graph of one node, synchronously and asynchronously; return the backends that served it."""
        builder = StateGraph(MessagesState).add_node("answer", node).add_edge(START, "answer")
        graph = schedule(builder.compile(), self.scheduler)
        graph.invoke(ASKED)
        asyncio.run(graph.ainvoke(ASKED))
        return self.seen


def asking(model: Any, /, **kwargs: Any) -> Callable[[MessagesState], Any]:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"], **kwargs)]}

    return node


BIG, SMALL, REST = Backend("big", 1, ("big",)), Backend("small", 1, ("small",)), Backend("rest", 1)
EAST = {"api_key": "x", "api_version": "2024-01-01", "azure_endpoint": "https://east.azure.com"}


@pytest.mark.parametrize("claimed", ["prod-east", "gpt-4o", "prod-*"])
@pytest.mark.parametrize("names", [{"azure_deployment": "prod-east", "model": "gpt-4o"}])
def test_azure_by_deployment_or_model(make_scheduler, claimed, names):
    """Both are names of the call."""
    watch = Watch(make_scheduler, BIG, Backend("azure", 1, (claimed,)), REST)
    model = AzureChatOpenAI(**names, **EAST, **watch.clients)
    assert watch.run(asking(model)) == ["azure", "azure"]


def test_azure_with_a_deployment_only(make_scheduler):
    """Nothing else is known of it."""
    watch = Watch(make_scheduler, Backend("azure", 1, ("prod-east",)))
    model = AzureChatOpenAI(azure_deployment="prod-east", **EAST, **watch.clients)
    assert watch.run(asking(model)) == ["azure", "azure"]


def test_the_ways_to_choose_a_model(make_scheduler):
    """In the call, bound, configured, or by a configurable alternative: what is requested counts."""
    watch = Watch(make_scheduler, BIG, SMALL, REST)
    big = ChatOpenAI(model="big", api_key="x", **watch.clients)
    small = ChatOpenAI(model="small", api_key="x", **watch.clients)
    late = init_chat_model("openai:big", configurable_fields=("model",), api_key="x", **watch.clients)
    fields = big.configurable_fields(model_name=ConfigurableField(id="name"))
    alternatives = big.configurable_alternatives(ConfigurableField(id="llm"), small=small)

    def choose(**chosen: str) -> dict[str, Any]:
        return {"config": {"configurable": chosen}}

    for node, backend in (
        (asking(big), "big"),
        (asking(big, model="small"), "small"),
        (asking(big.bind(model="small")), "small"),
        (asking(big.bind(stop=["."])), "big"),
        (asking(big, model="other"), "rest"),
        (asking(init_chat_model("openai:small", api_key="x", **watch.clients)), "small"),
        (asking(late), "big"),
        (asking(late, **choose(model="openai:small")), "small"),
        (asking(late.with_config(configurable={"model": "openai:small"})), "small"),
        (asking(late.bind_tools([]).with_config(configurable={"model": "openai:other"})), "rest"),
        (asking(fields.with_config(configurable={"name": "small"})), "small"),
        (asking(alternatives), "big"),
        (asking(alternatives, **choose(llm="small")), "small"),
    ):
        watch.seen.clear()
        assert watch.run(node) == [backend, backend]


def test_one_model_at_two_urls(make_scheduler):
    """Two servers of one model are two backends, known by their URLs."""
    watch = Watch(
        make_scheduler,
        Backend("one", 1, base_urls=["http://gpu-1:8000"]),
        Backend("two", 1, base_urls=["http://gpu-2:*/v1"]),
    )
    for host, backend in (("gpu-1", "one"), ("gpu-2", "two")):
        watch.seen.clear()
        model = ChatOpenAI(model="m", api_key="x", base_url=f"http://{host}:8000/v1", **watch.clients)
        assert watch.run(asking(model)) == [backend, backend]
        client = wrap_openai(
            OpenAI(base_url=f"http://{host}:8000/v1", api_key="x", http_client=watch.clients["http_client"]),
            watch.scheduler,
        )
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "?"}])
        assert watch.seen[-1] == backend


def test_a_raw_azure_client(make_scheduler):
    """Its deployment stands in the URL."""
    watch = Watch(make_scheduler, Backend("azure", 1, ("prod-east",)), REST)
    client = wrap_openai(
        AzureOpenAI(azure_deployment="prod-east", http_client=watch.clients["http_client"], **EAST),
        watch.scheduler,
    )
    client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "?"}])
    assert watch.seen == ["azure"]


def test_a_raw_asynchronous_client(make_scheduler):
    """So does its model."""
    watch = Watch(make_scheduler, BIG, REST)

    async def main() -> None:
        bare = AsyncOpenAI(api_key="x", http_client=watch.clients["http_async_client"])
        client = wrap_openai(bare, watch.scheduler)
        await client.chat.completions.create(model="big", messages=[{"role": "user", "content": "?"}])

    asyncio.run(main())
    assert watch.seen == ["big"]


def test_what_no_backend_serves(make_scheduler):
    """The error reaches the caller of the graph, with everything that was seen of the call."""
    watch = Watch(make_scheduler, BIG, SMALL)
    model = AzureChatOpenAI(azure_deployment="dep", model="gpt-4o", **EAST, **watch.clients)
    words = r"no backend serves AzureChatOpenAI, deployment 'dep', model 'gpt-4o' \(known: big, small\)"
    with pytest.raises(UnknownModelError, match=words):
        watch.run(asking(model))
    assert watch.seen == []


def test_names_are_not_looked_up_without_need(make_scheduler, monkeypatch):
    """With one backend for everything, a call's names are not read."""
    from llmsched_langgraph._adapter import gate

    monkeypatch.setattr(gate, "names_of", None)
    watch = Watch(make_scheduler, REST)
    assert watch.run(asking(ChatOpenAI(model="m", api_key="x", **watch.clients))) == ["rest", "rest"]


def test_a_model_without_a_name(make_scheduler):
    """The backend for the rest serves it; without one, the error names its class."""

    class Nameless(FakeListChatModel):
        def _call(self, *args: Any, **kwargs: Any) -> str:
            watch.note()
            return "yes"

    watch = Watch(make_scheduler, BIG, REST)
    assert watch.run(asking(Nameless(responses=["."]))) == ["rest", "rest"]
    watch = Watch(make_scheduler, BIG)
    with pytest.raises(UnknownModelError, match="serves Nameless, which names no model"):
        watch.run(asking(Nameless(responses=["."])))


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_name_that_only_langchain_knows(make_scheduler, way):
    """What a class reports to LangChain of a call reaches the gate by every way to call it."""

    class Reporting(FakeListChatModel):
        def _get_ls_params(self, stop: Any = None, **kwargs: Any) -> Any:
            return {"ls_model_name": "big"}

        def _call(self, *args: Any, **kwargs: Any) -> str:
            watch.note()
            return "yes"

        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            watch.note()
            yield from super()._stream(*args, **kwargs)

        async def _astream(self, *args: Any, **kwargs: Any) -> Any:
            watch.note()
            async for chunk in super()._astream(*args, **kwargs):
                yield chunk

    async def in_loop(state: MessagesState) -> dict[str, Any]:
        model = Reporting(responses=["."])
        if way == "invoke":
            return {"messages": [await model.ainvoke("?")]}
        return {"messages": ["".join([chunk.text async for chunk in model.astream("?")])]}

    def in_thread(state: MessagesState) -> dict[str, Any]:
        model = Reporting(responses=["."])
        return {"messages": [model.invoke("?") if way == "invoke" else next(iter(model.stream("?"))).text]}

    watch = Watch(make_scheduler, SMALL, BIG, REST)
    assert watch.run(RunnableLambda(in_thread, afunc=in_loop)) == ["big", "big"]
