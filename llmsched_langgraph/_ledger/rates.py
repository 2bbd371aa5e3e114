"""Computes when a backend's rates admit the next call: requests and tokens per minute, requests per day.

Does not delay anything, and knows no tickets. Settings and states are values; `now` is the caller's clock.

A provider counts a request and its input when the call starts, and its output at some moment between start
and end. A window counts in cells of one second, each until 60 s after its end. A request and its input stand
in the cell of the grant, first as estimated, then as used. Output is reserved while the call is in flight
(`reserve`) and then stands in the cell of the call's end. So whenever the provider counts, each sliding 60 s
are within the limit, as far as input is not above its estimate and output within the reserve. Calls of d
seconds can use 60 / (61 + d) of a limit of output tokens, or a little more.

A day slides too, in 96 cells of 15 minutes: a day of any time zone is then within the limit.
"""

from __future__ import annotations

from bisect import bisect_left
from math import floor, inf, nextafter
from typing import NamedTuple, TypeVar

from llmsched_langgraph._arguments import whole_limit
from llmsched_langgraph._jobs.calls import UNKNOWN_USAGE, Usage
from llmsched_langgraph._ledger.quotas import Quota, Quotas
from llmsched_langgraph._ledger.reserves import InFlight, Learned, reserve

_T = TypeVar("_T")

MINUTE = (1.0, 60.0)
"""Length of a cell, and for how long it counts after its end, in seconds."""

DAY = (900.0, 86_400.0)
"""The same of the day's window."""

UNKNOWN_INPUT = 1000
"""First estimate of the input tokens of a call if they are unknown; the mean is learned."""

UNKNOWN_OUTPUT = 500
"""The same of output tokens."""

INPUT_PRIOR = (1.0, 1.0, 1.0)
"""E[r], E[r^2], E[r^3] before any call, for the ratio r of actual to estimated input tokens: r = 1."""

OUTPUT_PRIOR = (2.0, 6.0, 24.0)
"""The same of output tokens: lengths are exponential, and calls in flight are a length-biased sample."""


class Rates(NamedTuple):
    """Limits of one backend; None is no limit. Made by `rates_of`, which checks them."""

    requests_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None


REQUESTS, REQUESTS_A_DAY, TOKENS, INPUT, OUTPUT = range(len(Rates._fields))


def rates_of(backend: str, **limits: object) -> Rates | None:
    """Return the rates of a backend; None if it has no limit.

    Args:
        backend: its name, for the message of an error.
        limits: the fields of `Rates`.

    Raises:
        ConfigurationError: a limit is no whole number of at least 1.
    """
    checked = {name: _checked(value, f"backend {backend!r}: {name}") for name, value in limits.items()}
    rates = Rates(**checked)
    return None if rates == Rates() else rates


def _checked(value: object, what: str) -> int | None:
    whole = isinstance(value, float) and value.is_integer()  # such as 2e6
    return whole_limit(int(value) if whole else value, what)  # type: ignore[call-overload]


class Estimate(NamedTuple):
    """What a call is expected to use. It must be the same at the grant and at the release."""

    input_tokens: int = UNKNOWN_INPUT
    output_tokens: int = UNKNOWN_OUTPUT


def estimate_of(input_tokens: int | None, output_tokens: int | None) -> Estimate:
    """Return the estimate of a call; None is unknown."""
    return Estimate(
        UNKNOWN_INPUT if input_tokens is None else max(input_tokens, 1),
        UNKNOWN_OUTPUT if output_tokens is None else max(output_tokens, 1),
    )


