"""Shows what LangGraph's own `max_concurrency` limits, and what a scheduler limits, by running both.

    python benchmarks/max_concurrency.py [--write]

Prints a Markdown table; `--write` also puts it into the README between its marks. Takes 45 seconds.

Each figure is the peak of LLM calls in flight, in bold where it is not the limit that was asked for. A
run that is not over after `PATIENCE_S`, of which half a second would do, counts as a deadlock. Threads
cannot be killed, so the synchronous cases run in processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import operator
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.func import entrypoint, task
from langgraph.graph import START, StateGraph
from langgraph.types import Send
from marked import table, write

from llmsched_langgraph import Scheduler, schedule

CALL_S = 0.05
"""What a call takes: long enough that all calls that may be in flight together are."""

PATIENCE_S = 5.0
DEADLOCK = "deadlock"

# -- the model, and what it counts -------------------------------------------------------


class Meter:
    """Calls in flight, and the highest number of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start again at zero."""
        self._now = self.peak = self.total = 0

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.total += 1
            self.peak = max(self.peak, self._now)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._now -= 1


METER = Meter()


class CountingModel(BaseChatModel):
    """A chat model that counts the calls in flight, all on `METER`."""

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with METER:
            time.sleep(CALL_S)
            return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with METER:
            await asyncio.sleep(CALL_S)
            return ChatResult(generations=[ChatGeneration(message=AIMessage("yes"))])


MODEL = CountingModel()

# -- the graphs --------------------------------------------------------------------------


class State(TypedDict):
    """What the graphs carry: the answers."""

    answers: Annotated[list[str], operator.add]


async def acall(state: State) -> State:
    return {"answers": [(await MODEL.ainvoke("?")).text]}


def call(state: State) -> State:
    return {"answers": [MODEL.invoke("?").text]}


def fan_out(width: int, node: Any) -> Any:
    """A graph that runs the node `width` times at once."""
    builder = StateGraph(State).add_node("node", node)
    builder.add_conditional_edges(START, lambda state: [Send("node", {"answers": []})] * width, ["node"])
    return builder.compile()


@task
async def aone_task() -> str:
    return (await MODEL.ainvoke("?")).text


@task
def one_task() -> str:
    return MODEL.invoke("?").text


def tasks(count: int) -> Any:
    """An `@entrypoint` that awaits `count` tasks at once."""

    @entrypoint()
    async def flow(state: State) -> State:
        return {"answers": await asyncio.gather(*(aone_task() for _ in range(count)))}

    return flow


def tasks_in_threads(count: int) -> Any:
    @entrypoint()
    def flow(state: State) -> State:
        futures = [one_task() for _ in range(count)]
        return {"answers": [future.result() for future in futures]}

    return flow


# -- how they are run --------------------------------------------------------------------

Config = Any  # a RunnableConfig, which mypy does not take from a plain dict


def start() -> State:
    return {"answers": []}


async def one_run(graph: Any, config: Config) -> None:
    await graph.ainvoke(start(), config)


async def five_runs(graph: Any, config: Config) -> None:
    await asyncio.gather(*(graph.ainvoke(start(), config) for _ in range(5)))


async def batch_of_five(graph: Any, config: Config) -> None:
    await graph.abatch([start() for _ in range(5)], config)


def in_a_thread(graph: Any, config: Config) -> None:
    graph.invoke(start(), config)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        title: what is run.
        calls: how many LLM calls it makes.
        limit: what `max_concurrency` and the scheduler are set to; None: neither is.
        graph: makes the graph.
        run: runs it, as a coroutine function or as a plain one.
        configurable: whether the limit is put inside `configurable`.
        beside: `max_concurrency` that the scheduled graph is given as well.
    """

    title: str
    calls: int
    limit: int | None
    graph: Callable[[], Any]
    run: Callable[[Any, Config], Awaitable[None] | None] = one_run
    configurable: bool = False
    beside: int | None = None

    @property
    def threads(self) -> bool:
        """Whether it runs in threads, which nobody can kill."""
        return self.run is in_a_thread

    def config(self, limit: int | None) -> Config:
        """What asks LangGraph for a limit."""
        config = {} if limit is None else {"max_concurrency": limit}
        return {"configurable": config} if self.configurable else config


