"""The requests inside a call: which of them are attempts, and when each has its slot."""

from __future__ import annotations

import asyncio
import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypedDict

import httpx
import pytest
import requests
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import START, StateGraph
from support.seam import PATIENCE_S, auntil, until

from llmsched_langgraph import CallCancelledError, QueueTimeoutError, schedule
from llmsched_langgraph._adapter.http.answers import failure_of, failure_of_error
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._ledger.pauses import Failure

MODEL = "http://model.test/v1"
USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}


class State(TypedDict, total=False):
    n: int


class Sender(BaseChatModel):
    """A model whose one call does what it is told to."""

    base_url: str = MODEL
    does: Any = None

    @property
    def _llm_type(self) -> str:
        return "sender"

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.does()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=USAGE))])


class AsyncSender(Sender):
    """The same, on the event loop."""

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        await self.does()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=USAGE))])


def graph_of(model, scheduler):
    def node(state):
        model.invoke("?")
        return {}

    async def anode(state):
        await model.ainvoke("?")
        return {}

    chosen = anode if isinstance(model, AsyncSender) else node
    return schedule(StateGraph(State).add_node("a", chosen).add_edge(START, "a").compile(), scheduler)


def call(scheduler, does, model=Sender):
    """One run of one call."""
    graph = graph_of(model(does=does), scheduler)
    return asyncio.run(graph.ainvoke({})) if model is AsyncSender else graph.invoke({})


def finished(entries):
    return [entry.detail for entry in entries if entry.kind == "CallReleased"]


@pytest.fixture
def scheduler(make_scheduler):
    return make_scheduler(1, policy="fcfs")


@pytest.fixture(params=["httpx", "httpx2"])
def library(request):
    return importlib.import_module(request.param)


@pytest.fixture
def client(library, scheduler):
    """A client whose server notes how many slots are held at each request, and answers as it is told."""

    def answer(request):
        made.seen.append(scheduler.statistics().holding)
        status, headers, content = made.answers.pop(0) if made.answers else (200, {}, b"{}")
        if content is None:
            return library.Response(status, headers=headers, stream=pieces(library))
        return library.Response(status, headers=headers, content=content)

    made = library.Client(transport=library.MockTransport(answer))
    made.seen, made.answers = [], []
    with made:
        yield made


def pieces(library):
    """A body that is read later, by a thread or on a loop."""

    class Pieces(library.SyncByteStream, library.AsyncByteStream):
        def __iter__(self):
            yield b"{}"

        async def __aiter__(self):
            yield b"{}"

    return Pieces()


def test_each_request_has_a_slot_of_its_own(client, scheduler):
    """The first one finds that of the call; between two of them none is held."""
    between = []

    def does():
        between.append(scheduler.statistics().holding)
        for _ in range(3):
            client.post(f"{MODEL}/chat", json={})
            between.append(scheduler.statistics().holding)

    call(scheduler, does)
    assert (client.seen, between) == ([1, 1, 1], [1, 0, 0, 0])
    now = scheduler.statistics()
    assert (now.granted, now.released, now.prompt_tokens, now.output_tokens) == (3, 3, 5, 3)
    scheduler.check()


def test_a_call_that_sends_nothing_that_is_seen_keeps_its_slot(scheduler):
    """From its begin to its end."""
    seen = []
    call(scheduler, lambda: seen.append(scheduler.statistics().holding))
    now = scheduler.statistics()
    assert (seen, now.granted, now.prompt_tokens) == ([1], 1, 5)


