"""Beliefs and uncertainty reductions are exact: equal to plain enumeration on small models."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.beliefs import ended, mean_of, model_of, posterior
from support.networks import bits, network, over

from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._jobs.stages import StageOccurrence

AMOUNTS = (1.0, 3.0, 10.0)


@st.composite
def models(draw):
    """Up to four stages with one or two amounts each, and any edges."""
    count = draw(st.integers(1, 4))
    values = [AMOUNTS[: draw(st.integers(1, 3))] for _ in range(count)]
    parents = tuple(
        tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=2)))) if i else () for i in range(count)
    )
    drawn = network(draw(st.integers(0, 2**32)), [len(own) + 1 for own in values], parents)
    return model_of([f"s{i}" for i in range(count)], values, parents, drawn.tables)


@st.composite
def situations(draw):
    """A model, evidence, and what it means: likelihoods, and the amounts still to come by state."""
    model = draw(models())
    finished, begun, skipped = [], [], set()
    likelihoods, amounts = {}, {}
    for i, bins in enumerate(model.bins):
        name, values = f"s{i}", np.array([own.mean for own in bins.bins])
        match draw(st.sampled_from(("nothing", "finished", "skipped", "revealed", "running"))):
            case "nothing":
                amounts[i] = [0.0, *values]
            case "finished":
                state = draw(st.integers(1, len(values)))
                finished.append(ended(name, float(values[state - 1])))
                likelihoods[i] = np.eye(bins.states)[state]
            case "skipped":
                skipped.add(name)
                likelihoods[i] = np.eye(bins.states)[0]
            case "revealed":
                begun.append(Begun(StageOccurrence(name, 1)))
                likelihoods[i] = np.array([0.0, *np.ones(len(values))])
                amounts[i] = [0.0, *values]
            case "running":
                received = draw(st.sampled_from([x / 2 for x in range(1, int(2 * values[-1]) + 1)]))
                begun.append(Begun(StageOccurrence(name, 1), received=received))
                likelihoods[i] = np.array([0.0, *(values >= received)], dtype=float)
                amounts[i] = [0.0, *np.maximum(values - received, 0.0)]
    evidence = JobEvidence(None, tuple(finished), tuple(begun), None, frozenset(skipped))
    return model, evidence, likelihoods, amounts


@given(situations())
def test_a_belief_is_the_posterior(situation):
    """The mean, the presence of each stage, and the joint entropy of what is still to come."""
    model, evidence, likelihoods, amounts = situation
    table = posterior(model, likelihoods)
    belief = model.belief(evidence)
    assert belief.mean == pytest.approx(mean_of(model, table, amounts), abs=1e-9)
    for i, stage in enumerate(model.stages):
        assert belief.present[stage] == pytest.approx(1.0 - over(table, [i])[0], abs=1e-9)
    expected = bits(over(table, sorted(amounts))) if amounts else 0.0
    assert belief.entropy_bits == pytest.approx(expected, abs=1e-6)
    assert belief.open == bool(amounts)


@given(situations())
def test_quantiles_ascend_within_what_can_come(situation):
    model, evidence, _, amounts = situation
    belief = model.belief(evidence)
    assert list(belief.quantiles) == sorted(belief.quantiles)
    assert belief.quantiles[0] >= -1e-9
    assert belief.quantiles[-1] <= sum(max(own) for own in amounts.values()) + 1e-9
    assert belief.interval(0.8) == (belief.quantiles[1], belief.quantiles[-2])
    assert belief.median == belief.quantiles[9]


@given(situations(), st.data())
def test_uncertainty_reduction_is_equation_6(situation, data):
    """I(X; Y1..YM | E, X present) jointly, times the sum of the ranges, over unfinished descendants."""
    model, evidence, likelihoods, amounts = situation
    x = data.draw(st.integers(0, len(model.columns) - 1))
    got = model.belief(evidence).uncertainty_reduction(StageOccurrence(f"s{x}", 1))
    ys = [y for y in model.network.descendants(x) if y in amounts]
    if x not in amounts or not ys:
        assert got == 0.0
        return
    present = np.array([0.0, *np.ones(len(model.bins[x].bins))])
    table = posterior(model, {**likelihoods, x: likelihoods.get(x, 1.0) * present})
    told = bits(over(table, [x])) + bits(over(table, ys)) - bits(over(table, [x, *ys]))
    widths = sum(model.bins[y].bins[-1].hi for y in ys)  # each was absent once, so from 0
    assert got == pytest.approx(told * widths, abs=1e-6)


@given(situations())
def test_a_stage_that_the_model_does_not_know_is_absorbed(situation):
    """It changes no belief, and teaches nothing."""
    model, evidence, _, _ = situation
    before = model.belief(evidence).mean
    more = JobEvidence(
        evidence.prompt_tokens,
        (*evidence.finished, ended("elsewhere", 7.0)),
        (
            *evidence.begun,
            Begun(StageOccurrence("nowhere", 3), received=2.0),
            Begun(StageOccurrence("nowhere", 4), 5),
        ),
        (("hammer", 2),),
        evidence.skipped | {"never"},
    )
    assert model.belief(more).mean == before
    assert model.belief(more).uncertainty_reduction(StageOccurrence("nowhere", 4)) == 0.0
    assert model.belief(more).uncertainty_reduction(StageOccurrence("nowhere", 4), "hammer") == 0.0
