"""A web server on loopback that answers with runs of graphs, and clients that hang up on it."""

from __future__ import annotations

import asyncio
import operator
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import anyio
import uvicorn
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from sse_starlette.sse import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmsched_langgraph import Scheduler, schedule

CALLS = 4
"""Calls of a run: three side by side, then one."""

AT_FIRST = 3

MODES: dict[str, dict[str, Any]] = {
    **{mode: {"stream_mode": mode} for mode in ("values", "updates", "messages", "custom")},
    "several": {"stream_mode": ["updates", "messages", "custom"]},
    "subgraphs": {"stream_mode": "values", "subgraphs": True},
}


class State(TypedDict, total=False):
    """The number of the request, and the answers to its calls."""

    number: int
    answers: Annotated[list[str], operator.add]


class Answers(TypedDict, total=False):
    """What an inner graph gives back."""

    answers: Annotated[list[str], operator.add]


def graph_of(model: Any, *, asynchronous: bool) -> Any:
    """A node, a node in a thread and an inner graph side by side; then one more call."""

    def in_thread(state: State) -> State:
        get_stream_writer()({"asking": state["number"]})
        return {"answers": [model.invoke(f"{state['number']}").text]}

    async def in_task(state: State) -> State:
        get_stream_writer()({"asking": state["number"]})
        return {"answers": [(await model.ainvoke(f"{state['number']}")).text]}

    ask: Any = in_task if asynchronous else in_thread
    names = ("ask", "thread", "inner")
    inner = StateGraph(State, output_schema=Answers).add_node("ask", ask).add_edge(START, "ask")
    builder = StateGraph(State).add_node("ask", ask).add_node("thread", in_thread).add_node("last", ask)
    builder.add_node("inner", inner.compile())
    builder.add_conditional_edges(START, lambda state: [Send(name, state) for name in names], list(names))
    for name in names:
        builder.add_edge(name, "last")
    return builder.compile()


@dataclass
class Site:
    """A server that runs: `/{way}/{mode}/{number}` answers with a run, and its last line is "the end".

    The ways are "async" (an asynchronous generator in a StreamingResponse), "sync" (a plain one), "events"
    (`astream_events`), "sse" (server-sent events, as LangServe sends them) and "invoke" (`ainvoke`, which
    the endpoint cancels when the client hangs up: no framework does that by itself).

    Attributes:
        model: the chat model of all nodes.
        at_end: called on the server's event loop before it ends.
        errors: what came out of the server's application.
    """

    scheduler: Scheduler
    model: Any
    at_end: Callable[[], Awaitable[None]] | None = None
    port: int = 0
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.asynchronous = schedule(graph_of(self.model, asynchronous=True), self.scheduler)
        self.synchronous = schedule(graph_of(self.model, asynchronous=False), self.scheduler)
        self.ways: dict[str, Callable[[Request, dict[str, Any], dict[str, Any]], Any]] = {
            "async": self._async,
            "sync": self._sync,
            "events": self._events,
            "sse": self._sse,
            "invoke": self._invoke,
        }

    def app(self) -> Any:
        routes = [Route("/{way}/{mode}/{number:int}", self._answer)]
        inner = Starlette(routes=routes, lifespan=self._lifespan)

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await inner(scope, receive, send)
            except BaseException as error:
                self.errors.append(error)
                raise

        return app

    @asynccontextmanager
    async def _lifespan(self, _: Any) -> AsyncIterator[None]:
        yield
        if self.at_end is not None:
            await self.at_end()

    async def _answer(self, request: Request) -> Response:
        way, mode = self.ways[request.path_params["way"]], MODES[request.path_params["mode"]]
        response: Response = await way(request, {"number": request.path_params["number"]}, mode)
        return response

    async def _async(self, _: Request, given: dict[str, Any], mode: dict[str, Any]) -> Response:
        async def lines() -> AsyncIterator[str]:
            async for step in self.asynchronous.astream(given, **mode):
                yield f"{step}\n"
            yield "the end\n"

        return StreamingResponse(lines())

    async def _sync(self, _: Request, given: dict[str, Any], mode: dict[str, Any]) -> Response:
        def lines() -> Iterator[str]:
            for step in self.synchronous.stream(given, **mode):
                yield f"{step}\n"
            yield "the end\n"

        return StreamingResponse(lines())

    async def _events(self, _: Request, given: dict[str, Any], mode: dict[str, Any]) -> Response:
        async def lines() -> AsyncIterator[str]:
            async for event in self.asynchronous.astream_events(given, version="v2"):
                yield f"{event['event']}\n"
            yield "the end\n"

        return StreamingResponse(lines())

    async def _sse(self, _: Request, given: dict[str, Any], mode: dict[str, Any]) -> Response:
        async def events() -> AsyncIterator[dict[str, str]]:
            async for step in self.asynchronous.astream(given, **mode):
                yield {"event": "data", "data": f"{step}"}
            yield {"event": "end", "data": "the end"}

        return EventSourceResponse(events())

    async def _invoke(self, request: Request, given: dict[str, Any], mode: dict[str, Any]) -> Response:
        text = "nobody reads this"
        async with anyio.create_task_group() as group:

            async def hears() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(hears)
            text = f"{await self.asynchronous.ainvoke(given)} the end"
            group.cancel_scope.cancel()
        return PlainTextResponse(text)

    @property
    def running(self) -> int:
        return self.scheduler.statistics().jobs_running

    @property
    def waiting(self) -> int:
        return self.scheduler.statistics().waiting

    def is_idle(self) -> bool:
        now = self.scheduler.statistics()
        return (now.jobs_running, now.waiting, now.holding) == (0, 0, 0)


@contextmanager
def running_site(
    scheduler: Scheduler,
    model: Any,
    *,
    loop: Any = "asyncio",
    at_end: Callable[[], Awaitable[None]] | None = None,
) -> Iterator[Site]:
    """The server, as long as the context lasts, on an event loop of its own in a thread."""
    site = Site(scheduler, model, at_end)
    server = uvicorn.Server(uvicorn.Config(site.app(), loop=loop, log_level="critical", lifespan="on"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(200)
        site.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield site
        finally:
            server.should_exit = True
            thread.join(20)
    assert not thread.is_alive()


@dataclass
class Client:
    """One client of the site, over TCP."""

    site: Site
    way: str
    mode: str
    number: int

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.site.port)
        path = f"/{self.way}/{self.mode}/{self.number}"
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        await self.writer.drain()
        return self

    async def to_the_end(self) -> bytes:
        """Read until the server closes the connection."""
        return await self.reader.read()

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def hang_up(self) -> None:
        """Close the connection: politely, or with a reset."""
        if self.number % 2:
            self.writer.transport.abort()
        else:
            self.writer.close()
