"""Fake chat models of programs: what each answers follows from its prompt alone, in any run, at any time.

Does not take slots: the package does. `Asked` subclasses are requests at the backend; the others ask models.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from pydantic import ConfigDict

from programs.stage.stage import Broken, Stage

PIECES = 3
"""How many pieces a stream has."""


class Model(BaseChatModel):
    """What all models here share.

    Attributes:
        on: the stage.
        name: its own in the program.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)
    on: Stage
    name: str = "model"

    @property
    def _llm_type(self) -> str:
        return "programs"

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=list(tools), **kwargs)


class SyncOnly(Model):
    """A model with a synchronous call alone; LangChain runs it in a thread from `ainvoke`.

    Attributes:
        pause_s: what a request takes, in seconds.
        fails: which attempts at a prompt fail.
    """

    pause_s: float = 0.0
    fails: Literal["never", "first", "always"] = "never"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self.on.meter:
            time.sleep(self.pause_s)
            return _result(self._answer(messages))

    def _answer(self, messages: Any) -> str:
        prompt = messages[-1].text
        first = self.on.first(self.name, prompt)
        if self.fails == "always" or (self.fails == "first" and first):
            raise Broken(prompt)
        return f"{prompt}!"


class Plain(SyncOnly):
    """A model with both calls, without streaming."""

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with self.on.meter:
            await asyncio.sleep(self.pause_s)
            return _result(self._answer(messages))


class AsyncOnly(Plain):
    """A model without a synchronous call."""

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        raise NotImplementedError("this model is asynchronous only")


class Streaming(Plain):
    """A model that also streams: the pause, then the pieces with the pause before each."""

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        with self.on.meter:
            for piece in _pieces(self._answer(messages)):
                time.sleep(self.pause_s)
                yield _chunk(piece)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        with self.on.meter:
            for piece in _pieces(self._answer(messages)):
                await asyncio.sleep(self.pause_s)
                yield _chunk(piece)


class Router(Model):
    """A model that asks another one: a chain of two doors, of which one call passes both."""

    of: Any

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return _result(self.of.invoke(messages).text)

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return _result((await self.of.ainvoke(messages)).text)


class Vote(Model):
    """A model that asks another one several times at once: an ensemble.

    Attributes:
        of: whom it asks.
        width: how many times.
        how: how its synchronous call does it.
    """

    of: Any
    width: int = 2
    how: Literal["batch", "pool"] = "batch"

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        prompts = self._prompts(messages)
        if self.how == "batch":
            return _result("+".join(answer.text for answer in self.of.batch(prompts)))
        with ThreadPoolExecutor(self.width) as pool:
            return _result("+".join(answer.text for answer in pool.map(self.of.invoke, prompts)))

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        answers = await asyncio.gather(*(self.of.ainvoke(prompt) for prompt in self._prompts(messages)))
        return _result("+".join(answer.text for answer in answers))

    def _prompts(self, messages: Any) -> list[str]:
        return [f"{messages[-1].text}.v{voter}" for voter in range(self.width)]


class Delegate(Model):
    """A model that runs a graph."""

    graph: Any

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return _result("+".join(self.graph.invoke({"path": messages[-1].text})["out"]))

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        return _result("+".join((await self.graph.ainvoke({"path": messages[-1].text}))["out"]))


def _result(text: str) -> ChatResult:
    return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])


def _pieces(text: str) -> list[str]:
    size = -(-len(text) // PIECES)
    return [text[start : start + size] for start in range(0, len(text), size)]


def _chunk(piece: str) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(content=piece))
