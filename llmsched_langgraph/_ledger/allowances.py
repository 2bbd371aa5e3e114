"""Counts the tokens of a tenant with a limit of tokens per minute.

Delays nothing, and knows no tickets. An allowance is a value: each grant and each end of an attempt gives the
next one.

How many tokens an attempt uses is known at its end. At its grant it counts with the mean of the tenant's
latest ones, and at its end with what it used: in the second of its grant, or of its end if it took more than
a minute. So the tokens counted in any 60 s do not exceed the limit, but those used may, by what the attempts
in flight exceed the mean. Limits of providers, which must not be exceeded, are in `rates.py`.
"""

from __future__ import annotations

from math import floor
from typing import NamedTuple

from llmsched_langgraph._jobs.calls import Usage
from llmsched_langgraph._ledger.rates import EMPTY, UNKNOWN_INPUT, UNKNOWN_OUTPUT, Cells

LATEST = 32
"""Number of latest attempts over which the mean is taken."""

_SPAN_S = 60


class Allowance(NamedTuple):
    """What counts against the limit of one tenant at one backend.

    Attributes:
        counted: the tokens by the second in which they count.
        attempts: number of ended attempts whose tokens were known.
        mean: mean tokens of about the last `LATEST` of them.
    """

    counted: Cells = EMPTY
    attempts: int = 0
    mean: float = UNKNOWN_INPUT + UNKNOWN_OUTPUT

    @property
    def charge(self) -> int:
        """Tokens with which a grant counts."""
        return max(1, round(self.mean))


def ready_s(allowance: Allowance, limit: int, now: float) -> float:
    """Return when the limit admits one more attempt; at most `now` if it does so now.

    An attempt that is expected to use more than the limit is admitted when nothing counts.
    """
    numbers, amounts = allowance.counted.since(floor(now) - _SPAN_S)
    used, charge = sum(amounts), allowance.charge
    over, ready = used + charge - limit, now
    if over <= 0.0 or used <= 0.0:
        return now
    for number, amount in zip(numbers, amounts, strict=True):
        if amount:  # a second in which nothing counts any more makes no room
            ready, over = float(number + 1 + _SPAN_S), over - amount
        if over <= 0.0:
            break
    return ready


def granted(allowance: Allowance, now: float, charge: int) -> Allowance:
    """Return the allowance after a grant."""
    counted = allowance.counted.since(floor(now) - _SPAN_S).plus(floor(now), charge)
    return allowance._replace(counted=counted)


def ended(allowance: Allowance, now: float, granted_s: float, charge: int, tokens: int | None) -> Allowance:
    """Return the allowance after the end of an attempt.

    Args:
        allowance: that before.
        now: the clock.
        granted_s: clock time of the attempt's grant.
        charge: the tokens with which the grant counted.
        tokens: the tokens that it used; None if unknown, 0 if it failed.
    """
    if tokens is None:
        return allowance
    first, cell = floor(now) - _SPAN_S, floor(granted_s)
    counted = allowance.counted.since(first)
    counted = counted.plus(cell, tokens - charge) if cell >= first else counted.plus(floor(now), tokens)
    if not tokens:  # it failed
        return allowance._replace(counted=counted)
    attempts = allowance.attempts + 1
    mean = allowance.mean + (tokens - allowance.mean) / min(attempts, LATEST)
    return Allowance(counted, attempts, mean)


def tokens_of(usage: Usage, *, failed: bool) -> int | None:
    """Return the tokens that an attempt used; None if that is unknown, 0 for one that failed."""
    if failed:
        return 0
    if usage.prompt_tokens is None or usage.output_tokens is None:
        return None
    return max(usage.prompt_tokens, 0) + max(usage.output_tokens, 0)
