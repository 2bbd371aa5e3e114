"""Networks whose edges are given: order, tables, what is refused, and the tree of Chow and Liu."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from support.networks import network

from llmsched_langgraph._belief.fit.structures import chow_liu, fit_edges, mutual_information, topological
from llmsched_langgraph._belief.fit.tables import fit, held_out
from llmsched_langgraph._belief.network.inference import MAX_CELLS
from llmsched_langgraph.errors import InvalidDataError

pytestmark = pytest.mark.timeout(120)  # pgmpy takes seconds to import


def rows(count=400, seed=0):
    """X0 -> X1 -> X2, X1 -> X3, and X4 that nothing depends on."""
    parents = [(), (0,), (1,), (1,), ()]
    made = network(5, [3, 4, 3, 2, 3], parents)
    return made.sample(count, seed=seed), [3, 4, 3, 2, 3]


def test_parents_come_first_otherwise_the_order_stays():
    """Whatever way the edges go."""
    assert topological("abcd", [(), (), (), ()]) == [0, 1, 2, 3]
    assert topological("abcd", [(3,), (), (0, 1), ()]) == [1, 3, 0, 2]
    assert topological("abcd", [(1,), (2,), (3,), ()]) == [3, 2, 1, 0]


def test_a_cycle_is_named():
    """The variables on it, and not those before or after it."""
    with pytest.raises(
        InvalidDataError, match=r"the edges 'b' -> 'd' -> 'c' -> 'b' form a cycle; remove one"
    ):
        topological("abcde", [(), (0, 2), (3,), (1,), (2,)])
    with pytest.raises(InvalidDataError, match="'a' -> 'a' form a cycle"):
        topological("a", [(0,)])


def test_tables_are_those_of_the_learner():
    """With the edges that `fit` finds it is the same network, where every state of a parent counts."""
    states, cards = rows()
    learned = fit(states, cards, "abcde")
    assert learned.parents == ((), (0,), (1,), (1,), ())
    assert fit_edges(states, cards, "abcde", learned.parents) == learned


def test_edges_against_the_order():
    """The variables change places, and the tables are those of the rows."""
    states, cards = rows()
    made = fit_edges(states, cards, "abcde", [(1,), (2,), (), (1,), ()])
    assert made.names == ("c", "b", "a", "d", "e")
    assert made.parents == ((), (0,), (1,), (1,), ())
    forward = fit_edges(states, cards, "abcde", [(), (0,), (1,), (1,), ()])
    order = [made.names.index(name) for name in "abcde"]
    for one, other in zip(forward.marginals(), (made.marginals()[i] for i in order), strict=True):
        assert one == pytest.approx(other, abs=0.01)
    bits = held_out(
        states,
        cards,
        "abcde",
        {
            "back": lambda own: fit_edges(own, cards, "abcde", [(1,), (2,), (), (1,), ()]),
            "forth": lambda own: fit_edges(own, cards, "abcde", [(), (0,), (1,), (1,), ()]),
        },
    )
    assert bits["back"].mean() == pytest.approx(bits["forth"].mean(), abs=0.05)
    assert bits["back"].mean() > bits["marginals"].mean() + 0.1


def test_more_than_two_parents_and_not_too_many():
    """A table may have as many parents as it has cells for."""
    random = np.random.default_rng(1)
    states = random.integers(0, 3, (300, 5))
    states[:, 4] = states[:, :4].sum(axis=1) % 3
    made = fit_edges(states, [3] * 5, "abcde", [(), (), (), (), (0, 1, 2, 3)])
    assert made.tables[4].shape == (3,) * 5
    many = random.integers(0, 7, (50, 10))
    with pytest.raises(
        InvalidDataError, match=f"'j': its 9 parents need .* {MAX_CELLS:,} cells; remove parents"
    ):
        fit_edges(many, [7] * 10, "abcdefghij", [()] * 9 + [tuple(range(9))])


def test_of_a_parent_it_may_matter_only_whether_it_is_absent():
    """As for the learner: fewer rows to fill from few jobs."""
    random = np.random.default_rng(3)
    first = random.integers(0, 7, 120) * (random.random(120) < 0.6)
    second = np.where(first > 0, random.integers(1, 7, 120), 0)
    made = fit_edges(np.stack([first, second], axis=1), [7, 7], "ab", [(), (0,)])
    assert all(np.array_equal(row, made.tables[1][1]) for row in made.tables[1][2:])
    assert made == fit(np.stack([first, second], axis=1), [7, 7], "ab")


@pytest.mark.parametrize("seed", range(8))
def test_the_tree_is_pgmpys(seed):
    """The same weight in all; trees of the same weight may differ."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of its removal
        from pgmpy.estimators import TreeSearch

    made = network(seed, [3, 4, 3, 2, 3, 5], [(), (0,), (0, 1), (2,), (1, 3), (4,)])
    states = made.sample(300, seed=seed)
    parents = chow_liu(states, made.cards)
    weights = mutual_information(states, made.cards)
    found = {frozenset((i, p)) for i, own in enumerate(parents) for p in own}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        tree = TreeSearch(pd.DataFrame(states), root_node=0, n_jobs=1).estimate(show_progress=False)
    expected = {frozenset(edge) for edge in tree.edges}
    assert len(found) == len(expected) == 5
    assert sum(weights[tuple(pair)] for pair in found) == pytest.approx(
        sum(weights[tuple(pair)] for pair in expected)
    )


def test_what_is_independent_is_no_part_of_the_tree():
    """A constant has no edge."""
    states, cards = rows()
    states[:, 4] = 1
    parents = chow_liu(states, cards)
    assert parents[0] == parents[4] == ()
    assert not any(4 in own for own in parents)
    assert {frozenset((i, *own)) for i, own in enumerate(parents) if own} == {
        frozenset(pair) for pair in ((0, 1), (1, 2), (1, 3))
    }
