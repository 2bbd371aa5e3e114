"""Runs a program's graph: which runs, from which threads and loops, in which way, and how some are cut off.

Does not judge: it returns what came of each run.
"""

from __future__ import annotations

import asyncio
import contextvars
import importlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import anyio
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from llmsched_langgraph._runtime.context import CALL, current_run
from programs.stage.stage import Stage

CUT_OFF = "cut off"
"""What came of a run that was cancelled, hung up on, timed out or broken off before its end."""

Way = Literal["invoke", "stream", "messages", "events", "batch", "broken off"]
Cut = Literal["", "cancelled", "hung up", "timed out"]


@dataclass(frozen=True)
class Run:
    """One run of the graph.

    Attributes:
        way: how it is run; "broken off" reads a stream's first step alone. "events" is for loops.
        cut: how it is cut off from outside, if it is. For loops.
        after: when that is, in turns of the loop.
    """

    way: Way = "invoke"
    cut: Cut = ""
    after: int = 0


@dataclass(frozen=True)
class Client:
    """A thread of its own that runs the graph.

    Attributes:
        kind: one run after the other in the thread, or all at once on a loop.
        runs: the runs.
        end: what becomes of the tasks that the runs left running: the loop awaits them, cancels them, or is
            closed under them.
    """

    kind: Literal["thread", "loop", "uvloop"]
    runs: tuple[Run, ...]
    end: Literal["awaits", "cancels", "closes"] = "awaits"


@dataclass(frozen=True)
class Program:
    """What a written program is.

    Attributes:
        build: makes the graph on a stage.
        slots: how many the scheduler has.
        policy: its policy.
        clients: who runs the graph, all at once.
        healthy: whether no call of it may have to go ahead over the slots.
    """

    build: Callable[[Stage], Any]
    slots: int
    policy: str
    clients: tuple[Client, ...]
    healthy: bool = True


Outcome = tuple[str, ...]
"""What came of a run: the parts of its result, the name of its error's type, or `CUT_OFF`."""


def play(program: Program, stage: Stage, *, cut: bool) -> list[Outcome]:
    """Run everything, and join what was left running; `cut` says whether runs are cut off.

    Returns:
        What came of each run, in the order of the clients.
    """
    graph = program.build(stage)
    with ThreadPoolExecutor(len(program.clients)) as threads:
        parts = [
            threads.submit(contextvars.Context().run, _serve, graph, stage, client, f"c{number}", cut)
            for number, client in enumerate(program.clients)
        ]
        outcomes = [outcome for part in parts for outcome in part.result()]
    stage.finish()
    return outcomes


def _serve(graph: Any, stage: Stage, client: Client, name: str, cut: bool) -> list[Outcome]:
    paths = [f"{name}r{number}" for number in range(len(client.runs))]
    if client.kind == "thread":
        return [_run(graph, stage, run, path) for run, path in zip(client.runs, paths, strict=True)]
    loops: Any = asyncio if client.kind == "loop" else importlib.import_module("uvloop")
    runs = _on_loop(graph, stage, client, paths, cut)
    if client.end != "closes":
        with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
            return runner.run(runs)
    loop: asyncio.AbstractEventLoop = loops.new_event_loop()
    try:
        return loop.run_until_complete(runs)
    finally:
        stage.forget_tasks(loop)
        loop.close()


def _unmarked(outcome: Outcome) -> Outcome:
    """What came of a run, if its caller is left as it was: no run is marked in its context, and no slot."""
    marked = current_run() is not None or CALL.get() is not None
    return ("its caller is marked",) if marked else outcome


def _config(path: str) -> dict[str, Any]:
    return {"configurable": {"thread_id": path}, "recursion_limit": 50}


def _result(output: Any) -> Outcome:
    return ("done", *output["out"]) if isinstance(output, dict) else ("error", type(output).__name__)


# -- in a thread ---------------------------------------------------------------------------


def _run(graph: Any, stage: Stage, run: Run, path: str) -> Outcome:
    stage.step()
    try:
        return _unmarked(_resumed(graph, _once(graph, stage, run, path), path, run))
    except GraphBubbleUp:
        raise
    except Exception as error:
        return _result(error)
    finally:
        stage.step()


