"""What the tests of the seam share: who makes the calls, how a graph is run, how two runs are compared."""

from __future__ import annotations

import asyncio
import importlib
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from llmsched_langgraph import Scheduler, wrap_openai
from llmsched_langgraph._runtime.context import CALL, current_run
from llmsched_langgraph.lab.serve_sim.server import RunningBackend
from llmsched_langgraph.testing import Meter, SyncOnlyModel

PATIENCE_S = 10  # for what must happen; reached only by a test that fails
MODES = ("values", "updates", "messages", "custom", "tasks", "debug", "checkpoints")

# The library that this version of openai speaks through.
httpx: Any = importlib.import_module(DefaultHttpxClient.__base__.__module__.partition(".")[0])


# -- waiting for what must happen ----------------------------------------------------------


def until(condition: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    """Block until the condition holds."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        time.sleep(0.0005)


async def auntil(condition: Callable[[], object]) -> None:
    """Let the loop run until the condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not happen"
        await asyncio.sleep(0.0005)


@contextmanager
def taken(scheduler: Scheduler) -> Iterator[None]:
    """Have a slot taken by code that the block is no part of: calls in the block need their own."""
    slot = scheduler.slot()
    slot.acquire()  # unlike `with`, it leaves no mark in the context
    try:
        yield
    finally:
        slot.release()


def assert_unmarked() -> None:
    """The running context is that of a bystander: no run is marked in it, and no slot."""
    assert current_run() is None
    assert CALL.get() is None


# -- who makes the calls -------------------------------------------------------------------


class BrokenMeter(Meter):
    """Counts on another meter, and fails every request once its gate is open."""

    def __init__(self, real: Meter) -> None:
        super().__init__()
        self.real = real
        self.gate = real.gate
        self.fail_with = ZeroDivisionError("the model broke")

    def __enter__(self) -> BrokenMeter:
        self.real.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.real.__exit__(*error)


class Caller:
    """Makes the calls of a graph's nodes, and can hold them up while they are in flight.

    `asynchronous`: its nodes are coroutine functions. `threads`: its requests are in flight in threads,
    which nothing can stop.
    """

    def __init__(self, meter: Meter, *, asynchronous: bool, threads: bool) -> None:
        self.meters = [meter]
        self.asynchronous = asynchronous
        self.threads = threads

    def ask(self, *, broken: bool = False) -> str:
        raise NotImplementedError

    async def aask(self, *, broken: bool = False) -> str:
        raise NotImplementedError

    @property
    def meter(self) -> Meter:
        """Counts the requests in flight."""
        return self.meters[-1]

    @property
    def peak(self) -> int:
        """The most requests that were ever in flight at once."""
        return max(meter.peak for meter in self.meters)

    def count_anew(self) -> None:
        """Leave what is in flight now uncounted from here on: it may end at any time, or never."""
        self.meters.append(Meter())

    def close(self) -> None:
        """Nothing will be called any more."""

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """What the calls of one event loop share."""
        yield


class ChatCaller(Caller):
    """Calls a LangChain chat model."""

    def __init__(self, model_class: Any, *, asynchronous: bool) -> None:
        self.model_class = model_class
        threads = not asynchronous or model_class is SyncOnlyModel
        super().__init__(Meter(), asynchronous=asynchronous, threads=threads)

    def ask(self, *, broken: bool = False) -> str:
        return self._model(broken).invoke("?").text

    async def aask(self, *, broken: bool = False) -> str:
        return (await self._model(broken).ainvoke("?")).text

    def _model(self, broken: bool) -> Any:
        return self.model_class(meter=BrokenMeter(self.meter) if broken else self.meter)


class RawCaller(Caller):
    """Sends requests with an openai client that went through `wrap_openai`, if there is a scheduler."""

    def __init__(
        self, backend: RunningBackend, scheduler: Scheduler | None, *, asynchronous: bool, streaming: bool
    ) -> None:
        super().__init__(Meter(), asynchronous=asynchronous, threads=not asynchronous)
        self.backend = backend
        self.scheduler = scheduler
        self.streaming = streaming
        self.client = None if asynchronous else self._client(OpenAI, DefaultHttpxClient, MeteredTransport)
        backend.reset()

    def _client(self, client: Any, http_client: Any, transport: Any) -> Any:
        bare = client(
            base_url=self.backend.base_url,
            api_key="none",
            max_retries=0,
            http_client=http_client(transport=transport(self.meter)),
        )
        return bare if self.scheduler is None else wrap_openai(bare, self.scheduler)

    def _request(self, broken: bool) -> dict[str, Any]:
        return {
            "model": "no such model" if broken else "sim-model",
            "messages": [{"role": "user", "content": "?"}],
            "stream": self.streaming,
            "extra_body": {"sim": {"content": "yes", "output_tokens": 3}},
        }

    def ask(self, *, broken: bool = False) -> str:
        answer = self.client.chat.completions.create(**self._request(broken))
        if not self.streaming:
            return answer.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices)

    async def aask(self, *, broken: bool = False) -> str:
        answer = await self.client.chat.completions.create(**self._request(broken))
        if not self.streaming:
            return answer.choices[0].message.content
        return "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])

    @property
    def peak(self) -> int:
        """The most requests that were ever in flight at once, as client and backend saw it."""
        return max(super().peak, int(self.backend.statistics()["peak_in_flight"]))

    def close(self) -> None:
        """Nothing will be called any more."""
        if not self.asynchronous:
            self.client.close()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[None]:
        """What the calls of one event loop share: their client."""
        if not self.asynchronous:
            yield
            return
        async with self._client(AsyncOpenAI, DefaultAsyncHttpxClient, AsyncMeteredTransport) as self.client:
            yield


