"""Encodes changes and settings for the scripts, and decodes what they return.

Does not talk to a server. The format is JSON: numbers have all of their digits, absent fields are None, and
text is UTF-8, in which a lone surrogate has its own three bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from math import isnan
from typing import Any, NamedTuple

from llmsched_langgraph._jobs.calls import PENDING_USAGE, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.allowances import Allowance
from llmsched_langgraph._ledger.auto import Auto, Found, Window
from llmsched_langgraph._ledger.backends import Backend
from llmsched_langgraph._ledger.capacity import Capacity
from llmsched_langgraph._ledger.exploration import PRIME, Exploration
from llmsched_langgraph._ledger.levels import Level, Sample
from llmsched_langgraph._ledger.overdue import Overdue
from llmsched_langgraph._ledger.pauses import Pause
from llmsched_langgraph._ledger.quotas import Quotas
from llmsched_langgraph._ledger.rates import EMPTY, Cells, Rates, Spent
from llmsched_langgraph._ledger.reserves import Cohort, InFlight, Learned
from llmsched_langgraph._ledger.tenants import Share, Tenants
from llmsched_langgraph._ledger.values import (
    FIRST_COME,
    CallInfo,
    Change,
    Configure,
    Crowd,
    Explore,
    Force,
    Grant,
    Key,
    Lane,
    Measure,
    Refused,
    Rekey,
    Release,
    Request,
)

KINDS = ("requests", "requests_a_day", "tokens", "input", "output")
"""The names of the rates in the scripts, in the order of `Rates`."""

_HALF = 2**26
"""Unit of `more_cubes`: see `reserves.lua`."""

Encoded = dict[str, Any]


class Shared(NamedTuple):
    """The settings that all workers of a ledger share. The last worker that registers decides.

    Attributes:
        overdue: the bound of waiting.
        exploration: the exploration settings; None for no exploration.
        tenants: the settings of the tenants. Whether others are refused is each worker's own matter.
    """

    overdue: Overdue
    exploration: Exploration | None
    tenants: Tenants


def to_json(value: object) -> bytes:
    """Return the value as JSON."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def from_json(text: bytes) -> Any:
    """Return the value of a script's answer."""
    return json.loads(text.decode("utf-8", "surrogatepass"))


# -- settings -----------------------------------------------------------------------------


def _known(**fields: object) -> Encoded:
    """Return the fields that are not None."""
    return {name: value for name, value in fields.items() if value is not None}


def encoded_shared(shared: Shared) -> Encoded:
    """Encode the settings of all workers."""
    overdue, exploration, tenants = shared
    return _known(
        overdue=_known(max_wait_s=overdue.max_wait_s, every=overdue.every),
        exploration=exploration and {"epsilon": exploration.epsilon, "seed": exploration.seed % PRIME},
        tenants={
            name: _known(
                weight=own.weight,
                max_slots=own.max_slots,
                max_queued=own.max_queued,
                tokens_per_minute=own.tokens_per_minute,
            )
            for name, own in tenants.named.items()
        },
    )


def encoded_backend(backend: Backend) -> Encoded:
    """Encode the settings of a backend that the ledger needs."""
    slots, rates = backend.settings
    auto = {"low": slots.low, "high": slots.high, "start": slots.start} if isinstance(slots, Auto) else None
    return _known(
        name=backend.name,
        slots=None if auto else slots,
        auto=auto,
        rates=rates and _known(**dict(zip(KINDS, rates, strict=True))),
        max_queued=backend.max_queued,
        replicas=backend.replicas,
    )


# -- changes ------------------------------------------------------------------------------


def encoded(change: Change, *, admit: bool = False, bounded: bool = False) -> Encoded:
    """Encode a change.

    Args:
        change: the change.
        bounded: whether a request is refused where no more calls may wait.
        admit: whether a request takes a free slot at once if no ticket waits, as `Ledger.admit` does.

    Raises:
        ValueError: a number of a key is not a number, and has no place in an order.
    """
    match change:
        case Request(ticket, lane, key, forced, call, arrival, waited_s):
            fields = {"ticket": ticket, "estimate": call.estimate._asdict(), "waited_s": waited_s}
            fields.update(_lane(lane), forced=forced, admit=admit, bounded=bounded)
            if key is not None:
                fields["key"] = _key(key, lane[2])
            if arrival:
                fields["arrival"] = arrival
            return {"change": "request", **fields}
        case Rekey(lane, key):
            return {"change": "rekey", "key": _key(key, lane[2]), **_lane(lane)}
        case Release(ticket, usage, failure, quotas, well):
            fields = {"ticket": ticket, "well": well}
            if usage is not PENDING_USAGE:
                fields["usage"] = _usage(usage)
            if failure is not None:
                fields["failure"] = _known(status=failure.status, retry_after_s=failure.retry_after_s)
            if quotas is not None:
                fields["quotas"] = _quotas(quotas)
            return {"change": "release", **fields}
        case Measure(ticket, usage):
            return {"change": "measure", "ticket": ticket, "usage": _usage(usage)}
        case Force(ticket):
            return {"change": "force", "ticket": ticket}
        case Configure(backend):
            return {"change": "configure", "settings": encoded_backend(backend)}


def _lane(lane: Lane) -> Encoded:
    backend, job, (stage, occurrence) = lane
    return {"backend": backend, "job": job, "stage": stage, "occurrence": occurrence}


def _usage(usage: Usage) -> Encoded:
    return _known(
        prompt_tokens=usage.prompt_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=usage.cached_tokens,
    )


