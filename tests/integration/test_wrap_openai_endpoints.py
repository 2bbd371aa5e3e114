"""Every endpoint that a model serves takes one slot per request, however the client is asked for it."""

from __future__ import annotations

import asyncio
import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI
from openai.resources.responses import Responses
from support.openai_server import OpenAIServer, openai_server
from support.seam import auntil, httpx, until

from llmsched_langgraph import Scheduler, wrap_openai

MESSAGES = [{"role": "user", "content": "?"}]
ENDPOINTS: dict[str, dict[str, Any]] = {
    "chat.completions": {"messages": MESSAGES},
    "completions": {"prompt": "?"},
    "responses": {"input": "?"},
    "embeddings": {"input": "?"},
    "beta.chat.completions": {"messages": MESSAGES},
    "beta.responses": {"input": "?"},
}
ACCESSORS = ["", "with_raw_response", "with_streaming_response"]
STREAMS = pytest.mark.parametrize("endpoint", ["chat.completions", "responses"])


def exists(endpoint: str) -> bool:
    """Whether the openai that is installed has it: what is in beta comes and goes."""
    with OpenAI(api_key="none") as client:
        try:
            return hasattr(attrgetter(endpoint)(client), "create")
        except AttributeError:
            return False


def cells() -> list[Any]:
    return [
        pytest.param(*cell, id="-".join([cell[0], cell[1] or "plain", "stream" if cell[2] else "whole"]))
        for cell in itertools.product(filter(exists, ENDPOINTS), ACCESSORS, [False, True])
        if not (cell[0] == "embeddings" and cell[2])
    ]


@pytest.fixture(scope="module")
def running() -> Iterator[OpenAIServer]:
    with openai_server() as server:
        yield server


@pytest.fixture
def server(running: OpenAIServer) -> OpenAIServer:
    running.reset()
    return running


# -- asking ----------------------------------------------------------------------------------


def create(client: Any, endpoint: str, accessor: str = "", **options: Any) -> Any:
    resource = attrgetter(f"{endpoint}.{accessor}" if accessor else endpoint)(client)
    return resource.create(model="m", **ENDPOINTS[endpoint], **options)


def ask(client: OpenAI, endpoint: str, accessor: str = "", streamed: bool = False) -> Any:
    """One request, answered to the end."""
    answer = create(client, endpoint, accessor, **({"stream": True} if streamed else {}))
    if accessor == "with_streaming_response":
        with answer as response:
            return list(response.iter_lines())
    if accessor:
        answer = answer.parse()
    return list(answer) if streamed else answer


async def aask(client: AsyncOpenAI, endpoint: str, accessor: str = "", streamed: bool = False) -> Any:
    """The same on an event loop."""
    answer = create(client, endpoint, accessor, **({"stream": True} if streamed else {}))
    if accessor == "with_streaming_response":
        async with answer as response:
            return [line async for line in response.iter_lines()]
    answer = await answer
    if accessor:
        answer = answer.parse()
    return [piece async for piece in answer] if streamed else answer


def use(server: OpenAIServer, scheduler: Scheduler, scene: Callable[[OpenAI], None], **options: Any) -> None:
    """Play the scene with a wrapped client."""
    http_client = DefaultHttpxClient(verify=False)  # certificates are slow to load, and of no use on loopback
    with OpenAI(base_url=server.base_url, api_key="none", http_client=http_client, **options) as bare:
        scene(wrap_openai(bare, scheduler))


def ause(
    server: OpenAIServer, scheduler: Scheduler, scene: Callable[[AsyncOpenAI], Any], **options: Any
) -> None:
    """The same on an event loop."""

    async def main() -> None:
        http_client = DefaultAsyncHttpxClient(verify=False)
        options_ = {"base_url": server.base_url, "api_key": "none", "http_client": http_client, **options}
        async with AsyncOpenAI(**options_) as bare:
            await scene(wrap_openai(bare, scheduler))

    asyncio.run(main())


