"""Knows what a call of the Redis ledger costs with few and with many tickets waiting.

    python benchmarks/redis_ledger.py URL [--waiting 100 100000] [--tenants 1 1000] [--steps 1000] [--rates]

It uses a server that runs already, keeps its own ledger there, and deletes that at the end. Each step is one
call: a release, a request, and the grant that follows.
"""

from __future__ import annotations

import argparse
import random
import time
from contextlib import closing
from statistics import quantiles

import redis

from llmsched_langgraph import Backend
from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.redis.client import LedgerClient
from llmsched_langgraph._ledger.redis.encoding import Shared
from llmsched_langgraph._ledger.tenants import NO_TENANTS
from llmsched_langgraph._ledger.values import Key, Release, Request
from llmsched_langgraph.policies import Exploration

SLOTS = 8
BATCH = 500


def request(rng: random.Random, ticket: int, tenants: int) -> Request:
    """A request in a lane of its own."""
    key = Key(rng.randrange(-2, 3), rng.random(), None, f"tenant {rng.randrange(tenants)}")
    return Request(ticket, ("b", ticket, StageOccurrence("s", 1)), key)


def cost(server: redis.Redis, url: str, waiting: int, tenants: int, steps: int, backend: Backend) -> str:
    """What a step costs, as a row of the table."""
    shared = Shared(Overdue(), Exploration(), NO_TENANTS)
    client, rng = (
        LedgerClient(url, f"benchmark {time.time_ns()}", shared, [backend], lease_s=1e6),
        random.Random(1),
    )
    held: list[int] = []
    for first in range(0, waiting + SLOTS, BATCH):
        tickets = range(first, min(first + BATCH, waiting + SLOTS))
        answer = client.apply(*[request(rng, ticket, tenants) for ticket in tickets])
        held += [own.ticket for own in answer.news]
    seconds = []
    server.config_resetstat()
    for ticket in range(waiting + SLOTS, waiting + SLOTS + steps):
        changes = Release(held.pop(0), Usage(100, 100)), request(rng, ticket, tenants)
        begun_s = time.perf_counter()
        answer = client.apply(*changes)
        seconds.append(time.perf_counter() - begun_s)
        held += [own.ticket for own in answer.news]
    stats = server.info("commandstats")
    of_server = stats["cmdstat_evalsha"]["usec_per_call"]
    for key in server.scan_iter(client.prefix + "*", count=10_000):
        server.unlink(key)
    client.close()
    cuts = quantiles(seconds, n=100)
    return f"{waiting:>8} {tenants:>8} {1e6 * cuts[49]:>9.0f} {1e6 * cuts[98]:>9.0f} {of_server:>9.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--waiting", type=int, nargs="+", default=[100, 10_000, 100_000])
    parser.add_argument("--tenants", type=int, nargs="+", default=[1, 1_000])
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--rates", action="store_true", help="limit requests and output tokens, far away")
    options = parser.parse_args()
    backend = Backend("b", SLOTS)
    if options.rates:
        backend = Backend("b", SLOTS, requests_per_minute=10**7, output_tokens_per_minute=10**10)
    with closing(redis.Redis.from_url(options.url)) as server:
        empty = server.script_load("return 7")
        begun_s = time.perf_counter()
        for _ in range(options.steps):
            server.evalsha(empty, 0)
        print(f"an empty script: {1e6 * (time.perf_counter() - begun_s) / options.steps:.0f} us")
        print(f"{'waiting':>8} {'tenants':>8} {'p50 us':>9} {'p99 us':>9} {'server us':>9}")
        for waiting in options.waiting:
            for tenants in options.tenants:
                print(cost(server, options.url, waiting, tenants, options.steps, backend), flush=True)


if __name__ == "__main__":
    main()
