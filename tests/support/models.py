"""Chat models that count how many of their requests are in flight, and wait on events instead of clocks."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict, Field


class Meter:
    """Requests in flight, their peak, and how many there were; `gate` holds them up while it is cleared."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.now = self.peak = self.total = 0
        self.gate = threading.Event()
        self.gate.set()
        self.fail_with: Exception | None = None

    def __enter__(self) -> Meter:
        with self.lock:
            self.now += 1
            self.total += 1
            self.peak = max(self.peak, self.now)
        return self

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.now -= 1

    def answer(self) -> str:
        assert self.gate.wait(20)
        if self.fail_with is not None:
            raise self.fail_with
        return "yes"

    async def aanswer(self) -> str:
        # A few turns of the loop stand for the time that a request takes.
        for _ in range(3):
            await asyncio.sleep(0)
        while not self.gate.is_set():
            await asyncio.sleep(0.001)
        if self.fail_with is not None:
            raise self.fail_with
        return "yes"


class SyncOnlyModel(BaseChatModel):
    """A model with nothing but `_generate`."""

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
            return ChatResult(generations=[ChatGeneration(message=AIMessage(self.meter.answer()))])

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=list(tools), **kwargs)


class PlainModel(SyncOnlyModel):
    """A model that answers at once, in threads and on loops, and does not stream."""

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self.meter:
            return ChatResult(generations=[ChatGeneration(message=AIMessage(await self.meter.aanswer()))])


class StreamingModel(PlainModel):
    """A model that also streams, in three pieces."""

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self.meter:
            for piece in self.meter.answer():
                yield ChatGenerationChunk(message=AIMessageChunk(piece))

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        with self.meter:
            for piece in await self.meter.aanswer():
                await asyncio.sleep(0)
                yield ChatGenerationChunk(message=AIMessageChunk(piece))