class Cells(NamedTuple):
    """What was counted in each cell that still counts: the cells' numbers, in order, and the amounts."""

    numbers: tuple[int, ...] = ()
    amounts: tuple[float, ...] = ()

    def since(self, first: int) -> Cells:
        """Return the cells from number `first` on."""
        numbers, amounts = self
        if not numbers or numbers[0] >= first:
            return self
        index = bisect_left(numbers, first)
        return Cells(numbers[index:], amounts[index:])

    def plus(self, number: int, amount: float) -> Cells:
        """Return these and `amount` more in a cell."""
        numbers, amounts = self
        if numbers and numbers[-1] == number:
            return Cells(numbers, (*amounts[:-1], amounts[-1] + amount))
        if not numbers or numbers[-1] < number:
            return Cells((*numbers, number), (*amounts, amount))
        index = bisect_left(numbers, number)
        if numbers[index] == number:
            return Cells(numbers, (*amounts[:index], amounts[index] + amount, *amounts[index + 1 :]))
        return Cells(
            (*numbers[:index], number, *numbers[index:]), (*amounts[:index], amount, *amounts[index:])
        )


EMPTY = Cells()


class Spent(NamedTuple):
    """What counts against the rates of one backend, of one account.

    Attributes:
        since_s: clock time of the first grants whose tokens are reserved; infinite if no tokens are limited.
        requests, day, input, output: what was counted in the minute, of requests also in the day.
        input_flight, output_flight: estimates of the calls in flight.
        input_learned, output_learned: ratios of actual to estimated tokens of ended calls.
        told: the limits that the provider named, in the order of `Rates`; None for one that it did not name.
        held: usage by other clients, which the provider counts against the limits, in the order of `Rates`.
    """

    since_s: float
    requests: Cells = EMPTY
    day: Cells = EMPTY
    input: Cells = EMPTY
    output: Cells = EMPTY
    input_flight: InFlight = InFlight()
    output_flight: InFlight = InFlight()
    input_learned: Learned = Learned()
    output_learned: Learned = Learned()
    told: tuple[int | None, ...] = (None,) * 5
    held: tuple[Cells, ...] = (EMPTY,) * 5


def configured(spent: Spent | None, rates: Rates | None, now: float, holding: int = 0) -> Spent | None:
    """Return the state under new rates: None without a limit. What was counted stays.

    Args:
        spent: the state before; None if nothing was limited.
        rates: the new rates.
        now: the clock.
        holding: number of calls in flight. Those that were granted before their tokens were limited have
            none reserved.
    """
    if rates is None:
        return None
    spent = spent or Spent(inf)
    if rates[TOKENS] is None and rates[INPUT] is None and rates[OUTPUT] is None:
        return Spent(inf, spent.requests, spent.day, told=spent.told, held=spent.held)
    if spent.since_s < inf:
        return spent
    return spent._replace(since_s=nextafter(now, inf) if holding else now)


def ready_s(spent: Spent | None, rates: Rates | None, now: float, estimate: Estimate) -> float:
    """Return the clock time at which the rates admit a call; at most `now` if they admit it now.

    A call that is larger than a limit is admitted alone, when nothing counts. If only the end of a call in
    flight can make room, the result is 61 s from now. The caller asks again at each release.
    """
    if spent is None or rates is None:
        return now
    ready = max(_readies(spent, rates, now, estimate))
    return now + sum(MINUTE) if ready == inf else ready


def stalled(spent: Spent | None, rates: Rates | None, now: float, estimate: Estimate) -> bool:
    """Return whether only the end of a call in flight can make room for a call."""
    return spent is not None and rates is not None and inf in _readies(spent, rates, now, estimate)


def _readies(spent: Spent, rates: Rates, now: float, estimate: Estimate) -> list[float]:
    return [
        _ready_s(spent, kind, limit, now, estimate) for kind, limit in enumerate(rates) if limit is not None
    ]


