"""Helpers for tests of scheduled graphs: a virtual clock, chat models that count, and an invariant check.

    from llmsched_langgraph import Scheduler, schedule
    from llmsched_langgraph.testing import PlainModel, assert_idle

    def test_my_graph():
        scheduler, model = Scheduler(slots=2), PlainModel()
        graph = schedule(build(model), scheduler)
        asyncio.run(run_many(graph))
        assert model.meter.peak <= 2
        assert_idle(scheduler)

The models need no network. Does not use pytest.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import Any, Self

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field

from llmsched_langgraph import Scheduler
from llmsched_langgraph._fork import in_child

__all__ = ["Meter", "PlainModel", "StreamingModel", "SyncOnlyModel", "VirtualClock", "assert_idle"]

GATE_TIMEOUT_S = 20.0
"""How long a request waits at a closed gate before it fails, in seconds of real time."""


class VirtualClock:
    """A clock that only `advance` moves: `Scheduler(clock=VirtualClock())`.

    Args:
        now_s: the initial reading, in seconds.
    """

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        """Return the reading, in seconds."""
        return self.now_s

    def advance(self, seconds: float) -> None:
        """Move the clock forward.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0.0:
            raise ValueError(f"a clock cannot go back: seconds must not be negative, got {seconds!r}")
        self.now_s += seconds


class Meter:
    """Counts the requests of a model. Thread-safe. In a forked child it counts those of the child.

    Attributes:
        now: requests in flight.
        peak: the most requests that were in flight at once.
        total: requests so far.
        gate: requests wait while it is cleared, for at most `GATE_TIMEOUT_S`; set at first.
        answer: the text that every request answers.
        fail_with: the exception that every request raises instead; None for an answer.
    """

    def __init__(self, answer: str = "yes") -> None:
        self.answer = answer
        self.fail_with: Exception | None = None
        self._begin(open_=True)
        _meters.add(self)

    def _begin(self, *, open_: bool) -> None:
        self.now = self.peak = self.total = 0
        self._lock = threading.Lock()
        self.gate = threading.Event()
        if open_:
            self.gate.set()

    def forked(self) -> None:
        """Begin anew in the child of a fork: the requests in flight are the parent's."""
        self._begin(open_=self.gate.is_set())

    def __enter__(self) -> Self:
        with self._lock:
            self.now += 1
            self.total += 1
            self.peak = max(self.peak, self.now)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self.now -= 1

    def respond(self) -> str:
        """Return the answer, or raise `fail_with`, once the gate is open.

        Raises:
            TimeoutError: the gate stayed closed for `GATE_TIMEOUT_S`.
        """
        if not self.gate.wait(GATE_TIMEOUT_S):
            raise TimeoutError(f"the meter's gate was closed for {GATE_TIMEOUT_S} s; call gate.set()")
        if self.fail_with is not None:
            raise self.fail_with
        return self.answer

    async def arespond(self) -> str:
        """Do what `respond` does without blocking the event loop; yields to it at least three times."""
        for _ in range(3):
            await asyncio.sleep(0)
        async with asyncio.timeout(GATE_TIMEOUT_S):
            while not self.gate.is_set():  # noqa: ASYNC110 (any thread may set it)
                await asyncio.sleep(0.001)
        return self.respond()


_meters: weakref.WeakSet[Meter] = weakref.WeakSet()


def _forked() -> None:
    for meter in tuple(_meters):
        meter.forked()


in_child(_forked)


class SyncOnlyModel(BaseChatModel):
    """A chat model that implements `_generate` alone; LangChain runs it in a thread from `ainvoke`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)
    meter: Meter = Field(default_factory=Meter)
    model: str = "counting"

    @property
    def _llm_type(self) -> str:
        return "counting"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self.meter:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(content=self.meter.respond()))])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        """Bind tools; the model never calls one."""
        return self.bind(tools=list(tools), **kwargs)


class PlainModel(SyncOnlyModel):
    """A chat model with a synchronous and an asynchronous call, without streaming."""

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self.meter:
            return ChatResult(
                generations=[ChatGeneration(message=AIMessage(content=await self.meter.arespond()))]
            )


class StreamingModel(PlainModel):
    """A chat model that also streams its answer, one character a chunk."""

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self.meter:
            for piece in self.meter.respond():
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        with self.meter:
            for piece in await self.meter.arespond():
                await asyncio.sleep(0)
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))


def assert_idle(scheduler: Scheduler) -> None:
    """Check that every slot was given back and that no call waits. Collects garbage first.

    Streams that were dropped give their slots back when they are collected.

    Raises:
        AssertionError: a slot is held, a call waits, or an invariant of the scheduler is broken.
    """
    gc.collect()
    now = scheduler.statistics()
    assert now.holding == 0, f"{now.holding} slots are held: {scheduler!r}"
    assert now.waiting == 0, f"{now.waiting} calls wait: {scheduler!r}"
    assert now.granted == now.released, f"{now.granted} slots granted, {now.released} given back"
    scheduler.check()