WIDE = 40
CPUS = os.cpu_count()

CASES = (
    Case("`Send` x8", 8, 2, lambda: fan_out(8, acall)),
    Case(
        '`Send` x8, the limit inside `"configurable"`',
        8,
        2,
        lambda: fan_out(8, acall),
        configurable=True,
    ),
    Case("`Send` x4 of a subgraph that does `Send` x4", 16, 2, lambda: fan_out(4, fan_out(4, acall))),
    Case("5 x `ainvoke` under `asyncio.gather`, each `Send` x4", 20, 2, lambda: fan_out(4, acall), five_runs),
    Case("`abatch` of 5, each `Send` x4", 20, 2, lambda: fan_out(4, acall), batch_of_five),
    Case("`@entrypoint` that awaits one `@task`", 1, 1, lambda: tasks(1)),
    Case("`@entrypoint` that awaits five `@task`s", 5, 1, lambda: tasks(5)),
    Case("the same with one, `invoke` of plain functions", 1, 1, lambda: tasks_in_threads(1), in_a_thread),
    Case("the same with five, `invoke` of plain functions", 5, 1, lambda: tasks_in_threads(5), in_a_thread),
    Case(f"`invoke`, `Send` x{WIDE}, on {CPUS} CPUs", WIDE, None, lambda: fan_out(WIDE, call), in_a_thread),
    Case("the same", WIDE, 20, lambda: fan_out(WIDE, call), in_a_thread),
    Case(
        f"the same, the scheduled graph with `max_concurrency={WIDE}`",
        WIDE,
        20,
        lambda: fan_out(WIDE, call),
        in_a_thread,
        beside=WIDE,
    ),
)

WAYS = ("stock", "scheduled")


def measure(case: Case, way: str) -> str:
    """The peak of calls in flight, or `DEADLOCK`."""
    METER.reset()
    graph, limit = case.graph(), case.limit
    if way == "scheduled":
        graph = schedule(graph, Scheduler(case.calls if limit is None else limit))
        limit = case.beside
    if not (in_threads if case.threads else on_loop)(case, graph, case.config(limit)):
        return DEADLOCK
    assert METER.total == case.calls, f"{case.title}: {METER.total} calls"
    return str(METER.peak)


def on_loop(case: Case, graph: Any, config: Config) -> bool:
    """Run it on a loop of its own; whether it came to an end. If not, it is cancelled."""

    async def main() -> bool:
        try:
            async with asyncio.timeout(PATIENCE_S):
                ended = case.run(graph, config)
                assert ended is not None
                await ended
        except TimeoutError:
            return False
        return True

    with warnings.catch_warnings():
        # What waits for ever has coroutines that never began; LangGraph drops them when it is cancelled.
        warnings.simplefilter("ignore", RuntimeWarning)
        return asyncio.run(main())


def in_threads(case: Case, graph: Any, config: Config) -> bool:
    """Run it in a thread; whether it came to an end. If not, the thread stays for ever."""
    thread = threading.Thread(target=case.run, args=(graph, config), daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def in_process(row: int, way: str) -> str:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--cell", str(row), way]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    return done.stdout.strip()


def _number(cell: str) -> int:
    return -1 if cell == DEADLOCK else int(cell)


def limits() -> str:
    stock = f"LangGraph {version('langgraph')} with `max_concurrency`"
    rows = []
    for row, case in enumerate(CASES):
        measured = [in_process(row, way) if case.threads else measure(case, way) for way in WAYS]
        limit = "none" if case.limit is None else str(case.limit)
        # In bold what is not what was asked for.
        cells = [cell if case.limit in (None, _number(cell)) else f"**{cell}**" for cell in measured]
        rows.append([case.title, limit, *cells])
    return table(["", "limit", stock, "`schedule(graph, Scheduler(limit))`"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into the README, too")
    parser.add_argument("--cell", nargs=2, metavar=("ROW", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["LANGSMITH_TRACING"] = "false"
    if options.cell:
        row, way = options.cell
        print(measure(CASES[int(row)], way), flush=True)
        os._exit(0)  # the interpreter would wait for threads that wait for ever
    text = limits()
    print(text, end="")
    if options.write:
        write("max_concurrency", text)


if __name__ == "__main__":
    main()
