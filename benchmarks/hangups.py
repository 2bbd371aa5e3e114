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
import statistics
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from langchain_openai import ChatOpenAI
from measuring import print_table, ratio
from pydantic import SecretStr

from llmsched_langgraph import Scheduler
from llmsched_langgraph.lab.serve_sim.server import RunningBackend, SimulatedBackend, running_backend

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from servability.web_server import CALLS, MODES, Client, Site, running_site

WAYS = {
    "async": [f"async/{mode}" for mode in MODES],
    "sync": [f"sync/{mode}" for mode in MODES],
    "events": ["events/values"],
    "invoke": ["invoke/values"],
}
PATIENCE_S = 30.0


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

    def __init__(self, site: Site, way: str, backend: RunningBackend) -> None:
        self.site, self.backend = site, backend
        self._way, self._mode = way.split("/")
        self._numbers = itertools.count()

    def _client(self) -> Client:
        return Client(self.site, self._way, self._mode, next(self._numbers))

    async def _run_s(self) -> float:
        begin_s = time.perf_counter()
        async with self._client() as client:
            text = await client.to_the_end()
        assert text.startswith(b"HTTP/1.1 200")
        return time.perf_counter() - begin_s

    async def live(self, number: int) -> float:
        """Run `number` runs at once; return their mean duration in seconds."""
        return statistics.fmean(await asyncio.gather(*(self._run_s() for _ in range(number))))

    def _idle(self) -> bool:
        return self.site.is_idle() and self.backend.statistics()["in_flight"] == 0

    async def until_idle(self) -> None:
        """Wait until nothing is left."""
        end_s = time.perf_counter() + PATIENCE_S
        while not self._idle():
            assert time.perf_counter() < end_s, f"something is left: {self.site.scheduler!r}"
            await asyncio.sleep(0.002)

    async def come_and_leave(self, number: int) -> None:
        """Clients come, and hang up when twenty of their runs, or half of them, have begun."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self._client()) for _ in range(number)]
            while self.site.running < min(number, 40) // 2:  # noqa: ASYNC110 (no event tells)
                await asyncio.sleep(0.002)
            for client in clients:
                client.hang_up()

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


def model_of(backend: RunningBackend) -> ChatOpenAI:
    """Return the model that the nodes ask."""
    return ChatOpenAI(model="sim-model", base_url=backend.base_url, api_key=SecretStr("none"))


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
    with running_backend(config) as backend, running_site(scheduler, model_of(backend)) as site:
        for way in [way for name in options.ways for way in WAYS.get(name, [name])]:
            visit, found = Visit(site, way, backend), Found()

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
