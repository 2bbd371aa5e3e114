"""Prints how tenants share one backend live: scheduled graphs against the embedded server on loopback.

    python benchmarks/live_tenants.py [--seconds S] [--scale X]

Each part is a run of its own, in wall time, one after the other in one process. `tenants.py` has the same in
virtual time, with more jobs. Takes under two minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, TypedDict

from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from measuring import print_table
from openai import DefaultAsyncHttpxClient
from pydantic import SecretStr

from llmsched_langgraph import Scheduler, schedule
from llmsched_langgraph._core.events import Entry
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend
from llmsched_langgraph.lab.testbed.calls import EmbeddedLengths

SLOTS = 8
TOKENS = 120
"""Mean output tokens of a call."""

STEP_S = 0.007
"""About the seconds of a decode step of the server, before its time scale."""

Run = Callable[[str, list[int]], Awaitable[float]]
"""Executes one job of a tenant, calls of these output tokens in a row; returns its JCT in seconds."""


class State(TypedDict, total=False):
    """The output tokens of the calls that a run makes."""

    tokens: list[int]


@dataclass
class Service:
    """Adds up the seconds for which each tenant held slots, from the scheduler's story."""

    def __post_init__(self) -> None:
        self.tenants: dict[int, str] = {}
        self.spans: list[list[Any]] = []  # tenant, from, until
        self.queued: Counter[str] = Counter()
        self._open: dict[int, list[Any]] = {}

    def __call__(self, entry: Entry) -> None:
        """Read one entry of the story."""
        if entry.kind == "JobArrived":
            self.tenants[entry.job] = entry.detail.tenant
        elif entry.kind == "CallQueued":
            self.queued[self.tenants.get(entry.job, "")] += 1
        elif entry.kind == "SlotGranted":
            self._open[entry.ticket] = span = [self.tenants.get(entry.job, ""), entry.at_s, float("inf")]
            self.spans.append(span)
        elif entry.kind == "CallReleased" and entry.ticket in self._open:
            self._open.pop(entry.ticket)[2] = entry.at_s

    def within(self, since_s: float, until_s: float) -> dict[str, float]:
        """Return the slot-seconds of each tenant in this time of the scheduler's clock."""
        found: dict[str, float] = {}
        for tenant, begun_s, ended_s in list(self.spans):
            more_s = min(ended_s, until_s) - max(begun_s, since_s)
            found[tenant] = found.get(tenant, 0.0) + max(more_s, 0.0)
        return found


class Live:
    """A scheduler and the graphs that it schedules, on a running server."""

    def __init__(self, base_url: str, slots: int, weights: dict[str, float] | None = None) -> None:
        self.service = Service()
        self.scheduler = Scheduler(slots, tenants=weights)
        self.scheduler.subscribe(self.service)
        self.http = DefaultAsyncHttpxClient(trust_env=False)
        lengths = EmbeddedLengths()
        model = ChatOpenAI(
            model="sim-model", base_url=base_url, api_key=SecretStr("none"), http_async_client=self.http
        )

        async def call(tokens: int) -> None:
            bound = model.bind(max_tokens=tokens, extra_body=lengths.body(tokens))
            await bound.ainvoke(lengths.prompt(16, "tenants"))

        async def node(state: State) -> State:
            for tokens in state["tokens"]:
                await call(tokens)
            return {}

        async def sub(state: State) -> State:
            await call(state["tokens"][0])
            return {}

        row = StateGraph(State)
        row.add_node("node", node)
        row.add_edge(START, "node")
        row.add_edge("node", END)
        fan = StateGraph(State)
        fan.add_node("sub", sub)
        fan.add_conditional_edges(
            START, lambda state: [Send("sub", {"tokens": [own]}) for own in state["tokens"]], ["sub"]
        )
        self._row = schedule(row.compile(), self.scheduler)
        self._fan = schedule(fan.compile(), self.scheduler)

    async def row(self, tenant: str, tokens: list[int]) -> float:
        """Execute calls in a row; see `Run`."""
        begun_s = time.monotonic()
        await self._row.ainvoke({"tokens": tokens}, config_of(tenant))
        return time.monotonic() - begun_s

    async def fan(self, tenant: str, tokens: list[int]) -> float:
        """Execute a subagent for each call, all at once, in one run."""
        begun_s = time.monotonic()
        await self._fan.ainvoke({"tokens": tokens}, config_of(tenant))
        return time.monotonic() - begun_s

    async def close(self) -> None:
        """Close the scheduler and its client."""
        self.scheduler.close()
        await self.http.aclose()


def config_of(tenant: str) -> RunnableConfig:
    return {"metadata": {"llmsched_tenant": tenant}, "recursion_limit": 100}


