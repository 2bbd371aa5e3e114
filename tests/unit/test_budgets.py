"""Budgets and prices: what is valid, what calls have spent, which limits that reaches."""

from __future__ import annotations

import copy
import functools
import pickle
from dataclasses import FrozenInstanceError, replace
from types import SimpleNamespace

import pytest

from llmsched_langgraph import Backend, Budget, BudgetExceededError, ConfigurationError, Scheduler, Spending
from llmsched_langgraph._adapter import landing
from llmsched_langgraph._core.budgets import DEADLINE, Limits, as_budget, exceeded, reached, spending
from llmsched_langgraph._core.standing import Standing
from llmsched_langgraph._jobs.calls import PENDING_USAGE, FinishedCall, Outcome, Usage
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph._ledger.prices import Prices
from llmsched_langgraph._runtime.limits import Limit

KNOWN = Usage(10, 5)


def call(usage=KNOWN, *, work_s=1.0, outcome=Outcome.FINISHED, models=("m-large",), backend="gpu", **kw):
    at = StageOccurrence("a", 1)
    return FinishedCall(
        ticket=1,
        stage="a",
        occurrence=1,
        stage_occurrence=at,
        run=None,
        backend=backend,
        asked_s=0.0,
        granted_s=1.0,
        released_s=1.0 + work_s,
        concurrency=1.0,
        usage=usage,
        outcome=outcome,
        models=models,
        **kw,
    )


# -- budgets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tokens", "calls"])
@pytest.mark.parametrize("wrong", [0, -1, 1.0, 2.5, True, "3", float("inf")])
def test_counts_are_whole_numbers(name, wrong):
    with pytest.raises(ConfigurationError, match=f"a budget's {name} must be a whole number of at least 1"):
        Budget(**{name: wrong})


@pytest.mark.parametrize("name", ["slot_s", "cost"])
@pytest.mark.parametrize("wrong", [0, -0.5, True, "3", float("-inf"), float("nan")])
def test_amounts_are_positive(name, wrong):
    with pytest.raises(ConfigurationError, match=f"a budget's {name} must be a positive number"):
        Budget(**{name: wrong})


@pytest.mark.parametrize("name", ["slot_s", "cost"])
@pytest.mark.parametrize("wrong", [float("inf"), 10**400])
def test_amounts_are_finite(name, wrong):
    with pytest.raises(ConfigurationError, match=f"a budget's {name} must be finite, or None"):
        Budget(**{name: wrong})


def test_spending_is_told_in_words():
    assert str(Spending(1, 1, 2.0, 0.0, 3.0)) == "1 token, 1 call, 2.0 s in slots, 3.0 s"
    assert str(Spending(1200, 2, 2.0, 0.5, 3.0)) == "1,200 tokens, 2 calls, 2.0 s in slots, cost 0.5, 3.0 s"


class Coroutines:
    async def __call__(self, overrun):
        return "stop"


async def _decide(overrun):
    return "stop"


@pytest.mark.parametrize("function", [_decide, functools.partial(_decide), Coroutines()])
def test_an_asynchronous_on_budget_is_refused(function):
    with pytest.raises(ConfigurationError, match="on_budget must be a synchronous function"):
        Scheduler(1, on_budget=function)


def test_a_forecast_is_at_least_what_is_pending():
    history = SimpleNamespace(limited=(ended_job(calls=1),))
    known = SimpleNamespace(history=history, mean_s=1.0)
    spent = Spending(calls=4, slot_s=4.0)
    forecast = Standing(5.0, (), 7.0, 3, known, None).forecast(spent)
    assert forecast.calls == 7
    assert forecast.slot_s >= 7.0


def ended_job(calls):
    made = [SimpleNamespace(prompt_tokens=1, output_tokens=1)] * calls
    return SimpleNamespace(jct_s=1.0, llm_calls=lambda: made)


