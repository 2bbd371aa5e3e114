"""Simulates calls under the rates of a backend, and computes what a provider would have counted.

Draws nothing at random: the calls come from the caller. There is always a next call, so the rates bind.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from math import inf
from typing import NamedTuple

from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._ledger.rates import Estimate, Rates, Spent, configured, granted, ready_s, released


class Planned(NamedTuple):
    """A call: its estimate, its usage and its duration."""

    estimate: Estimate
    input_tokens: int
    output_tokens: int
    seconds: float


class Played(NamedTuple):
    """A call that was granted at `start_s`."""

    start_s: float
    end_s: float
    call: Planned


def play(rates: Rates | None, calls: Iterator[Planned], until_s: float, slots: float = inf) -> list[Played]:
    """Return the calls granted until `until_s`, one after the other, each as soon as the rates admit it.

    Args:
        rates: the limits.
        calls: the calls; may be endless.
        until_s: seconds to play.
        slots: largest number of calls in flight.
    """
    spent: Spent | None = configured(None, rates, 0.0)
    now, flying, played = 0.0, list[tuple[float, int]](), list[Played]()
    call = next(calls, None)
    while now < until_s and call is not None:
        wake_s = ready_s(spent, rates, now, call.estimate) if len(flying) < slots else inf
        if wake_s <= now:
            spent = granted(spent, now, call.estimate)
            heapq.heappush(flying, (now + call.seconds, len(played)))
            played.append(Played(now, now + call.seconds, call))
            call = next(calls, None)
        elif flying and flying[0][0] <= wake_s:
            now, number = heapq.heappop(flying)
            start_s, _, ended = played[number]
            usage = Usage(ended.input_tokens, ended.output_tokens)
            spent = released(spent, now, start_s, ended.estimate, usage)
        else:
            now = wake_s
    return played


PARTS = 8
"""Number of parts into which "even" divides a call's output."""


def requests(played: Iterable[Played]) -> list[tuple[float, float]]:
    """Return (time, amount) of each request."""
    return [(call.start_s, 1.0) for call in played]


def inputs(played: Iterable[Played]) -> list[tuple[float, float]]:
    """Return (time, tokens) of the input: counted at the start."""
    return [(start_s, float(call.input_tokens)) for start_s, _, call in played]


def outputs(played: Iterable[Played], when: str) -> list[tuple[float, float]]:
    """Return (time, tokens) of the output, counted at the "start", at the "end", or "even" in between."""
    if when == "start":
        return [(start_s, float(call.output_tokens)) for start_s, _, call in played]
    if when == "end":
        return [(end_s, float(call.output_tokens)) for _, end_s, call in played]
    return [
        (start_s + (end_s - start_s) * (part + 0.5) / PARTS, call.output_tokens / PARTS)
        for start_s, end_s, call in played
        for part in range(PARTS)
    ]


def worst(counted: list[tuple[float, float]], span_s: float = 60.0) -> float:
    """Return the largest amount in any half-open interval of `span_s` seconds."""
    counted = sorted(counted)
    total = most = 0.0
    first = 0
    for at_s, amount in counted:
        total += amount
        while counted[first][0] <= at_s - span_s:
            total -= counted[first][1]
            first += 1
        most = max(most, total)
    return most


def used(counted: list[tuple[float, float]], since_s: float, until_s: float) -> float:
    """Return the amount per minute between two times."""
    return 60.0 * sum(amount for at_s, amount in counted if since_s <= at_s < until_s) / (until_s - since_s)
