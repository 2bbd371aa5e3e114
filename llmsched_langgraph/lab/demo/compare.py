"""Runs the demo's workload twice, stock and scheduled, and compares the passes.

Does not print the result.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from langchain_openai import ChatOpenAI
from openai import AsyncOpenAI, DefaultAsyncHttpxClient
from pydantic import SecretStr

from llmsched_langgraph import schedule, wrap_openai
from llmsched_langgraph._arguments import whole_number
from llmsched_langgraph._ledger.backends import SLOTS
from llmsched_langgraph._runtime.scheduler import Scheduler
from llmsched_langgraph.lab.demo.backend import LATENCY, MODEL, backend, counts, reset
from llmsched_langgraph.lab.demo.graphs import chain, planner, react_agent
from llmsched_langgraph.lab.demo.passes import Pass
from llmsched_langgraph.lab.demo.workload import BURST, DemoRun, workload
from llmsched_langgraph.lab.sim.latency import latency_model

SECONDS_PER_RUN = 0.2
"""Seconds of a pass per run, with a backend that is never idle; sets the backend's time scale. The value is
small enough to watch, and large enough that the client's own work does not matter."""


_Outcome = tuple[Pass, list[list[str]]]
"""A pass, and the texts that each of its runs wrote."""


@dataclass(frozen=True, slots=True)
class DemoComparison:
    """Both passes.

    Attributes:
        runs: runs in each pass.
        slots: slots of the backend and of the scheduler.
        seed: seed of the workload and the replies.
        stock: metrics of the pass on the stock runner.
        scheduled: metrics of the scheduled pass.
        outputs_equal: whether both passes wrote the same texts.
        held_after: slots that the scheduler still counts as held at the end.
        waiting_after: calls that the scheduler still counts as waiting at the end.
    """

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
        """1 - scheduled / stock, of the mean job completion times."""
        return 1 - self.scheduled.mean_jct_s / self.stock.mean_jct_s

    def as_json(self) -> dict[str, Any]:
        """Return the comparison as `--json` prints it."""
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
        """Return a message for each promise that the scheduled pass broke."""
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


def compare(runs: int, slots: int, seed: int, on_finish: Callable[[str], None]) -> DemoComparison:
    """Run the workload on the stock runner, then scheduled.

    Args:
        runs: runs in each pass.
        slots: slots of the backend and of the scheduler.
        seed: seed of the workload and the replies.
        on_finish: called with the pass's name after each run.
    """
    whole_number(slots, "--slots", SLOTS)
    jobs = workload(runs, seed)
    # The least time that the backend needs: all tokens, decoded in full batches.
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
    return DemoComparison(
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
    # The backend is on loopback, so a proxy from the environment must not be used.
    async with DefaultAsyncHttpxClient(trust_env=False) as http:
        await reset(http, url)
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
        peak = (await counts(http, url))["peak_in_flight"]
    return Pass.of([(arrival, end) for arrival, end, _ in done], peak), [texts for _, _, texts in done]


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
    """Return all texts that a run wrote, in order, without the message ids, which are random."""
    messages = [f"{message.type}: {message.text}" for message in state.get("messages", ())]
    written = ("notes", "summary", "text", "title")
    return messages + [json.dumps(state[key]) for key in written if key in state]
