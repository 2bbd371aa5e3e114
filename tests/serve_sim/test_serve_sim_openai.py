"""The answers, read by the real OpenAI client."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Iterator

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletion

from llmsched_langgraph.lab.serve_sim.server import RunningBackend

HELLO = [{"role": "user", "content": "hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@pytest.fixture
def client(shared_backend: RunningBackend) -> Iterator[OpenAI]:
    with OpenAI(base_url=shared_backend.base_url, api_key="none", max_retries=0) as client:
        yield client


def create(client: OpenAI, **fields: object) -> ChatCompletion:
    return client.chat.completions.create(**{"model": "sim-model", "messages": HELLO, **fields})


def test_a_plain_answer_is_strictly_what_openai_defines(client: OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="sim-model", messages=HELLO)
    completion = ChatCompletion.model_validate_json(raw.text, strict=True)
    assert completion.id.startswith("chatcmpl-")
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens == 2
    assert completion.usage.completion_tokens == -(-len(completion.choices[0].message.content or "") // 4)
    assert (
        completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    )


def test_the_same_request_gets_the_same_answer_whole(client: OpenAI) -> None:
    assert create(client) == create(client)
    assert create(client) != create(client, model="other")


def test_a_stream_adds_up_to_the_plain_answer(client: OpenAI) -> None:
    plain = create(client)
    with client.chat.completions.create(
        model="sim-model", messages=HELLO, stream=True, stream_options={"include_usage": True}
    ) as stream:
        chunks = list(stream)
    assert {chunk.id for chunk in chunks} == {plain.id}
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == plain.choices[0].message.content
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == plain.usage


def test_tool_calls_plain_and_streamed(client: OpenAI) -> None:
    asked = {"tools": [WEATHER], "tool_choice": "required"}
    plain = create(client, **asked).choices[0]
    assert plain.finish_reason == "tool_calls"
    (call,) = plain.message.tool_calls or []
    assert isinstance(json.loads(call.function.arguments)["city"], str)
    with client.chat.completions.stream(model="sim-model", messages=HELLO, **asked) as stream:
        streamed = stream.get_final_completion().choices[0]
    (again,) = streamed.message.tool_calls or []
    assert (again.id, again.function.name, again.function.arguments) == (
        call.id,
        "weather",
        call.function.arguments,
    )


def test_parallel_scripted_tool_calls_after_text_stream_in_order(client: OpenAI) -> None:
    calls = [{"name": "weather", "arguments": {"city": city}} for city in ("Oslo", "Rome")]
    sim = {"content": "Looking.", "tool_calls": calls, "output_tokens": 60}
    with client.chat.completions.stream(
        model="sim-model", messages=HELLO, tools=[WEATHER], extra_body={"sim": sim}
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.content == "Looking."
    arguments = [json.loads(call.function.arguments) for call in message.tool_calls or []]
    assert arguments == [{"city": "Oslo"}, {"city": "Rome"}]
    assert len({call.id for call in message.tool_calls or []}) == 2


def test_a_scripted_agent_loop(client: OpenAI) -> None:
    turns = [{"tool_calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}, {"content": "Snow."}]
    messages: list[dict[str, object]] = [
        {"role": "user", "content": f"Weather? <sim>{json.dumps({'turns': turns})}</sim>"}
    ]
    first = create(client, messages=messages, tools=[WEATHER]).choices[0].message
    (call,) = first.tool_calls or []
    messages += [first.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "-3 C"}]
    second = create(client, messages=messages, tools=[WEATHER])
    assert second.choices[0].message.content == "Snow."


def test_max_tokens_ends_with_length(client: OpenAI) -> None:
    answer = create(client, max_tokens=3)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_the_async_client_and_many_at_once(shared_backend: RunningBackend) -> None:
    async def main() -> list[str]:
        async with AsyncOpenAI(base_url=shared_backend.base_url, api_key="none", max_retries=0) as client:

            async def ask(i: int) -> str:
                messages = [{"role": "user", "content": f"question {i}"}]
                completion = await client.chat.completions.create(model="sim-model", messages=messages)
                return completion.model_dump_json()

            return list(await asyncio.gather(*map(ask, range(40))))

    first = asyncio.run(main())
    assert first == asyncio.run(main())
    assert len(set(first)) == 40


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sim-model", "other"]


def test_errors_become_the_clients_own(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist") as not_found:
        create(client, model="gpt-9")
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="n must be 1") as bad:
        create(client, n=3)
    assert (bad.value.type, bad.value.param) == ("invalid_request_error", "n")
    with pytest.raises(openai.BadRequestError, match="unknown key 'tokens'"):
        create(client, extra_body={"sim": {"tokens": 3}})
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings: Not Found"):
        client.embeddings.create(model="sim-model", input="x")


def test_a_body_too_large_is_refused(shared_backend: RunningBackend) -> None:
    url = shared_backend.base_url + "/chat/completions"
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(url, b"x" * (17 << 20)):
        pass
    with caught.value as answer:
        assert (answer.code, json.load(answer)["error"]["code"]) == (413, "body_too_large")


def test_health(shared_backend: RunningBackend) -> None:
    with urllib.request.urlopen(shared_backend.base_url.removesuffix("/v1") + "/health") as answer:
        assert json.load(answer) == {"status": "ok"}
