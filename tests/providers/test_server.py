"""The scripted server does what it is told, and counts as it says."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

import pytest

from .dialects import TEXT
from .server import Gate, Server, Step, provider_server

PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with provider_server() as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.reset()
    return running


def until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


def connect(server: Server) -> http.client.HTTPConnection:
    """A connection, for `closing`."""
    return http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=10.0)


def ask(
    connection: http.client.HTTPConnection, *, stream: bool = False, path: str = PATH
) -> http.client.HTTPResponse:
    connection.request("POST", path, json.dumps({"stream": stream}))
    return connection.getresponse()


def test_requests_on_one_connection_are_answered_in_turn(server: Server) -> None:
    with closing(connect(server)) as connection:
        for _ in range(2):
            answer = ask(connection)
            assert answer.status == 200
            assert json.load(answer)["choices"][0]["message"]["content"] == TEXT
    assert [(e.status, e.ended) for e in server.exchanges] == [(200, "answered")] * 2
    assert all(e.begun_s <= e.head_s <= e.end_s for e in server.exchanges)


def test_a_chunked_request_is_read_as_a_whole(server: Server) -> None:
    body = json.dumps({"stream": True}).encode()
    with closing(connect(server)) as connection:
        connection.request("POST", PATH, iter([body[:5], body[5:]]), encode_chunked=True)
        assert connection.getresponse().read().endswith(b"data: [DONE]\n\n")
    assert server.exchanges[0].body == body


def test_other_requests_are_answered_and_not_counted(server: Server) -> None:
    with closing(connect(server)) as connection:
        assert ask(connection, path="/v1/files").read() == b"{}"
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read() == b"{}"
    assert server.others == [("POST", "/v1/files"), ("GET", "/v1/models")]
    assert server.exchanges == []


def test_the_script_is_followed_in_the_order_of_arrival(server: Server) -> None:
    server.reset(Step(status=429, retry_after="3"), Step(status=529), otherwise=Step(status=503))
    with closing(connect(server)) as connection:
        answers = []
        for _ in range(4):
            answer = ask(connection)
            answers.append((answer.status, answer.getheader("retry-after")))
            answer.read()
    assert answers == [(429, "3"), (529, None), (503, None), (503, None)]
    assert {e.ended for e in server.exchanges} == {"refused"}


def test_a_request_is_in_flight_until_its_gate_is_opened(server: Server) -> None:
    gates = [Gate(), Gate()]
    server.reset(*(Step(head=gate) for gate in gates))
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor())
        answers = []
        for n in range(2):
            connection = stack.enter_context(closing(connect(server)))
            answers.append(pool.submit(lambda c=connection: ask(c).read()))
            until(lambda n=n: server.in_flight == n + 1)
        gates[0].open()
        answers[0].result()
        assert server.in_flight == 1
        gates[1].open()
        answers[1].result()
    assert server.in_flight == 0
    assert server.peak(0.0) == 2


def test_a_body_comes_piece_by_piece(server: Server) -> None:
    gates = [Gate(), Gate()]
    server.reset(Step(body=gates))
    with closing(connect(server)) as connection:
        answer = ask(connection, stream=True)
        words = []
        for gate in gates:
            words.append(json.loads(answer.readline()[6:])["choices"][0]["delta"]["content"])
            answer.readline()
            assert server.in_flight == 1
            gate.open()
        assert words == ["alpha ", "beta "]
        answer.read()
    assert server.exchanges[0].ended == "answered"


@pytest.mark.parametrize("place", ["head", "body"])
def test_a_reset_is_seen_by_the_client(server: Server, place: str) -> None:
    server.reset(Step(breaks=place))
    with closing(connect(server)) as connection, pytest.raises((OSError, http.client.HTTPException)):
        ask(connection).read()
    assert server.exchanges[0].ended == "reset"


@pytest.mark.parametrize("place", ["head", "body"])
def test_a_hang_up_ends_a_request(server: Server, place: str) -> None:
    never = Gate()
    server.reset(Step(head=never) if place == "head" else Step(body=(never,)))
    connection = connect(server)
    connection.request("POST", PATH, json.dumps({"stream": True}))
    until(lambda: server.in_flight == 1)
    if place == "body":
        connection.getresponse().close()
    connection.close()
    until(lambda: server.in_flight == 0)
    assert server.exchanges[0].ended == "hung up"


def test_work_that_was_accepted_is_in_flight_until_it_is_fetched(server: Server) -> None:
    done = Gate()
    server.reset(Step(accepted=done))
    with closing(connect(server)) as connection:
        answer = ask(connection)
        answer.read()
        for fetch in (1, 2):
            assert (answer.status, server.in_flight) == (202, 1)
            if fetch == 2:
                done.open()
            connection.request("GET", f"/v2/status/{answer.getheader('NVCF-REQID')}")
            answer = connection.getresponse()
            said = answer.read()
    assert (answer.status, server.in_flight) == (200, 0)
    assert TEXT in said.decode()
    assert len(server.exchanges) == 1


def test_only_a_hang_up_is_given_grace(server: Server) -> None:
    """One request is left, and the next one comes before that is seen."""
    server.reset(Step(), Step())
    with closing(connect(server)) as connection:
        for _ in range(2):
            ask(connection).read()
    first, second = server.exchanges
    first.end_s = second.begun_s + 0.1
    assert server.peak(1.0) == 2
    first.ended = "hung up"
    assert server.peak(1.0) == 1
    assert server.peak(0.05) == 2
