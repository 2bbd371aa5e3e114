"""Requests of raw openai clients hold one slot each, for exactly as long as they are in flight."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from typing import TypedDict

import openai
import pytest
from langchain_openai import ChatOpenAI
from langgraph.graph import START, StateGraph
from openai import AsyncOpenAI, OpenAI
from support.seam import until

from llmsched_langgraph import ConfigurationError, default_scheduler, schedule, wrap_openai
from llmsched_langgraph.lab.serve_sim.server import RunningBackend, SimulatedBackend, running_backend

MESSAGES = [{"role": "user", "content": "Hello."}]
SHORT = {"sim": {"output_tokens": 40}}
SAID = {"sim": {"content": "one two three four five six", "output_tokens": 12}}
LONG = {"sim": {"output_tokens": 4000}}


@pytest.fixture(scope="module")
def backend() -> Iterator[RunningBackend]:
    with running_backend(SimulatedBackend(slots=64, time_scale=50.0)) as running:
        yield running


@pytest.fixture(autouse=True)
def fresh_counts(backend: RunningBackend) -> None:
    backend.reset()


def ask(client: OpenAI | AsyncOpenAI, **options):
    return client.chat.completions.create(
        model="sim-model", messages=MESSAGES, **{"extra_body": SHORT, **options}
    )


def test_threads_share_the_slots(backend, make_scheduler):
    """Synchronous requests from many threads never exceed the slots, by the backend's own count."""
    scheduler = make_scheduler(2)
    with OpenAI(base_url=backend.base_url, api_key="none") as bare:
        client = wrap_openai(bare, scheduler)
        threads = [threading.Thread(target=ask, args=(client,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert backend.statistics()["served"] == 8
    assert backend.statistics()["peak_in_flight"] == 2
    assert scheduler.statistics().granted == 8
    assert scheduler.statistics().output_tokens == 8 * 40


@pytest.mark.parametrize("streaming", [False, True])
def test_tasks_share_the_slots(backend, make_scheduler, streaming):
    """So do asynchronous requests, streamed or not."""
    scheduler = make_scheduler(2)

    async def one(client: AsyncOpenAI) -> None:
        answer = await ask(client, stream=streaming)
        if streaming:
            assert [chunk async for chunk in answer]

    async def main() -> None:
        async with AsyncOpenAI(base_url=backend.base_url, api_key="none") as bare:
            client = wrap_openai(bare, scheduler)
            await asyncio.gather(*(one(client) for _ in range(8)))

    asyncio.run(main())
    assert backend.statistics()["peak_in_flight"] == 2
    assert scheduler.statistics().granted == 8


def test_a_stream_holds_its_slot_until_closed(backend, make_scheduler):
    """The slot is held between the pieces of a stream, and is back when it is closed half way."""
    scheduler = make_scheduler(1)
    with OpenAI(base_url=backend.base_url, api_key="none") as bare:
        stream = ask(wrap_openai(bare, scheduler), stream=True, extra_body=LONG)
        next(iter(stream))
        assert scheduler.statistics().holding == 1
        stream.close()
        assert scheduler.statistics().holding == 0


def test_a_dropped_stream_gives_its_slot_back(backend, make_scheduler):
    """A stream that nobody reads or closes is closed when it is collected, and gives its slot back."""
    scheduler = make_scheduler(1)
    with OpenAI(base_url=backend.base_url, api_key="none") as bare:
        stream = ask(wrap_openai(bare, scheduler), stream=True, extra_body=LONG)
        assert scheduler.statistics().holding == 1
        del stream
        gc.collect()
        until(lambda: scheduler.statistics().holding == 0)
        until(lambda: backend.statistics()["in_flight"] == 0)


def test_cancelled_requests(backend, make_scheduler):
    """A request cancelled in flight, and one cancelled in the backlog, leave nothing behind."""
    scheduler = make_scheduler(1)

    async def main() -> None:
        async with AsyncOpenAI(base_url=backend.base_url, api_key="none") as bare:
            client = wrap_openai(bare, scheduler)
            running = asyncio.create_task(ask(client, extra_body=LONG))
            while backend.statistics()["in_flight"] < 1:
                await asyncio.sleep(0.001)
            waiting = asyncio.create_task(ask(client))
            while scheduler.statistics().waiting < 1:
                await asyncio.sleep(0)
            waiting.cancel()
            running.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
            assert scheduler.statistics().holding == 0
            await ask(client)

    asyncio.run(main())


def test_errors_and_retries_hold_no_slot(make_scheduler):
    """A request that is refused with 429 is tried again outside its slot; one that fails gives it back."""
    scheduler = make_scheduler(1)
    full = SimulatedBackend(slots=1, queue_limit=0, time_scale=50.0)
    with running_backend(full) as backend, OpenAI(base_url=backend.base_url, api_key="none") as bare:
        stream = ask(bare, stream=True, extra_body=LONG)  # takes the backend's only slot
        client = wrap_openai(bare, scheduler)
        with pytest.raises(openai.RateLimitError):
            ask(client.with_options(max_retries=0))
        assert scheduler.statistics().holding == 0
        stream.close()
        assert ask(client).usage.completion_tokens == 40
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="another", messages=MESSAGES)
        assert scheduler.statistics().holding == 0


def test_what_serves_no_model_takes_no_slot(backend, make_scheduler):
    """Listing models goes past the slots."""
    scheduler = make_scheduler(1)
    with OpenAI(base_url=backend.base_url, api_key="none") as bare:
        assert [model.id for model in wrap_openai(bare, scheduler).models.list()] == ["sim-model"]
    assert scheduler.statistics().granted == 0


def test_wrapping(backend, make_scheduler):
    """The wrapped client is of the same class, outlives the bare one, and wrapping twice changes nothing."""
    scheduler = make_scheduler(1)
    client = wrap_openai(OpenAI(base_url=backend.base_url, api_key="none"), scheduler)
    gc.collect()
    assert type(client) is OpenAI
    assert wrap_openai(client, scheduler) is client
    assert ask(client).choices
    client.close()
    assert client.is_closed()


def test_the_bare_client_stays_bare(backend, make_scheduler):
    """Wrapping gates the result, not the client that was given; and dropping the result closes nothing."""
    scheduler = make_scheduler(1)
    with OpenAI(base_url=backend.base_url, api_key="none") as bare:
        client = wrap_openai(bare, scheduler)
        ask(bare)
        assert scheduler.statistics().granted == 0
        del client
        gc.collect()
        assert ask(bare).choices


class State(TypedDict, total=False):
    text: str


def test_inside_a_scheduled_graph(backend, make_scheduler):
    """In a scheduled run the request is the run's: its job, its stage, and its scheduler."""
    scheduler = make_scheduler(2)

    async def main() -> None:
        async with AsyncOpenAI(base_url=backend.base_url, api_key="none") as bare:
            client = wrap_openai(bare)

            async def node(state: State) -> State:
                return {"text": (await ask(client)).choices[0].message.content}

            builder = StateGraph(State).add_node("raw", node).add_edge(START, "raw")
            graph = schedule(builder.compile(), scheduler)
            await asyncio.gather(*(graph.ainvoke({}) for _ in range(6)))
            await ask(client)

    asyncio.run(main())
    assert scheduler.statistics().granted == 6
    assert default_scheduler().statistics().granted == 1
    (learned,) = scheduler.profile.applications.values()
    assert {stage.stage_occurrence.path for outcome in learned.outcomes for stage in outcome.stages} == {
        "raw"
    }
    assert backend.statistics()["peak_in_flight"] <= 2


def test_two_doors_take_one_slot(backend, make_scheduler):
    """A chat model that speaks through a wrapped client takes one slot, not two."""
    scheduler = make_scheduler(1)

    async def main() -> None:
        async with AsyncOpenAI(base_url=backend.base_url, api_key="none") as bare:
            client = wrap_openai(bare, scheduler)
            model = ChatOpenAI(model="sim-model", api_key="none", async_client=client.chat.completions)

            async def node(state: State) -> State:
                return {"text": (await model.ainvoke("Hello.")).text}

            builder = StateGraph(State).add_node("raw", node).add_edge(START, "raw")
            await schedule(builder.compile(), scheduler).ainvoke({})

    asyncio.run(main())
    assert scheduler.statistics().granted == 1


def test_what_is_no_client():
    """Anything else is refused with the name of what was given."""
    with pytest.raises(ConfigurationError, match="not dict"):
        wrap_openai({})


def test_private_names_are_still_there():
    """openai clients still send everything through `_client.send`; if this fails, see openai_client.py."""
    for kind in (OpenAI, AsyncOpenAI):
        client = kind(api_key="none")
        assert callable(client._client.send)
        assert hasattr(client._client, "aclose") == (kind is AsyncOpenAI)
        assert client.copy(http_client=client._client)._client is client._client


def test_a_stream_left_half_read_does_not_block_its_reader(backend, make_scheduler):
    """If its reader asks again, the rest of the stream is read ahead, and gives its slot back."""
    scheduler = make_scheduler(1)
    with OpenAI(base_url=backend.base_url, api_key="none") as bare:
        client = wrap_openai(bare, scheduler)
        stream = ask(client, stream=True, extra_body=SAID)
        first = next(iter(stream))
        assert ask(client).choices
        assert scheduler.statistics().holding == 0
        assert text_of([first, *stream]) == SAID["sim"]["content"]
    assert (scheduler.statistics().over_commitments, scheduler.statistics().peak) == (0, 1)


def test_a_stream_left_half_read_does_not_block_its_task(backend, make_scheduler):
    """The same on an event loop, where another task waits for its turn."""
    scheduler = make_scheduler(1)

    async def main() -> None:
        async with AsyncOpenAI(base_url=backend.base_url, api_key="none") as bare:
            client = wrap_openai(bare, scheduler)
            stream = await ask(client, stream=True, extra_body=SAID)
            pieces = [await anext(aiter(stream))]
            other = asyncio.create_task(ask(client))
            assert (await ask(client)).choices
            assert (await other).choices
            pieces += [piece async for piece in stream]
            assert text_of(pieces) == SAID["sim"]["content"]

    asyncio.run(main())
    assert (scheduler.statistics().over_commitments, scheduler.statistics().peak) == (0, 1)


def text_of(pieces):
    """What the pieces of a stream say."""
    return "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
