"""Prints how well a limit that nobody tells is found live, beside a scheduler that is told and others.

    python benchmarks/hidden_limit.py [--seconds S] [--modes MODE ...] [--sides SIDE ...] [--clients N]
        [--in-turn] [--changes]

The embedded server runs in a process of its own. Its limit of concurrent requests is 16, then 6, then 24. In
the mode `refusing` it answers 429 above it and names a time, in `silent` it answers 429 and names none, in
`slowing` it never refuses: what is more waits in its own queue. Clients that always have a run going ask it,
with the same runs for each side. Each side has a server and a process of its own, all at the same time: what
else the machine does disturbs all of them.

- `told`: a scheduler that is told each change of the limit,
- `auto`: a scheduler with `slots="auto"`; both send a request again up to three times (`retries=3`),
- `bare`: the graph without a scheduler, with the retries of its client,
- `litellm`: the graph with LiteLLM's Router, with its retries, if `litellm` is installed.

A client whose run died begins the next one after a second. Windows are successes over max(8, limit). Takes
three times S for each mode, 7 minutes in all; with `--in-turn`, on a machine of few cores, for each side.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Protocol, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from measuring import print_table
from openai import DefaultAsyncHttpxClient
from pydantic import SecretStr

from llmsched_langgraph import Backend, Scheduler, schedule
from llmsched_langgraph.lab.demo.backend import MODEL, backend, counts, reset, resize
from llmsched_langgraph.lab.testbed.calls import EmbeddedLengths

LIMITS = (16, 6, 24)
MODES = ("refusing", "silent", "slowing")
SIDES = ("told", "auto", "bare", "litellm")
WINDOWS = 10
"""Number of windows after a change within which the limit should be found."""

NEAR = 0.2
TOKENS = 85
"""Mean output tokens of a call: about a second."""

SCALE = 4.0
SAMPLE_S = 0.05
LENGTHS = EmbeddedLengths()


class State(TypedDict, total=False):
    """The output tokens of the calls that a run makes."""

    tokens: list[int]


@dataclass
class Measured:
    """What happened on one side. Times are seconds since its begin.

    Attributes:
        calls: when each served call ended, and its output tokens; without those of runs that died.
        jcts_s: completion times of the runs that ended well.
        died: the errors of the others.
        limits: samples of the scheduler's limit; none without a scheduler.
        counts: what the server counted.
    """

    calls: list[tuple[float, int]] = field(default_factory=list)
    jcts_s: list[float] = field(default_factory=list)
    died: list[str] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)

    def tokens(self, since_s: float, until_s: float) -> int:
        """Return the output of calls that ended between two times."""
        return sum(tokens for at_s, tokens in self.calls if since_s <= at_s < until_s)

    def at_window(self, since_s: float, until_s: float) -> list[tuple[float, float, int]]:
        """Return time, windows since `since_s`, and limit, of each sample between two times."""
        ends = sorted(at_s for at_s, _ in self.calls if since_s <= at_s < until_s)
        found, windows, next_ = [], 0.0, 0
        for at_s, limit in self.limits:
            if since_s <= at_s < until_s:
                while next_ < len(ends) and ends[next_] <= at_s:
                    windows, next_ = windows + 1 / max(8, limit), next_ + 1
                found.append((at_s, windows, limit))
        return found


class Side(Protocol):
    """One way to run the graph."""

    async def call(self, tokens: int) -> None:
        """Make one call of these output tokens; raises what the client raises."""

    def told(self, slots: int) -> None:
        """The server's limit changes now."""

    def limit(self) -> int | None:
        """Return the limit now; None if there is none."""

    def scheduled(self, graph: Any) -> Any:
        """Return the graph as this side runs it."""

    async def close(self) -> None:
        """Give back what it has."""


class Client:
    """The graph without a scheduler: ChatOpenAI and its own retries."""

    def __init__(self, url: str) -> None:
        self._http = DefaultAsyncHttpxClient(trust_env=False, timeout=None)
        self._model = ChatOpenAI(
            model=MODEL, base_url=url, api_key=SecretStr("none"), http_async_client=self._http
        )

    async def call(self, tokens: int) -> None:
        """See `Side.call`."""
        bound = self._model.bind(max_tokens=tokens, extra_body=LENGTHS.body(tokens))
        await bound.ainvoke(LENGTHS.prompt(16, "limit"))

    def told(self, slots: int) -> None:
        """See `Side.told`."""

    def limit(self) -> int | None:
        """See `Side.limit`."""
        return None

    def scheduled(self, graph: Any) -> Any:
        """See `Side.scheduled`."""
        return graph

    async def close(self) -> None:
        """See `Side.close`."""
        await self._http.aclose()


