"""The answers, read by LangChain's OpenAI model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import Enum

import httpx2
import pytest
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from llmsched_langgraph.lab.serve_sim.server import RunningBackend


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Part(BaseModel):
    """A part."""

    name: str
    colour: Colour


class Car(BaseModel):
    """Build a car."""

    wheels: int = Field(ge=3, le=4)
    owner: str | None
    parts: list[Part]


@pytest.fixture
def model(shared_backend: RunningBackend) -> Iterator[ChatOpenAI]:
    with httpx2.Client() as client:
        yield ChatOpenAI(
            model="sim-model",
            base_url=shared_backend.base_url,
            api_key="none",
            max_retries=0,
            http_client=client,
        )


def test_invoke_reports_usage(model: ChatOpenAI) -> None:
    message = model.invoke("hello")
    assert message.usage_metadata is not None
    assert message.usage_metadata["output_tokens"] == -(-len(str(message.content)) // 4)
    assert message.response_metadata["finish_reason"] == "stop"


def test_stream_adds_up(model: ChatOpenAI) -> None:
    whole: AIMessageChunk | None = None
    for chunk in model.stream("hello", stream_usage=True):
        assert isinstance(chunk, AIMessageChunk)
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    plain = model.invoke("hello")
    assert whole.content == plain.content
    assert whole.usage_metadata == plain.usage_metadata


def test_bound_tools_are_called(model: ChatOpenAI) -> None:
    bound = model.bind_tools([Car], tool_choice="any")
    (call,) = bound.invoke("a car please").tool_calls
    assert call["name"] == "Car"
    Car.model_validate(call["args"])


def test_a_scripted_tool_call_streams(model: ChatOpenAI) -> None:
    bound = model.bind_tools([Car])
    script = '<sim>{"tool_calls": [{"name": "Car", "arguments": {"wheels": 3}}], "output_tokens": 50}</sim>'
    chunks = list(bound.stream(f"a car {script}"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == [("Car", {"wheels": 3})]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(model: ChatOpenAI, method: str) -> None:
    car = model.with_structured_output(Car, method=method).invoke("a car please")
    assert isinstance(car, Car)


def test_the_async_side(shared_backend: RunningBackend) -> None:
    async def main() -> tuple[object, str]:
        async with httpx2.AsyncClient() as client:
            model = ChatOpenAI(
                model="sim-model",
                base_url=shared_backend.base_url,
                api_key="none",
                http_async_client=client,
            )
            answer = await model.ainvoke("hello")
            streamed = [chunk.content async for chunk in model.astream("hello")]
            return answer.content, "".join(map(str, streamed))

    content, streamed = asyncio.run(main())
    assert content == streamed
