"""Totals: the mean and the spread of a sum of variables, given what is known of the others."""

from __future__ import annotations

import numpy as np
import pytest

from llmsched_langgraph._belief.fit.tables import fit
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.total import LoopVariable, Posterior, SoftEvidence
from llmsched_langgraph._belief.network.network import Network, independent

pytestmark = pytest.mark.timeout(120)

PLAN = Bins.fit([1.0] * 5 + [10.0] * 5)
WORK = Bins.fit([2.0] * 5 + [20.0] * 4 + [None])


def mean(network, bins, of, known):
    return Posterior(network, bins, of, known).mean


def quantiles(network, bins, of, known, levels=(0.1, 0.9), **options):
    return Posterior(network, bins, of, known).quantiles(levels, **options)


def planned():
    """A long plan means much work, a short one little; one job in ten has none."""
    work = np.array([[0.1, 0.45, 0.45], [0.0, 1.0, 0.0], [0.2, 0.0, 0.8]])
    return Network(("plan", "work"), (3, 3), ((), (0,)), (np.array([0.0, 0.5, 0.5]), work))


def test_the_mean_counts_presence():
    """P(present) E[amount | present], summed; nothing known, the plan counts too."""
    bins = [PLAN, WORK]
    assert mean(planned(), bins, [0, 1], SoftEvidence()) == pytest.approx(5.5 + 0.5 * 2.0 + 0.4 * 20.0)
    assert mean(planned(), bins, [1], SoftEvidence({0: 10.0})) == pytest.approx(16.0)
    ready = SoftEvidence({0: 10.0}, likelihoods={1: WORK.present()})
    assert mean(planned(), bins, [1], ready) == pytest.approx(20.0)


def test_what_has_begun_counts_with_what_is_left():
    """And a stage that has run longer than a short one lasts is a long one."""
    bins = [PLAN, WORK]
    assert mean(planned(), bins, [1], SoftEvidence(reached={1: 5.0})) == pytest.approx(15.0)
    # It also tells of the plan: the evidence is on a descendant.
    assert mean(planned(), bins, [0], SoftEvidence(reached={1: 5.0})) == pytest.approx(10.0)


def test_a_value_between_two_bins_moves_the_mean():
    """Half way from the one bin's mean to the other's, on a log scale, and likewise the prediction."""
    certain = Network(("plan", "work"), (3, 3), ((), (0,)), (np.array([0.0, 0.5, 0.5]), np.eye(3)))
    bins = [PLAN, Bins.fit([2.0, 20.0])]
    half = mean(certain, bins, [1], SoftEvidence({0: 10**0.5 * 1.0001}))
    assert half == pytest.approx(2.0 * 10**0.5, rel=1e-3)
    # Beyond the last bin's mean as well, but not without bound.
    assert mean(certain, bins, [1], SoftEvidence({0: 10**1.25})) == pytest.approx(20 * 10**0.25)
    assert mean(certain, bins, [1], SoftEvidence({0: 1e6})) == pytest.approx(80.0)


def test_quantiles_see_what_moves_together():
    """Two amounts that are always equal spread twice as far as one, not as far as two of their own."""
    bins = [Bins.fit([1.0, 3.0])] * 2
    coin = np.array([0.0, 0.5, 0.5])
    tied = Network(("a", "b"), (3, 3), ((), (0,)), (coin, np.eye(3)))
    loose = independent(["a", "b"], [coin, coin])
    assert quantiles(tied, bins, [0, 1], SoftEvidence(), (0.1, 0.3, 0.7, 0.9)) == (2.0, 2.0, 6.0, 6.0)
    assert quantiles(loose, bins, [0, 1], SoftEvidence(), (0.1, 0.3, 0.7, 0.9)) == (2.0, 4.0, 4.0, 6.0)


def test_quantiles_are_repeatable():
    """From the seed."""
    bins = [PLAN, WORK]
    once, again = (quantiles(planned(), bins, [0, 1], SoftEvidence(), seed=5, draws=64) for _ in range(2))
    assert once == again
    left = quantiles(planned(), bins, [1], SoftEvidence(reached={1: 5.0}))
    assert left == (15.0, 15.0)