def _once(graph: Any, stage: Stage, run: Run, path: str) -> Outcome:
    given, config = {"path": path}, _config(path)
    last: Any = {}
    match run.way:
        case "batch":
            more = f"{path}b"
            outputs = graph.batch([given, {"path": more}], [config, _config(more)], return_exceptions=True)
            return sum((_result(output) for output in outputs), ())
        case "stream":
            for step in graph.stream(given, config, stream_mode="values"):
                stage.step()
                last = step
        case "messages" | "events":
            for mode, step in graph.stream(given, config, stream_mode=["messages", "values"]):
                last = step if mode == "values" else last
        case "broken off":
            for _ in graph.stream(given, config, stream_mode="updates"):
                break
            return (CUT_OFF,)
        case "invoke":
            last = graph.invoke(given, config)
    return _result(last)


def _resumed(graph: Any, outcome: Outcome, path: str, run: Run) -> Outcome:
    """Answer what the run asks until it is over."""
    if graph.checkpointer is None or run.way in ("batch", "broken off"):
        return outcome
    config = _config(path)
    while asked := graph.get_state(config).interrupts:
        outcome = _result(graph.invoke(_answer(asked), config))
    return outcome


def _answer(asked: Any) -> Command[Any]:
    return Command(resume=dict.fromkeys([each.id for each in asked], "go"))


# -- on a loop -----------------------------------------------------------------------------


async def _on_loop(graph: Any, stage: Stage, client: Client, paths: list[str], cut: bool) -> list[Outcome]:
    outcomes = await asyncio.gather(
        *(
            _arun(graph, stage, run if cut else Run(run.way), path)
            for run, path in zip(client.runs, paths, strict=True)
        )
    )
    if client.end == "awaits":
        await stage.finish_tasks()
    return outcomes


async def _arun(graph: Any, stage: Stage, run: Run, path: str) -> Outcome:
    stage.step()
    try:
        return _unmarked(await _cut_off(graph, stage, run, path))
    except GraphBubbleUp:
        raise
    except Exception as error:
        return _result(error)
    finally:
        stage.step()


async def _cut_off(graph: Any, stage: Stage, run: Run, path: str) -> Outcome:
    """Run it, and cut it off if it is to be cut off."""
    outcome: Outcome = (CUT_OFF,)
    match run.cut:
        case "cancelled":
            task = asyncio.create_task(_whole(graph, stage, run, path))
            with suppress(asyncio.CancelledError):
                await _turns(run.after, task.done)
                task.cancel()
                outcome = await task
        case "timed out":
            with suppress(TimeoutError):
                async with asyncio.timeout(run.after / 10_000):
                    outcome = await _whole(graph, stage, run, path)
        case "hung up":
            ended: list[Outcome] = []

            async def consume() -> None:
                try:
                    ended.append(await _whole(graph, stage, run, path))
                except Exception as error:
                    ended.append(_result(error))

            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                await _turns(run.after, lambda: bool(ended))
                group.cancel_scope.cancel()
            outcome = ended[0] if ended else outcome
        case "":
            outcome = await _whole(graph, stage, run, path)
    return outcome


async def _turns(number: int, over: Callable[[], bool]) -> None:
    """Let the loop turn so often, or until it is over."""
    for _ in range(number):
        if over():
            return
        await asyncio.sleep(0)


async def _whole(graph: Any, stage: Stage, run: Run, path: str) -> Outcome:
    return await _aresumed(graph, await _aonce(graph, stage, run, path), path, run)


async def _aonce(graph: Any, stage: Stage, run: Run, path: str) -> Outcome:
    given, config = {"path": path}, _config(path)
    last: Any = {}
    match run.way:
        case "batch":
            more = f"{path}b"
            outputs = await graph.abatch(
                [given, {"path": more}], [config, _config(more)], return_exceptions=True
            )
            return sum((_result(output) for output in outputs), ())
        case "stream":
            async for step in graph.astream(given, config, stream_mode="values"):
                stage.step()
                last = step
        case "messages":
            async for mode, step in graph.astream(given, config, stream_mode=["messages", "values"]):
                last = step if mode == "values" else last
        case "events":
            root = None
            async for event in graph.astream_events(given, config, version="v2"):
                root = root or event["run_id"]
                if event["event"] == "on_chain_end" and event["run_id"] == root:
                    last = event["data"]["output"]  # what it left running may have events after this one
        case "broken off":
            async for _ in graph.astream(given, config, stream_mode="updates"):
                break
            return (CUT_OFF,)
        case "invoke":
            last = await graph.ainvoke(given, config)
    return _result(last)


async def _aresumed(graph: Any, outcome: Outcome, path: str, run: Run) -> Outcome:
    if graph.checkpointer is None or run.way in ("batch", "broken off"):
        return outcome
    config = _config(path)
    while asked := (await graph.aget_state(config)).interrupts:
        outcome = _result(await graph.ainvoke(_answer(asked), config))
    return outcome