def test_a_budget_is_a_value():
    budget = Budget(tokens=5, cost=0.1)
    assert budget == Budget(tokens=5, cost=0.1)
    assert hash(budget) == hash(Budget(tokens=5, cost=0.1))
    assert pickle.loads(pickle.dumps(budget)) == copy.deepcopy(budget) == budget
    with pytest.raises(FrozenInstanceError):
        budget.tokens = 6
    assert not Budget()
    assert Budget(calls=1)


def test_one_budget_over_another():
    """Limit by limit."""
    assert Budget(tokens=5).over(Budget(tokens=7, calls=3)) == Budget(tokens=5, calls=3)
    assert Limits(Budget(cost=2.0)).over(Limits(Budget(slot_s=1.0), 9.0)) == Limits(
        Budget(slot_s=1.0, cost=2.0), 9.0
    )
    assert Limits(deadline_s=3.0).over(Limits(Budget(), 9.0)).deadline_s == 3.0


def test_as_budget():
    assert as_budget({"tokens": 5, "cost": None}, "it") == Budget(tokens=5)
    assert as_budget(Budget(calls=2), "it") == Budget(calls=2)
    for wrong in (5, "tokens", ["tokens"], {"token": 5}, {5: 5}):
        with pytest.raises(ConfigurationError, match="it must be a Budget, or a dict with some of 'tokens'"):
            as_budget(wrong, "it")


# -- prices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        (5, "prices must map globs of model names"),
        ({}, "prices must map globs"),
        ([("a", (1, 2))], "prices must map globs"),
        ({"": (1, 2)}, "prices has ''; write a model's name or a glob"),
        ({7: (1, 2)}, "prices has 7"),
        ({"a": 3}, r"prices: 'a' must have two prices per million tokens, \(input, output\)"),
        ({"a": (1,)}, "two prices"),
        ({"a": (1, 2, 3)}, "two prices"),
        ({"a": (-1, 2)}, "two prices"),
        ({"a": (True, 2)}, "two prices"),
        ({"a": ("1", 2)}, "two prices"),
        ({"a": (1, float("nan"))}, "two prices"),
        ({"a": (1, float("inf"))}, "two prices"),
    ],
)
def test_wrong_prices(prices, words):
    with pytest.raises(ConfigurationError, match=f"backend 'gpu': .*{words}"):
        Backend("gpu", prices=prices)


def test_a_backend_with_prices_is_a_value():
    given = {"gpt-4o*": (2.5, 10), "*": [0, 0]}
    backend = Backend(prices=given)
    given["gpt-4o*"] = (0, 0)  # a later change is none of the backend's
    assert dict(backend.prices) == {"gpt-4o*": (2.5, 10.0), "*": (0.0, 0.0)}
    assert hash(backend) == hash(replace(backend, slots=backend.slots))
    assert copy.deepcopy(backend) == pickle.loads(pickle.dumps(backend)) == backend
    assert backend != Backend(prices={"*": (1, 1)})


def test_prices_survive_a_resize():
    scheduler = Scheduler(backends=[Backend(slots=2, prices={"*": (1, 1)})])
    scheduler.resize(3)
    assert scheduler._driver.backends["default"].backend == Backend(slots=3, prices={"*": (1, 1)})


@pytest.mark.parametrize(
    ("names", "cost"),
    [
        (("gpt-4o-mini",), 20.0),  # the first glob that matches, not the longest
        (("prod-east", "gpt-4o"), 20.0),  # any of the names
        (("prod-east",), 0.0),
        (("GPT-4o",), None),  # case matters
        ((), None),
        (("other",), None),
    ],
)
def test_the_first_glob_counts(names, cost):
    prices = Prices({"gpt-4o*": (1e6, 2e6), "gpt-4o-mini": (0, 0), "prod-*": (0, 0)}, "prices")
    assert prices.cost(names, Usage(10, 5)) == cost


def test_a_star_matches_a_call_without_names():
    assert Prices({"*": (1e6, 0)}, "prices").cost((), Usage(3, 1)) == 3.0


