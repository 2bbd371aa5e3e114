"""Structures weighed on held-out jobs: the best one is used, and what cannot be had is told."""

from __future__ import annotations

import numpy as np
import pytest
from support.beliefs import fan_job

from llmsched_langgraph._belief.fit.fitting import Candidate, fitted, tree
from llmsched_langgraph._belief.fit.models import Lessons, learn
from llmsched_langgraph._belief.fit.tables import choose
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._jobs.observed import Unit, observed
from llmsched_langgraph.errors import InvalidDataError

JOBS = [fan_job(n, (1, 2, 4)[n % 3]) for n in range(60)]
OUTCOMES = [observed(job) for job in JOBS]
FAN = template_of("fan", JOBS)


def nothing(data):
    return [()] * len(data.cards)


def backwards(data):
    """A chain from the last variable to the first."""
    return [(i + 1,) for i in range(len(data.cards) - 1)] + [()]


def faulty(data):
    raise InvalidDataError("it cannot be had")


def test_alone_the_learners_own_is_what_learning_makes():
    """The same model, and the bits by which it is chosen."""
    made = fitted(FAN, OUTCOMES, {"own": None})
    assert made.model == learn(FAN, OUTCOMES)
    own, marginals = made.candidates
    assert (own.structure, own.chosen, marginals.structure, marginals.chosen) == (
        "own",
        True,
        "marginals",
        False,
    )
    data = Lessons.of(FAN, OUTCOMES, Unit.SECONDS)
    gain = choose(data.rows, data.cards, data.names, hidden=data.hidden).gain_bits
    assert marginals.bits - own.bits == pytest.approx(gain)


def test_the_best_is_used():
    """Whatever the order in which they are given."""
    searches = {"tree": tree, "own": None, "nothing": nothing, "backwards": backwards}
    for order in (list(searches), list(searches)[::-1]):
        made = fitted(FAN, OUTCOMES, {name: searches[name] for name in order})
        assert [own.structure for own in made.candidates] == [*order, "marginals"]
        best = min(made.candidates, key=lambda own: own.bits)
        assert [own for own in made.candidates if own.chosen] == [best]
        assert made.model.correlated


def test_a_network_that_says_no_more_than_the_marginals_is_not_used():
    """One without edges is the marginals, whatever rounding says; and so is one that chance made."""
    made = fitted(FAN, OUTCOMES, {"nothing": nothing}, given=True)
    assert [own.chosen for own in made.candidates] == [False, True]
    assert not made.model.correlated
    assert not made.model.given
    random = np.random.default_rng(1)
    shuffled = [observed(fan_job(int(random.integers(100)), int(random.integers(1, 4)))) for _ in range(20)]
    loose = fitted(FAN, shuffled, {"backwards": backwards})
    assert loose.model.jobs == 20


def test_any_order_makes_a_model():
    """Columns follow the network; it says the same of a job."""
    made = fitted(FAN, OUTCOMES, {"backwards": backwards})
    assert made.candidates[0].chosen
    own = learn(FAN, OUTCOMES)
    assert [column.name for column in made.model.columns] == [column.name for column in own.columns][::-1]
    assert made.model.jobs == own.jobs


@pytest.mark.parametrize(("search", "given"), [(tree, True), (None, False)], ids=["another", "own"])
def test_what_was_asked_for_is_given(search, given):
    """The learner's own is learned anew from more jobs; another stays, if it was asked for."""
    assert fitted(FAN, OUTCOMES, {"x": search}, given=True).model.given is given
    assert not fitted(FAN, OUTCOMES, {"x": search}).model.given


def test_what_cannot_be_had_is_told():
    """The others are weighed without it; alone it is an error."""
    made = fitted(FAN, OUTCOMES, {"faulty": faulty, "own": None})
    assert made.candidates[0] == Candidate("faulty", fault="it cannot be had")
    assert made.candidates[0].to_json() == {
        "structure": "faulty",
        "chosen": False,
        "bits_per_job": None,
        "fault": "it cannot be had",
    }
    assert made.candidates[1].chosen
    with pytest.raises(InvalidDataError, match="it cannot be had"):
        fitted(FAN, OUTCOMES, {"faulty": faulty})


def test_of_too_few_jobs_nothing_is_weighed():
    """The model is the prior that they sharpen."""
    made = fitted(FAN, OUTCOMES[:3], {"own": None})
    assert made.candidates == ()
    assert made.model == learn(FAN, OUTCOMES[:3])