class Scheduled(Client):
    """The same with a scheduler, which is told the limit, or finds it."""

    def __init__(self, url: str, *, finds: bool) -> None:
        super().__init__(url)
        self._finds = finds
        self._scheduler = Scheduler(backends=[Backend("b", "auto" if finds else LIMITS[0], retries=3)])

    def told(self, slots: int) -> None:
        """See `Side.told`."""
        if not self._finds:
            self._scheduler.resize(slots)

    def limit(self) -> int | None:
        """See `Side.limit`."""
        return self._scheduler.statistics().slots

    def scheduled(self, graph: Any) -> Any:
        """See `Side.scheduled`."""
        return schedule(graph, self._scheduler)

    async def close(self) -> None:
        """See `Side.close`."""
        self._scheduler.close()
        await super().close()


class LiteLLM(Client):
    """LiteLLM's Router in place of the chat model."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        litellm: Any = importlib.import_module("litellm")
        litellm.suppress_debug_info = True
        where = {"model": f"openai/{MODEL}", "api_base": url, "api_key": "none"}
        self._router = litellm.Router([{"model_name": MODEL, "litellm_params": where}])

    async def call(self, tokens: int) -> None:
        """See `Side.call`."""
        message = {"role": "user", "content": LENGTHS.prompt(16, "limit")}
        await self._router.acompletion(
            model=MODEL, messages=[message], max_tokens=tokens, extra_body=LENGTHS.body(tokens)
        )


SIDE: dict[str, Callable[[str], Side]] = {
    "told": lambda url: Scheduled(url, finds=False),
    "auto": lambda url: Scheduled(url, finds=True),
    "bare": Client,
    "litellm": LiteLLM,
}


def runs(seed: int) -> list[list[int]]:
    """Return the output tokens of the calls of a client's runs, one to three in each."""
    deal = random.Random(seed)
    return [
        [1 + round(deal.gammavariate(2.0, TOKENS / 2.0)) for _ in range(deal.randint(1, 3))]
        for _ in range(2_000)
    ]


async def measure(name: str, url: str, seconds: float, clients: int) -> Measured:
    """Run one side against a fresh server."""
    side, found = SIDE[name](url), Measured()

    async def node(state: State) -> State:
        served: list[tuple[float, int]] = []
        try:
            for tokens in state["tokens"]:
                await side.call(tokens)
                served.append((time.monotonic() - begun_s, tokens))
                found.calls.append(served[-1])
        except Exception:
            for call in served:
                found.calls.remove(call)
            raise
        return {}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    graph = side.scheduled(builder.compile())

    async def client(number: int) -> None:
        for tokens in runs(number):
            asked_s = time.monotonic()
            try:
                await graph.ainvoke({"tokens": tokens})
            except Exception as error:
                found.died.append(type(error).__name__)
                await asyncio.sleep(1.0)
            else:
                found.jcts_s.append(time.monotonic() - asked_s)

    async def watch() -> None:
        while (limit := side.limit()) is not None:
            found.limits.append((time.monotonic() - begun_s, limit))
            await asyncio.sleep(SAMPLE_S)

    async with DefaultAsyncHttpxClient(trust_env=False) as control:
        begun_s = time.monotonic()
        await graph.ainvoke({"tokens": [1]})  # what the client's libraries import late
        found.calls.clear()
        await reset(control, url)
        begun_s = time.monotonic()
        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        tasks.append(asyncio.create_task(watch()))
        for phase, (before, limit) in enumerate(zip((LIMITS[0], *LIMITS), LIMITS, strict=False)):
            await asyncio.sleep(begun_s + phase * seconds - time.monotonic())
            if limit < before:
                side.told(limit)
            if limit != before:
                await resize(control, url, limit)
            side.told(limit)
        await asyncio.sleep(begun_s + len(LIMITS) * seconds - time.monotonic())
        found.counts = await counts(control, url)
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
    await side.close()
    return found


