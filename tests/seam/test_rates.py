"""Rates of a backend, and slots that are found, in live runs: what counts, and what stays reserved."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import threading
import time
from typing import TypedDict

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langgraph.graph import START, StateGraph
from support.seam import until

from llmsched_langgraph import Auto, Backend, ConfigurationError, QueueTimeoutError, Scheduler, schedule
from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._runtime import retries
from llmsched_langgraph._runtime.cycles.watcher import WATCHER
from llmsched_langgraph.testing import PlainModel, StreamingModel, VirtualClock

MODEL = "http://model.test/v1"
USAGE = {"input_tokens": 5, "output_tokens": 3, "total_tokens": 8}
FAST = 200.0
"""Seconds of the scheduler's clock in one."""


class State(TypedDict, total=False):
    n: int


class Server:
    """Answers as it is told, and records when each request came."""

    def __init__(self, answer=lambda number: httpx.Response(200, json={})):
        self.answer = answer
        self.came_s, self.now, self.peak, self.refused = [], 0, 0, 0
        self.lock = threading.Lock()
        self.clock = time.monotonic
        self.client = httpx.Client(transport=httpx.MockTransport(self.serve))

    def serve(self, request):
        with self.lock:
            self.came_s.append(self.clock())
            self.now += 1
            self.peak, number = max(self.peak, self.now), len(self.came_s)
        try:
            return self.answer(number)
        finally:
            with self.lock:
                self.now -= 1


class Asking(BaseChatModel):
    """Sends requests until one is answered; a failure is sent again at most `again` times."""

    base_url: str = MODEL
    server: object = None
    again: int = 0

    @property
    def _llm_type(self):
        return "asking"

    def ask(self):
        for left in range(self.again, -1, -1):
            response = self.server.client.post(f"{MODEL}/chat", json={})
            if response.status_code < 400 or not left:
                response.raise_for_status()
                return

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.ask()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=USAGE))])


class Streaming(Asking):
    """The same, in pieces."""

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        self.ask()
        for piece in "xyz":
            yield ChatGenerationChunk(message=AIMessageChunk(piece))


@pytest.fixture
def server():
    made = Server()
    with made.client:
        yield made


@pytest.fixture
def make():
    made = []

    def make(slots=4, *, speed=FAST, clock=None, **rates):
        begun_s = time.monotonic()
        backend = Backend("b", slots, **rates)
        clock = clock or (lambda: speed * (time.monotonic() - begun_s))
        made.append(Scheduler(backends=[backend], policy="fcfs", clock=clock))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.check()
        scheduler.close()


def graph_of(model, scheduler, ask=lambda model: model.invoke("how many?")):
    def node(state):
        ask(model)
        return {}

    return schedule(StateGraph(State).add_node("a", node).add_edge(START, "a").compile(), scheduler)


def capacity(scheduler):
    return scheduler._driver.backends["b"].capacity


def spent(scheduler):
    return capacity(scheduler).spent


def worst(times_s, span_s=60.0):
    """The most requests in any minute."""
    return max(sum(at <= own < at + span_s for own in times_s) for at in times_s)


@pytest.mark.parametrize("model", [Asking, Streaming])
def test_tokens_are_counted_when_the_call_ends(server, make, model):
    """Their place is reserved until then, although the slot is free as soon as the answer is there."""
    scheduler = make(tokens_per_minute=10_000)
    seen = []

    def ask(model):
        for _ in model.stream("?"):
            seen.append(spent(scheduler).output_flight.calls)

    graph_of(model(server=server), scheduler, ask).invoke({})
    now = spent(scheduler)
    assert seen[0] == 1 or model is Asking  # not streamed, it has ended when the first piece comes
    assert (now.input_flight.calls, now.output_flight.calls) == (0, 0)
    assert sum(now.output.amounts) == scheduler.statistics().output_tokens
    assert sum(now.input.amounts) == scheduler.statistics().prompt_tokens