class MeteredTransport(httpx.HTTPTransport):
    """Counts requests and can hold them up, from being sent to the answer's head."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(verify=False)  # certificates are slow to load, and of no use on loopback
        self.meter = meter

    def handle_request(self, request: Any) -> Any:
        with self.meter:
            self.meter.respond()
            return super().handle_request(request)


class AsyncMeteredTransport(httpx.AsyncHTTPTransport):
    """The same on an event loop."""

    def __init__(self, meter: Meter) -> None:
        super().__init__(verify=False)
        self.meter = meter

    async def handle_async_request(self, request: Any) -> Any:
        with self.meter:
            await self.meter.arespond()
            return await super().handle_async_request(request)


# -- how a graph is run --------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """One way to run a graph; `mode` is a stream mode, or None where the result comes as a whole."""

    name: str
    asynchronous: bool
    mode: str | None = None

    @property
    def batches(self) -> bool:
        return self.name.endswith("batch")

    @property
    def events(self) -> bool:
        return self.name.startswith("astream_events")

    @property
    def iterates(self) -> bool:
        return self.mode is not None or self.events

    def iterator(self, graph: Any, given: Any, config: dict[str, Any]) -> Any:
        """The graph's own iterator."""
        if self.events:
            return graph.astream_events(given, config, version="v2")
        return (graph.astream if self.asynchronous else graph.stream)(given, config, stream_mode=self.mode)

    def run(self, graph: Any, given: Any, configs: list[dict[str, Any]]) -> Any:
        """Run to the end in this thread; the result, or all steps. The consumer must stay unmarked."""
        match self.name:
            case "invoke":
                return graph.invoke(given, configs[0])
            case "batch":
                return graph.batch([given] * 2, configs, return_exceptions=True)
        steps = []
        for step in self.iterator(graph, given, configs[0]):
            assert_unmarked()
            steps.append(step)
        return steps

    async def arun(self, graph: Any, given: Any, configs: list[dict[str, Any]]) -> Any:
        """Run to the end on this loop; the result, or all steps. The consumer must stay unmarked."""
        match self.name:
            case "ainvoke":
                return await graph.ainvoke(given, configs[0])
            case "abatch":
                return await graph.abatch([given] * 2, configs, return_exceptions=True)
        steps = []
        async for step in self.iterator(graph, given, configs[0]):
            assert_unmarked()
            steps.append(step)
        return steps


SYNC_WAYS = [Way("invoke", False), Way("batch", False)] + [Way(f"stream[{m}]", False, m) for m in MODES]
ASYNC_WAYS = [Way("ainvoke", True), Way("abatch", True), Way("astream_events", True)] + [
    Way(f"astream[{m}]", True, m) for m in MODES
]
WAYS = SYNC_WAYS + ASYNC_WAYS


# -- how two runs are compared -------------------------------------------------------------

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32}")
_NUMBER = re.compile(r"0x[0-9a-f]{6,}|\d+\.\d+")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.+Z]+")


def modulo_ids(thing: Any) -> Any:
    """The same in plain words, without what differs from run to run: ids, times, durations."""
    if isinstance(thing, BaseMessage):
        return [type(thing).__name__, modulo_ids(thing.model_dump())]
    if isinstance(thing, BaseException):
        return [type(thing).__name__, modulo_ids(str(thing))]
    if isinstance(thing, dict):
        return {modulo_ids(key): modulo_ids(value) for key, value in thing.items()}
    if is_dataclass(thing) and not isinstance(thing, type):
        return [type(thing).__name__, modulo_ids(asdict(thing))]
    if isinstance(thing, list | tuple | set | frozenset):
        return [modulo_ids(item) for item in thing]
    if isinstance(thing, bool | int | float | None):
        return thing
    text = thing if isinstance(thing, str) else f"{type(thing).__name__} {thing!s}"
    return _NUMBER.sub("<number>", _TIME.sub("<time>", _ID.sub("<id>", text)))


def in_any_order(steps: Any) -> Any:
    """Steps modulo ids, in an order of their own: nodes that run at once report as they come."""
    return sorted(repr(modulo_ids(step)) for step in steps) if isinstance(steps, list) else modulo_ids(steps)
