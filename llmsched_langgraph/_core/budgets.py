"""Defines what a run may spend, and counts what it has spent.

Does not stop runs, or read clocks: the calls and the time are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from llmsched_langgraph._arguments import positive_limit, whole_limit
from llmsched_langgraph._jobs.calls import PENDING_USAGE, FinishedCall, Outcome
from llmsched_langgraph._ledger.prices import Prices
from llmsched_langgraph.errors import ConfigurationError


def counted(number: int, what: str) -> str:
    """Return a number with the singular or the plural of what it counts."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend; None for no limit.

    A run whose spending has reached one of the limits stops before its next superstep. What runs already is
    not stopped, so the last superstep may exceed the budget.

    Attributes:
        tokens: tokens of all calls, prompt and output.
        calls: number of calls; further attempts of one call do not count.
        slot_s: seconds for which the calls held slots, summed over the calls.
        cost: money, by the `prices` of the backends.

    Raises:
        ConfigurationError: a limit is not positive, or `tokens` or `calls` is no whole number.
    """

    tokens: int | None = None
    calls: int | None = None
    slot_s: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("tokens", "calls"):
            whole_limit(getattr(self, name), f"a budget's {name}")
        for name in ("slot_s", "cost"):
            positive_limit(getattr(self, name), f"a budget's {name}")

    def over(self, other: Budget) -> Budget:
        """Return the limits of this budget, and those of `other` where this one has none."""
        return Budget(
            other.tokens if self.tokens is None else self.tokens,
            other.calls if self.calls is None else self.calls,
            other.slot_s if self.slot_s is None else self.slot_s,
            other.cost if self.cost is None else self.cost,
        )

    def __bool__(self) -> bool:
        return any(limit is not None for limit in _limits(self).values())


def _limits(budget: Budget) -> dict[str, int | float | None]:
    return {field.name: getattr(budget, field.name) for field in fields(budget)}


class Limits(NamedTuple):
    """What a run may spend, and when it must end.

    Attributes:
        budget: what it may spend.
        deadline_s: seconds from its arrival within which it must end; None for no deadline.
    """

    budget: Budget = Budget()
    deadline_s: float | None = None

    def over(self, other: Limits) -> Limits:
        """Return these limits, and those of `other` where these have none."""
        deadline_s = other.deadline_s if self.deadline_s is None else self.deadline_s
        return Limits(self.budget.over(other.budget), deadline_s)

    @property
    def any(self) -> bool:
        """Whether there is a limit."""
        return self.deadline_s is not None or bool(self.budget)


NO_LIMITS = Limits()


def as_budget(given: object, what: str) -> Budget:
    """Return a `Budget`, or one made of a mapping with its fields.

    Raises:
        ConfigurationError: it is neither, or a limit is invalid; the message begins with `what`.
    """
    if isinstance(given, Budget):
        return given
    names = [field.name for field in fields(Budget)]
    if not isinstance(given, Mapping) or not all(name in names for name in given):
        raise ConfigurationError(
            f"{what} must be a Budget, or a dict with some of {', '.join(map(repr, names))}, not {given!r}"
        )
    try:
        return Budget(**given)
    except ConfigurationError as error:
        raise ConfigurationError(f"{what}: {error}") from None


@dataclass(frozen=True, slots=True)
class Spending:
    """What a run has spent, or is expected to have spent at its end.

    Attributes:
        tokens: tokens of its calls, prompt and output.
        calls: number of its calls that have ended.
        slot_s: seconds for which these calls held slots.
        cost: what these calls cost; 0 for those of unknown cost.
        elapsed_s: seconds since its arrival, without those for which it was paused.
        unmeasured_calls: number of calls whose tokens are unknown, which count as 0.
        unpriced_calls: number of calls whose cost is unknown: their tokens are, or no price matches.
    """

    tokens: int = 0
    calls: int = 0
    slot_s: float = 0.0
    cost: float = 0.0
    elapsed_s: float = 0.0
    unmeasured_calls: int = 0
    unpriced_calls: int = 0

    def __str__(self) -> str:
        cost = f"cost {self.cost:.4g}, " if self.cost else ""  # else it is unknown, or nothing
        return (
            f"{counted(self.tokens, 'token')}, {counted(self.calls, 'call')}, {self.slot_s:.1f} s in slots, "
            f"{cost}{self.elapsed_s:.1f} s"
        )


NOTHING = Spending()


def spending(
    calls: Iterable[FinishedCall], prices: Mapping[str, Prices | None], before: Spending = NOTHING
) -> Spending:
    """Return what the calls have spent, in addition to `before`. A failed call without tokens cost nothing.

    Args:
        calls: the calls that have ended.
        prices: the prices of each backend, by name.
        before: what other calls have spent; its seconds since the arrival are kept.
    """
    tokens, number, slot_s, cost = before.tokens, before.calls, before.slot_s, before.cost
    unmeasured, unpriced = before.unmeasured_calls, before.unpriced_calls
    for call in calls:
        number += 1
        slot_s += max(call.work_s, 0.0)
        usage, own = call.usage, prices.get(call.backend)
        known = [count for count in (usage.prompt_tokens, usage.output_tokens) if count is not None]
        tokens += sum(max(count, 0) for count in known)
        if not known and call.outcome is Outcome.FAILED and usage is not PENDING_USAGE:
            continue
        unmeasured += len(known) < 2
        price = None if own is None else own.cost(call.models, usage)
        if price is None:
            unpriced += 1
        else:
            cost += price
    return Spending(tokens, number, slot_s, cost, before.elapsed_s, unmeasured, unpriced)


DEADLINE = "deadline_s"
"""The name of the deadline among the limits."""


def reached(spent: Spending, budget: Budget, deadline_s: float | None) -> tuple[str, ...]:
    """Return the names of the limits that the spending has reached."""
    limits = {**_limits(budget), DEADLINE: deadline_s}
    return tuple([name for name, limit in limits.items() if limit is not None and _of(spent, name) >= limit])


def exceeded(expected: Spending, budget: Budget, deadline_s: float | None) -> tuple[str, ...]:
    """Return the names of the limits that the expected spending is above."""
    limits = {**_limits(budget), DEADLINE: deadline_s}
    return tuple(
        [name for name, limit in limits.items() if limit is not None and _of(expected, name) > limit]
    )


def _of(spent: Spending, name: str) -> float:
    found: float = getattr(spent, "elapsed_s" if name == DEADLINE else name)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrun:
    """A run, between two supersteps, that has reached a limit or is expected to exceed one.

    Attributes:
        reached: the limits that it has reached: "tokens", "calls", "slot_s", "cost", "deadline_s".
        expected: the limits that its forecast exceeds.
        spent: what it has spent.
        budget: what it may spend.
        deadline_s: seconds from its arrival within which it must end; None for no deadline.
        forecast: what it is expected to have spent at its end; None if nothing is known of its graph.
        graph: the name of its graph.
        run_id: LangGraph's run id; empty if the run has none.
        thread_id: the thread on which it can be resumed; None if it cannot.
    """

    reached: tuple[str, ...]
    expected: tuple[str, ...]
    spent: Spending
    budget: Budget
    deadline_s: float | None = None
    forecast: Spending | None = None
    graph: str = ""
    run_id: str = ""
    thread_id: str | None = None
