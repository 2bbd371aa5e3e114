"""Networks: the answers that have names, large networks against pgmpy, and what is refused."""

from __future__ import annotations

import copy
import logging
import warnings

import numpy as np
import pytest
from support.networks import bits, joint, married, network

from llmsched_langgraph._belief.network import inference
from llmsched_langgraph._belief.network.network import Network, independent
from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError

COIN = np.array([0.5, 0.5])
XOR = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])
COPY = np.eye(2)


def xor():
    """Two coins, and whether they differ."""
    return Network(("a", "b", "differ"), (2, 2, 2), ((), (), (0, 1)), (COIN, COIN, XOR))


def test_what_only_both_tell_counts():
    """XOR: each Y alone says nothing of X, both together say all. A sum over pairs gives 0 bits."""
    pairs = [xor().mutual_information(2, [y]).bits for y in (0, 1)]
    assert pairs == pytest.approx([0.0, 0.0])
    assert xor().mutual_information(2, [0, 1]).bits == pytest.approx(1.0)


def test_what_both_tell_counts_once():
    """Two copies of a coin: a sum over pairs gives 2 bits of a coin that has one."""
    copies = Network(("x", "y1", "y2"), (2, 2, 2), ((), (0,), (0,)), (COIN, COPY, COPY))
    assert sum(copies.mutual_information(0, [y]).bits for y in (1, 2)) == pytest.approx(2.0)
    assert copies.mutual_information(0, [1, 2]).bits == pytest.approx(1.0)


def test_information_is_not_entropy():
    """Two stages are equally uncertain; only one of them tells anything of what follows."""
    telling = Network(
        ("idle", "telling", "follows"),
        (2, 2, 2),
        ((), (), (1,)),
        (COIN, COIN, np.array([[0.9, 0.1], [0.1, 0.9]])),
    )
    assert telling.entropy([0]) == pytest.approx(telling.entropy([1]))
    assert telling.mutual_information(0, [2]).bits == pytest.approx(0.0, abs=1e-12)
    assert telling.mutual_information(1, [2]).bits == pytest.approx(0.531, abs=1e-3)


def test_evidence_makes_independent_things_dependent():
    """Explaining away: once it is known that the coins differ, one coin tells the other."""
    assert xor().mutual_information(0, [1]).bits == pytest.approx(0.0, abs=1e-12)
    assert xor().mutual_information(0, [1], {2: [0.0, 1.0]}).bits == pytest.approx(1.0)
    assert xor().mutual_information(0, [1], {2: [1.0, 3.0]}).bits == pytest.approx(1.0 - 0.811278, abs=1e-6)


def test_a_settled_variable_tells_nothing():
    """Nor is there anything to be told of it."""
    known = {0: [0.0, 1.0]}
    assert xor().mutual_information(0, [1, 2], known).bits == 0.0
    assert xor().mutual_information(2, [0], known).of == ()


def test_a_descendant_updates_its_ancestors():
    """Evidence flows against the edges too."""
    noisy = network(3, (3, 3, 3), ((), (0,), (1,)))
    before, after = noisy.marginals()[0], noisy.marginals({2: [0.0, 0.0, 1.0]})[0]
    assert np.abs(before - after).max() > 0.01


def test_descendants():
    """Along directed edges only, and not itself."""
    of = network(0, (2,) * 6, ((), (0,), (0,), (1,), (), (4,)))
    assert [of.descendants(i) for i in range(6)] == [(1, 2, 3), (3,), (), (), (5,), ()]


def test_a_large_mutual_information_is_cut_by_ranges():
    """A hub with fifteen children: the widest that fit are counted, and more cells tell no less."""
    hub = network(1, (7,) * 16, ((), *(((0,),) * 15)))
    ranges = {y: float(y) for y in range(1, 16)}
    cut = [hub.mutual_information(0, range(1, 16), ranges=ranges, max_cells=7**k) for k in (2, 3, 4, 5)]
    assert [got.of for got in cut] == [(15,), (14, 15), (13, 14, 15), (12, 13, 14, 15)]
    assert not any(got.exact for got in cut)
    bits = [got.bits for got in cut]
    assert bits == sorted(bits)
    assert bits[-1] < hub.entropy([0])


def test_what_is_screened_off_costs_nothing():
    """In a chain, the next stage stands between a stage and all later ones: forty Ys, one counts."""
    chain = network(2, (7,) * 40, ((), *((i,) for i in range(39))))
    got = chain.mutual_information(0, range(1, 40))
    assert (got.of, got.exact) == ((1,), True)
    assert got.bits == pytest.approx(chain.mutual_information(0, [1]).bits)


def test_a_whole_network_has_an_entropy():
    """Of forty variables, whose joint table could not be made."""
    of = married(5, 40, 7)
    chained = sum(
        of.entropy((*own, i)) - (of.entropy(own) if own else 0.0) for i, own in enumerate(of.parents)
    )
    assert of.entropy(range(40)) == pytest.approx(chained)


