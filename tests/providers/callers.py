"""Runs scheduled graphs whose nodes call a provider's model, several at once, each way that there is.

Does not know what the server answers, or what must come of it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import re
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypedDict

from langgraph.graph import START, StateGraph

from llmsched_langgraph import Scheduler, schedule

from .matrix import Way
from .server import Exchange, Server, provider_server
from .table import Provider


class State(TypedDict, total=False):
    caller: int


# -- what the scenes of one process share --------------------------------------------------


class Bench:
    """The server, one event loop, and the models: their clients and connections outlive a scene."""

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, patience_s: float = 10.0) -> None:
        self.server = server
        self.loop = loop
        self.patience_s = patience_s
        self._models: dict[tuple[str, bool], Any] = {}

    def model(self, provider: Provider, *, timed: bool = False) -> Any:
        """Return the provider's model, used before: what it imports and makes at first use is made."""
        key = (provider.name, timed)
        if key not in self._models:
            options = (provider.timeout or {}) if timed else {}
            model = self._models[key] = provider.build(self.server.url, **options)
            self.server.reset()
            for way in ("invoke", "stream"):
                text(model, way)
                self.on_loop(atext(model, "a" + way)).result(self.patience_s)
        return self._models[key]

    def on_loop(self, work: Any) -> Future[Any]:
        """Start the coroutine on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop)


@contextmanager
def running_bench(patience_s: float = 10.0) -> Iterator[Bench]:
    """Run the server and a loop, each in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="callers' loop")
    thread.start()
    try:
        with provider_server() as server:
            yield Bench(server, loop, patience_s)
    finally:
        asyncio.run_coroutine_threadsafe(_close_clients(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _close_clients() -> None:
    """Close what sends on this loop: few of the packages have a way to close their clients."""
    kinds = {"httpx": "AsyncClient", "httpx2": "AsyncClient", "aiohttp": "ClientSession"}
    classes = tuple(getattr(sys.modules[name], kind) for name, kind in kinds.items() if name in sys.modules)
    for client in [thing for thing in gc.get_objects() if issubclass(type(thing), classes)]:
        await (client.close() if hasattr(client, "close") else client.aclose())


# -- how a node calls its model ------------------------------------------------------------


def text(model: Any, way: str, prompt: str = "?", *, leave: bool = False) -> str:
    """Return the model's answer, or its first word if the stream is to be left there."""
    if way == "invoke":
        return str(model.invoke(prompt).text)
    pieces = model.stream(prompt)
    said = ""
    for piece in pieces:
        said += str(piece.text)
        if said and leave:
            pieces.close()
            break
    return said


async def atext(
    model: Any, way: str, prompt: str = "?", *, leave: bool = False, heard: Callable[[], None] = bool
) -> str:
    """Return the same, on an event loop. A stream calls `heard` when it has said something."""
    if way == "ainvoke":
        return str((await model.ainvoke(prompt)).text)
    pieces = model.astream(prompt)
    said = ""
    async for piece in pieces:
        said += str(piece.text)
        if said:
            heard()
        if said and leave:
            await pieces.aclose()
            break
    return said


def _said(answer: Any) -> str:
    return type(answer).__name__ if isinstance(answer, BaseException) else str(answer.text)


class Callers:
    """The runs of one scene.

    Attributes:
        runs: one for each caller.
        said: what came of each caller's calls: the text of each, or the name of its error.
        heard: the callers on the loop whose stream has said something.
        over: until it is set, the threads of callers stay, and what they did can be measured.
    """

    def __init__(self, bench: Bench, model: Any, way: Way, scheduler: Scheduler) -> None:
        self._bench = bench
        self._model = model
        self._way = way
        self._graph = schedule(self._build(), scheduler)
        self.said: dict[int, list[str]] = {}
        self.heard: set[int] = set()
        self.over = threading.Event()
        self.runs: list[Future[Any]] = []

    def start(self, count: int) -> None:
        """Start this many runs."""
        for caller in range(len(self.runs), len(self.runs) + count):
            if self._way.asynchronous:
                self.runs.append(self._bench.on_loop(self._arun(caller)))
                continue
            run: Future[Any] = Future()
            self.runs.append(run)
            threading.Thread(target=self._in_thread, args=(run, caller), daemon=True).start()

    def _in_thread(self, run: Future[Any], caller: int) -> None:
        try:
            run.set_result(self._run(caller))
        except BaseException as error:
            run.set_exception(error)
        self.over.wait()

    def _build(self) -> Any:
        builder = StateGraph(State)
        builder.add_node("ask", self._aask if self._way.asynchronous else self._ask)
        builder.add_edge(START, "ask")
        return builder.compile()

    def _ask(self, state: State) -> State:
        caller, way = state["caller"], self._way
        if way.calls > 1:
            answers = self._model.batch(self._prompts(caller), return_exceptions=True)
            self.said[caller] = [_said(answer) for answer in answers]
        else:
            prompt, leave = self._prompts(caller)[0], way.ends == "break"
            self.said[caller] = [text(self._model, way.base, prompt, leave=leave)]
        return {}

    async def _aask(self, state: State) -> State:
        caller, way = state["caller"], self._way
        if way.calls > 1:
            answers = await self._model.abatch(self._prompts(caller), return_exceptions=True)
            self.said[caller] = [_said(answer) for answer in answers]
        else:
            # Under astream_events and stream_mode="messages" LangChain streams what is invoked.
            base = "ainvoke" if way.name == "astream_events" else way.base
            prompt, leave = self._prompts(caller)[0], way.ends == "break"
            answer = await atext(self._model, base, prompt, leave=leave, heard=lambda: self.heard.add(caller))
            self.said[caller] = [answer]
        return {}

    def _prompts(self, caller: int) -> list[str]:
        return [f"caller {caller} call {call}" for call in range(self._way.calls)]

    def _run(self, caller: int) -> None:
        with self._outcome(caller):
            if self._way.base == "stream":
                for _ in self._graph.stream({"caller": caller}, stream_mode="messages"):
                    pass
            else:
                self._graph.invoke({"caller": caller})

    async def _arun(self, caller: int) -> None:
        given: State = {"caller": caller}
        with self._outcome(caller):
            if self._way.name == "astream_events":
                await _read(self._graph.astream_events(given, version="v2"))
            elif self._way.base == "astream":
                steps = self._graph.astream(given, stream_mode="messages")
                if await _read(steps, leave=self._way.ends == "close"):
                    self.said[caller] = ["closed"]
            else:
                await self._graph.ainvoke(given)

    @contextmanager
    def _outcome(self, caller: int) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.said[caller] = [type(error).__name__] * self._way.calls
            if not isinstance(error, Exception):
                raise

    def outcomes(self) -> Counter[str]:
        """Return how many calls came to what."""
        return Counter(itertools.chain.from_iterable(self.said.values()))


async def _read(steps: AsyncIterator[Any], *, leave: bool = False) -> bool:
    """Read to the end, or to the first message with text if it is to be left there; return whether it was."""
    async for step in steps:
        if leave and str(step[0].text):
            await steps.aclose()  # type: ignore[attr-defined]
            return True
    return False


def prompt_of(exchange: Exchange) -> str:
    """Return the prompt that the request sent: each call has its own."""
    return re.findall(r"caller \d+ call \d+", exchange.body.decode())[0]


def caller_of(exchange: Exchange) -> int:
    """Return which run sent the request."""
    return int(prompt_of(exchange).split()[1])
