"""Time and counts: what the scheduler is checked against must itself be exact."""

from __future__ import annotations

import asyncio
import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from llmsched_langgraph.lab.serve_sim.server import RunningBackend

StartBackend = Callable[..., RunningBackend]


def scripted(tokens: int) -> dict[str, object]:
    """A request whose reply takes so many tokens; at 0.0065 virtual seconds each if it runs alone."""
    messages = [{"role": "user", "content": "hello"}]
    return {"model": "sim-model", "messages": messages, "extra_body": {"sim": {"output_tokens": tokens}}}


def connect(backend: RunningBackend, **settings: object) -> OpenAI:
    return OpenAI(base_url=backend.base_url, api_key="none", **{"max_retries": 0, **settings})  # type: ignore[arg-type]


def connect_async(backend: RunningBackend) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=backend.base_url, api_key="none", max_retries=0)


def wait_for(backend: RunningBackend, **expected: float) -> None:
    """Wait until the statistics say so."""
    deadline = time.monotonic() + 5.0
    while True:
        statistics = backend.statistics()
        if {name: statistics[name] for name in expected} == expected:
            return
        assert time.monotonic() < deadline, statistics
        time.sleep(0.005)


def test_a_reply_takes_the_time_of_its_tokens(start_backend: StartBackend) -> None:
    backend = start_backend(time_scale=10.0)
    with connect(backend) as client:
        client.chat.completions.create(**scripted(1))  # the connection, and the imports of the client
        begun = time.perf_counter()
        client.chat.completions.create(**scripted(400))
        assert 0.26 <= time.perf_counter() - begun < 0.7  # the upper end leaves room for a busy machine


def test_a_stream_begins_with_its_first_token_and_comes_in_some_twenty_pieces(
    start_backend: StartBackend,
) -> None:
    backend = start_backend(time_scale=10.0)
    with connect(backend) as client:
        client.chat.completions.create(**scripted(1))
        begun = time.perf_counter()
        with client.chat.completions.create(**scripted(400), stream=True) as stream:
            times = [time.perf_counter() - begun for _ in stream]
    assert times[0] < 0.13 < 0.26 <= times[-1] < 0.7
    assert 15 <= len(times) <= 25


def test_connections_answer_without_waiting_for_acknowledgements(start_backend: StartBackend) -> None:
    backend = start_backend(time_scale=1e6)
    with connect(backend) as client:
        client.chat.completions.create(**scripted(1))
        begun = time.perf_counter()
        for _ in range(20):
            client.chat.completions.create(**scripted(1))
        assert time.perf_counter() - begun < 0.7  # Nagle's algorithm would cost 40 ms a request


def test_slots_queue_and_peaks(start_backend: StartBackend) -> None:
    backend = start_backend(slots=2, time_scale=50.0)
    with connect(backend) as client, ThreadPoolExecutor(5) as threads:
        for _ in range(5):
            threads.submit(client.chat.completions.create, **scripted(500))
        wait_for(backend, in_flight=5, running=2, waiting=3)
        wait_for(backend, in_flight=0, served=5)
    statistics = backend.statistics()
    assert (statistics["peak_in_flight"], statistics["peak_running"]) == (5, 2)
    assert (statistics["prompt_tokens"], statistics["output_tokens"]) == (10, 2500)
    assert statistics["queue_s_total"] > statistics["queue_s_max"] > 3.0  # virtual seconds: a reply takes 3.3


def test_a_client_that_sends_one_request_after_the_other_is_never_seen_as_two(
    start_backend: StartBackend,
) -> None:
    backend = start_backend(time_scale=1000.0)
    with connect(backend) as client:
        for i in range(60):
            if i % 2:
                client.chat.completions.create(**scripted(20))
            else:
                with client.chat.completions.create(**scripted(20), stream=True) as stream:
                    for chunk in stream:
                        if chunk.choices[0].finish_reason:
                            break  # not waiting for the end mark
    statistics = backend.statistics()
    assert (statistics["peak_in_flight"], statistics["served"], statistics["cancelled"]) == (1, 60, 0)