@pytest.mark.parametrize(
    "request_",
    [
        {"method": "GET", "url": f"{MODEL}/models"},
        {"method": "POST", "url": f"{MODEL}/messages/count_tokens", "json": {}},
        {"method": "POST", "url": f"{MODEL}/models/m:countTokens", "json": {}},
        {"method": "POST", "url": f"{MODEL}/oauth2/token", "data": {"a": "b"}},
        {"method": "POST", "url": f"{MODEL}/chat", "data": {"a": "b"}},
        {"method": "POST", "url": f"{MODEL}/files", "files": {"file": b"x"}},
        {"method": "POST", "url": "http://tracing.test/v1/traces", "json": {}},
        {
            "method": "POST",
            "url": f"{MODEL}/x",
            "content": b"",
            "headers": {"content-type": "application/x-protobuf"},
        },
    ],
    ids=lambda own: f"{own['method']} {own['url'].rpartition('/')[2]} {[*own][-1]}",
)
def test_what_is_no_attempt(client, scheduler, request_):
    """Such a request takes no slot, and does not give that of the call back."""

    def does():
        client.request(**request_)
        client.post(f"{MODEL}/chat", json={})
        client.request(**request_)

    call(scheduler, does)
    assert client.seen == [1, 1, 0]
    assert scheduler.statistics().granted == 1


def test_an_exporter_marks_its_requests(client, scheduler):
    """OpenTelemetry's exporters suppress instrumentation; such a request is none of the model's."""
    context = pytest.importorskip("opentelemetry.context")

    def does():
        client.post(f"{MODEL}/chat", json={})
        token = context.attach(context.set_value(context._SUPPRESS_INSTRUMENTATION_KEY, True))
        client.post(f"{MODEL}/chat", json={})
        context.detach(token)

    call(scheduler, does)
    assert client.seen == [1, 0]


def test_requests_outside_calls(client, scheduler):
    """In a node and in a `slot()` block they are the program's own affair."""

    def node(state):
        client.post(f"{MODEL}/chat", json={})
        with scheduler.slot():
            client.post(f"{MODEL}/chat", json={})
            client.post(f"{MODEL}/chat", json={})
        return {}

    graph = StateGraph(State).add_node("a", node).add_edge(START, "a").compile()
    schedule(graph, scheduler).invoke({})
    assert client.seen == [0, 1, 1]
    assert scheduler.statistics().granted == 1


# -- failures --------------------------------------------------------------------------


def test_a_retried_call_is_one_call(client, scheduler):
    """Its record has the seconds of all its attempts, and their number; the tokens are the last one's."""
    client.answers = [(500, {}, b""), (503, {"retry-after": "0"}, b"")]
    entries = []
    scheduler.subscribe(entries.append)

    def does():
        while client.post(f"{MODEL}/chat", json={}).status_code >= 500:
            assert scheduler.statistics().holding == 0

    call(scheduler, does)
    scheduler.check()
    assert [own.outcome.value for own in finished(entries)] == ["failed", "failed", "finished"]
    (job,) = [entry.detail for entry in entries if entry.kind == "JobClosed"]
    (own,) = job.progress.finished.values()
    assert own.attempts == 3
    assert own.work_s == pytest.approx(sum(each.work_s for each in finished(entries)), abs=1e-9)
    assert (own.usage.prompt_tokens, own.usage.output_tokens) == (5, 3)
    now = scheduler.statistics()
    assert (now.prompt_tokens, now.output_tokens) == (5, 3)


@pytest.mark.parametrize(
    ("status", "headers", "paused"),
    [
        (429, {"retry-after": "0.2"}, True),
        (429, {"retry-after-ms": "200"}, True),
        (503, {}, True),
        (529, {}, True),
        (500, {"retry-after": "0.2"}, True),
        (500, {}, False),
        (408, {}, False),
        (400, {"retry-after": "0.2"}, False),
        (404, {}, False),
        (200, {"retry-after": "0.2"}, False),
    ],
)
def test_which_answers_pause_the_backend(client, scheduler, status, headers, paused):
    """A refusal, or any failure that names a time; the next request goes out when the pause is over."""
    client.answers = [(status, headers, b"{}")]

    def does():
        client.post(f"{MODEL}/chat", json={})
        (backend,) = scheduler._driver.backends.values()
        assert (backend.pause.opens_s > scheduler._driver.clock()) == paused
        client.post(f"{MODEL}/chat", json={})
        assert scheduler._driver.clock() >= backend.pause.opens_s

    call(scheduler, does)
    assert client.seen == [1, 1]


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after-ms": "x"}, None),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "nan", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    ],
)
def test_retry_after(headers, after_s):
    """Seconds, milliseconds or a date; what cannot be read is no time."""
    assert failure_of(429, headers) == Failure(429, after_s, "status")