def _ready_s(spent: Spent, kind: int, limit: int, now: float, estimate: Estimate) -> float:
    """Return when one limit admits a call; infinity if time alone does not help."""
    told = spent.told[kind]
    if told is not None and told < limit:
        limit = told
    size_s, span_s = DAY if kind == REQUESTS_A_DAY else MINUTE
    first = floor((now - span_s) / size_s)
    counted = [cells.since(first) for cells in _windows(spent, kind) if cells.numbers]
    used = sum(sum(amounts) for _, amounts in counted)
    reserved = _reserved(spent, kind, estimate)
    over = used + reserved + (kind in (REQUESTS, REQUESTS_A_DAY)) - limit
    if over <= 0.0:
        return now
    flying = _reserved(spent, kind) > 0.0
    if not flying:
        if used <= 0.0:
            return now
        if kind in (TOKENS, OUTPUT) and 2 * reserved > limit:
            # The bound of one call takes most of a minute: little is known yet, or lengths differ much. One
            # such call at a time goes if what it is expected to use fits.
            over = used + _expected(spent, kind, estimate) - limit
            if over <= 0.0:
                return now
    ready = now
    for number, amount in sorted(pair for cells in counted for pair in zip(*cells, strict=True)):
        ready, over = (number + 1) * size_s + span_s, over - amount
        if over <= 0.0:
            return ready
    return inf if flying else ready


def _windows(spent: Spent, kind: int) -> tuple[Cells, ...]:
    """Return the cells that count against a limit."""
    held = spent.held[kind]
    if kind == REQUESTS:
        return spent.requests, held
    if kind == REQUESTS_A_DAY:
        return spent.day, held
    if kind == TOKENS:
        return spent.input, spent.output, held
    return (spent.input if kind == INPUT else spent.output), held


def _reserved(spent: Spent, kind: int, new: Estimate | None = None) -> float:
    """Return what the calls in flight count beside the cells, with what a new one adds to both."""
    reserved = 0.0
    if kind in (TOKENS, INPUT):
        flight, learned = spent.input_flight, spent.input_learned
        if new is not None:
            flight = flight.plus(new.input_tokens)
            reserved += new.input_tokens
        # The estimates stand in the cells. What is above them: as learned, but within the largest ratio seen.
        if learned.largest > 1.0:
            most = learned.largest * flight.tokens
            reserved += max(0.0, min(reserve(learned, flight, INPUT_PRIOR), most) - flight.tokens)
    if kind in (TOKENS, OUTPUT):
        flight = spent.output_flight
        if new is not None:
            flight = flight.plus(new.output_tokens)
        reserved += reserve(spent.output_learned, flight, OUTPUT_PRIOR)
    return reserved


def _expected(spent: Spent, kind: int, estimate: Estimate) -> float:
    """Return the tokens that one call is expected to use."""
    expected = 0.0
    if kind in (TOKENS, INPUT):
        expected += estimate.input_tokens
    if kind in (TOKENS, OUTPUT):
        expected += estimate.output_tokens * _mean(spent.output_learned)
    return expected


def granted(spent: Spent | None, now: float, estimate: Estimate) -> Spent | None:
    """Return the state after a grant."""
    if spent is None:
        return None
    cell, first, (size_s, span_s) = floor(now), floor(now) - 60, DAY
    requests = spent.requests.since(first).plus(cell, 1)
    day = spent.day.since(floor((now - span_s) / size_s)).plus(floor(now / size_s), 1)
    if now < spent.since_s:
        return spent._replace(requests=requests, day=day)
    return spent._replace(
        requests=requests,
        day=day,
        input=spent.input.since(first).plus(cell, estimate.input_tokens),
        input_flight=spent.input_flight.plus(estimate.input_tokens),
        output_flight=spent.output_flight.plus(estimate.output_tokens),
        input_learned=spent.input_learned.begun(now),
        output_learned=spent.output_learned.begun(now),
    )


NOTHING_SENT = Usage(None, 0)
"""Usage of an attempt that failed before its first token: the provider may have counted its input."""