async def leave_stream(client: AsyncOpenAI) -> None:
    begun = asyncio.Event()

    async def read() -> None:
        async for _ in await client.chat.completions.create(**scripted(100_000), stream=True):
            begun.set()

    task = asyncio.create_task(read())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def close_stream(client: AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(**scripted(100_000), stream=True)
    await stream.close()


async def leave_plain(client: AsyncOpenAI) -> None:
    task = asyncio.create_task(client.chat.completions.create(**scripted(100_000)))
    await asyncio.sleep(0.03)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("leave", [leave_stream, close_stream, leave_plain])
@pytest.mark.parametrize("clients", [1, 4])
def test_a_client_that_leaves_and_asks_again_at_once_is_never_seen_as_two(
    start_backend: StartBackend, leave: Callable[[AsyncOpenAI], None], clients: int
) -> None:
    backend = start_backend(slots=clients)
    rounds = 10

    async def one(client: AsyncOpenAI) -> None:
        for _ in range(rounds):
            await leave(client)
            await client.chat.completions.create(**scripted(1))

    async def main() -> None:
        async with connect_async(backend) as client:
            await asyncio.gather(*(one(client) for _ in range(clients)))

    asyncio.run(main())
    statistics = backend.statistics()
    assert statistics["in_flight"] == 0
    assert statistics["peak_in_flight"] <= clients
    assert statistics["served"] == clients * rounds
    assert statistics["cancelled"] > 0


def test_closing_one_connection_before_sending_on_another_is_never_seen_as_two(
    start_backend: StartBackend,
) -> None:
    backend = start_backend()
    address = backend.base_url.removeprefix("http://").removesuffix("/v1").split(":")

    def message(tokens: int, stream: bool) -> bytes:
        fields = scripted(tokens)
        body = json.dumps({**fields, **fields["extra_body"], "stream": stream}).encode()  # type: ignore[dict-item]
        return (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )

    for _ in range(100):
        with socket.create_connection((address[0], int(address[1]))) as second:
            with socket.create_connection((address[0], int(address[1]))) as first:
                first.sendall(message(100_000, True))
                first.recv(1)
            second.sendall(message(1, False))
            second.recv(1)
    statistics = backend.statistics()
    assert (statistics["peak_in_flight"], statistics["cancelled"], statistics["served"]) == (1, 100, 100)


def test_leaving_frees_the_slot_for_those_who_wait(start_backend: StartBackend) -> None:
    backend = start_backend(slots=1, time_scale=100.0)
    with connect(backend) as client, ThreadPoolExecutor(1) as threads:
        stream = client.chat.completions.create(**scripted(100_000), stream=True)
        waiting = threads.submit(client.chat.completions.create, **scripted(1))
        wait_for(backend, waiting=1)
        stream.close()
        waiting.result(timeout=5)
    assert backend.statistics()["cancelled"] == 1


def test_a_full_queue_answers_429_with_the_time_to_wait(start_backend: StartBackend) -> None:
    backend = start_backend(slots=1, queue_limit=1, time_scale=10.0)
    with connect(backend) as client, ThreadPoolExecutor(2) as threads:
        for _ in range(2):
            threads.submit(client.chat.completions.create, **scripted(500))
        wait_for(backend, in_flight=2)
        with pytest.raises(openai.RateLimitError, match="queue is full") as refused:
            client.chat.completions.create(**scripted(1))
    assert refused.value.response.headers["retry-after"] == "1"
    assert 1 <= int(refused.value.response.headers["retry-after-ms"]) <= 325
    statistics = backend.statistics()
    assert (statistics["rejected"], statistics["peak_in_flight"], statistics["served"]) == (1, 2, 2)


def test_a_client_that_retries_gets_through(start_backend: StartBackend) -> None:
    backend = start_backend(slots=1, queue_limit=0, time_scale=100.0)
    with connect(backend, max_retries=50) as client, ThreadPoolExecutor(4) as threads:
        answers = [threads.submit(client.chat.completions.create, **scripted(300)) for _ in range(4)]
        for answer in answers:
            answer.result(timeout=10)
    statistics = backend.statistics()
    assert (statistics["served"], statistics["peak_in_flight"]) == (4, 1)
    assert statistics["rejected"] >= 3


def test_a_429_names_no_time_if_asked(start_backend: StartBackend) -> None:
    backend = start_backend(slots=1, queue_limit=0, time_scale=10.0, retry_after=False)
    with connect(backend) as client, ThreadPoolExecutor(1) as threads:
        threads.submit(client.chat.completions.create, **scripted(500))
        wait_for(backend, in_flight=1)
        with pytest.raises(openai.RateLimitError, match="try again later") as refused:
            client.chat.completions.create(**scripted(1))
    assert not [name for name in refused.value.response.headers if name.startswith("retry-after")]


def test_slots_can_change_over_http(start_backend: StartBackend) -> None:
    """Those that wait run at once; what is no number of slots is refused."""
    backend = start_backend(slots=1, queue_limit=2, time_scale=1.0)
    root = backend.base_url.removesuffix("/v1") + "/sim/resize"
    with connect(backend) as client, ThreadPoolExecutor(3) as threads:
        for _ in range(3):
            threads.submit(client.chat.completions.create, **scripted(100))
        wait_for(backend, running=1, waiting=2)
        with urllib.request.urlopen(urllib.request.Request(root + "?slots=4", method="POST")) as answer:
            assert json.load(answer)["slots"] == 4
        wait_for(backend, running=3, waiting=0)
        backend.resize(2)
        assert backend.statistics()["running"] == 3
        for wrong in ("", "?slots=0", "?slots=x"):
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(urllib.request.Request(root + wrong, method="POST"))
    assert backend.statistics()["slots"] == 2


def test_statistics_and_reset_over_http(start_backend: StartBackend) -> None:
    backend = start_backend(slots=3)
    root = backend.base_url.removesuffix("/v1")
    with connect(backend) as client:
        client.chat.completions.create(**scripted(10))
        stream = client.chat.completions.create(**scripted(100_000), stream=True)
        with urllib.request.urlopen(root + "/sim/statistics") as answer:
            before = json.load(answer)
        with urllib.request.urlopen(urllib.request.Request(root + "/sim/reset", method="POST")) as answer:
            after = json.load(answer)
        stream.close()
    assert before == {
        "slots": 3,
        "running": 1,
        "waiting": 0,
        "in_flight": 1,
        "peak_in_flight": 1,
        "peak_running": 1,
        "served": 1,
        "rejected": 0,
        "cancelled": 0,
        "queue_s_total": 0.0,
        "queue_s_max": 0.0,
        "prompt_tokens": 2,
        "output_tokens": 10,
        "time_scale": 1000.0,
    }
    assert after == {**before, "served": 0, "prompt_tokens": 0, "output_tokens": 0}


def test_reset_on_the_handle(start_backend: StartBackend) -> None:
    backend = start_backend()
    with connect(backend) as client:
        client.chat.completions.create(**scripted(10))
    backend.reset()
    assert (backend.statistics()["served"], backend.statistics()["peak_in_flight"]) == (0, 0)