@pytest.mark.parametrize("status", [400, 401, 408, 429, 500, 503, None])
def test_a_failed_attempt_leaves_nothing_reserved(make, status):
    """Its output is not counted; a refused one has no input either."""

    def answer(number):
        if number > 1:
            return httpx.Response(200, json={})
        if status is None:
            raise httpx.ConnectError("no")
        return httpx.Response(status, headers={"retry-after": "0.01"})

    scheduler, server = make(speed=1.0, tokens_per_minute=10_000), Server(answer)
    graph = graph_of(Asking(server=server, again=0), scheduler)
    with pytest.raises(httpx.HTTPError):
        graph.invoke({})
    now = spent(scheduler)
    assert (now.input_flight.calls, now.output_flight.calls) == (0, 0)
    if status in (429, 503):
        assert sum(now.input.amounts) == 0
    graph.invoke({})
    assert spent(scheduler).output_flight.calls == 0


def test_a_call_that_is_sent_again_is_counted_once(make):
    """Both attempts are requests; the tokens are those of the last one."""
    server = Server(lambda number: httpx.Response(500 if number == 1 else 200, json={}))
    scheduler = make(tokens_per_minute=10_000, requests_per_minute=10)
    graph_of(Asking(server=server, again=1), scheduler).invoke({})
    now = spent(scheduler)
    assert (sum(now.requests.amounts), sum(now.output.amounts)) == (2, 3)
    assert now.output_flight.calls == 0


def test_a_stream_that_is_dropped_leaves_nothing_reserved(server, make):
    """Collected, or closed half way."""
    scheduler = make(tokens_per_minute=10_000)

    def ask(model):
        for _ in model.stream("?"):
            break

    graph_of(Streaming(server=server), scheduler, ask).invoke({})
    gc.collect()
    until(lambda: spent(scheduler).output_flight.calls == 0)


def test_no_minute_has_more_requests_than_the_limit(make):
    """The server counts them. The limit is used: the last request comes soon after the third full minute."""
    scheduler, server = make(requests_per_minute=10), Server()
    server.clock = scheduler._driver.clock
    graph = graph_of(Asking(server=server), scheduler)

    async def main():
        await asyncio.gather(*(graph.ainvoke({}) for _ in range(35)))

    asyncio.run(main())
    assert len(server.came_s) == 35
    assert worst(server.came_s) <= 10
    # The fourth ten come after three full minutes, and soon.
    assert server.came_s[-1] - server.came_s[0] < 3 * 61.0 + 2.0 * FAST
    assert scheduler.statistics().over_commitments == 0


def test_a_tenant_that_waits_for_the_rate_holds_no_slot(make):
    """Calls wait in the backlog, where the order of service applies."""
    scheduler, server = make(1, speed=1.0, requests_per_minute=1), Server()
    graph = graph_of(Asking(server=server), scheduler)
    graph.invoke({})
    thread = threading.Thread(target=lambda: graph.invoke({}), daemon=True)
    thread.start()
    until(lambda: scheduler.statistics().waiting == 1)
    assert scheduler.statistics().holding == 0
    scheduler._driver.configure(Backend("b", 1))
    thread.join(30)
    assert not thread.is_alive()
    assert len(server.came_s) == 2


def test_the_prompt_is_estimated_before_the_call(server, make):
    """From its text: a call too large for what is left of the minute waits."""
    scheduler = make(input_tokens_per_minute=100_000)
    entries = []
    scheduler.subscribe(entries.append)
    graph_of(Asking(server=server), scheduler, lambda model: model.invoke("word " * 4_000)).invoke({})
    (grant,) = [entry.detail for entry in entries if entry.kind == "SlotGranted"]
    assert 3_000 <= grant.call.prompt_tokens <= 6_000


def test_the_providers_own_limits_count(make):
    """What its answers say is smaller than what was configured."""
    headers = {"x-ratelimit-limit-requests": "3", "x-ratelimit-remaining-requests": "0"}
    headers["x-ratelimit-reset-requests"] = "50s"
    server = Server(lambda number: httpx.Response(200, headers=headers if number == 1 else {}, json={}))
    scheduler = make(speed=1.0, requests_per_minute=100)
    graph = graph_of(Asking(server=server), scheduler)
    graph.invoke({})
    assert spent(scheduler).told[0] == 3
    now = scheduler._driver.clock()
    assert scheduler._driver.backends["b"].admits_s(now, grant_call(scheduler)) > now + 10.0


