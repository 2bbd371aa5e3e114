"""Reads what a provider's answer says of its limits.

Does not decide what follows from it. A header that is missing or invalid is ignored.

OpenAI and those like it send `x-ratelimit-{limit,remaining,reset}-{requests,tokens}`, with resets as
durations ("6m0s", "20ms"). Anthropic sends `anthropic-ratelimit-{requests,input-tokens,output-tokens}-`
`{limit,remaining,reset}`, with resets as times (RFC 3339). A time is compared with the answer's `Date`: the
clocks need not agree. Anthropic's `anthropic-ratelimit-tokens-*` describes whichever of its limits is
nearest, and is not read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import NamedTuple

REFILL_S = 60.0
"""Seconds until a limit is restored, if the answer does not name the time."""

LONGEST_S = 86_400.0
"""Maximum seconds until a reset; a longer time is invalid."""

MOST = 10**15
"""Maximum value of a count; a larger one is invalid."""

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,9})?(?:d|h|ms|us|µs|ns|m|s))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|ms|us|µs|ns|m|s)", re.ASCII)


class Quota(NamedTuple):
    """One limit as the provider sees it.

    Attributes:
        limit: the limit; None if unknown.
        remaining: what is left of it; None if unknown.
        reset_s: seconds until it is restored; 0 if that is past.
    """

    limit: int | None = None
    remaining: int | None = None
    reset_s: float = REFILL_S


class Quotas(NamedTuple):
    """The limits that an answer names; None where it names none."""

    requests: Quota | None = None
    tokens: Quota | None = None
    input_tokens: Quota | None = None
    output_tokens: Quota | None = None


def quotas_of(headers: Mapping[str, str]) -> Quotas | None:
    """Return what an answer's headers say; None if they say nothing. Their case does not matter."""
    told = {
        name: value
        for name, value in ((str(name).lower(), value) for name, value in headers.items())
        if name.startswith(("x-ratelimit-", "anthropic-ratelimit-")) or name in ("date", "retry-after")
    }

    def quota(scheme: str, what: str) -> Quota | None:
        limit = _count(told.get(scheme.format("limit", what)))
        remaining = _count(told.get(scheme.format("remaining", what)))
        if limit is None and remaining is None:
            return None
        reset_s = _until(told.get(scheme.format("reset", what)), told.get("date"))
        if reset_s is None:
            reset_s = _until(told.get("retry-after"), told.get("date"))
        return Quota(limit or None, remaining, REFILL_S if reset_s is None else reset_s)

    openai, anthropic = "x-ratelimit-{0}-{1}", "anthropic-ratelimit-{1}-{0}"
    quotas = Quotas(
        quota(openai, "requests") or quota(anthropic, "requests"),
        quota(openai, "tokens"),
        quota(anthropic, "input-tokens"),
        quota(anthropic, "output-tokens"),
    )
    return None if quotas == Quotas() else quotas


def _count(text: object) -> int | None:
    """Return a count of requests or tokens; None if the text is not one."""
    number = _number(text)
    return int(number) if number is not None and number <= MOST else None


def _number(text: object) -> float | None:
    try:
        number = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if isfinite(number) and number >= 0.0 else None


def _until(text: object, date: object) -> float | None:
    """Return the seconds until a reset, 0 if it is past; None if the text is invalid."""
    if not isinstance(text, str):
        return None
    text = text.strip()
    seconds = _number(text)
    if seconds is None and _DURATION.fullmatch(text):
        seconds = sum(float(amount) * _UNITS[unit] for amount, unit in _PART.findall(text))
    if seconds is None:
        seconds = _between(date, text)
    return seconds if seconds is not None and seconds <= LONGEST_S else None


def _between(date: object, text: str) -> float | None:
    """Return the seconds from an answer's `Date` to a time; None if one of them is invalid."""
    if not isinstance(date, str):
        return None
    try:
        sent = parsedate_to_datetime(date)
        reset = datetime.fromisoformat(text) if text[:1].isdigit() else parsedate_to_datetime(text)
        sent, reset = (at if at.tzinfo else at.replace(tzinfo=UTC) for at in (sent, reset))
        return max(0.0, (reset - sent).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None
