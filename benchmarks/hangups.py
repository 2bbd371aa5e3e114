"""Measures live runs beside clients that hang up, over TCP: uvicorn, Starlette, a loopback backend.

    python benchmarks/hangups.py [--clients 100] [--live 12] [--repeats 3] [--slots 4] [--time-scale 5]
        [--ways async sync/values] [--stay]

In each repeat the live runs are measured alone, from the moment at which the last of the other clients has
hung up, and from a second later. A ratio to the runs alone is the median over the repeats, in brackets the
middle half of them. Beside it: the longest time from the last hang-up until no other run and no other call
was left, and how many requests the backend answered until then. `--stay` adds the ratio if nobody hangs up.
Clients, server and backend share one process: ending the runs of those who hung up takes some of its time.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import operator
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, TypedDict

import anyio
import uvicorn
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from measuring import print_table, ratio
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from llmsched_langgraph import Scheduler, schedule
from llmsched_langgraph.lab.serve_sim.server import RunningBackend, SimulatedBackend, running_backend

CALLS = 4
MODES: dict[str, dict[str, Any]] = {
    **{mode: {"stream_mode": mode} for mode in ("values", "updates", "messages", "custom")},
    "several": {"stream_mode": ["updates", "messages", "custom"]},
    "subgraphs": {"stream_mode": "values", "subgraphs": True},
}
WAYS = {
    "async": [f"async/{mode}" for mode in MODES],
    "sync": [f"sync/{mode}" for mode in MODES],
    "events": ["events/values"],
    "invoke": ["invoke/values"],
}
PATIENCE_S = 30.0


class State(TypedDict, total=False):
    """The answers of all calls."""

    answers: Annotated[list[str], operator.add]


def graph_of(model: ChatOpenAI, *, asynchronous: bool) -> Any:
    """Three calls side by side, one of them in an inner graph, then a fourth."""

    def in_thread(_: State) -> State:
        return {"answers": [model.invoke("How long is the Rhine?").text]}

    async def in_task(_: State) -> State:
        return {"answers": [(await model.ainvoke("How long is the Rhine?")).text]}

    ask: Any = in_task if asynchronous else in_thread
    inner = StateGraph(State).add_node("ask", ask).add_edge(START, "ask").compile()
    builder = StateGraph(State).add_node("ask", ask).add_node("inner", inner).add_node("last", ask)
    names = ["ask", "ask", "inner"]
    builder.add_conditional_edges(START, lambda _: [Send(name, {}) for name in names], ["ask", "inner"])
    return builder.add_edge("ask", "last").add_edge("inner", "last").compile()


class Site:
    """`GET /{way}/{mode}` answers with a run."""

    def __init__(self, scheduler: Scheduler, backend: RunningBackend) -> None:
        model = ChatOpenAI(model="sim-model", base_url=backend.base_url, api_key=SecretStr("none"))
        self.asynchronous = schedule(graph_of(model, asynchronous=True), scheduler)
        self.synchronous = schedule(graph_of(model, asynchronous=False), scheduler)
        self.app = Starlette(routes=[Route("/{way}/{mode}", self.answer)])

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        mode = MODES[request.path_params["mode"]]
        match request.path_params["way"]:
            case "async":
                return StreamingResponse(self._lines(self.asynchronous.astream({}, **mode)))
            case "events":
                return StreamingResponse(self._lines(self.asynchronous.astream_events({}, version="v2")))
            case "sync":
                return StreamingResponse(f"{step}\n" for step in self.synchronous.stream({}, **mode))
        return await self._invoke(request)

    async def _lines(self, steps: AsyncIterator[Any]) -> AsyncIterator[str]:
        async for step in steps:
            yield f"{step}\n"

    async def _invoke(self, request: Request) -> Response:
        answer = ""
        async with anyio.create_task_group() as group:

            async def hears() -> None:
                while (await request.receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(hears)
            answer = str(await self.asynchronous.ainvoke({}))
            group.cancel_scope.cancel()
        return PlainTextResponse(answer)


@contextmanager
def serving(app: Starlette) -> Iterator[int]:
    """The server in a thread; its port."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1_000)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@dataclass
class Found:
    """What was measured of one way, one number for each repeat; times in seconds."""

    alone_s: list[float] = field(default_factory=list)
    beside_s: list[float] = field(default_factory=list)
    later_s: list[float] = field(default_factory=list)
    stay_s: list[float] = field(default_factory=list)
    idle_s: list[float] = field(default_factory=list)
    in_vain: list[float] = field(default_factory=list)


