"""Networks: every answer is what plain enumeration of the joint states gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.networks import bits, evidence, joint, networks, over

from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError

QUIET = settings(deadline=None, database=None, max_examples=150)


@st.composite
def cases(draw):
    """A network, evidence for it, and the normalised joint given that evidence."""
    of = draw(networks())
    given_evidence = draw(evidence(of))
    table = joint(of, given_evidence)
    assume(table.sum() > 0.0)
    return of, given_evidence, table / table.sum(), table.sum()


def some(of):
    return st.lists(st.integers(0, len(of) - 1), min_size=1, max_size=4, unique=True)


@QUIET
@given(cases())
def test_marginals(case):
    """All posteriors at once, evidence on descendants included, and the probability of the evidence."""
    of, given_evidence, table, total = case
    for i, posterior in enumerate(of.marginals(given_evidence)):
        assert posterior == pytest.approx(over(table, [i]), abs=1e-12)
        assert posterior.sum() == pytest.approx(1.0)
    assert of.evidence_bits(given_evidence) == pytest.approx(np.log2(total), abs=1e-9)


@QUIET
@given(cases(), st.data())
def test_entropy(case, data):
    """Of any variables, in any order."""
    of, given_evidence, table, _ = case
    wanted = data.draw(some(of))
    expected = over(table, wanted)
    assert of.entropy(wanted, given_evidence) == pytest.approx(bits(expected), abs=1e-9)


@QUIET
@given(cases(), st.data())
def test_mutual_information(case, data):
    """The joint conditional mutual information, also where Ys were dropped as saying nothing."""
    of, given_evidence, table, _ = case
    x = data.draw(st.integers(0, len(of) - 1))
    ys = data.draw(st.lists(st.integers(0, len(of) - 1).filter(lambda y: y != x), unique=True))
    expected = bits(over(table, [x])) + bits(over(table, ys)) - bits(over(table, [x, *ys]))
    got = of.mutual_information(x, ys, given_evidence)
    assert got.exact
    assert set(got.of) <= set(ys)
    assert got.bits == pytest.approx(expected, abs=1e-9)


@QUIET
@given(cases(), st.integers(1, 81), st.data())
def test_a_cut_mutual_information_is_a_lower_bound(case, cells, data):
    """With too small a table, the information that it counts is exact, and never more than the whole."""
    of, given_evidence, table, _ = case
    x = data.draw(st.integers(0, len(of) - 1))
    ys = [y for y in range(len(of)) if y != x]
    whole = of.mutual_information(x, ys, given_evidence)
    ranges = {y: data.draw(st.floats(0.0, 10.0)) for y in ys}
    cut = of.mutual_information(x, ys, given_evidence, ranges=ranges, max_cells=cells)
    assert cut.bits <= whole.bits + 1e-9
    counted = bits(over(table, [x])) + bits(over(table, cut.of)) - bits(over(table, [x, *cut.of]))
    assert cut.bits == pytest.approx(counted, abs=1e-9)
    if cut.exact:
        assert cut.bits == pytest.approx(whole.bits, abs=1e-9)


@QUIET
@given(cases(), st.integers(0, 2**32))
def test_draws_are_possible_and_repeatable(case, seed):
    """No draw contradicts the evidence or the tables, and a seed gives its rows again."""
    of, given_evidence, table, _ = case
    rows = of.sample(40, given_evidence, seed=seed)
    assert all(table[tuple(row)] > 0.0 for row in rows)
    assert (rows == of.sample(40, given_evidence, seed=seed)).all()


@QUIET
@given(networks(), st.integers(0, 2**32))
def test_the_likelihood_of_rows(of, seed):
    """Each row's own, in bits."""
    rows = of.sample(5, seed=seed)
    table = joint(of, {})
    assert of.log_likelihood(rows) == pytest.approx([np.log2(table[tuple(row)]) for row in rows])


@QUIET
@given(networks())
def test_without_edges_the_marginals_stay(of):
    """`independent` keeps every marginal, and its joint is their product."""
    alone = of.independent()
    for mine, its in zip(of.marginals(), alone.marginals(), strict=True):
        assert mine == pytest.approx(its, abs=1e-12)
    every = range(len(of))
    assert alone.entropy(every) == pytest.approx(sum(bits(m) for m in of.marginals()), abs=1e-9)
    assert alone.entropy(every) >= of.entropy(every) - 1e-9


@QUIET
@given(networks())
def test_json(of):
    """What is written is read, to the last bit, through real JSON text."""
    again = Network.from_json(Field(json.loads(json.dumps(of.to_json()))))
    assert again == of
    assert hash(again) == hash(of)


def places(data, path="network"):
    """Every place in JSON data: its path, the container and the key."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        at = f"{path}.{key}" if isinstance(data, dict) else f"{path}[{key}]"
        yield at, data, key
        yield from places(value, at)


@QUIET
@given(networks(), st.data())
def test_damage_is_told_by_its_field(of, data):
    """Whatever is broken, the error names the field, and nothing else is raised."""
    stored = of.to_json()
    at, container, key = data.draw(st.sampled_from(list(places(stored))))
    container[key] = data.draw(st.sampled_from([None, -1, "x", {}, [[]], float("nan"), 1e9, True]))
    try:
        again = Network.from_json(Field({"network": stored})["network"])
    except InvalidDataError as error:
        told = str(error)
        assert told.startswith("network."), told
        assert told.split(":")[0].split(".")[1].split("[")[0] in ("names", "cards", "parents", "tables")
    else:
        # A state count of 1.0, say, or another name: still a network.
        assert again.names != of.names or again == of, at