# -- taking turns ----------------------------------------------------------------------------


@pytest.mark.parametrize(("endpoint", "accessor", "streamed"), cells())
def test_threads_share_the_slots(server, make_scheduler, endpoint, accessor, streamed):
    """Of five synchronous requests on two slots two are in flight and three wait, by the server's count."""
    scheduler = make_scheduler(2)

    def scene(client: OpenAI) -> None:
        server.gate.clear()
        answers: list[Any] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(client, endpoint, accessor, streamed)))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        until(lambda: (server.in_flight, scheduler.statistics().waiting) == (2, 3))
        server.gate.set()
        for thread in threads:
            thread.join()
        assert len(answers) == 5
        assert all(answers)

    use(server, scheduler, scene)
    assert (server.peak, server.total) == (2, 5)
    assert scheduler.statistics().granted == 5
    assert scheduler.statistics().holding == 0


@pytest.mark.parametrize(("endpoint", "accessor", "streamed"), cells())
def test_tasks_share_the_slots(server, make_scheduler, endpoint, accessor, streamed):
    """So it is with asynchronous requests."""
    scheduler = make_scheduler(2)

    async def scene(client: AsyncOpenAI) -> None:
        server.gate.clear()
        asking = [asyncio.create_task(aask(client, endpoint, accessor, streamed)) for _ in range(5)]
        await auntil(lambda: (server.in_flight, scheduler.statistics().waiting) == (2, 3))
        server.gate.set()
        assert all(await asyncio.gather(*asking))

    ause(server, scheduler, scene)
    assert (server.peak, server.total) == (2, 5)
    assert scheduler.statistics().granted == 5
    assert scheduler.statistics().holding == 0


@STREAMS
def test_stream_helpers(server, make_scheduler, endpoint):
    """`stream()`, which gathers a stream's events, takes a slot from the first to the last of them."""
    scheduler = make_scheduler(1)
    asked = {"model": "m", **ENDPOINTS[endpoint]}

    def scene(client: OpenAI) -> None:
        with attrgetter(endpoint)(client).stream(**asked) as events:
            assert scheduler.statistics().holding == 1
            assert list(events)
            assert scheduler.statistics().holding == 0

    async def ascene(client: AsyncOpenAI) -> None:
        async with attrgetter(endpoint)(client).stream(**asked) as events:
            assert scheduler.statistics().holding == 1
            assert [event async for event in events]
            assert scheduler.statistics().holding == 0

    use(server, scheduler, scene)
    ause(server, scheduler, ascene)
    assert server.peak == 1
    assert scheduler.statistics().granted == 2


@pytest.mark.skipif(not hasattr(Responses, "compact"), reason="this openai has no responses.compact")
def test_compacting(server, make_scheduler):
    """A model is at work as well when a conversation is made shorter."""
    scheduler = make_scheduler(1)

    def scene(client: OpenAI) -> None:
        assert client.responses.compact(model="m", input="?").id

    use(server, scheduler, scene)
    assert (server.total, scheduler.statistics().granted) == (1, 1)


def test_tokens_are_learned(server, make_scheduler):
    """The tokens of whole answers are told to the scheduler, in either of the API's vocabularies."""
    scheduler = make_scheduler(1)

    def scene(client: OpenAI) -> None:
        for endpoint in ("chat.completions", "responses", "embeddings"):
            ask(client, endpoint)

    use(server, scheduler, scene)
    assert (scheduler.statistics().prompt_tokens, scheduler.statistics().output_tokens) == (9, 4)


# -- every end gives the slot back -------------------------------------------------------------


def in_a_cycle(thing: Any) -> None:
    """Drop it so that only a garbage collection finds it."""
    box = [thing]
    box.append(box)


ENDINGS = ["exhausted", "closed", "broken off", "dropped half way", "dropped unread"]