class Visit:
    """Clients of one way."""

    def __init__(self, port: int, way: str, scheduler: Scheduler, backend: RunningBackend) -> None:
        self.port, self.way, self.scheduler, self.backend = port, way, scheduler, backend

    async def _come(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(f"GET /{self.way} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        return reader, writer

    async def _run_s(self) -> float:
        begin_s = time.perf_counter()
        reader, writer = await self._come()
        text = await reader.read()
        assert text.startswith(b"HTTP/1.1 200")
        writer.close()
        return time.perf_counter() - begin_s

    async def live(self, number: int) -> float:
        """Run `number` runs at once; return their mean duration in seconds."""
        return statistics.fmean(await asyncio.gather(*(self._run_s() for _ in range(number))))

    async def _idle(self) -> bool:
        now = self.scheduler.statistics()
        return (now.jobs_running, now.waiting, now.holding, self.backend.statistics()["in_flight"]) == (
            0,
        ) * 4

    async def until_idle(self) -> None:
        """Wait until nothing is left."""
        end_s = time.perf_counter() + PATIENCE_S
        while not await self._idle():
            assert time.perf_counter() < end_s, f"something is left: {self.scheduler!r}"
            await asyncio.sleep(0.002)

    async def come_and_leave(self, number: int) -> None:
        """Clients come, and hang up when twenty of their runs, or half of them, have begun."""
        clients = [await self._come() for _ in range(number)]
        while self.scheduler.statistics().jobs_running < min(number, 40) // 2:  # noqa: ASYNC110 (no event tells)
            await asyncio.sleep(0.002)
        for _, writer in clients:
            writer.close()

    async def repeat(self, found: Found, clients: int, live: int, *, stay: bool) -> None:
        """Measure each once."""
        found.alone_s.append(await self.live(live))
        await self.until_idle()

        self.backend.reset()
        await self.come_and_leave(clients)
        last_s = time.perf_counter()
        await self.until_idle()
        found.idle_s.append(time.perf_counter() - last_s)
        found.in_vain.append(self.backend.statistics()["served"])

        await self.come_and_leave(clients)
        found.beside_s.append(await self.live(live))
        await self.until_idle()

        await self.come_and_leave(clients)
        await asyncio.sleep(1.0)
        found.later_s.append(await self.live(live))
        await self.until_idle()
        if stay:
            others = [asyncio.create_task(self._run_s()) for _ in range(clients)]
            await asyncio.sleep(0)
            found.stay_s.append(await self.live(live))
            await asyncio.gather(*others)
            await self.until_idle()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--live", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--time-scale", type=float, default=5.0, help="20: calls of 50 ms, 5: of 200 ms")
    parser.add_argument(
        "--ways", nargs="+", choices=[*WAYS, *itertools.chain(*WAYS.values())], default=list(WAYS)
    )
    parser.add_argument("--stay", action="store_true")
    options = parser.parse_args()
    scheduler = Scheduler(options.slots)
    rows = []
    config = SimulatedBackend(slots=options.slots, time_scale=options.time_scale)
    with running_backend(config) as backend, serving(Site(scheduler, backend).app) as port:
        for way in [way for name in options.ways for way in WAYS.get(name, [name])]:
            visit, found = Visit(port, way, scheduler, backend), Found()

            async def measure(visit: Visit = visit, found: Found = found) -> None:
                await visit.live(options.live)  # does not count
                await visit.until_idle()
                for _ in range(options.repeats):
                    await visit.repeat(found, options.clients, options.live, stay=options.stay)

            asyncio.run(measure())
            rows.append(
                [
                    way,
                    f"{statistics.median(found.alone_s):.2f}",
                    ratio(found.beside_s, found.alone_s),
                    ratio(found.later_s, found.alone_s),
                    *([ratio(found.stay_s, found.alone_s)] if options.stay else []),
                    f"{max(found.idle_s):.2f}",
                    f"{max(found.in_vain):.0f} of {options.clients * CALLS}",
                ]
            )
    heads = ["way", "alone, s", "at once", "a second later", *(["if they stay"] if options.stay else [])]
    print_table([*heads, "idle after, s", "served in vain"], rows)


if __name__ == "__main__":
    main()
