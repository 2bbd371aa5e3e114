"""Functions that written programs call: threads in several ways, streams that a helper reads, reducers.

Does not know the scheduler.
"""

from __future__ import annotations

import asyncio
import contextvars
import operator
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import reduce
from typing import Annotated, Any, Literal, TypedDict

from langchain_core.runnables.config import ContextThreadPoolExecutor
from langgraph.graph.message import add_messages
from langgraph.types import RetryPolicy

from programs.stage.stage import Broken

Threads = Literal["marked", "pool", "bare"]

RETRY = RetryPolicy(initial_interval=0.001, backoff_factor=1.0, max_attempts=6, jitter=False, retry_on=Broken)
"""Of nodes. Parts that run side by side and fail at first take one attempt bare, and one each on one slot."""


def merged(old: list[str], new: list[str]) -> list[str]:
    """The old items, then the new ones among the others: a subgraph gives back what it was given."""
    return [*old, *(item for item in new if item not in old)]


class State(TypedDict, total=False):
    """The state of every graph.

    Attributes:
        path: where in the run this is; every prompt begins with it.
        out: what came of every part, in order.
        messages: for nodes with tools.
    """

    path: str
    out: Annotated[list[str], merged]
    messages: Annotated[list[Any], add_messages]


def told(state: Any) -> dict[str, list[str]]:
    """A node: what the tools answered, as parts."""
    return {"out": [message.text for message in state["messages"] if message.type == "tool"]}


def in_threads(kind: Threads, functions: list[Callable[[str], list[str]]], paths: list[str]) -> list[str]:
    """What the functions return, run at once in threads: with this context, or without."""
    if kind == "bare":
        return _in_bare_threads(functions, paths)
    cls: type[Executor] = ContextThreadPoolExecutor if kind == "marked" else ThreadPoolExecutor
    with cls(len(functions)) as pool:  # type: ignore[call-arg]
        parts = [pool.submit(function, path) for function, path in zip(functions, paths, strict=True)]
        return reduce(operator.add, [part.result() for part in parts])


def _in_bare_threads(functions: list[Callable[[str], list[str]]], paths: list[str]) -> list[str]:
    parts: list[list[str] | BaseException | None] = [None] * len(functions)

    def work(index: int) -> None:
        try:
            parts[index] = functions[index](paths[index])
        except BaseException as error:
            parts[index] = error

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out: list[str] = []
    for part in parts:
        if isinstance(part, BaseException):
            raise part
        out += part or []
    return out


async def on_loop_threads(
    kind: Threads, functions: list[Callable[[str], list[str]]], paths: list[str]
) -> list[str]:
    """Do the same from a loop, which runs on meanwhile."""
    if kind == "bare":
        return await asyncio.to_thread(_in_bare_threads, functions, paths)
    loop = asyncio.get_running_loop()
    parts: list[Awaitable[list[str]]] = [
        asyncio.to_thread(function, path) if kind == "marked" else loop.run_in_executor(None, function, path)
        for function, path in zip(functions, paths, strict=True)
    ]
    return reduce(operator.add, await asyncio.gather(*parts))


def pumped(stream: Callable[[str], Iterator[Any]], prompt: str) -> Iterator[Any]:
    """A stream that a thread reads, one piece ahead of its consumer."""
    pieces: queue.Queue[Any] = queue.Queue(maxsize=1)
    given_up = threading.Event()

    def pump() -> None:
        try:
            for piece in stream(prompt):
                pieces.put(piece)
                if given_up.is_set():
                    break
        except Exception as error:
            pieces.put(error)
        pieces.put(None)

    around = contextvars.copy_context()
    thread = threading.Thread(target=around.run, args=(pump,), daemon=True)
    thread.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        given_up.set()
        while thread.is_alive():
            try:
                pieces.get(timeout=0.001)
            except queue.Empty:
                pass


async def apumped(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A stream that a task reads, one piece ahead of its consumer."""
    pieces: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def pump() -> None:
        try:
            async for piece in stream:
                await pieces.put(piece)
        except Exception as error:
            await pieces.put(error)
        await pieces.put(None)

    task = asyncio.create_task(pump())
    try:
        while (piece := await pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        task.cancel()
        await asyncio.wait([task])


async def alone(function: Callable[[str], Awaitable[Any]], path: str) -> None:
    """For a task group: the function, whose failure is nobody's."""
    try:
        await function(path)
    except Exception:
        pass