def row(name: str, own: Measured, told: Measured | None, seconds: float) -> list[str]:
    """The figures of one side, by phase where they differ."""
    medians, windows, shares = [], [], []
    for phase, right in enumerate(LIMITS):
        samples = own.at_window(phase * seconds, (phase + 1) * seconds)
        later = [limit for _, window, limit in samples if window >= WINDOWS]
        first = next((window for _, window, limit in samples if _near(limit, right)), None)
        medians.append(f"{median(later):g}" if later else "-")
        windows.append("-" if not samples else "never" if first is None else f"{first:.1f}")
        shares.append(f"{fmean(_near(limit, right) for limit in later):.2f}" if later else "-")
    spans = [(phase * seconds, (phase + 1) * seconds) for phase in range(len(LIMITS))]
    spans.append((0.0, len(LIMITS) * seconds))
    ratios = [
        "-" if told is None else f"{own.tokens(*span) / max(told.tokens(*span), 1):.2f}" for span in spans
    ]
    rejected = own.counts["rejected"]
    attempts = own.counts["served"] + rejected + own.counts["cancelled"] + own.counts["in_flight"]
    ended = len(own.jcts_s) + len(own.died)
    return [
        name,
        " / ".join(medians),
        " / ".join(windows),
        " / ".join(shares),
        " / ".join(ratios[:-1]),
        ratios[-1],
        f"{rejected / max(attempts, 1):.2%} of {attempts:,.0f}",
        f"{len(own.died)} of {ended}",
        f"{fmean(own.jcts_s):.2f}" if own.jcts_s else "-",
    ]


def changes(limits: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
    """Return the samples at which the limit was another one than before."""
    before = [0, *(limit for _, limit in limits)]
    return [own for own, last in zip(limits, before, strict=False) if own[1] != last]


def _near(limit: int, right: int) -> bool:
    return abs(limit - right) <= NEAR * right


COLUMNS = [
    "side",
    f"median limit from {WINDOWS} windows after each change",
    "windows until within 20 %",
    "share of time within 20 % from then",
    "throughput / told, by phase",
    "in all",
    "attempts that saw 429",
    "runs that died",
    "mean JCT, s",
]

QUEUES = {"refusing": 0, "silent": 0, "slowing": None}


def one(name: str, mode: str, seconds: float, clients: int) -> Measured:
    """Measure one side in one mode, against a server of its own."""
    with backend(LIMITS[0], 0, SCALE, queue_limit=QUEUES[mode], retry_after=mode != "silent") as url:
        return asyncio.run(measure(name, url, seconds, clients))


def compared(options: argparse.Namespace, mode: str, sides: Sequence[str]) -> dict[str, Measured]:
    """Measure the sides in one mode: each in a process of its own, at the same time or in turn."""
    workers = 1 if options.in_turn else len(sides)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(one, name, mode, options.seconds, options.clients) for name in sides]
        return {name: future.result() for name, future in zip(sides, futures, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="of each limit")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["refusing", "slowing"])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=SIDES)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--in-turn", action="store_true", help="one side after the other")
    parser.add_argument("--changes", action="store_true", help="print each change of the limit that is found")
    options = parser.parse_args()
    sides = list(options.sides)
    if "litellm" in sides and importlib.util.find_spec("litellm") is None:
        print("litellm is not installed: its row is left out (pip install litellm).\n")
        sides.remove("litellm")
    for mode in options.modes:
        found = compared(options, mode, sides)
        print(
            f"Mode `{mode}`: limit {' then '.join(map(str, LIMITS))}, {options.seconds:g} s each, "
            f"{options.clients} clients.\n"
        )
        print_table(
            COLUMNS, [row(name, own, found.get("told"), options.seconds) for name, own in found.items()]
        )
        for name, own in found.items():
            if own.died:
                print(
                    f"{name}: {', '.join(f'{own.died.count(kind)} {kind}' for kind in sorted({*own.died}))}"
                )
        if options.changes and "auto" in found:
            print(
                "auto:", ", ".join(f"{at_s:.1f} s: {limit}" for at_s, limit in changes(found["auto"].limits))
            )
        print(flush=True)


if __name__ == "__main__":
    main()