@STREAMS
@pytest.mark.parametrize("ending", ENDINGS)
def test_streams_that_end(server, make_scheduler, endpoint, ending):
    """A stream is off the server before its slot is back, whether read to the end, closed or dropped."""
    scheduler = make_scheduler(1)

    def scene(client: OpenAI) -> None:
        server.gate.clear()
        stream = create(client, endpoint, stream=True)
        if ending != "dropped unread":
            next(stream)
        assert (server.in_flight, scheduler.statistics().holding) == (1, 1)
        match ending:
            case "exhausted":
                server.gate.set()
                assert list(stream)
            case "closed":
                stream.close()
            case "broken off":
                with stream:
                    pass
            case _:
                stream = in_a_cycle(stream)
        del stream
        if ending.startswith("dropped"):
            until(lambda: gc.collect() >= 0 and scheduler.statistics().holding == 0)
        assert scheduler.statistics().holding == 0
        server.gate.clear()
        following = threading.Thread(target=ask, args=(client, endpoint))
        following.start()
        until(lambda: server.total == 2)  # nothing that was in flight before can have ended meanwhile
        server.gate.set()
        following.join()

    use(server, scheduler, scene)
    assert (server.peak, server.total) == (1, 2)


@STREAMS
@pytest.mark.parametrize("ending", [*ENDINGS, "cancelled"])
def test_asynchronous_streams_that_end(server, make_scheduler, endpoint, ending):
    """So it is on an event loop, where reading can also be cancelled."""
    scheduler = make_scheduler(1)

    async def scene(client: AsyncOpenAI) -> None:
        server.gate.clear()
        stream = await create(client, endpoint, stream=True)
        if ending != "dropped unread":
            await anext(stream)
        assert (server.in_flight, scheduler.statistics().holding) == (1, 1)
        match ending:
            case "exhausted":
                server.gate.set()
                assert [piece async for piece in stream]
            case "closed":
                await stream.close()
            case "broken off":
                async with stream:
                    pass
            case "cancelled":
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0):
                        await anext(stream)
            case _:
                stream = in_a_cycle(stream)
        del stream
        if ending.startswith("dropped"):
            gc.collect()
            await auntil(lambda: scheduler.statistics().holding == 0)
        assert scheduler.statistics().holding == 0
        server.gate.clear()
        following = asyncio.create_task(aask(client, endpoint))
        await auntil(lambda: server.total == 2)
        server.gate.set()
        assert await following

    ause(server, scheduler, scene)
    assert (server.peak, server.total) == (1, 2)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stream_dropped_after_its_loop(server, make_scheduler):
    """A stream whose loop is closed gives its slot back, whoever keeps it; dropping it changes nothing."""
    scheduler, kept = make_scheduler(1), []

    async def main() -> None:
        client = wrap_openai(AsyncOpenAI(base_url=server.base_url, api_key="none"), scheduler)
        kept.append(await create(client, "responses", stream=True))

    asyncio.run(main())
    assert scheduler.statistics().holding == 0
    kept.clear()
    gc.collect()
    assert scheduler.statistics().holding == 0


@pytest.mark.parametrize(("endpoint", "accessor", "streamed"), cells())
def test_cancelled_requests(server, make_scheduler, endpoint, accessor, streamed):
    """A request cancelled in flight, and one cancelled in the backlog, leave nothing behind."""
    scheduler = make_scheduler(1)

    async def scene(client: AsyncOpenAI) -> None:
        server.gate.clear()
        asking = [asyncio.create_task(aask(client, endpoint, accessor, streamed)) for _ in range(2)]
        await auntil(lambda: (server.in_flight, scheduler.statistics().waiting) == (1, 1))
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        assert all(task.cancelled() for task in asking)
        assert (scheduler.statistics().holding, scheduler.statistics().waiting) == (0, 0)
        server.gate.set()
        assert await aask(client, endpoint)

    ause(server, scheduler, scene)
    assert (server.peak, server.total) == (1, 2)


