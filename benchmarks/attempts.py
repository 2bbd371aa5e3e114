"""Measures what slots of requests cost: a call through ChatOpenAI against loopback, with and without them.

    python benchmarks/attempts.py [--repeats 25] [--calls 100]
    python benchmarks/attempts.py --instructions

The server is a process of its own that answers each request at once, so the ratios are the worst that a user
can see: a model that thinks for a second makes them 1.00. *Without* means that the HTTP library's own methods
are put back, so the call holds its slot from its begin to its end. Ratios are medians over the repeats, in
brackets the middle half of them.

`--instructions` counts the instructions of the client instead, by valgrind's cachegrind, which must be
installed. It takes minutes; other programs on the machine do not change the result.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from langchain_openai import ChatOpenAI
from measuring import Clock, Cost, in_turn, print_table, versus
from pydantic import SecretStr

from llmsched_langgraph import Scheduler
from llmsched_langgraph._adapter import gate
from llmsched_langgraph._adapter.http import hooks
from llmsched_langgraph._application.application import DIRECT
from llmsched_langgraph._jobs.calls import Outcome
from llmsched_langgraph._runtime.context import inside
from llmsched_langgraph._runtime.scheduler import start_run
from llmsched_langgraph.policies import JobInfo

_ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    }
).encode()
_REPLY = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER)
) + _ANSWER


def serve() -> None:
    """Answer every request of every connection at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            piece = connection.recv(65536)
            if not piece:
                return
            received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        lines = [line.partition(b":") for line in head.lower().split(b"\r\n")]
        length = next(int(value) for name, _, value in lines if name == b"content-length")
        while len(body) < length:
            body += connection.recv(65536)
        received = body[length:]
        connection.sendall(_REPLY)


def _library() -> Any:
    """Return the HTTP library of the installed openai."""
    from openai import DefaultHttpxClient

    base: Any = DefaultHttpxClient.__base__
    return sys.modules[base.__module__.partition(".")[0]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--instructions", action="store_true")
    options = parser.parse_args()
    with subprocess.Popen([sys.executable, __file__, "serve"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            port = int(server.stdout.readline())
            if options.instructions:
                count(port, options.calls)
            else:
                compare(port, options.repeats, options.calls)
        finally:
            server.kill()


def _model(port: int) -> ChatOpenAI:
    return ChatOpenAI(model="m", api_key=SecretStr("k"), base_url=f"http://127.0.0.1:{port}/v1")


def _switch() -> Callable[[bool], None]:
    """Hook the HTTP library; return a function that puts its own methods back, or the hooks."""
    library = _library()
    gate.install()
    hooks.install()
    hooked = {
        (cls, name): cls.__dict__[name]
        for cls, name in (
            (library.Client, "send"),
            (library.AsyncClient, "send"),
            (library.HTTPTransport, "handle_request"),
            (library.AsyncHTTPTransport, "handle_async_request"),
        )
    }

    def switch(seen: bool) -> None:
        for (cls, name), method in hooked.items():
            setattr(cls, name, method if seen else method.__wrapped__)

    return switch


def count(port: int, calls: int) -> None:
    """Print the ratio of the instructions of a call with and without the hooks."""
    rows = []
    for way in ("invoke", "ainvoke"):
        counts = {
            how: (_instructions(port, way, how, 2 * calls) - _instructions(port, way, how, calls)) / calls
            for how in ("hooks", "none")
        }
        row = [f"{counts['hooks'] / counts['none']:.3f}", f"{counts['none'] / 1e6:.2f} million"]
        rows.append([f"`{way}`: slots of requests / slots of calls", *row])
    print_table(["", "instructions", "of a call without"], rows)


def _instructions(port: int, *words: object) -> int:
    """Return the instructions of a process that makes the calls, its start included."""
    command = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    command += [sys.executable, __file__, "call", str(port), *map(str, words)]
    hashed = {**os.environ, "PYTHONHASHSEED": "0"}
    said = subprocess.run(command, env=hashed, capture_output=True, text=True, check=True).stderr
    return int(said.rpartition("refs:")[2].split()[0].replace(",", ""))


def call(port: int, way: str, how: str, calls: int) -> None:
    """Make the calls, in a run."""
    model, scheduler = _model(port), Scheduler(8)
    _switch()(how == "hooks")
    gc.disable()  # its pauses depend on all that the process has allocated

    async def on_loop() -> None:
        for _ in range(calls):
            await model.ainvoke("?")

    with inside(start_run(scheduler, JobInfo(application=DIRECT))):
        if way == "ainvoke":
            asyncio.run(on_loop())
        else:
            for _ in range(calls):
                model.invoke("?")


def compare(port: int, repeats: int, calls: int) -> None:
    """Measure a call in a run with and without the hooks, and outside runs with them."""
    model, scheduler, switch = _model(port), Scheduler(8), _switch()
    loop = asyncio.new_event_loop()

    def case(kind: Callable[[], Cost], *, seen: bool, in_run: bool) -> Callable[[], Cost]:
        def measure() -> Cost:
            switch(seen)
            if not in_run:
                return kind()
            run = start_run(scheduler, JobInfo(application=DIRECT))
            try:
                with inside(run):
                    return kind()
            finally:
                run.end(Outcome.FINISHED)

        return measure

    def sync() -> Cost:
        with Clock(calls) as clock:
            for _ in range(calls):
                model.invoke("?")
        return clock.cost

    def on_loop() -> Cost:
        async def ask() -> Cost:
            with Clock(calls) as clock:
                for _ in range(calls):
                    await model.ainvoke("?")
            return clock.cost

        return loop.run_until_complete(ask())

    rows = []
    for title, kind in (("invoke", sync), ("ainvoke", on_loop)):
        costs = in_turn(
            {
                "bare": case(kind, seen=False, in_run=False),
                "idle": case(kind, seen=True, in_run=False),
                "call": case(kind, seen=False, in_run=True),
                "attempt": case(kind, seen=True, in_run=True),
            },
            repeats,
        )
        for text, one, other in (
            ("slots of requests / slots of calls", "attempt", "call"),
            ("hooks outside runs / no hooks", "idle", "bare"),
            ("scheduled / bare", "attempt", "bare"),
        ):
            rows.append([f"`{title}`: {text}", *versus(costs, one, other)])
    loop.close()
    scheduler.check()
    print_table(["", "CPU", "wall"], rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            serve()
        case ["call", port, way, how, calls]:
            call(int(port), way, how, int(calls))
        case _:
            main()
