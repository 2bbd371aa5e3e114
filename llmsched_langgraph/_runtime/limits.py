"""Decides, between two supersteps, whether a run that has a budget or a deadline goes on.

Does not stop the run: the adapter does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from llmsched_langgraph._core.budgets import (
    DEADLINE,
    NOTHING,
    Budget,
    Limits,
    Overrun,
    Spending,
    exceeded,
    reached,
    spending,
)
from llmsched_langgraph._core.events import LimitReached, OverrunExpected
from llmsched_langgraph._jobs.calls import FinishedCall
from llmsched_langgraph._ledger.prices import Prices
from llmsched_langgraph.errors import ConfigurationError

if TYPE_CHECKING:
    from llmsched_langgraph._runtime.driver import Driver
    from llmsched_langgraph._runtime.scheduler import Scheduler

OnBudget = Literal["stop", "yield"] | Callable[[Overrun], "Literal['stop', 'yield'] | Budget"]

_ANSWERS = ("stop", "yield")


def check_on_budget(on_budget: object) -> None:
    """Do nothing if the setting is valid.

    Raises:
        ConfigurationError: it is not.
    """
    if on_budget not in _ANSWERS and not callable(on_budget):
        raise ConfigurationError(
            f'on_budget must be "stop", "yield", or a function that gets an Overrun and returns "stop", '
            f'"yield" or a Budget, not {on_budget!r}'
        )
    if inspect.iscoroutinefunction(on_budget) or inspect.iscoroutinefunction(type(on_budget).__call__):
        raise ConfigurationError(
            f"on_budget must be a synchronous function, not {on_budget!r}: it is called between two "
            f"supersteps, also of synchronous runs"
        )


def prices_of(driver: Driver) -> Mapping[str, Prices | None]:
    """Return the prices of each backend, by its name."""
    found: dict[str, Prices | None] = {}
    for name, own in driver.backends.items():
        given = own.backend.prices
        found[name] = given if given is None or isinstance(given, Prices) else Prices(given, "prices")
    return found


class Limit:
    """The budget and the deadline of a run, or of a graph inside a run.

    What is spent is derived from the calls of the job that have ended. A graph inside a run counts the calls
    of its own stage runs.

    Args:
        driver: the driver of the scheduler.
        job: the driver's number of the job.
        budget: what may be spent.
        deadline_s: seconds within which it must end; None for no deadline.
        on_budget: what happens at a limit, as in `Scheduler`.
        since_s: clock time from which seconds count; None for the arrival of the job, without its pauses.
        names: `graph`, `run_id` and `thread_id` of its overruns.
        whole: whether it limits the whole job.

    Attributes:
        parts: numbers of its stage runs; None if it limits the whole job.
        landed: the overrun at which it stopped the run; None before.
        yields: whether the run then ends as a finished one, with the state so far.
    """

    __slots__ = (
        "_grown",
        "_names",
        "_on_budget",
        "_since_s",
        "_summed",
        "_told",
        "budget",
        "deadline_s",
        "driver",
        "job",
        "landed",
        "parts",
        "yields",
    )

    def __init__(
        self,
        driver: Driver,
        job: int,
        budget: Budget,
        deadline_s: float | None,
        on_budget: OnBudget,
        *,
        since_s: float | None,
        names: Mapping[str, Any],
        whole: bool,
    ) -> None:
        self.driver = driver
        self.job = job
        self.budget = budget
        self.deadline_s = deadline_s
        self.parts: set[int] | None = None if whole else set()
        self.landed: Overrun | None = None
        self.yields = False
        self._on_budget = on_budget
        self._since_s = since_s
        self._names = names
        self._told = False
        self._grown = 0, 0.0  # number of ended calls, or seconds, at which the next forecast is due
        self._summed: tuple[tuple[FinishedCall, ...], Spending] = (), NOTHING

    def note(self, stages: Collection[int]) -> None:
        """Record stage runs of the limited graph, by number."""
        if self.parts is not None:
            self.parts.update(stages)

    def stops(self) -> bool:
        """Return whether the run must stop now, before its next superstep; then `landed` says why.

        Raises:
            Exception: the function `on_budget` failed.
            ConfigurationError: it returned neither "stop" nor "yield" nor a Budget.
        """
        if self.landed is not None:
            return True
        found = self.look(forecast=not self._told)
        if found is None:
            return False
        if found.reached:
            self._decide(found)
            return self.landed is not None
        if found.expected and not self._told:
            self._told = True
            self.driver.post(OverrunExpected(self.job, found))
        return False

    def look(self, *, forecast: bool) -> Overrun | None:
        """Return the spending, and which limits it has reached; None if the job has ended."""
        standing = self.driver.standing(self.job)
        if standing is None:
            return None
        parts, since_s = self.parts, self._since_s
        calls = standing.calls
        if parts is not None:
            calls = tuple([call for call in calls if call.run in parts])
        elapsed_s = standing.elapsed_s if since_s is None else self.driver.clock() - since_s
        spent = replace(self._sum(calls), elapsed_s=elapsed_s)
        at = reached(spent, self.budget, self.deadline_s)
        expected: Spending | None = None
        if parts is None and (at or (forecast and self._has_grown(spent))):
            expected = standing.forecast(spent)
        over = () if expected is None else exceeded(expected, self.budget, self.deadline_s)
        return Overrun(
            reached=at,
            expected=over,
            spent=spent,
            budget=self.budget,
            deadline_s=self.deadline_s,
            forecast=expected,
            **self._names,
        )

    def _has_grown(self, spent: Spending) -> bool:
        """Return whether the spending warrants a new forecast, which takes milliseconds."""
        if spent.calls < self._grown[0] and spent.elapsed_s < self._grown[1]:
            return False
        self._grown = spent.calls + max(spent.calls // 4, 1), spent.elapsed_s + max(spent.elapsed_s / 4, 1.0)
        return True

    def _sum(self, calls: tuple[FinishedCall, ...]) -> Spending:
        """Return the sum of what the calls have spent. Cached as long as the calls are the same."""
        before, spent = self._summed
        if calls[: len(before)] != before:  # the tokens of a call are known now, or it was sent again
            before, spent = (), NOTHING
        spent = spending(calls[len(before) :], prices_of(self.driver), spent)
        self._summed = calls, spent
        return spent

    def _decide(self, found: Overrun) -> None:
        """Set `landed`, unless the function `on_budget` gave another budget."""
        answer: Any = self._on_budget
        if callable(answer):
            answer = answer(found)
        if isinstance(answer, Budget):
            self.budget = answer
            if DEADLINE in found.reached:
                self.deadline_s = None
            again = self.look(forecast=False)
            if again is None or not again.reached:
                return
            found, answer = again, "stop"
        if answer not in _ANSWERS:
            if inspect.iscoroutine(answer):
                answer.close()
            raise ConfigurationError(
                f'the function on_budget must return "stop", "yield" or a Budget, not {answer!r}'
            )
        if self.landed is None:  # otherwise a parallel branch of the run has set it
            self.yields = answer == "yield"
            self.landed = found
            self.driver.post(LimitReached(self.job, found))


def check_limits(scheduler: Scheduler, limits: Limits) -> None:
    """Do nothing if the scheduler can tell when a run has reached the limits.

    Raises:
        ConfigurationError: the cost of no call is known.
    """
    if limits.budget.cost is not None and not scheduler._router.priced:  # noqa: SLF001 (of this package)
        raise ConfigurationError(
            "a budget limits the cost, but no backend of the scheduler has prices; give "
            'Backend(prices={"gpt-4o*": (2.5, 10.0)}): the prices of a million input and output tokens'
        )


def limit_of(
    scheduler: Scheduler,
    job: int,
    limits: Limits,
    *,
    since_s: float | None,
    names: Mapping[str, Any],
    whole: bool,
) -> Limit:
    """Return the `Limit` of a job, or of a graph inside it, with the scheduler's `on_budget`."""
    driver, on_budget = scheduler._driver, scheduler._on_budget  # noqa: SLF001 (of this package)
    return Limit(driver, job, *limits, on_budget, since_s=since_s, names=names, whole=whole)
