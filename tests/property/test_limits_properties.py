"""Whatever a graph does: what a run has spent never goes down, and it stops within one superstep."""

from __future__ import annotations

import operator
from typing import Annotated, TypedDict

from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from support.spending import configured, priced

from llmsched_langgraph import Budget, BudgetExceededError, schedule
from llmsched_langgraph.testing import assert_idle


class State(TypedDict, total=False):
    round: Annotated[int, operator.add]
    done: Annotated[list[str], operator.add]


def rounds_of(model, widths):
    """A graph with supersteps of these numbers of parallel calls, each followed by one without calls."""

    def work(state):
        for _ in range(state["calls"]):
            model.invoke("?")
        return {"done": [state["name"]]}

    def plan(state):
        return {"round": 1}

    def fan_out(state):
        number = state["round"]
        if number > len(widths):
            return END
        return [
            Send("work", {"name": f"{number}.{place}", "calls": calls})
            for place, calls in enumerate(widths[number - 1])
        ]

    builder = StateGraph(State).add_node("plan", plan).add_node("work", work).add_edge(START, "plan")
    builder.add_conditional_edges("plan", fan_out, ["work", END]).add_edge("work", "plan")
    return builder


WIDTHS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(WIDTHS, st.lists(st.integers(1, 5), max_size=6))
def test_a_run_that_is_given_more_and_more(widths, steps):
    """By resuming it: it ends as a run without limits does, having made each call once."""
    scheduler, model = priced()
    free = priced()[1]
    whole = rounds_of(free, widths).compile().invoke({"round": 0})
    graph = schedule(rounds_of(model, widths).compile(checkpointer=InMemorySaver()), scheduler)
    sums, given, found, limit, last = [sum(width) for width in widths], {"round": 0}, None, 0, None
    for step in [*steps, sum(sums) + 1]:
        limit += step
        try:
            found = graph.invoke(given, configured({"calls": limit}))
            break
        except BudgetExceededError as error:
            spent, given = error.spent, None
        assert spent.calls == model.meter.total >= limit
        assert spent.calls < limit + max(sums)  # it was below before the last superstep
        assert (spent.tokens, spent.cost) == (15 * spent.calls, spent.calls)
        if last is not None:
            assert spent.calls >= last.calls
            assert spent.slot_s >= last.slot_s
            assert spent.elapsed_s >= last.elapsed_s
        last = spent
    assert found == whole
    assert model.meter.total == sum(sums)
    assert_idle(scheduler)


@settings(max_examples=60, deadline=None)
@given(WIDTHS, st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_run_that_is_given_more_on_the_way(widths, steps):
    """By a function: it is asked at growing sums only, and the run ends as one without limits does."""
    seen, more = [], iter(steps)

    def decide(overrun):
        seen.append(overrun.spent)
        step = next(more, None)
        return Budget() if step is None else Budget(calls=overrun.spent.calls + step)

    scheduler, model = priced(on_budget=decide)
    graph = schedule(rounds_of(model, widths).compile(), scheduler, budget=Budget(calls=1))
    found = graph.invoke({"round": 0})
    assert found == rounds_of(priced()[1], widths).compile().invoke({"round": 0})
    calls = [spent.calls for spent in seen]
    assert calls == sorted(set(calls))
    assert len(seen) <= len(steps) + 1
    assert_idle(scheduler)