def jobs(seed: int, load: float, seconds: float, scale: float) -> list[tuple[float, list[int]]]:
    """Return arrivals, in seconds, and the output tokens of the calls of each job, one to six."""
    deal, at_s, found = random.Random(seed), 0.0, []
    rate = load * SLOTS * scale / (3.5 * TOKENS * STEP_S)
    while (at_s := at_s + deal.expovariate(rate)) < seconds:
        calls = deal.randint(1, 6)
        found.append((at_s, [1 + round(deal.gammavariate(4.0, TOKENS / 4.0)) for _ in range(calls)]))
    return found


async def until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 (the story is told on other threads)
        await asyncio.sleep(0.01)


async def cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def arriving(
    run: Run, tenant: str, timed: list[tuple[float, list[int]]], slowdowns: list[float], scale: float
) -> None:
    """Execute the jobs at their arrivals; add the slowdown of each, by what its tokens take alone."""

    async def one(at_s: float, tokens: list[int]) -> float:
        await asyncio.sleep(at_s)
        return await run(tenant, tokens) / (sum(tokens) * STEP_S / scale)

    slowdowns += await asyncio.gather(*(one(*own) for own in timed))


async def light_and_heavy(url: str, seconds: float, scale: float) -> list[list[str]]:
    """A tenant of load 0.12 beside one of load 1.2, and the same jobs alone on half of the slots."""
    light, heavy = jobs(1, 0.12, seconds, scale), jobs(2, 1.2, seconds, scale)
    found: dict[str, float] = {}
    for name, slots, others in (("alone", SLOTS // 2, []), ("beside", SLOTS, heavy)):
        live, slowdowns = Live(url, slots), list[float]()
        beside = asyncio.create_task(arriving(live.row, "heavy", others, [], scale))
        await arriving(live.row, "light", light, slowdowns, scale)
        await cancelled([beside])
        await live.close()
        found[name] = mean(slowdowns)
    return [
        [
            f"10 : 1 in load, weights equal: slowdown of the light one ({len(light)} jobs), by alone on half",
            "at most 1.3",
            f"{found['beside'] / found['alone']:.2f}",
        ]
    ]


async def saturated(
    url: str,
    weights: dict[str, float],
    clients: dict[str, int],
    seconds: float,
    subagents: int = 0,
) -> dict[str, float]:
    """Return each tenant's service while this many clients of each always have a call waiting.

    With subagents, the tenant "many" has one run with that many parallel calls beside them.
    """
    live, deal = Live(url, SLOTS, weights), random.Random(3)

    async def client(tenant: str) -> float:
        while True:
            await live.row(tenant, [round(deal.uniform(0.5, 1.5) * TOKENS)])

    tasks = [asyncio.create_task(client(tenant)) for tenant, count in clients.items() for _ in range(count)]
    if subagents:
        tokens = [round(deal.uniform(0.5, 1.5) * TOKENS) for _ in range(subagents)]
        tasks.append(asyncio.create_task(live.fan("many", tokens)))
    # The loop is busy while it makes the calls of the subagents: until then the others cannot ask, either.
    service = live.service
    await until(lambda: len(service.spans) >= 4 * SLOTS and service.queued["many"] >= subagents - SLOTS)
    await asyncio.sleep(seconds / 8)  # what was begun before has ended
    since_s = max(span[1] for span in list(service.spans))
    await asyncio.sleep(seconds)
    served = service.within(since_s, since_s + seconds)
    await cancelled(tasks)
    await live.close()
    return served


async def measured(url: str, seconds: float, scale: float, subagents: int) -> list[list[str]]:
    """Return the rows of all parts."""
    rows = await light_and_heavy(url, seconds, scale)
    half_s = seconds / 2
    served = await saturated(url, {"a": 3.0, "b": 1.0}, {"a": 24, "b": 24}, half_s)
    rows.append(
        ["weights 3 : 1, both wait: service by 3", "0.95-1.05", f"{served['a'] / served['b'] / 3:.3f}"]
    )
    served = await saturated(url, {"a": 1.0, "b": 3.0}, {"a": 24}, half_s)
    rows.append(
        [
            "weights 1 : 3, the heavier one idle: share of all slots",
            "1.0",
            f"{served['a'] / SLOTS / half_s:.3f}",
        ]
    )
    served = await saturated(url, {}, {"one": 24}, half_s, subagents)
    rows.append(
        [
            f"one run of {subagents:,} subagents: service by the other tenant's",
            "1.0",
            f"{served['many'] / served['one']:.3f}",
        ]
    )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=25.0, help="of arrivals; the other parts take half")
    parser.add_argument("--scale", type=float, default=4.0, help="of the server's time")
    parser.add_argument("--subagents", type=int, default=1_000)
    options = parser.parse_args()
    begun_s = time.monotonic()
    with running_backend(SimulatedBackend(slots=SLOTS, time_scale=options.scale)) as backend:
        rows = asyncio.run(measured(backend.base_url, options.seconds, options.scale, options.subagents))
    print(f"Two tenants live on {SLOTS} slots, {time.monotonic() - begun_s:.0f} s:\n")
    print_table(["", "aim", "measured"], rows)


if __name__ == "__main__":
    main()