def test_retry_after_as_a_date():
    """Relative to the clock of this machine."""
    failure = failure_of(503, {"retry-after": formatdate(4_000_000_000, usegmt=True)})
    assert failure.retry_after_s > 3600


@pytest.mark.parametrize("sent_s", [1_000_000, 4_000_000_000])
@pytest.mark.parametrize(("later_s", "after_s"), [(30, 30.0), (0, 0.0), (-30, 0.0)])
def test_retry_after_as_a_date_of_another_clock(sent_s, later_s, after_s):
    """Relative to the answer's own date."""
    headers = {
        "date": formatdate(sent_s, usegmt=True),
        "retry-after": formatdate(sent_s + later_s, usegmt=True),
    }
    assert failure_of(429, headers) == Failure(429, after_s, "status")


def test_retry_after_beside_a_date_that_is_none():
    headers = {"date": "yesterday", "retry-after": formatdate(4_000_000_000, usegmt=True)}
    assert failure_of(503, headers).retry_after_s > 3600


def test_only_errors_are_failures():
    """A cancellation says nothing of the server."""
    assert failure_of_error(ConnectionResetError()) == Failure(None, None, "ConnectionResetError")
    assert failure_of_error(asyncio.CancelledError()) is None


def test_a_fallback_to_another_server(client, scheduler):
    """It is an attempt between a failed one and the next; its own failure does not pause the backend."""
    client.answers = [(500, {}, b""), (429, {"retry-after": "60"}, b""), (200, {}, b"")]

    def does():
        for url in (f"{MODEL}/chat", "http://other.test/v1/chat", f"{MODEL}/chat"):
            client.post(url, json={})

    call(scheduler, does)
    assert client.seen == [1, 1, 1]
    assert scheduler._driver.backends["default"].pause.opens_s == 0.0


def test_after_a_refusal_requests_come_back_a_few_at_a_time(client, scheduler):
    """Forty runs, one refusal: no request until the server allows one, then 1, 2, 4 per quarter second."""
    scheduler.resize(8)
    client.answers = [(429, {"retry-after": "0.5"}, b"")]
    entries = []

    def does():
        while client.post(f"{MODEL}/chat", json={}).status_code == 429:
            pass

    with scheduler.subscribe(entries.append), ThreadPoolExecutor(40) as threads:
        list(threads.map(lambda _: call(scheduler, does), range(40)))
    released = [one for one in entries if one.kind == "CallReleased"]
    (refused,) = (one for one in released if one.detail.outcome is Outcome.FAILED)
    opens_s = scheduler._driver.backends["default"].pause.opens_s
    assert opens_s == refused.at_s + 0.5
    after = [one.at_s for one in entries if one.kind == "SlotGranted" and one.number > refused.number]
    assert all(at_s >= opens_s + 0.25 * (n.bit_length() - 1) for n, at_s in enumerate(after[:8], 1))
    assert len(client.seen) == 41
    assert max(client.seen) <= 8


def test_a_retry_keeps_the_place_of_its_call(client, scheduler):
    """First come, first served: the second attempt comes before calls that arrived after the first one."""
    client.answers = [(500, {}, b"")]
    order = []
    with ThreadPoolExecutor(3) as threads:

        def first():
            others.extend([threads.submit(Context().run, call, scheduler, lambda: order.append("second"))])
            until(lambda: scheduler.statistics().waiting == 1)
            others.extend([threads.submit(Context().run, call, scheduler, lambda: order.append("third"))])
            until(lambda: scheduler.statistics().waiting == 2)
            client.post(f"{MODEL}/chat", json={})
            client.post(f"{MODEL}/chat", json={})
            order.append("first")

        others = []
        threads.submit(call, scheduler, first).result(PATIENCE_S)
        for own in others:
            own.result(PATIENCE_S)
    assert order.index("first") < order.index("third")


