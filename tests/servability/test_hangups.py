"""Clients that hang up over TCP on runs of graphs: nothing waits for them, and nothing is served for them."""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient
from support.seam import auntil, until

pytest.importorskip("sse_starlette", reason="sse-starlette is not installed")

from servability.web_server import AT_FIRST, CALLS, MODES, Client, Site, running_site

from llmsched_langgraph import Scheduler
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend
from llmsched_langgraph.testing import StreamingModel

NO_UVLOOP = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed")

pytestmark = pytest.mark.timeout(120)

CLIENTS = 100
LIVE = 3
SLOTS = 4
THREADS = 40
"""Threads that AnyIO gives the responses of one server at once."""

WAYS = [(way, mode) for way in ("async", "sync", "sse") for mode in MODES]
WAYS += [("events", "values"), ("invoke", "values")]


@contextmanager
def no_collections() -> Iterator[None]:
    """What ends here ends without the garbage collector."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class Story:
    """Observes a scheduler: which jobs got a slot although they had ended."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.ended: set[int] = set()
        self.late: list[int] = []
        scheduler.subscribe(self.see)

    def see(self, entry: Any) -> None:
        if entry.kind == "JobEnded":
            self.ended.add(entry.job)
        elif entry.kind == "SlotGranted" and entry.job in self.ended:
            self.late.append(entry.job)


@pytest.mark.parametrize(("way", "mode"), WAYS, ids=lambda value: value)
def test_a_hundred_clients_whose_calls_wait(make_scheduler, way, mode):
    """All but three hang up while the model answers nobody: their runs and their waiting calls end."""
    scheduler, model = make_scheduler(SLOTS), StreamingModel()
    story = Story(scheduler)
    model.meter.gate.clear()

    async def visit(site: Site) -> int:
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            clients = []
            for number in range(CLIENTS):
                clients.append(await stack.enter_async_context(Client(site, way, mode, number)))
                if number < LIVE:  # these get a thread
                    await auntil(lambda number=number: site.running > number)
            await auntil(lambda: site.running >= (THREADS if way == "sync" else CLIENTS))
            await auntil(lambda: scheduler.statistics().holding == SLOTS)
            for client in clients[LIVE:]:
                client.hang_up()
            await auntil(lambda: site.running == LIVE and site.waiting <= LIVE * AT_FIRST)
            in_vain = model.meter.total
            model.meter.gate.set()
            for text in await asyncio.gather(*(client.to_the_end() for client in clients[:LIVE])):
                assert b"the end" in text
            return in_vain

    with running_site(scheduler, model) as site, no_collections():
        try:
            in_vain = asyncio.run(visit(site))
            until(site.is_idle)
        finally:
            model.meter.gate.set()
    assert model.meter.total <= in_vain + LIVE * CALLS
    assert (story.late, site.errors) == ([], [])


LOOPS = ["asyncio", pytest.param("uvloop", marks=NO_UVLOOP)]


@pytest.mark.parametrize("loop", LOOPS)
def test_a_hundred_clients_of_all_kinds(make_scheduler, loop):
    """They hang up at any moment, while a backend serves them over HTTP: then no request is in flight."""
    scheduler, deal = make_scheduler(SLOTS), random.Random(7)
    story = Story(scheduler)

    async def live(site: Site, number: int) -> None:
        way, mode = WAYS[number % len(WAYS)]
        async with Client(site, way, mode, number) as client:
            assert b"the end" in await client.to_the_end()

    async def leaves(site: Site, number: int) -> None:
        way, mode = WAYS[number % len(WAYS)]
        async with Client(site, way, mode, number) as client:
            if number % 3:
                await asyncio.sleep(deal.uniform(0.0, 1.0))
            elif way != "invoke":
                await client.reader.read(deal.randrange(1, 2_000))
            client.hang_up()

    async def visit(site: Site) -> None:
        async with asyncio.timeout(100):
            alive = asyncio.gather(*(live(site, number) for number in range(len(WAYS))))
            await asyncio.gather(*(leaves(site, number) for number in range(CLIENTS)))
            await alive

    with running_backend(SimulatedBackend(slots=SLOTS, time_scale=50)) as backend:
        client = DefaultAsyncHttpxClient()
        model = ChatOpenAI(
            model="sim-model",
            base_url=backend.base_url,
            api_key="none",
            max_retries=0,
            http_async_client=client,
        )
        with running_site(scheduler, model, loop=loop, at_end=client.aclose) as site, no_collections():
            asyncio.run(visit(site))
            until(lambda: site.is_idle() and backend.statistics()["in_flight"] == 0)
            seen = backend.statistics()
    assert (story.late, site.errors) == ([], [])
    assert seen["peak_in_flight"] <= SLOTS
    assert len(WAYS) * CALLS <= seen["served"] < (len(WAYS) + CLIENTS) * CALLS