@pytest.mark.parametrize("usage", [Usage(), Usage(10, None), Usage(None, 5)])
def test_unknown_tokens_have_no_cost(usage):
    assert Prices({"*": (1, 1)}, "prices").cost(("m",), usage) is None


# -- what was spent ----------------------------------------------------------------------------

PRICES = {"gpu": Prices({"m-*": (1e6, 2e6)}, "prices"), "free": None}


def test_spending_is_a_sum():
    spent = spending([call(), call(Usage(1, 2), work_s=0.5, attempts=3, earlier_s=2.0)], PRICES)
    assert spent == Spending(tokens=18, calls=2, slot_s=3.5, cost=25.0)
    assert spending([call()], PRICES, spent) == Spending(tokens=33, calls=3, slot_s=4.5, cost=45.0)


def test_calls_of_unknown_cost():
    """They count as calls, with the tokens and seconds that are known."""
    calls = [
        call(backend="free"),
        call(models=("other",)),
        call(Usage()),
        call(PENDING_USAGE),
        call(Usage(4, None)),
    ]
    spent = spending(calls, PRICES)
    assert (spent.calls, spent.tokens, spent.cost) == (5, 34, 0.0)
    assert (spent.unmeasured_calls, spent.unpriced_calls) == (3, 5)


def test_a_failed_call_costs_its_seconds():
    spent = spending([call(Usage(), outcome=Outcome.FAILED)], PRICES)
    assert spent == Spending(calls=1, slot_s=1.0)
    assert spending([call(outcome=Outcome.FAILED)], PRICES).cost == 20.0
    assert spending([call(Usage(), outcome=Outcome.CANCELLED)], PRICES).unpriced_calls == 1


def test_counts_below_zero_are_none():
    """Some providers report such."""
    assert spending([call(Usage(-5, 5))], PRICES).tokens == 5
    assert Prices({"*": (1e6, 1e6)}, "prices").cost(("m",), Usage(-5, 5)) == 5.0


def test_a_limit_is_reached_at_its_value():
    """And exceeded above it."""
    spent = Spending(tokens=10, calls=2, slot_s=1.0, cost=0.5, elapsed_s=3.0)
    exact = Budget(tokens=10, calls=2, slot_s=1.0, cost=0.5)
    assert reached(spent, exact, 3.0) == ("tokens", "calls", "slot_s", "cost", DEADLINE)
    assert exceeded(spent, exact, 3.0) == ()
    more = Budget(tokens=11, calls=3, slot_s=1.1, cost=0.6)
    assert reached(spent, more, 3.1) == ()
    less = Budget(tokens=9, calls=1, slot_s=0.9, cost=0.4)
    assert exceeded(spent, less, 2.9) == ("tokens", "calls", "slot_s", "cost", DEADLINE)
    assert reached(spent, Budget(), None) == exceeded(spent, Budget(), None) == ()


def test_the_error_can_be_pickled():
    error = landing.BudgetExceededError("spent")
    error.cure = "more"
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, BudgetExceededError)
    assert (str(again), again.cure, again.spent, again.budget, again.forecast, again.deadline_s) == (
        "spent",
        "more",
        *[None] * 4,
    )


def test_calls_that_change_are_counted_anew():
    """A call whose tokens are known later, and one that is sent again, count once."""
    scheduler = Scheduler(backends=[Backend("gpu", prices=PRICES["gpu"])])
    limit = Limit(
        scheduler._driver, 1, Budget(), None, "stop", since_s=None, names={"graph": "g"}, whole=True
    )
    first, pending = call(), call(PENDING_USAGE)
    assert limit._sum((first,)).tokens == 15
    assert limit._sum((first, pending)).tokens == 15
    assert limit._sum((first, pending._replace(usage=KNOWN))) == spending([first, call()], PRICES)
    assert limit._sum((first, call())).calls == 2
    assert limit._sum((first,)) == spending([first], PRICES)