def test_a_library_cannot_replace_the_scheduler_s_error(client, make_scheduler):
    """A client library wraps what it catches; the node gets the error of the wait all the same."""
    scheduler = make_scheduler(1, queue_timeout_s=0.05)

    def does():
        client.post(f"{MODEL}/chat", json={})
        held = scheduler.slot()
        threading.Thread(target=held.acquire).start()
        until(lambda: scheduler.statistics().holding == 1)
        try:
            client.post(f"{MODEL}/chat", json={})
        except Exception as error:
            raise ConnectionError("no connection") from error
        finally:
            held.release()

    with pytest.raises(QueueTimeoutError):
        call(scheduler, does)
    scheduler.check()


# -- bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize("read", [True, False])
def test_an_open_body_holds_the_slot(client, scheduler, read):
    """Until it is read to its end, or closed; the end of the call closes one that was dropped."""
    kept = []
    client.answers = [(200, {}, None)]

    def does():
        response = client.send(client.build_request("POST", f"{MODEL}/chat", json={}), stream=True)
        kept.append(response)
        assert scheduler.statistics().holding == 1
        if read:
            assert response.read() == b"{}"
            assert scheduler.statistics().holding == 0

    call(scheduler, does)
    assert kept[0].is_closed
    assert (scheduler.statistics().holding, scheduler.statistics().prompt_tokens) == (0, 5)


def test_an_open_body_on_a_loop(library, scheduler):
    """The same for an asynchronous client."""
    kept = []

    async def does():
        transport = library.MockTransport(lambda request: library.Response(200, stream=pieces(library)))
        client = library.AsyncClient(transport=transport)
        response = await client.send(client.build_request("POST", f"{MODEL}/chat", json={}), stream=True)
        kept.append(response)
        assert scheduler.statistics().holding == 1

    call(scheduler, does, AsyncSender)
    assert kept[0].is_closed
    assert scheduler.statistics().holding == 0
    scheduler.check()


def test_a_body_that_breaks(library, scheduler):
    """The request is over; the slot is free before the response is closed."""

    class Breaks(library.SyncByteStream):
        def __iter__(self):
            yield b"x"
            raise library.ReadError("reset")

    def does():
        transport = library.MockTransport(lambda request: library.Response(200, stream=Breaks()))
        client = library.Client(transport=transport)
        response = client.send(client.build_request("POST", f"{MODEL}/chat", json={}), stream=True)
        with pytest.raises(library.ReadError):
            response.read()
        assert scheduler.statistics().holding == 0

    call(scheduler, does)


def test_an_accepted_request_leaves_the_slot_with_the_call(client, scheduler):
    """After 202 the server works on; the client polls, and asks again later."""
    client.answers = [(202, {}, b"")]

    def does():
        client.post(f"{MODEL}/chat", json={})
        client.get(f"{MODEL}/status")
        client.post(f"{MODEL}/chat", json={})
        client.get(f"{MODEL}/status")

    call(scheduler, does)
    assert client.seen == [1, 1, 1, 0]
    assert scheduler.statistics().granted == 1


# -- several at once -------------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2])
def test_requests_side_by_side_take_a_slot_each(library, make_scheduler, slots):
    """Nine at once in one call: as many in flight as there are slots, and they all end."""
    scheduler = make_scheduler(slots)
    now = peak = 0

    async def answer(request):
        nonlocal now, peak
        now += 1
        peak = max(peak, now)
        await asyncio.sleep(0.002)
        now -= 1
        return library.Response(200, content=b"{}")

    async def does():
        async with library.AsyncClient(transport=library.MockTransport(answer)) as client:
            await asyncio.gather(*(client.post(f"{MODEL}/chat", json={}) for _ in range(9)))

    call(scheduler, does, AsyncSender)
    assert peak == scheduler.statistics().peak == slots
    assert scheduler.statistics().granted == 9
    scheduler.check()


