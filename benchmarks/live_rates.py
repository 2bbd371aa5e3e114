"""Prints how closely rates are kept live, and how much of them is used, by what a server counts.

    python benchmarks/live_rates.py [--seconds S]

Three schedulers, one with each rate, run graphs through ChatOpenAI against a server in a process of its own,
which notes when each request came, when its answer went, and its tokens. More runs wait than the rates admit.
`rates.py` has the same in virtual time, with more cases. Minutes are real: it takes S, 200 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from measuring import print_table
from openai import DefaultAsyncHttpxClient
from pydantic import SecretStr

from llmsched_langgraph import Backend, Scheduler, schedule
from llmsched_langgraph.lab.sim.metering import used, worst
from llmsched_langgraph.lab.testbed.calls import EmbeddedLengths

TOKENS = 100
"""Mean output tokens of a call."""

PROMPT = 40
"""Input tokens of a call."""

CALL_S = 2.0
"""Mean seconds of a call, in proportion to its output."""

SLOTS = 64
CLIENTS = 160

# -- the server --------------------------------------------------------------------------


class Counted(NamedTuple):
    """A request: its model, when it came and when its answer went, its input and output tokens."""

    model: str
    came_s: float
    went_s: float
    prompt_tokens: int
    output_tokens: int


async def serve() -> None:
    """Answer each request after its time; send what was counted on `GET /`."""
    counted: list[Counted] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                came_s = time.monotonic()
                if head.startswith(b"GET"):
                    answer: Any = counted
                else:
                    lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
                    length = next(int(value) for name, _, value in lines if name == b"content-length")
                    asked = json.loads(await reader.readexactly(length))
                    tokens = asked["sim"]["output_tokens"]
                    prompt = len(asked["messages"][0]["content"]) // 4
                    await asyncio.sleep(CALL_S * tokens / TOKENS)
                    counted.append(Counted(asked["model"], came_s, time.monotonic(), prompt, tokens))
                    answer = _completion(asked["model"], prompt, tokens)
                body = json.dumps(answer).encode()
                kind = b"content-type: application/json\r\ncontent-length: "
                writer.write(b"HTTP/1.1 200 OK\r\n" + kind + b"%d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _completion(model: str, prompt: int, output: int) -> dict[str, Any]:
    message = {"role": "assistant", "content": "yes"}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output},
    }


@contextmanager
def served() -> Iterator[int]:
    """Run the server in a process of its own; yield its port."""
    with subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def counted_at(port: int) -> list[Counted]:
    """Return what the server counted."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.rpartition(b":")[2])
        while len(body) < length:
            body += connection.recv(1 << 20)
    return [Counted(*own) for own in json.loads(body)]


# -- the cases ---------------------------------------------------------------------------

Counts = Callable[[list[Counted]], list[tuple[float, float]]]


class Case(NamedTuple):
    """A rate: its field of `Backend`, its limit, the output of a call, and how the server counts."""

    rate: str
    limit: int
    lengths: str
    counts: dict[str, Counts]


def _at_start(calls: list[Counted]) -> list[tuple[float, float]]:
    return [(call.came_s, float(call.output_tokens)) for call in calls]


def _at_end(calls: list[Counted]) -> list[tuple[float, float]]:
    return [(call.went_s, float(call.output_tokens)) for call in calls]


def _with_input(counts: Counts) -> Counts:
    return lambda calls: [*counts(calls), *((call.came_s, float(call.prompt_tokens)) for call in calls)]


OUTPUT: dict[str, Counts] = {"start": _at_start, "end": _at_end}
CASES = {
    "requests": Case(
        "requests_per_minute", 240, "equal", {"start": lambda calls: [(call.came_s, 1.0) for call in calls]}
    ),
    "tokens": Case(
        "tokens_per_minute", 42_000, "equal", {name: _with_input(own) for name, own in OUTPUT.items()}
    ),
    "output": Case("output_tokens_per_minute", 30_000, "gamma", OUTPUT),
}


class State(TypedDict, total=False):
    """The output tokens of the call that a run makes."""

    tokens: int


async def load(name: str, case: Case, port: int, until_s: float) -> None:
    """Keep clients of one scheduler busy until then."""
    http, lengths = DefaultAsyncHttpxClient(trust_env=False, timeout=None), EmbeddedLengths()
    model = ChatOpenAI(
        model=name, base_url=f"http://127.0.0.1:{port}/v1", api_key=SecretStr("k"), http_async_client=http
    )

    async def node(state: State) -> State:
        bound = model.bind(extra_body={"sim": {"output_tokens": state["tokens"]}})
        await bound.ainvoke(lengths.prompt(PROMPT, name))
        return {}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    limits: dict[str, Any] = {case.rate: case.limit}
    scheduler = Scheduler(backends=[Backend(name, SLOTS, **limits)])
    graph = schedule(builder.compile(), scheduler)

    async def client(number: int) -> None:
        deal = random.Random(number)
        while True:
            tokens = TOKENS if case.lengths == "equal" else 1 + round(deal.gammavariate(4.0, TOKENS / 4.0))
            await graph.ainvoke({"tokens": tokens})

    tasks = [asyncio.create_task(client(number)) for number in range(CLIENTS)]
    await asyncio.sleep(until_s - time.monotonic())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    scheduler.close()
    await http.aclose()


def row(name: str, case: Case, calls: list[Counted], until_s: float) -> list[str]:
    """The worst sliding minute, and what was used in whole periods after the first one."""
    own = [call for call in calls if call.model == name]
    first_s = min(call.came_s for call in own)
    # What a token waits for on average: calls of d seconds, weighted with their tokens.
    seconds = sum(call.output_tokens * (call.went_s - call.came_s) for call in own) / sum(
        call.output_tokens for call in own
    )
    period_s = 61.0 if name == "requests" else 61.0 + seconds
    periods = int((until_s - seconds - first_s) / period_s)
    since_s = first_s + (period_s if periods > 1 else 0.0)
    counts = {how: counted(own) for how, counted in case.counts.items()}
    over = [f"{how} {worst(amounts) / case.limit:.3f}" for how, amounts in counts.items()]
    share = used(counts["start"], since_s, first_s + max(periods, 1) * period_s) / case.limit
    bound = 60 / (61 + seconds)
    return [
        f"{case.rate} = {case.limit:,}, lengths {case.lengths}",
        f"{len(own)}",
        ", ".join(over),
        f"{share:.3f}",
        f"{share / bound:.3f}",
    ]


async def loaded(port: int, seconds: float) -> float:
    until_s = time.monotonic() + seconds
    await asyncio.gather(*(load(name, case, port, until_s) for name, case in CASES.items()))
    return until_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=200.0)
    options = parser.parse_args()
    with served() as port:
        until_s = asyncio.run(loaded(port, options.seconds))
        calls = counted_at(port)
    print(f"Rates live, {options.seconds:g} s, calls of {CALL_S:g} s on average; ratios to the limit:\n")
    print_table(
        ["rate", "requests", "worst minute, counted at", "used", "used x (61+d)/60"],
        [row(name, case, calls, until_s) for name, case in CASES.items()],
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
