"""The Gittins index: the least over all stopping rules there are, tried one by one."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.beliefs import ended, model_of

from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.gittins import SLACK, index
from llmsched_langgraph._jobs.stages import StageOccurrence

QUIET = settings(deadline=None, database=None, max_examples=200)


def futures(tree):
    """Every way through a tree, as often as its chances have it: amounts and states, one column a future.

    A tree is a list of stages: the amount of each state, and for each state of the stage before how often it
    leads to each of them.
    """
    columns = [[]]
    for amounts, chances in tree:
        grown = []
        for past in columns:
            before = past[-1][1] if past else 0
            for state, count in enumerate(chances[before]):
                grown += [[*past, (amounts[state], state)]] * count
        columns = grown
    amounts = np.array([[amount for amount, _ in column] for column in columns], dtype=float).T
    states = np.array([[state for _, state in column] for column in columns], dtype=np.intp).T
    return amounts, states


@st.composite
def trees(draw, least=0):
    """Two to four stages of two or three states, state 0 of no work, each told by the one before."""
    stages, before = [], 1
    parts = draw(st.sampled_from((2, 3, 4)))
    for _ in range(draw(st.integers(2, 4))):
        states = draw(st.integers(2, 3))
        amounts = [0, *(draw(st.integers(1, 20)) for _ in range(states - 1))]
        chances = []
        for _ in range(before):
            cuts = sorted(draw(st.lists(st.integers(0, parts), min_size=states - 1, max_size=states - 1)))
            chances.append([high - low for low, high in itertools.pairwise([0, *cuts, parts])])
        stages.append((amounts, chances))
        before = states
    if least:
        # The first stage happens: it is the one that is ready.
        amounts, [chances] = stages[0]
        stages[0] = (amounts, [[0, chances[0] + chances[1], *chances[2:]]])
    return stages


def least(amounts, states):
    """The least of E[work until stop] / P(the job has ended by then) over every rule.

    A rule says for each stage but the last, and each state of it, whether to go on. An end is that of the
    last stage with work.
    """
    count = amounts.shape[1]
    ends = [max((j for j in range(len(amounts)) if amounts[j, n]), default=None) for n in range(count)]
    places = [(j, state) for j in range(len(amounts) - 1) for state in sorted(set(states[j].tolist()))]
    best = None
    for going in itertools.product((False, True), repeat=len(places)):
        rule = dict(zip(places, going, strict=True))
        work, done = Fraction(0), 0
        for n in range(count):
            for j in range(len(amounts)):
                work += Fraction(float(amounts[j, n]))
                done += ends[n] == j
                if (j, int(states[j, n])) in rule and not rule[j, int(states[j, n])]:
                    break
        if done and (best is None or work / done < best):
            best = work / done
    return best


@QUIET
@given(trees(least=1))
def test_the_index_is_the_least_of_all_rules(tree):
    """For a job whose ready stage happens, as it does for every job that waits."""
    amounts, states = futures(tree)
    assert index(amounts, states) == pytest.approx(float(least(amounts, states)), rel=2 * SLACK)


@QUIET
@given(trees())
def test_the_index_of_a_job_that_may_be_over(tree):
    """Where nothing at all may come, the mean is an upper bound, which counts such cases as ends."""
    amounts, states = futures(tree)
    mean = float(amounts.sum(axis=0).mean())
    if not mean:
        assert index(amounts, states) == 0.0
        return
    best = min(mean, float(least(amounts, states)))
    assert index(amounts, states) == pytest.approx(best, rel=2 * SLACK)


@QUIET
@given(
    st.integers(1, 5).flatmap(
        lambda stages: st.lists(
            st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2)), min_size=stages, max_size=stages),
            min_size=1,
            max_size=12,
        )
    )
)
def test_the_index_is_that_of_a_rule_and_at_most_the_mean(drawn):
    """Of any futures at all, whatever states have to do with amounts: not too low, and at most the mean."""
    amounts = np.array([[amount for amount, _ in column] for column in drawn], dtype=float).T
    states = np.array([[state for _, state in column] for column in drawn], dtype=np.intp).T
    found = index(amounts, states)
    mean = float(amounts.sum(axis=0).mean())
    assert 0.0 <= found <= mean
    if mean and amounts.shape[0] <= 3:
        assert found >= min(mean, float(least(amounts, states))) * (1 - 2 * SLACK)


@QUIET
@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=6), st.integers(1, 50))
def test_of_what_is_certain_the_index_is_all_of_it(amounts, count):
    """One stage or many: there is no sooner end."""
    made = np.repeat(np.array(amounts)[:, None], count, axis=1)
    assert index(made, np.ones(made.shape, dtype=np.intp)) == pytest.approx(sum(amounts))


@QUIET
@given(trees(least=1), st.sampled_from((0.01, 3.0, 1e6)))
def test_the_index_has_the_unit_of_the_work(tree, unit):
    amounts, states = futures(tree)
    assert index(amounts * unit, states) == pytest.approx(index(amounts, states) * unit, rel=4 * SLACK)


def test_nothing_to_come():
    """No stages, or none that happens."""
    assert index(np.zeros((0, 8)), np.zeros((0, 8), dtype=np.intp)) == 0.0
    assert index(np.zeros((3, 8)), np.zeros((3, 8), dtype=np.intp)) == 0.0


def test_a_cheap_planner_is_worth_trying():
    """Where its state tells whether work is short or long, one stops after a long plan. Else there is no more
    to it than the mean, as for a job that is one stage of that mean."""
    told = futures([([0, 1, 1], [[0, 1, 1]]), ([0, 2, 40], [[0, 1, 1], [0, 2, 0], [0, 0, 2]])])
    untold = futures([([0, 1, 1], [[0, 1, 1]]), ([0, 2, 40], [[0, 1, 1], [0, 1, 1], [0, 1, 1]])])
    blind = futures([([0, 22], [[0, 2]])])
    assert {made[0].sum(axis=0).mean() for made in (told, untold, blind)} == {22.0}
    assert index(*told) == pytest.approx((1 + 0.5 * 2) / 0.5)
    assert index(*untold) == index(*blind) == pytest.approx(22.0)


# -- of beliefs -------------------------------------------------------------------------

TELLING = (
    np.array([0.0, 0.5, 0.5]),
    np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
)
MOOT = (TELLING[0], np.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]))


def planner(tables):
    """A plan that takes 1 or 1.5, and work that takes 2 or 40."""
    return model_of(["plan", "work"], [(1.0, 1.5), (2.0, 40.0)], ((), (0,)), tables)


def test_a_belief_has_the_index_of_its_futures():
    """By draws, so within their noise of what enumeration gives."""
    waits = JobEvidence(begun=(Begun(StageOccurrence("plan", 1)),))
    telling, moot = planner(TELLING).belief(waits), planner(MOOT).belief(waits)
    assert telling.mean == pytest.approx(moot.mean) == pytest.approx(1.25 + 21.0)
    assert telling.index == pytest.approx((1.25 + 0.5 * 2.0) / 0.5, rel=0.15)
    assert moot.index == pytest.approx(moot.mean, rel=0.15)
    assert telling.index < 0.3 * moot.index


@pytest.mark.parametrize("tables", [TELLING, MOOT])
def test_once_the_plan_is_made_nothing_is_left_to_find_out(tables):
    """Of one stage whose length is known, the index is its length."""
    over = JobEvidence(
        finished=(ended("plan", 1.5),), begun=(Begun(StageOccurrence("work", 1), received=3.0),)
    )
    belief = planner(tables).belief(over)
    assert belief.mean == pytest.approx(37.0)
    assert belief.index == pytest.approx(37.0)


def test_what_is_left_of_runs_that_go_on_comes_first():
    """Of a stage of which some runs are over: the index is of that, and of what it leads to."""
    model = planner(TELLING)
    going = JobEvidence(begun=(Begun(StageOccurrence("plan", 1), 4, 2.0, 2, 2.0),))
    belief = model.belief(going)
    # Two runs as jobs before had them, a quarter of a plan each, count beside the two that are over.
    assert belief.mean - belief.after == pytest.approx(2 * (2.0 + 2 * 1.25 / 4) / 4)
    assert belief.index == pytest.approx(belief.mean)
