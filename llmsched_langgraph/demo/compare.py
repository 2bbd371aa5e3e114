"""Knows how to run the demo's workload twice, stock and scheduled, and what the comparison says.

Does not know how the result is shown.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import SecretStr

from llmsched_langgraph.adapter.graph import schedule
from llmsched_langgraph.adapter.openai_client import wrap_openai
from llmsched_langgraph.demo.graphs import chain, planner, react_agent
from llmsched_langgraph.demo.workload import BURST, DemoRun, workload
from llmsched_langgraph.errors import LLMSchedError
from llmsched_langgraph.runtime.scheduler import Scheduler, check_slots
from llmsched_langgraph.sim.latency import latency_model

MODEL = "sim-model"
LATENCY = "llama-2-70b-a100-tp8"
SECONDS_PER_RUN = 0.2
"""The backend's time is scaled so that a pass takes this long for each of its runs, if the backend is
never idle: fast enough to watch, slow enough that the client's own work does not count."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass: job completion times in seconds, and the most requests the backend had at once."""

    mean_jct_s: float
    p50_jct_s: float
    p95_jct_s: float
    makespan_s: float
    backend_peak: int


_Outcome = tuple[Pass, list[list[str]]]
"""A pass, and what each of its runs wrote."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both passes. `held_after` and `waiting_after` are the scheduler's own count at the end."""

    runs: int
    slots: int
    seed: int
    stock: Pass
    scheduled: Pass
    outputs_equal: bool
    held_after: int
    waiting_after: int

    @property
    def mean_jct_reduction(self) -> float:
        """By how much scheduling lowered the mean job completion time, as a fraction of stock's."""
        return 1 - self.scheduled.mean_jct_s / self.stock.mean_jct_s

    def as_json(self) -> dict[str, Any]:
        """The comparison as `--json` prints it."""
        return {
            "runs": self.runs,
            "slots": self.slots,
            "seed": self.seed,
            "stock": asdict(self.stock),
            "scheduled": asdict(self.scheduled),
            "mean_jct_reduction": self.mean_jct_reduction,
            "outputs_equal": self.outputs_equal,
            "held_after": self.held_after,
            "waiting_after": self.waiting_after,
        }

    def broken_promises(self) -> list[str]:
        """What must never happen and did, in words."""
        broken = []
        if not self.outputs_equal:
            broken.append("the scheduled runs gave other outputs than the stock ones")
        if self.scheduled.backend_peak > self.slots:
            broken.append(
                f"the backend saw {self.scheduled.backend_peak} requests at once, over {self.slots} slots"
            )
        if self.held_after or self.waiting_after:
            broken.append(f"{self.held_after} slots are still held and {self.waiting_after} calls still wait")
        return broken


def compare(runs: int, slots: int, seed: int, on_finish: Callable[[str], None]) -> Comparison:
    """Run `runs` jobs on `slots` slots, stock and then scheduled; `on_finish` hears of each finished run."""
    check_slots(slots, "--slots")
    jobs = workload(runs, seed)
    # What the backend needs at best: all tokens, at the pace of a full batch.
    needed_s = sum(job.tokens for job in jobs) * latency_model(LATENCY).decode_s(slots) / slots
    pass_s = SECONDS_PER_RUN * runs
    window_s = BURST * pass_s

    async def both(url: str, scheduler: Scheduler) -> tuple[_Outcome, _Outcome]:
        # One event loop for both: langchain-openai shares one pool of connections in the process.
        stock = await _run(url, jobs, window_s, None, lambda: on_finish("stock"))
        return stock, await _run(url, jobs, window_s, scheduler, lambda: on_finish("scheduled"))

    with backend(slots, seed, time_scale=needed_s / pass_s) as url, Scheduler(slots) as scheduler:
        (stock, stock_outputs), (scheduled, outputs) = asyncio.run(both(url, scheduler))
        after = scheduler.statistics()
    return Comparison(
        runs=runs,
        slots=slots,
        seed=seed,
        stock=stock,
        scheduled=scheduled,
        outputs_equal=outputs == stock_outputs,
        held_after=after.holding,
        waiting_after=after.waiting,
    )


async def _run(
    url: str,
    jobs: list[DemoRun],
    window_s: float,
    scheduler: Scheduler | None,
    on_finish: Callable[[], None],
) -> _Outcome:
    # The backend is on loopback: no proxy of the environment stands in between.
    async with DefaultAsyncHttpxClient(trust_env=False) as http:
        control = url.removesuffix("/v1") + "/sim"
        (await http.post(f"{control}/reset")).raise_for_status()
        graphs = _graphs(url, http, scheduler)
        begin = time.monotonic()

        async def one(job: DemoRun) -> tuple[float, float, list[str]]:
            arrival = begin + job.arrival * window_s
            await asyncio.sleep(max(arrival - time.monotonic(), 0))
            state = await graphs[job.graph].ainvoke(job.input)
            end = time.monotonic()
            on_finish()
            return arrival, end, _texts(state)

        done = await asyncio.gather(*(one(job) for job in jobs))
        peak = (await http.get(f"{control}/statistics")).json()["peak_in_flight"]
    jcts = np.array([end - arrival for arrival, end, _ in done])
    return Pass(
        mean_jct_s=float(jcts.mean()),
        p50_jct_s=float(np.percentile(jcts, 50)),
        p95_jct_s=float(np.percentile(jcts, 95)),
        makespan_s=max(end for _, end, _ in done) - min(arrival for arrival, _, _ in done),
        backend_peak=peak,
    ), [texts for _, _, texts in done]


def _graphs(url: str, http: Any, scheduler: Scheduler | None) -> Mapping[str, Any]:
    model = ChatOpenAI(model=MODEL, base_url=url, api_key=SecretStr("none"), http_async_client=http)
    client = AsyncOpenAI(base_url=url, api_key="none", http_client=http)
    if scheduler is not None:
        client = wrap_openai(client, scheduler)
    graphs = {
        "react": react_agent(model),
        "planner": planner(model),
        "chain": chain(model, client, MODEL),
    }
    if scheduler is None:
        return graphs
    return {name: schedule(graph, scheduler) for name, graph in graphs.items()}


def _texts(state: Mapping[str, Any]) -> list[str]:
    """Everything that a run wrote, in order, without the ids that differ from run to run."""
    messages = [f"{message.type}: {message.text}" for message in state.get("messages", ())]
    written = ("notes", "summary", "text", "title")
    return messages + [json.dumps(state[key]) for key in written if key in state]


@contextmanager
def backend(slots: int, seed: int, time_scale: float) -> Iterator[str]:
    """The embedded backend in a process of its own, so that both have a core; gives its base URL."""
    command = [sys.executable, "-m", "llmsched_langgraph", "serve-sim", "--json", "--port", "0"]
    command += ["--slots", str(slots), "--seed", str(seed), "--time-scale", str(time_scale)]
    command += ["--model", MODEL, "--latency", LATENCY]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise LLMSchedError(f"the embedded backend did not start (exit status {process.wait()})")
        yield json.loads(line)["base_url"]
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