def _quotas(quotas: Quotas) -> Encoded:
    names = ("requests", "tokens", "input", "output")
    return {
        name: _known(limit=own.limit, remaining=own.remaining, reset_s=own.reset_s)
        for name, own in zip(names, quotas, strict=True)
        if own is not None
    }


def _key(key: Key, stage: StageOccurrence) -> Encoded:
    if any(isnan(own) for own in (key.order, key.urgent_s, key.lost_s)):
        raise ValueError(f"a key has a number that is none: {key!r:.200}")
    fields: Encoded = {
        name: own
        for name, own, first in zip(Key._fields, key, FIRST_COME, strict=True)
        if own != first and name != "explore"
    }
    fields |= {name: float(fields[name]) for name in ("order", "urgent_s", "lost_s") if name in fields}
    if key.explore is not None and (explore := _explore(key.explore, stage)) is not None:
        fields["explore"] = explore
    return fields or {"level": key.level}


def _explore(explore: Explore, stage: StageOccurrence) -> Encoded | None:
    """Encode what exploration needs, as numbers; None if the belief fails, or they are no numbers."""
    information, *rest = explore
    try:
        lo, hi = information.bounds
        gain = information.uncertainty_reduction(stage) if explore.left > 0 else 0.0
        numbers = dict(zip(Explore._fields[1:], rest, strict=True), lo=lo, hi=hi, gain=gain)
        usable = not any(isnan(own) for own in numbers.values())
        return {name: float(own) for name, own in numbers.items()} if usable else None
    except Exception:  # a bug in a user's belief costs the exploration of its lane, never a slot
        return None


# -- what is seen ---------------------------------------------------------------------------


def refusal_of(fields: list[Any]) -> Refused:
    """Decode the news of a refusal."""
    ticket, _, backend, tenant, waiting, limit = fields
    return Refused(ticket, Crowd(backend, tenant, waiting, limit))


def grant_of(fields: list[Any], request: Request, lease_until_s: float) -> Grant:
    """Decode the news of a grant of the request."""
    _, reason, asked_s, granted_s, concurrency, slots, arrival, replica, share = fields
    return Grant(
        request.lane,
        float(asked_s),
        float(granted_s),
        request.call,
        reason,
        concurrency,
        slots,
        replica,
        float(lease_until_s),
        arrival,
        Share(*share) if share else None,
    )


def share_of(claim: Mapping[str, Any]) -> Share | None:
    """Return the charge of a stored ticket."""
    share = claim.get("share")
    return None if share is None else Share(**share)


def lane_of(text: str, backend: str) -> tuple[int, Lane]:
    """Return the worker of a stored lane, and the lane."""
    rest = text.partition(":")[2]
    lane = backend, int(rest[16:32]), StageOccurrence(rest[32:-17], int(rest[-16:]))
    return int(rest[:16]), lane


def call_of(claim: Mapping[str, Any]) -> CallInfo:
    """Return what is known of another worker's call: its tokens, as they count."""
    estimate = claim["estimate"]
    return CallInfo(prompt_tokens=estimate["input_tokens"], output_tokens=estimate["output_tokens"])


def rates_of(limits: Mapping[str, int] | None) -> Rates | None:
    """Decode rates."""
    return None if limits is None else Rates(*[limits.get(kind) for kind in KINDS])


def capacity_of(
    backend: Mapping[str, Any], found: Mapping[str, Any] | None, spent: Mapping[str, Any] | None
) -> Capacity:
    """Decode the capacity of a backend."""
    pause = backend["pause"]
    return Capacity(
        Found(backend["limit"]) if found is None else _found(found),
        Pause(pause["opens_s"], pause["backoff_s"], pause["closed_s"], pause.get("grants")),
        None if spent is None else _spent(spent),
    )


def _found(found: Mapping[str, Any]) -> Found:
    before, window = found.get("before"), found["window"]
    fields = dict(found)
    fields["before"] = before and Level(before["limit"], _samples(before["samples"]))
    fields["samples"] = _samples(found["samples"])
    fields["window"] = Window(window["weight"], window["bound"], _samples(window["samples"]))
    return Found(**fields)


def _samples(samples: Iterable[Mapping[str, Any]]) -> tuple[Sample, ...]:
    return tuple([Sample(**own) for own in samples])


def _spent(spent: Mapping[str, Any]) -> Spent:
    told, held = spent["told"] or {}, spent["held"] or {}  # an empty table is []
    return Spent(
        float(spent["since_s"]),
        _cells(spent["requests"]),
        _cells(spent["day"]),
        _cells(spent["input"]),
        _cells(spent["output"]),
        _flight(spent["input_flight"]),
        _flight(spent["output_flight"]),
        _learned(spent["input_learned"]),
        _learned(spent["output_learned"]),
        tuple([told.get(kind) for kind in KINDS]),
        tuple([_cells(held[kind]) if kind in held else EMPTY for kind in KINDS]),
    )


def allowance_of(allowance: Mapping[str, Any]) -> Allowance:
    """Decode the tokens of a tenant."""
    return Allowance(_cells(allowance["counted"]), allowance["attempts"], allowance["mean"])


def _cells(cells: Mapping[str, Any]) -> Cells:
    return Cells(tuple(cells["numbers"]), tuple(cells["amounts"]))


def _flight(flight: Mapping[str, int]) -> InFlight:
    cubes = flight["more_cubes"] * _HALF + flight["cubes"]
    return InFlight(flight["calls"], flight["tokens"], flight["squares"], cubes)


def _learned(learned: Mapping[str, Any]) -> Learned:
    cohorts = [Cohort(**{**own, "sums": tuple(own["sums"])}) for own in learned["cohorts"]]
    return Learned(learned["calls"], tuple(learned["means"]), learned["largest"], tuple(cohorts))