def test_an_interval_covers_what_it_says():
    """Of jobs whose two stages share a size, 80 % fall between the 10 % and the 90 % quantile."""
    random = np.random.default_rng(0)

    def jobs(count):
        size = random.lognormal(2.0, 0.8, count)
        return np.stack([size * random.lognormal(0.0, 0.4, count) for _ in range(3)], axis=1)

    train, held = jobs(300), jobs(300)
    bins = [Bins.fit(column) for column in train.T]
    rows = [[b.index(x) for b, x in zip(bins, row, strict=True)] for row in train]
    network = fit(rows, [b.states for b in bins], ["a", "b", "c"])
    covered, errors, alone = [], [], []
    for row in held:
        known = SoftEvidence({0: row[0]})
        low, high = quantiles(network, bins, [1, 2], known)
        covered.append(low <= row[1:].sum() <= high)
        errors.append(np.log(mean(network, bins, [1, 2], known) / row[1:].sum()))
        alone.append(np.log(mean(network.independent(), bins, [1, 2], known) / row[1:].sum()))
    assert 0.72 <= np.mean(covered) <= 0.88
    assert np.std(errors) < 0.6 * np.std(alone)


def test_quantiles_move_with_the_mean():
    """By the same factor, so that the mean does not leave its interval."""
    certain = Network(("plan", "work"), (3, 3), ((), (0,)), (np.array([0.0, 0.5, 0.5]), np.eye(3)))
    bins = [PLAN, Bins.fit([2.0, 20.0])]
    assert quantiles(certain, bins, [1], SoftEvidence({0: 10**1.25})) == pytest.approx((20 * 10**0.25,) * 2)


def test_nothing_is_left_of_nothing():
    """No variables, or only absent ones: zero, exactly."""
    bins = [PLAN, WORK]
    assert mean(planned(), bins, [], SoftEvidence({0: 10.0})) == 0.0
    gone = SoftEvidence({0: 9.0}, likelihoods={1: [1.0, 0.0, 0.0]})
    assert mean(planned(), bins, [1], gone) == 0.0
    assert quantiles(planned(), bins, [1], gone) == (0.0, 0.0)


def test_rounds_of_a_loop_end_together():
    """Each is there as often as before, but never without the one before it; so its ends spread further."""
    bins = [Bins.fit([None] * 4 + [1.0] * 4)] * 3
    loose = independent(["a", "b", "c"], [np.array([0.5, 0.5])] * 3)
    rounds = Posterior(loose, bins, [0, 1, 2], SoftEvidence(), rounds=[LoopVariable(i) for i in range(3)])
    amounts, states = rounds.futures(4096)
    assert (states[0] == states[1]).all()
    assert (states[1] == states[2]).all()
    assert (states > 0).mean() == pytest.approx(0.5, abs=0.05)
    assert rounds.mean == pytest.approx(1.5)
    assert set(amounts.sum(axis=0).tolist()) == {0.0, 3.0}
    assert rounds.quantiles((0.1, 0.9)) == (0.0, 3.0)


def test_visits_to_an_inner_loop_end_on_their_own():
    """Their later rounds come only with the first one of the visit, and each visit has its own length."""
    bins = [Bins.fit([None] * 4 + [1.0] * 4)] * 4
    chances = [np.array([0.2, 0.8]), np.array([0.6, 0.4])] * 2
    loose = independent(["1", "2", "2.1", "2.2"], chances)
    rounds = [LoopVariable(0), LoopVariable(1, 1, 0), LoopVariable(2, 2), LoopVariable(3, 2, 2)]
    states = Posterior(loose, bins, range(4), SoftEvidence(), rounds=rounds).futures(8192)[1] > 0
    assert states.mean(axis=1) == pytest.approx([0.8, 0.4, 0.8, 0.4], abs=0.03)
    assert (states[0] == states[2]).all()
    assert not (states[1] & ~states[0]).any()
    assert (states[1] & states[3]).mean() == pytest.approx(0.8 * 0.5 * 0.5, abs=0.03)
    begun = SoftEvidence({0: 1.0, 2: 1.0})
    states = Posterior(loose, bins, range(4), begun, rounds=rounds).futures(8192)[1] > 0
    assert states.mean(axis=1) == pytest.approx([0.4, 0.4], abs=0.03)