def released(
    spent: Spent | None, now: float, granted_s: float, estimate: Estimate, usage: Usage = UNKNOWN_USAGE
) -> Spent | None:
    """Return the state after the end of a call, when its tokens are known or never will be.

    Args:
        spent: the state before.
        now: the clock.
        granted_s: clock time of the call's grant.
        estimate: that of its grant.
        usage: what it used; `NOTHING_SENT` for an attempt that failed before its first token. An unknown
            count is taken to be the estimate, times what the ratio was on average.
    """
    if spent is None or spent.since_s == inf:
        return spent
    used_in, used_out = usage.prompt_tokens, usage.output_tokens
    cell, first = floor(granted_s), floor(now) - 60
    changes: dict[str, object] = {}
    if used_in is not None and cell >= first:
        correction = max(used_in, 0) - (estimate.input_tokens if granted_s >= spent.since_s else 0)
        changes["input"] = spent.input.since(first).plus(cell, correction)
    learned = spent.output_learned
    counted = round(estimate.output_tokens * _mean(learned)) if used_out is None else max(used_out, 0)
    if counted:
        changes["output"] = spent.output.since(first).plus(floor(now), counted)
    if granted_s < spent.since_s:
        return spent._replace(**changes)  # type: ignore[arg-type]
    # A failed attempt gives no information on the length of answers.
    truth = used_out or None
    return spent._replace(
        input_flight=spent.input_flight.plus(estimate.input_tokens, -1),
        output_flight=spent.output_flight.plus(estimate.output_tokens, -1),
        input_learned=spent.input_learned.ended(granted_s, now, estimate.input_tokens, used_in or None),
        output_learned=learned.ended(granted_s, now, estimate.output_tokens, truth),
        **changes,  # type: ignore[arg-type]
    )


def _mean(learned: Learned) -> float:
    """Return the mean ratio of ended calls, weighted with their seconds."""
    return learned.means[2] / learned.means[0] if learned.calls else 1.0


def corrected(spent: Spent | None, rates: Rates | None, now: float, quotas: Quotas | None) -> Spent | None:
    """Return the state after a provider has told what is left of its own limits.

    A told limit counts if it is smaller than the configured one. If less is left than the windows would
    admit, the difference was used by others. It counts until the provider's reset, a little less each second,
    as the provider refills; if the reset is more than a minute away, for a minute in full. A limit that is
    not configured stays unlimited.
    """
    if spent is None or rates is None or quotas is None:
        return spent
    for kind, quota in (
        (REQUESTS, quotas.requests),
        (TOKENS, quotas.tokens),
        (INPUT, quotas.input_tokens),
        (OUTPUT, quotas.output_tokens),
    ):
        if quota is None:
            continue
        spent = _tightened(spent, rates, kind, now, quota)
        if kind == REQUESTS and quota.reset_s > MINUTE[1]:  # it may speak of the day
            spent = _tightened(spent, rates, REQUESTS_A_DAY, now, quota)
    return spent


def _tightened(spent: Spent, rates: Rates, kind: int, now: float, quota: Quota) -> Spent:
    limit = rates[kind]
    if limit is None:
        return spent
    if quota.limit is not None:
        spent = spent._replace(told=_with(spent.told, kind, quota.limit))
        limit = min(limit, quota.limit)
    if quota.remaining is None or quota.reset_s <= 0.0:
        return spent
    size_s, span_s = DAY if kind == REQUESTS_A_DAY else MINUTE
    first, cell = floor((now - span_s) / size_s), floor(now / size_s)
    used = sum(sum(cells.since(first).amounts) for cells in _windows(spent, kind)) + _reserved(spent, kind)
    foreign = int(limit - used - quota.remaining)
    if foreign <= 0:
        return spent
    held = spent.held[kind].since(first)
    cells = floor(quota.reset_s / size_s) + 1 if quota.reset_s <= span_s else 1
    # The cells that stop to count one after the other from now on, the last of them after the reset.
    start = cell if cells == 1 and quota.reset_s > span_s else first
    before = 0
    for index in range(cells):
        part = foreign * (index + 1) // cells
        if part > before:
            held = held.plus(start + index, part - before)
        before = part
    return spent._replace(held=_with(spent.held, kind, held))


def _with(values: tuple[_T, ...], index: int, value: _T) -> tuple[_T, ...]:
    return (*values[:index], value, *values[index + 1 :])
