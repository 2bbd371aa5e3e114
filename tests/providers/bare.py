"""Calls the bare packages: what the table says of them is what the matrix builds on.

Schedules nothing.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from .callers import Bench
from .dialects import OUTPUT_TOKENS, PROMPT_TOKENS, TEXT
from .server import Gate, Step
from .table import Provider

WAYS = ("invoke", "ainvoke", "stream", "astream")
FAULTS = ("none", "202", "429", "500", "503", "529", "reset", "cut", "timeout")


def cells(providers: Iterable[Provider]) -> Iterator[tuple[Provider, str, str]]:
    """Yield each provider with each way of calling it and each thing that its first request can meet."""
    for provider, way, fault in itertools.product(providers, WAYS, FAULTS):
        if fault == "timeout" and provider.timeout is None:
            continue
        if fault == "202" and way not in provider.polls:
            continue
        yield provider, way, fault


def check(bench: Bench, provider: Provider, way: str, fault: str) -> list[str]:
    """Call the model once; return in words what is not as the table has it."""
    model = bench.model(provider, timed=fault == "timeout")
    gate = Gate()
    match fault:
        case "none":
            bench.server.reset()
        case "202":
            bench.server.reset(Step(accepted=gate))
        case "reset":
            bench.server.reset(Step(breaks="head"))
        case "cut":
            bench.server.reset(Step(breaks="body"))
        case "timeout":
            bench.server.reset(Step(head=gate))
        case _:
            bench.server.reset(Step(status=int(fault), retry_after="0" if fault == "429" else None))
    if fault == "202":
        threading.Thread(target=_open_when_polled, args=(bench, gate)).start()
    answer: Any = None
    try:
        answer = bench.on_loop(_acall(model, way)).result(60) if way.startswith("a") else _call(model, way)
    except Exception as error:
        failure = repr(error)
    deadline_s = time.monotonic() + bench.patience_s
    while bench.server.in_flight and time.monotonic() < deadline_s:  # the server sees a hang-up later
        time.sleep(0.001)
    ended = [exchange.ended for exchange in bench.server.exchanges]
    gate.open()
    first = {"timeout": ["hung up"], "reset": ["reset"], "cut": ["reset"]}.get(fault, ["refused"])
    if fault in ("none", "202"):
        first = []
    succeeds = not first or (fault, way) in provider.retries
    wrong = []
    if ended != first + ["answered"] * succeeds:
        wrong.append(f"requests: {ended}")
    if not succeeds:
        return wrong if answer is None else [*wrong, f"an answer: {answer!r}"]
    if answer is None:
        return [*wrong, failure]
    if str(answer.text) != TEXT:
        wrong.append(f"text: {answer.text!r}")
    told = answer.usage_metadata or {}
    tokens = (told.get("input_tokens"), told.get("output_tokens"))
    if way not in provider.untold and tokens != (PROMPT_TOKENS, OUTPUT_TOKENS):
        wrong.append(f"usage: {told}")
    return wrong


def _open_when_polled(bench: Bench, gate: Gate) -> None:
    deadline_s = time.monotonic() + bench.patience_s
    while (
        not any(exchange.accepted > 1 for exchange in bench.server.exchanges)
        and time.monotonic() < deadline_s
    ):
        time.sleep(0.001)
    gate.open()


def _call(model: Any, way: str) -> Any:
    if way == "invoke":
        return model.invoke("?")
    answer, *pieces = model.stream("?")
    for piece in pieces:
        answer += piece
    return answer


async def _acall(model: Any, way: str) -> Any:
    if way == "ainvoke":
        return await model.ainvoke("?")
    answer, *pieces = [piece async for piece in model.astream("?")]
    for piece in pieces:
        answer += piece
    return answer