def grant_call(scheduler):
    """The properties of some call."""
    return next(entry.detail.call for entry in scheduler._driver.story() if entry.kind == "SlotGranted")


def test_a_backend_without_rates_counts_nothing(server, make):
    """And the prompt's size is not looked at."""
    scheduler = make()
    graph_of(Asking(server=server), scheduler).invoke({})
    assert spent(scheduler) is None
    assert grant_call(scheduler).prompt_tokens is None


def crowd(scheduler, server, graph, answer, busy=lambda: False):
    """Have 12 threads run the graph eight times each; the server answers when it is full, or busy."""
    threads = [
        threading.Thread(target=lambda: [graph.invoke({}) for _ in range(8)], daemon=True) for _ in range(12)
    ]

    def full():
        # As many calls are there as may be at once; near the end, there are fewer threads.
        slots = scheduler.statistics().backends[0].slots
        return server.now >= min(slots, sum(not thread.ident or thread.is_alive() for thread in threads))

    def answer_when_full(number):
        until(lambda: busy() or full())
        return answer()

    server.answer = answer_when_full
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(50)
    assert not any(thread.is_alive() for thread in threads)
    assert len(server.came_s) == 12 * 8 + server.refused


@pytest.mark.parametrize("room", [1, 3, 6])
def test_slots_are_found_below_what_the_server_refuses(make, room):
    """No run dies of it, and most of the room is used."""
    scheduler, server = make("auto", speed=1.0), Server()

    def answer():
        if server.now > room:
            server.refused += 1
            return httpx.Response(429)
        return httpx.Response(200, json={})

    graph = graph_of(Asking(server=server, again=20), scheduler)
    crowd(scheduler, server, graph, answer, busy=lambda: server.now > room)
    assert 1 <= capacity(scheduler).found.limit <= max(room + 1, 2)
    assert scheduler.statistics().backends[0].slots == capacity(scheduler).found.limit


def test_a_limit_that_is_not_refused_grows(make):
    """Where calls wait for it."""
    clock = VirtualClock()
    scheduler, server = make(Auto(1, 64, 2), clock=clock), Server()

    limits = []

    def answer():
        limits.append(capacity(scheduler).found.limit)
        clock.advance(1.0 / server.now)  # a call takes a second, however many are served
        return httpx.Response(200, json={})

    crowd(scheduler, server, graph_of(Asking(server=server), scheduler), answer)
    assert limits[59] > 2  # later, fewer calls wait


def test_slots_are_found_or_told_from_now_on(make):
    """`resize` takes both."""
    scheduler = make(4)
    scheduler.resize("auto")
    assert scheduler.statistics().slots == 4
    scheduler.resize(Auto(8, 9, 8))
    assert scheduler.statistics().slots == 8
    scheduler.resize(2)
    assert scheduler.statistics().slots == 2
    assert Scheduler("auto").statistics().slots == Auto().start


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"requests_per_minute": 0}, "backend 'b': requests_per_minute must be a whole number of at least 1"),
        ({"requests_per_day": 0.5}, "requests_per_day"),
        ({"tokens_per_minute": True}, "tokens_per_minute"),
        ({"input_tokens_per_minute": math.nan}, "input_tokens_per_minute"),
        ({"output_tokens_per_minute": "9"}, "output_tokens_per_minute"),
        ({"slots": "automatic"}, '"auto" or Auto'),
        ({"slots": None}, "slots must be"),
    ],
)
def test_wrong_settings(settings, message):
    """One error that names the backend, the setting and what it may be."""
    with pytest.raises(ConfigurationError, match=message) as caught:
        Backend("b", **settings)
    assert "'b'" in str(caught.value)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(retries, "RETRY_S", 0.01)


# -- retries ---------------------------------------------------------------------------


class AsyncAsking(Asking):
    """The same on an event loop."""

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        self.ask()
        return ChatResult(generations=[ChatGeneration(message=AIMessage("x", usage_metadata=USAGE))])


def failing(times, status=500, headers=None):
    """A server whose first requests fail."""

    def answer(number):
        if number > times:
            return httpx.Response(200, json={})
        if status is None:
            raise httpx.ConnectError("no")
        return httpx.Response(status, headers=headers or {})

    return Server(answer)