@pytest.mark.parametrize(("endpoint", "accessor", "streamed"), cells())
def test_requests_that_fail(server, make_scheduler, endpoint, accessor, streamed):
    """A request that the server refuses gives its slot back with the error."""
    scheduler = make_scheduler(1)

    def scene(client: OpenAI) -> None:
        server.refusals.append(500)
        with pytest.raises(openai.InternalServerError):
            ask(client, endpoint, accessor, streamed)
        assert scheduler.statistics().holding == 0

    async def ascene(client: AsyncOpenAI) -> None:
        server.refusals.append(500)
        with pytest.raises(openai.InternalServerError):
            await aask(client, endpoint, accessor, streamed)
        assert scheduler.statistics().holding == 0

    use(server, scheduler, scene, max_retries=0)
    ause(server, scheduler, ascene, max_retries=0)
    assert scheduler.statistics().granted == 2


@pytest.mark.parametrize(("endpoint", "accessor", "streamed"), cells())
def test_retries_wait_outside_the_slot(server, make_scheduler, endpoint, accessor, streamed):
    """Each of the client's own attempts after a 429 takes a slot for itself, so none is held in between."""
    scheduler = make_scheduler(1)

    def scene(client: OpenAI) -> None:
        server.refusals.extend([429, 429])
        assert ask(client, endpoint, accessor, streamed)
        assert (scheduler.statistics().granted, scheduler.statistics().holding) == (3, 0)

    async def ascene(client: AsyncOpenAI) -> None:
        server.refusals.extend([429, 429])
        assert await aask(client, endpoint, accessor, streamed)
        assert (scheduler.statistics().granted, scheduler.statistics().holding) == (6, 0)

    use(server, scheduler, scene, max_retries=2)
    ause(server, scheduler, ascene, max_retries=2)
    assert (server.peak, server.total) == (1, 6)


@STREAMS
def test_streams_that_break(server, make_scheduler, endpoint):
    """A stream whose connection breaks gives its slot back with the error."""
    scheduler = make_scheduler(1)
    server.breaks = True
    broken = openai.APIConnectionError, httpx.TransportError  # openai 2 lets the latter through

    def scene(client: OpenAI) -> None:
        with pytest.raises(broken):
            ask(client, endpoint, "", True)
        assert scheduler.statistics().holding == 0

    async def ascene(client: AsyncOpenAI) -> None:
        with pytest.raises(broken):
            await aask(client, endpoint, "", True)
        assert scheduler.statistics().holding == 0

    use(server, scheduler, scene, max_retries=0)
    ause(server, scheduler, ascene, max_retries=0)
    assert scheduler.statistics().granted == 2


# -- what takes no slot ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(lambda client: client.models.list(), id="models.list"),
        pytest.param(lambda client: client.models.retrieve("m"), id="models.retrieve"),
        pytest.param(lambda client: client.files.list(), id="files.list"),
        pytest.param(lambda client: client.files.create(file=b"{}", purpose="batch"), id="files.create"),
        pytest.param(lambda client: client.batches.cancel("1"), id="batches.cancel"),
        pytest.param(lambda client: client.responses.retrieve("1"), id="responses.retrieve"),
        pytest.param(lambda client: client.responses.cancel("1"), id="responses.cancel"),
        pytest.param(lambda client: client.responses.input_items.list("1"), id="responses.input_items.list"),
        pytest.param(lambda client: client.chat.completions.list(), id="chat.completions.list"),
        pytest.param(lambda client: client.chat.completions.retrieve("1"), id="chat.completions.retrieve"),
        pytest.param(lambda client: client.vector_stores.create(), id="vector_stores.create"),
    ],
)
def test_what_serves_no_model_takes_no_slot(server, make_scheduler, request_):
    """What needs no model goes past the slots."""
    scheduler = make_scheduler(1)

    async def ascene(client: AsyncOpenAI) -> None:
        await request_(client)

    use(server, scheduler, request_)
    ause(server, scheduler, ascene)
    assert scheduler.statistics().granted == 0
    assert server.total == 0