def test_nothing_has_no_entropy():
    """Also under evidence."""
    assert xor().entropy([]) == 0.0
    assert xor().entropy([], {0: [0.5, 0.2]}) == 0.0
    assert xor().mutual_information(0, []).bits == 0.0


def test_an_entropy_that_needs_too_large_a_table_is_refused():
    """Fifteen children of a hidden hub: without the hub, each depends on all others."""
    hub = network(1, (7,) * 16, ((), *(((0,),) * 15)))
    with pytest.raises(InvalidDataError, match="cells"):
        hub.entropy(range(1, 16))
    assert hub.entropy(range(16)) > hub.entropy([0])


def test_tiny_probabilities_do_not_underflow():
    """Three hundred observed variables, each seen with one chance in a thousand."""
    rare = np.array([0.999, 0.001])
    tables = (rare, *([np.array([rare, rare])] * 299))
    of = Network(tuple(f"x{i}" for i in range(300)), (2,) * 300, ((), *((i,) for i in range(299))), tables)
    seen = {i: [0.0, 1.0] for i in range(300)}
    assert of.evidence_bits(seen) == pytest.approx(300 * np.log2(0.001))
    assert of.marginals(seen)[0] == pytest.approx([0.0, 1.0])


def test_draws_follow_the_posterior():
    """Twenty thousand of them, under evidence on a descendant."""
    of = network(7, (3, 3, 3, 2), ((), (0,), (0, 1), (2,)))
    known = {3: np.array([0.2, 1.0])}
    rows = of.sample(20_000, known, seed=1)
    drawn = np.zeros(of.cards)
    np.add.at(drawn, tuple(rows.T), 1 / len(rows))
    expected = joint(of, known)
    assert np.abs(drawn - expected / expected.sum()).max() < 0.015
    assert (of.sample(50, known, seed=2) != of.sample(50, known, seed=3)).any()


@pytest.mark.parametrize(("seed", "count"), [(1, 12), (2, 20), (3, 40)])
def test_equal_to_pgmpy(seed, count):
    """Posteriors and joints of long networks, as pgmpy's variable elimination has them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pgmpy.factors.discrete import TabularCPD
        from pgmpy.inference import VariableElimination
        from pgmpy.models import DiscreteBayesianNetwork
    of = married(seed, count, 7)
    model = DiscreteBayesianNetwork()
    model.add_nodes_from(of.names)
    model.add_edges_from((of.names[p], of.names[i]) for i, own in enumerate(of.parents) for p in own)
    for i, (own, table) in enumerate(zip(of.parents, of.tables, strict=True)):
        values = table.reshape(-1, of.cards[i]).T
        model.add_cpds(TabularCPD(of.names[i], 7, values, [of.names[p] for p in own], [7] * len(own)))
    reference = VariableElimination(model)
    random = np.random.default_rng(seed)
    row = of.sample(1, seed=seed)[0]
    for observed in (0, 1, count // 4):
        seen = {int(i): int(row[i]) for i in random.choice(count, observed, replace=False)}
        named = {of.names[i]: state for i, state in seen.items()}
        given = {i: np.eye(7)[state] for i, state in seen.items()}
        posterior = of.marginals(given)
        free = [i for i in range(count) if i not in seen]
        for i in free[:: max(1, len(free) // 6)]:
            expected = reference.query([of.names[i]], evidence=named, show_progress=False).values
            assert posterior[i] == pytest.approx(expected, abs=1e-10)
        pair = [free[-1], free[0]]
        expected = reference.query([of.names[i] for i in pair], evidence=named, show_progress=False).values
        assert of.entropy(pair, given) == pytest.approx(bits(expected), abs=1e-8)


@pytest.fixture(autouse=True)
def quiet_pgmpy():
    """pgmpy logs what it infers from data types."""
    logging.getLogger("pgmpy").setLevel(logging.ERROR)


def test_a_network_is_a_value():
    """Its arrays cannot be written, and are not the caller's."""
    given = COIN.copy()
    of = independent(["a"], [given])
    given[0] = 0.0
    assert of.tables[0].tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="read-only"):
        of.tables[0][0] = 1.0
    assert of == independent(["a"], [COIN])
    assert of != independent(["a"], [[0.4, 0.6]])
    assert of != "a"
    assert repr(of) == "<Network of 1 variables, 0 edges, 1 parameters>"


