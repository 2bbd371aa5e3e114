"""Calls the bare packages: what the table says of them is what the matrix builds on.

Schedules nothing.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

from .callers import Bench
from .dialects import OUTPUT_TOKENS, PROMPT_TOKENS, TEXT
from .server import Gate, Step
from .table import Provider

WAYS = ("invoke", "ainvoke", "stream", "astream")
FAULTS = ("none", "429", "500", "reset", "cut", "timeout")


def cells(providers: Iterable[Provider]) -> Iterator[tuple[Provider, str, str]]:
    """Yield each provider with each way of calling it and each thing that its first request can meet."""
    for provider, way, fault in itertools.product(providers, WAYS, FAULTS):
        if fault != "timeout" or provider.timeout is not None:
            yield provider, way, fault


def check(bench: Bench, provider: Provider, way: str, fault: str) -> list[str]:
    """Call the model once; return in words what is not as the table has it."""
    model = bench.model(provider, timed=fault == "timeout")
    hangs = Gate()
    match fault:
        case "429":
            bench.server.reset(Step(status=429, retry_after="0"))
        case "500":
            bench.server.reset(Step(status=500))
        case "reset":
            bench.server.reset(Step(breaks="head"))
        case "cut":
            bench.server.reset(Step(breaks="body"))
        case "timeout":
            bench.server.reset(Step(head=hangs))
        case _:
            bench.server.reset()
    answer: Any = None
    try:
        answer = bench.on_loop(_acall(model, way)).result(60) if way.startswith("a") else _call(model, way)
    except Exception as error:
        failure = repr(error)
    deadline_s = time.monotonic() + bench.patience_s
    while bench.server.in_flight and time.monotonic() < deadline_s:  # the server sees a hang-up later
        time.sleep(0.001)
    ended = [exchange.ended for exchange in bench.server.exchanges]
    hangs.open()
    first = {"none": [], "timeout": ["hung up"], "429": ["refused"], "500": ["refused"]}.get(fault, ["reset"])
    succeeds = fault == "none" or (fault, way) in provider.retries
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