def test_a_thread_whose_caller_is_gone(library, scheduler):
    """Its request keeps its slot to the end; it gets no further one, and the call is refused by name."""
    sent, go_on, refused = threading.Event(), threading.Event(), []

    def answer(request):
        sent.set()
        assert go_on.wait(PATIENCE_S)
        return library.Response(500)

    def does():
        with library.Client(transport=library.MockTransport(answer)) as client:
            client.post(f"{MODEL}/chat", json={})
            try:
                client.post(f"{MODEL}/chat", json={})
            except CallCancelledError as error:
                refused.append(error)
                raise

    async def node(state):
        await Sender(does=does).ainvoke("?")
        return {}

    graph = schedule(StateGraph(State).add_node("a", node).add_edge(START, "a").compile(), scheduler)

    async def main():
        run = asyncio.create_task(graph.ainvoke({}))
        await auntil(sent.is_set)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert scheduler.statistics().holding == 1
        go_on.set()
        await auntil(lambda: refused and not scheduler.statistics().holding)

    asyncio.run(main())
    scheduler.check()


# -- a real server ---------------------------------------------------------------------


class Server(ThreadingHTTPServer):
    """Answers each POST with the next status, then with 200, and notes the slots held meanwhile."""

    daemon_threads = True

    def __init__(self, scheduler):
        super().__init__(("127.0.0.1", 0), Handler)
        self.scheduler, self.statuses, self.seen = scheduler, [], []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        server = self.server
        server.seen.append(server.scheduler.statistics().holding)
        self.send_response(server.statuses.pop(0) if server.statuses else 200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@pytest.fixture
def server(scheduler):
    with Server(scheduler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_transport_that_sends_again(library, scheduler, server):
    """It sleeps between two requests inside one `send`; no slot is held meanwhile."""
    between = []

    class Retrying(library.HTTPTransport):
        def handle_request(self, request):
            while (response := super().handle_request(request)).status_code >= 500:
                response.read()
                between.append(scheduler.statistics().holding)
            return response

    server.statuses = [500, 502]

    def does():
        with library.Client(transport=Retrying()) as client:
            assert client.post(f"{server.url}/chat", json={}).status_code == 200

    call(scheduler, does, model=lambda does: Sender(does=does, base_url=server.url))
    assert (server.seen, between) == ([1, 1, 1], [0, 0])


def test_requests_that_urllib3_sends(scheduler, server):
    """By requests, with retries of urllib3 that sleep inside one `urlopen`."""
    server.statuses = [500, 503]
    retries = requests.adapters.Retry(total=3, status_forcelist=[500, 503], allowed_methods=None)

    def does():
        with requests.Session() as session:
            session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retries))
            assert session.post(f"{server.url}/chat", json={}).json() == {}
        assert scheduler.statistics().holding == 0

    call(scheduler, does, model=lambda does: Sender(does=does, base_url=server.url))
    assert server.seen == [1, 1, 1]
    scheduler.check()


@pytest.mark.parametrize("read", [True, False])
def test_a_body_that_urllib3_reads_later(scheduler, server, read):
    """The slot is back when it was read; the end of the call closes it otherwise."""
    kept = []

    def does():
        response = requests.post(f"{server.url}/chat", json={}, stream=True, timeout=PATIENCE_S)
        kept.append(response)
        assert scheduler.statistics().holding == 1
        if read:
            assert response.content == b"{}"
            assert scheduler.statistics().holding == 0

    call(scheduler, does, model=lambda does: Sender(does=does, base_url=server.url))
    assert scheduler.statistics().holding == 0
    assert kept[0].raw.closed


def test_a_connection_that_is_refused(scheduler):
    """There was no answer: the slot is back at once, and the error is the library's."""

    def does():
        with pytest.raises(httpx.ConnectError):
            httpx.post("http://127.0.0.1:9/v1/chat", json={})
        assert scheduler.statistics().holding == 0

    entries = []
    scheduler.subscribe(entries.append)
    call(scheduler, does, model=lambda does: Sender(does=does, base_url="http://127.0.0.1:9/v1"))
    assert [own.outcome.value for own in finished(entries)] == ["failed"]