WAYS = {
    "invoke": (Asking, lambda model: model.invoke("?")),
    "ainvoke": (AsyncAsking, lambda model: asyncio.run(model.ainvoke("?"))),
    "stream": (Streaming, lambda model: list(model.stream("?"))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [500, 429, 408, None])
def test_a_request_is_sent_again(make, way, status):
    """As often as the backend says, as one call; the error of the last attempt is the caller's."""
    model, ask = WAYS[way]
    server = failing(2, status, {"retry-after": "0.01"})
    scheduler = make(1, speed=1.0, retries=2)
    entries = []
    scheduler.subscribe(entries.append)
    graph_of(model(server=server), scheduler, ask).invoke({})
    assert len(server.came_s) == 3
    scheduler.check()
    (job,) = [entry.detail for entry in entries if entry.kind == "JobClosed"]
    assert [own.attempts for own in job.progress.finished.values()] == [3]

    server = failing(3, status, {"retry-after": "0.01"})
    with pytest.raises(httpx.HTTPError):
        graph_of(model(server=server), scheduler, ask).invoke({})
    assert len(server.came_s) == 3


@pytest.mark.parametrize(
    ("status", "headers"), [(400, {}), (401, {}), (404, {}), (429, {"retry-after": "3600"})]
)
def test_what_is_not_sent_again(make, status, headers):
    """An error that another attempt does not mend, and a quota that is exhausted."""
    scheduler, server = make(retries=5), failing(1, status, headers)
    with pytest.raises(httpx.HTTPError):
        graph_of(Asking(server=server), scheduler).invoke({})
    assert len(server.came_s) == 1


def test_a_stream_is_not_sent_again_after_its_first_token(make):
    """Its consumer has it already."""
    scheduler, server = make(retries=5), failing(0)

    class Breaks(Streaming):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            self.ask()
            yield ChatGenerationChunk(message=AIMessageChunk("x"))
            server.answer = lambda number: httpx.Response(500)
            self.ask()

    with pytest.raises(httpx.HTTPError):
        graph_of(Breaks(server=server), scheduler, lambda model: list(model.stream("?"))).invoke({})
    assert len(server.came_s) == 2


def test_errors_of_the_program_are_not_tried_again(make):
    """What no request has caused."""
    scheduler, server = make(retries=5), failing(0)

    class Wrong(Asking):
        def _generate(self, messages, stop=None, run_manager=None, **kwargs):
            super()._generate(messages)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        graph_of(Wrong(server=server), scheduler).invoke({})
    assert len(server.came_s) == 1


def test_a_request_that_is_sent_again_keeps_its_place(make):
    """It goes before calls that came after its call."""
    scheduler, server = make(1, speed=1.0, retries=1), Server()
    came = []

    def answer(number):
        came.append(threading.current_thread().name)
        if number == 1:
            until(lambda: scheduler.statistics().waiting == 2)
            # Long enough for the request to wait again before anyone else is served.
            return httpx.Response(429, headers={"retry-after": "0.5"})
        return httpx.Response(200, json={})

    server.answer = answer
    graph = graph_of(Asking(server=server), scheduler)
    threads = [threading.Thread(target=graph.invoke, args=({},), daemon=True, name=name) for name in "abc"]
    for count, thread in enumerate(threads):
        thread.start()
        until(lambda count=count: len(came) + scheduler.statistics().waiting > count)
    for thread in threads:
        thread.join(30)
    assert came == ["a", "a", "b", "c"]


@pytest.mark.parametrize("way", WAYS)
def test_requests_that_fail_without_a_pause_are_sent_again_later(make, monkeypatch, way):
    """Each wait is twice as long as the one before, and others have the slot meanwhile."""
    monkeypatch.setattr(retries, "RETRY_S", 0.2)
    monkeypatch.setattr(retries, "LONGEST_RETRY_S", 0.4)
    model, ask = WAYS[way]
    scheduler, server, served = make(1, speed=1.0, retries=4), failing(4, None), []

    def other():
        until(lambda: len(server.came_s) == 4)
        with scheduler.slot():
            served.append(len(server.came_s))

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    graph_of(model(server=server), scheduler, ask).invoke({})
    thread.join(30)
    waits_s = [after - before for before, after in itertools.pairwise(server.came_s)]
    assert all(wait_s >= least_s for wait_s, least_s in zip(waits_s, [0.2, 0.4, 0.4, 0.4], strict=True))
    assert served == [4]


@pytest.mark.parametrize("retries", [-1, 1.5, True, "2", None])
def test_retries_are_a_number(retries):
    """At least 0."""
    with pytest.raises(ConfigurationError, match="backend 'b': retries must be a whole number of at least 0"):
        Backend("b", retries=retries)


# -- waits that could never end --------------------------------------------------------


def test_a_call_inside_a_stream_whose_reserve_fills_the_minute_goes_ahead(make):
    """Only the end of the stream could make room, and the stream waits for the call."""
    scheduler = make(4, speed=1.0, output_tokens_per_minute=1_500)
    model = StreamingModel()

    def ask(model):
        for _ in model.stream("?"):
            assert PlainModel().invoke("?").content
            break

    thread = threading.Thread(target=graph_of(model, scheduler, ask).invoke, args=({},), daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert scheduler.statistics().over_commitments == 1


def test_a_call_that_time_admits_does_not_go_ahead(make):
    """It waits for the next minute beside a stream that is held open."""
    scheduler = make(4, speed=1.0, requests_per_minute=1)
    reached = threading.Event()

    def ask(model):
        for _ in model.stream("?"):
            reached.set()
            PlainModel().invoke("?")
            break

    graph = graph_of(StreamingModel(), scheduler, ask)
    thread = threading.Thread(target=graph.invoke, args=({},), daemon=True)
    thread.start()
    assert reached.wait(30)
    until(lambda: scheduler.statistics().waiting == 1)
    for _ in range(20):
        WATCHER.look_soon()
        time.sleep(0.02)
    assert scheduler.statistics().waiting == 1
    scheduler._driver.configure(Backend("b", 4))
    thread.join(30)
    assert not thread.is_alive()
    assert scheduler.statistics().over_commitments == 0


# -- what is kept, and what is said ----------------------------------------------------


def test_nothing_is_kept_of_calls_that_were_measured(server, make):
    """Also where no call ever waits, so that no time is told."""
    scheduler = make(tokens_per_minute=10**9, speed=1.0)
    graph = graph_of(Asking(server=server), scheduler)
    for _ in range(20):
        graph.invoke({})
    scheduler.check()
    assert scheduler._driver._ledger._pools._pending == {}
    assert not [key for key in scheduler._driver._ledger._committed if str(key).startswith("usage ")]


def test_a_timeout_names_the_rates(server, make):
    """Slots are free; the rate is what to change."""
    scheduler = make(4, speed=1.0, requests_per_minute=1, queue_timeout_s=0.05)
    graph = graph_of(Asking(server=server), scheduler)
    graph.invoke({})
    with pytest.raises(QueueTimeoutError, match=r"backend 'b', with 0 held .* \(requests_per_minute=1\)"):
        graph.invoke({})


@pytest.mark.parametrize("kind", ["tokens_per_minute", "output_tokens_per_minute"])
@pytest.mark.parametrize(("limit", "least"), [(2_000, 6), (4_000, 16), (8_000, 40), (20_000, 100)])
def test_a_small_limit_of_tokens_is_used_from_the_first_minute(kind, limit, least):
    """Nothing is known of the answers, and the bound of one alone is as large as the limit."""
    clock = VirtualClock()
    scheduler = Scheduler(backends=[Backend("b", 8, **{kind: limit})], policy="fcfs", clock=clock)
    done = []

    async def one():
        call = scheduler.slot()
        async with call:
            ends_s = clock.now_s + 1.0
            while clock.now_s < ends_s:
                await asyncio.sleep(0)
            call.usage = Usage(20, 100)
            done.append(clock.now_s)

    async def main():
        tasks = [asyncio.create_task(one()) for _ in range(120)]
        while clock.now_s < 59.0:
            for _ in range(6):
                await asyncio.sleep(0)
            clock.advance(0.5)
            scheduler._driver.tick()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    scheduler.check()
    scheduler.close()
    assert len(done) >= least
    assert len(done) * 100 <= limit
