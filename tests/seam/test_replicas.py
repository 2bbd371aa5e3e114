"""Replicas of a backend: which server a request goes to, and how many each has at once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypedDict

import aiohttp
import httpx
import httpx2
import pytest
import requests
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from openai import AsyncOpenAI, OpenAI

from llmsched_langgraph import Backend, ConfigurationError, schedule, wrap_openai

ANSWER = {
    "id": "a",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}},
    ],
}
NAMED = "http://named.test:81/v1"
"""The server that the models name; there is none."""


class State(TypedDict, total=False):
    n: int


class Replica(ThreadingHTTPServer):
    """A server that records its requests, and how many were in flight at once."""

    daemon_threads = True

    def __init__(self, together):
        super().__init__(("127.0.0.1", 0), Handler)
        self.together, self.seen, self.now, self.peak = together, [], 0, 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        replica: Any = self.server
        self.rfile.read(int(self.headers["content-length"]))
        with replica.lock:
            replica.seen.append((self.path, self.headers["host"]))
            replica.now += 1
            replica.peak = max(replica.peak, replica.now)
        replica.together()
        with replica.lock:
            replica.now -= 1
        body = json.dumps(ANSWER).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def replicas():
    """Two servers. `together` may be set: each request waits for it before its answer."""
    waits = [lambda: None]
    made = [Replica(lambda: waits[0]()) for _ in range(2)]
    threads = [threading.Thread(target=own.serve_forever, args=(0.01,)) for own in made]
    for thread in threads:
        thread.start()
    made[0].waits = waits
    yield made
    for own, thread in zip(made, threads, strict=True):
        own.shutdown()
        own.server_close()
        thread.join()


class Sender(BaseChatModel):
    """A model whose call does what it is told to."""

    base_url: str = NAMED
    does: Any = None

    @property
    def _llm_type(self) -> str:
        return "sender"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.does()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        await self.does()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x"))])


def graph_of(model, scheduler, *, asynchronous=False):
    def node(state):
        model.invoke("?")

    async def anode(state):
        await model.ainvoke("?")

    builder = StateGraph(State).add_node("a", anode if asynchronous else node)
    return schedule(builder.add_edge(START, "a").compile(), scheduler)


def backend_of(replicas, slots=4, **more):
    return Backend("gpu", slots, replicas=[own.url for own in replicas], **more)


def test_a_call_goes_to_the_replica_with_the_fewest(replicas, make_scheduler):
    """Four slots on two replicas: each serves two at once, whatever the order of the ends."""
    scheduler = make_scheduler(backends=[backend_of(replicas)])
    barrier = threading.Barrier(4)
    replicas[0].waits[0] = lambda: barrier.wait(20)

    async def does():
        async with httpx.AsyncClient(trust_env=False) as client:
            (await client.post(f"{NAMED}/chat/completions?a=b", json={})).raise_for_status()

    graph = graph_of(Sender(does=does), scheduler, asynchronous=True)

    async def main():
        await asyncio.gather(*(graph.ainvoke({}) for _ in range(8)))

    asyncio.run(main())
    assert [own.peak for own in replicas] == [2, 2]
    assert [len(own.seen) for own in replicas] == [4, 4]
    for own in replicas:
        assert set(own.seen) == {("/v1/chat/completions?a=b", own.url.removeprefix("http://"))}
    scheduler.check()


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
def test_a_synchronous_request(replicas, make_scheduler, library):
    scheduler = make_scheduler(backends=[backend_of(replicas, 1)])

    def does():
        with library.Client(trust_env=False) as client:
            client.post(f"{NAMED}/chat", json={}).raise_for_status()

    graph_of(Sender(does=does), scheduler).invoke({})
    assert [own.seen for own in replicas] == [[("/v1/chat", replicas[0].url.removeprefix("http://"))], []]


@pytest.mark.parametrize("base", [None, NAMED + "/"])
def test_a_request_of_aiohttp(replicas, make_scheduler, base):
    """With the whole URL, or below that of the session."""
    scheduler = make_scheduler(backends=[backend_of(replicas[1:])])

    async def does():
        url = "chat" if base else f"{NAMED}/chat"
        async with aiohttp.ClientSession(base) as session, session.post(url, json={}) as response:
            response.raise_for_status()

    asyncio.run(graph_of(Sender(does=does), scheduler, asynchronous=True).ainvoke({}))
    assert replicas[1].seen == [("/v1/chat", replicas[1].url.removeprefix("http://"))]


def test_a_request_that_cannot_be_moved(replicas, make_scheduler):
    """The error says so, and its slot is free."""
    scheduler = make_scheduler(backends=[backend_of(replicas)])

    def does():
        with requests.Session() as session:
            session.trust_env = False
            session.post(f"{replicas[0].url}/v1/chat", json={})

    with pytest.raises(ConfigurationError, match="'gpu' has replicas, but requests of urllib3 cannot"):
        graph_of(Sender(does=does, base_url=replicas[0].url), scheduler).invoke({})
    assert replicas[0].seen == []
    assert scheduler.statistics().holding == 0
    scheduler.check()


def test_wrapped_clients(replicas, make_scheduler):
    scheduler = make_scheduler(backends=[backend_of(replicas[1:], 2)])
    messages: Any = [{"role": "user", "content": "?"}]
    with httpx.Client(trust_env=False) as http:
        client = wrap_openai(OpenAI(base_url=NAMED, api_key="k", http_client=http), scheduler)
        assert client.chat.completions.create(model="m", messages=messages).id == "a"

    async def main():
        async with httpx.AsyncClient(trust_env=False) as http:
            client = wrap_openai(AsyncOpenAI(base_url=NAMED, api_key="k", http_client=http), scheduler)
            await client.chat.completions.create(model="m", messages=messages)

    asyncio.run(main())
    assert [path for path, _ in replicas[1].seen] == ["/v1/chat/completions"] * 2
    scheduler.check()


def test_a_request_inside_a_block(replicas, make_scheduler):
    """It uses the slot of the block, and goes to the replica of that."""
    scheduler = make_scheduler(backends=[backend_of(replicas, 2)])

    def does():
        with httpx.Client(trust_env=False) as client:
            client.post(f"{NAMED}/chat", json={}).raise_for_status()

    model = Sender(does=does)
    with scheduler.slot(), scheduler.slot():
        pass

    def node(state):
        with scheduler.slot():
            model.invoke("?")

    held = scheduler.slot()
    held.acquire()
    graph = schedule(StateGraph(State).add_node("a", node).add_edge(START, "a").compile(), scheduler)
    graph.invoke({})
    held.release()
    assert [len(own.seen) for own in replicas] == [0, 1]
    scheduler.check()


def test_the_replica_is_part_of_the_story(replicas, make_scheduler):
    scheduler, seen = make_scheduler(backends=[backend_of(replicas, 4)]), []
    subscription = scheduler.subscribe(lambda entry: seen.append(entry))
    slots = [scheduler.slot() for _ in range(4)]
    for slot in slots:
        slot.acquire()
    for slot in slots:
        slot.release()
    subscription.close()
    granted = [entry.detail.replica for entry in seen if entry.kind == "SlotGranted"]
    assert Counter(granted) == {own.url: 2 for own in replicas}


def test_slots_change_and_replicas_stay(replicas, make_scheduler):
    scheduler = make_scheduler(backends=[backend_of(replicas, 1)])
    scheduler.resize(2)
    first, second = scheduler.slot(), scheduler.slot()
    first.acquire()
    second.acquire()
    assert {first.replica, second.replica} == {own.url for own in replicas}
    first.release()
    second.release()
    scheduler.check()


@pytest.mark.parametrize(
    ("replicas", "message"),
    [
        ("http://a:1", "replicas must be a list of URLs"),
        (["gpu-1:8000"], "replicas has 'gpu-1:8000'; write a URL, such as"),
        (["http://a:1/v1"], "replicas has 'http://a:1/v1'; write scheme, host and port alone"),
        (["http://u:p@a:1"], "write scheme, host and port alone"),
        ([1], "replicas must be a list of URLs, but has 1"),
        ([], "has no replica; name some, or leave replicas out"),
    ],
)
def test_replicas_that_are_none(replicas, message):
    with pytest.raises(ConfigurationError, match=message):
        Backend("gpu", replicas=replicas)