BAD = {
    "names: not unique": (("a", "a"), (1, 1), ((), ()), ([1.0], [1.0])),
    r"names\[0\]: expected a string": ((3,), (1,), ((),), ([1.0],)),
    "cards: 1 entries for 2 names": (("a", "b"), (1,), ((), ()), ([1.0], [1.0])),
    r"cards\[0\]: expected a whole number >= 1": (("a",), (0,), ((),), ([],)),
    r"parents\[0\]: expected ascending numbers under 0": (("a",), (1,), ((0,),), ([1.0],)),
    r"parents\[1\]: expected a list of whole numbers, got 0": (("a", "b"), (1, 1), ((), 0), ([1.0], [1.0])),
    r"parents\[1\]: expected a list of whole numbers, got \(False,\)": (
        ("a", "b"),
        (1, 1),
        ((), (False,)),
        ([1.0], [1.0]),
    ),
    r"parents\[1\]: expected ascending numbers under 1, got \[-1\]": (
        ("a", "b"),
        (1, 1),
        ((), (-1,)),
        ([1.0], [1.0]),
    ),
    r"cards\[0\]: expected a whole number >= 1, got True": (("a",), (True,), ((),), ([1.0],)),
    r"tables\[0\]: 3 numbers for a table of shape \(2,\)": (("a",), (2,), ((),), ([0.2, 0.3, 0.5],)),
    r"tables\[0\]: a distribution sums to 0.9, not 1": (("a",), (2,), ((),), ([0.4, 0.5],)),
    r"tables\[0\]: expected probabilities": (("a",), (2,), ((),), ([-0.5, 1.5],)),
    r"tables\[0\]: expected numbers": (("a",), (2,), ((),), (["x", "y"],)),
}


@pytest.mark.parametrize("told", BAD)
def test_what_fits_nothing_is_refused(told):
    """One clear error, which names the field."""
    with pytest.raises(InvalidDataError, match=told):
        Network(*BAD[told])


def test_damaged_data_is_told_with_its_place():
    """The field, with the way to it from the document."""
    stored = xor().to_json()
    incomplete = {k: v for k, v in stored.items() if k != "tables"}
    with pytest.raises(InvalidDataError, match=r"^shop\.network\.tables: is missing$"):
        Network.from_json(Field({"shop": {"network": incomplete}})["shop"]["network"])
    with pytest.raises(InvalidDataError, match=r"^network: must be an object, not \[\{"):
        Network.from_json(Field({"network": [stored]})["network"])
    for bad in (None, True, "0.5", -0.5, float("nan"), float("inf"), [0.5]):
        damaged = copy.deepcopy(stored)
        damaged["tables"][1][0] = bad
        with pytest.raises(InvalidDataError, match=r"^network\.tables\[1\]\[0\]: must be a number"):
            Network.from_json(Field({"network": damaged})["network"])
    stored["tables"][1][0] = 0.4
    with pytest.raises(InvalidDataError, match=r"^network\.tables\[1\]: a distribution sums to 0\.9, not 1$"):
        Network.from_json(Field({"network": stored})["network"])
    with pytest.raises(InvalidDataError, match=r"^tables\[1\]: a distribution sums to 0\.9, not 1$"):
        Network.from_json(Field(stored))


def test_bad_questions():
    """Evidence that cannot be, or is no evidence; variables that do not exist."""
    of = xor()
    with pytest.raises(InvalidDataError, match="probability zero"):
        of.marginals({0: [1.0, 0.0], 1: [1.0, 0.0], 2: [0.0, 1.0]})
    with pytest.raises(InvalidDataError, match="probability zero"):
        of.entropy([0], {0: [1.0, 0.0], 1: [1.0, 0.0], 2: [0.0, 1.0]})
    for weights in ([1.0], [1.0, -1.0], [1.0, float("nan")], [[1.0, 1.0]]):
        with pytest.raises(InvalidDataError, match=r"likelihoods\[0\]: expected 2 nonnegative weights"):
            of.marginals({0: weights})
    for weights in ([0.0, 0.0], [1.0, float("inf")]):
        with pytest.raises(InvalidDataError, match="weights must be finite and not all zero"):
            of.marginals({0: weights})
    with pytest.raises(InvalidDataError, match="no number 3 among 3"):
        of.marginals({3: [1.0, 1.0]})
    with pytest.raises(InvalidDataError, match=r"rows\[0\]\[1\]: state 2 of a variable with 2 states"):
        of.log_likelihood([[0, 2, 0]])
    with pytest.raises(InvalidDataError, match="expected 3 states per row"):
        of.log_likelihood([[0, 0]])
    with pytest.raises(InvalidDataError, match="expected integers"):
        of.log_likelihood([[0.5, 0, 0]])


def test_a_network_too_dense_for_exactness_is_refused(monkeypatch):
    """At construction, not in the middle of a decision."""
    monkeypatch.setattr(inference, "MAX_CELLS", 2**4)
    with pytest.raises(InvalidDataError, match="needs a table of more than 16 cells"):
        network(0, (2,) * 6, ((), (), (), (), (), (0, 1, 2, 3, 4)))
