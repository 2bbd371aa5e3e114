"""What a posterior depends on, and what is left of stages that go on: equal to plain enumeration."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.beliefs import ended, mean_of, model_of, posterior
from support.networks import network

from llmsched_langgraph._belief.model import prior, total
from llmsched_langgraph._belief.model.belief import FLOOR, Expected
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity
from llmsched_langgraph._belief.model.evidence import Begun, JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.model.total import Posterior, SoftEvidence
from llmsched_langgraph._belief.network.network import Network
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph._jobs.stages import StageOccurrence

QUIET = settings(deadline=None, database=None, max_examples=150)

# Bins of several points each, of one bin alone, and of single points.
VALUES = (
    (1.0, 1.5, 2.0, 4.0, 5.0, 6.0, 20.0, 30.0),
    (1.0, 2.0),
    (2.0,),
    (1.0, 3.0, 9.0, 27.0),
)


@st.composite
def parts(draw):
    """A network of up to four variables with bins of several points, and which of them are summed."""
    count = draw(st.integers(1, 4))
    bins = [
        Bins.fit([None, *draw(st.sampled_from(VALUES))], draw(st.integers(1, 3)), 1) for _ in range(count)
    ]
    parents = tuple(
        tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=2)))) if i else () for i in range(count)
    )
    of = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    return network(draw(st.integers(0, 2**32)), [own.states for own in bins], parents), bins, of


@st.composite
def situations(draw, count):
    """What is known of `count` variables, each in its own way."""
    values, reached, likelihoods, scales = {}, {}, {}, {}
    for i in range(count):
        match draw(st.sampled_from(("nothing", "absent", "settled", "reached", "present", "scaled"))):
            case "absent":
                values[i] = None
            case "settled":
                values[i] = draw(st.sampled_from((0.0, 1.0, 1.1, 1.9, 2.0, 3.0, 5.5, 26.0, 40.0)))
            case "reached":
                reached[i] = draw(st.sampled_from((0.5, 1.0, 1.6, 2.0, 3.0, 4.5, 50.0)))
            case "present":
                likelihoods[i] = "present"
            case "scaled":
                likelihoods[i], scales[i] = "present", draw(st.sampled_from((0.5, 2.0)))
    return SoftEvidence(values, reached, likelihoods, {}, scales)


def told(known, bins, of):
    """The same with likelihoods for what happens; only what is summed can be scaled."""
    likely = {i: bins[i].present() for i in known.likelihoods}
    return replace(
        known, likelihoods=likely, scales={i: scale for i, scale in known.scales.items() if i in of}
    )


def answers(posterior):
    """Everything that a posterior may be asked."""
    return (
        posterior.by_variable,
        posterior.mean,
        posterior.factor,
        {i: posterior.marginals[i].tolist() for i in posterior.by_variable},
    )


def same(one, other):
    assert one[0].keys() == other[0].keys()
    assert list(one[0].values()) == pytest.approx(list(other[0].values()), rel=1e-9, abs=1e-9)
    assert one[1:3] == pytest.approx(other[1:3], rel=1e-9, abs=1e-9)
    for i, states in one[3].items():
        assert states == pytest.approx(other[3][i], abs=1e-9)


@QUIET
@given(parts(), st.data())
def test_pasts_of_one_key_have_one_posterior(made, data):
    """And so, if anything that may be asked differs, the keys do."""
    net, bins, of = made
    one, other = (told(data.draw(situations(len(bins))), bins, of) for _ in range(2))
    keys = [total.key(net, bins, of, known) for known in (one, other)]
    first, second = (answers(Posterior(net, bins, of, known)) for known in (one, other))
    if keys[0] == keys[1]:
        same(first, second)
    assert total.key(net, bins, of, one) == keys[0]
    assert hash(keys[0]) == hash(total.key(net, bins, of, one))


@QUIET
@given(parts(), st.data())
def test_what_does_not_matter_is_not_in_the_key(made, data):
    """Where in a step a settled amount lies; how far an amount came that is asked for by nobody."""
    net, bins, of = made
    known = told(data.draw(situations(len(bins))), bins, of)
    values = {i: value if value is None else value * (1 + 1e-9) for i, value in known.values.items()}
    reached = dict(known.reached)
    for i, amount in known.reached.items():
        if i not in of:
            points = np.sort([p for own in bins[i].bins for p in own.points])
            at = np.searchsorted(points, amount)
            low, high = points[at - 1] if at else 0.0, points[at] if at < len(points) else 2 * amount
            reached[i] = data.draw(st.floats(low, high, exclude_min=True))
    perturbed = replace(known, values=values, reached=reached, left={0: 5.0})
    edges = [
        own.place(a) == own.place(b) and own.index(a) == own.index(b)
        for i, own in enumerate(bins)
        if i in values
        for a, b in [(known.values[i], values[i])]
    ]
    assume(all(edges))
    assert total.key(net, bins, of, perturbed) == total.key(net, bins, of, known)
    same(*(answers(Posterior(net, bins, of, own)) for own in (perturbed, known)))


@QUIET
@given(st.integers(0, 2**32), st.data())
def test_what_settled_stages_hide_is_not_in_the_key(seed, data):
    """In a chain a settled stage parts the past from what is to come: what came before it says nothing."""
    bins = [Bins.fit([None, *VALUES[3]]) for _ in range(4)]
    net = network(seed, [own.states for own in bins], ((), (0,), (1,), (2,)))
    amounts = st.sampled_from((None, 1.0, 2.0, 8.0, 27.0))
    last = data.draw(amounts)
    one, other = (SoftEvidence({0: data.draw(amounts), 1: data.draw(amounts), 2: last}) for _ in range(2))
    assert total.key(net, bins, [3], one) == total.key(net, bins, [3], other)
    same(*(answers(Posterior(net, bins, [3], known)) for known in (one, other)))


def test_a_state_is_no_amount():
    """A stage that is over in its one bin, number 1, and one that goes on after 1 s, are two things."""
    bins = [Bins.fit([None, 2.0]), Bins.fit([None, 2.0])]
    net = Network(("a", "b"), (2, 2), ((), (0,)), (np.array([0.5, 0.5]), np.array([[0.9, 0.1], [0.1, 0.9]])))
    over, goes_on = SoftEvidence({0: 2.0}), SoftEvidence(reached={0: 1.0})
    assert total.key(net, bins, [0, 1], over) != total.key(net, bins, [0, 1], goes_on)
    model = model_of(["a", "b"], [(2.0,), (2.0,)], ((), (0,)), net.tables)
    running = JobEvidence(begun=(Begun(StageOccurrence("a", 1), received=1.0),))
    assert model.belief(running).mean == pytest.approx(1.0 + 0.9 * 2.0)
    assert model.belief(JobEvidence(finished=(ended("a", 2.0),))).mean == pytest.approx(0.9 * 2.0)


@pytest.mark.parametrize(
    "others",
    [
        SoftEvidence({0: 3.0}),
        SoftEvidence({0: None}),
        SoftEvidence(reached={0: 1.0}),
        SoftEvidence(reached={0: 1.5}),
        SoftEvidence(likelihoods={0: np.array([0.0, 1.0, 1.0, 1.0, 1.0])}),
        SoftEvidence(likelihoods={0: np.array([0.0, 1.0, 1.0, 1.0, 1.0])}, scales={0: 2.0}),
        SoftEvidence(scales={0: 2.0}),
        SoftEvidence({1: 1.0}),
    ],
)
def test_what_matters_is_in_the_key(others):
    """Each of these is told apart from nothing known, and from each other."""
    bins = [Bins.fit([None, *VALUES[3]]), Bins.fit([None, *VALUES[3]])]
    net = network(3, [5, 5], ((), (0,)))
    assert total.key(net, bins, [0, 1], others) != total.key(net, bins, [0, 1], SoftEvidence())
    assert Posterior(net, bins, [0, 1], others).mean != Posterior(net, bins, [0, 1], SoftEvidence()).mean


# -- what is left of stages that go on ------------------------------------------------


@st.composite
def under_way(draw, runs=1):
    """A model whose bins hold several points, no stage over, and some going on: with one run, or several."""
    net, bins, _ = draw(parts())
    columns = tuple(Column(Quantity.WORK, f"s{i}") for i in range(len(bins)))
    named = Network(tuple(c.name for c in columns), net.cards, net.parents, net.tables)
    model = ApplicationModel(
        fingerprint="f" * 16, unit=Unit.SECONDS, columns=columns, bins=tuple(bins), network=named, jobs=100
    )
    begun = []
    for i, own in enumerate(bins):
        if draw(st.booleans()):
            most = own.bins[-1].points[-1]
            received = draw(st.sampled_from([round(most * share, 1) for share in (0, 0.1, 0.3, 0.7, 1, 1.5)]))
            begun.append(Begun(StageOccurrence(f"s{i}", 1), draw(st.integers(1, runs)), received))
    return model, JobEvidence(begun=tuple(begun)).rounded()


def left_of(belief, own, received=None):
    expected = belief.expected[own.stage_occurrence]
    return expected.left(own.received if received is None else received, own.ended, own.settled)


@QUIET
@given(under_way())
def test_the_parts_of_a_belief_are_its_mean(made):
    """Right after it was formed: what is left of what goes on, and what comes after that."""
    model, evidence = made
    belief = model.belief(evidence)
    left = sum(left_of(belief, own) for own in evidence.begun)
    assert belief.after + left == pytest.approx(belief.mean, rel=1e-9, abs=1e-9)


@QUIET
@given(under_way(runs=4))
def test_the_parts_of_a_belief_are_its_mean_with_several_runs(made):
    """Of those the same, but that some of each run is always left."""
    model, evidence = made
    belief = model.belief(evidence)
    posterior = belief._posterior.by_variable
    expected = belief.after
    for own in evidence.begun:
        left = posterior[model.column(own.stage_occurrence)]
        if own.runs > 1:
            left = max(left, FLOOR * (left + own.received))
        expected += left
        assert left_of(belief, own) == pytest.approx(left, rel=1e-9, abs=1e-9)
    assert belief.after + sum(left_of(belief, own) for own in evidence.begun) == pytest.approx(expected)


def brute_left(model, evidence, i, received):
    """E[X_i - received | X_i > = received, all that goes on has come as far as it has], point by point."""
    reached = {model.column(own.stage_occurrence): own.received for own in evidence.begun} | {i: received}
    weights = {}
    for v, amount in reached.items():
        weights[v] = np.zeros(model.bins[v].states)
        for state, own in enumerate(model.bins[v].bins, 1):
            share = [w for p, w in zip(own.points, own.weights, strict=True) if p >= amount]
            weights[v][state] = sum(share) / own.count
    if not all(own.any() for own in weights.values()):
        return None
    table = posterior(model, weights)
    amounts = [0.0]
    for own in model.bins[i].bins:
        over = [(p - received, w) for p, w in zip(own.points, own.weights, strict=True) if p >= received] or [
            (0.0, 1)
        ]
        amounts.append(sum(left * w for left, w in over) / sum(w for _, w in over))
    return mean_of(model, table, {i: amounts})


@QUIET
@given(under_way(), st.floats(0.0, 35.0))
def test_one_run_is_conditioned_on_its_time_exactly(made, more):
    """By a belief of now, and by one from before of which nothing but that run's time has changed."""
    model, evidence = made
    assume(evidence.begun)
    belief = model.belief(evidence)
    for own in evidence.begun:
        i = model.column(own.stage_occurrence)
        now = own.received + more
        for received in (own.received, now):
            exact = brute_left(model, evidence, i, received)
            if exact is not None:
                assert left_of(belief, own, received) == pytest.approx(exact, rel=1e-9, abs=1e-9)


@QUIET
@given(under_way(runs=3), st.lists(st.floats(0.0, 99.0), min_size=2, max_size=6))
def test_never_less_than_nothing_is_left(made, times):
    """However long it goes on."""
    model, evidence = made
    belief = model.belief(evidence)
    for own in evidence.begun:
        assert all(left_of(belief, own, received) >= 0.0 for received in times)


@QUIET
@given(
    st.floats(0.1, 50.0),
    st.integers(2, 9),
    st.lists(st.floats(0.1, 50.0), min_size=1, max_size=8),
    st.floats(0.0, 1.0),
)
def test_of_several_runs_those_that_are_over_tell_of_the_others(each, runs, took, share):
    """Their mean, with what was believed worth two runs; less what the others have received already."""
    took = took[: runs - 1]
    going = runs - len(took)
    mean = (prior.RUNS * each + sum(took)) / (prior.RUNS + len(took))
    received = sum(took) + share * going * mean
    left = Expected(each * runs, runs).left(received, len(took), sum(took))
    assert left == pytest.approx(max((1 - share) * going * mean, FLOOR * mean * going))


@QUIET
@given(
    st.integers(2, 8),
    st.integers(1, 7),
    st.lists(st.sampled_from((0.5, 1.0, 3.0)), min_size=7, max_size=7),
    st.sampled_from((0.0, 0.2, 0.7)),
)
@example(runs=8, over=1, took=[1.0] * 7, more=0.0)
def test_a_belief_of_runs_that_are_partly_over(runs, over, took, more):
    """Their ends are in the belief already, and do not count a second time."""
    assume(over < runs)
    bins = (Bins.fit([2.0, 4.0, 6.0, 8.0]), Bins.fit([2.0, 4.0, 6.0, 12.0]), Bins.fit([None, 1.0]))
    columns = (Column(Quantity.FAN_OUT, "a"), Column(Quantity.WORK, "a"), Column(Quantity.WORK, "b"))
    net = network(7, [own.states for own in bins], ((), (0,), (1,)))
    model = ApplicationModel(
        fingerprint="f",
        unit=Unit.SECONDS,
        columns=columns,
        bins=bins,
        network=Network(tuple(c.name for c in columns), *net_parts(net)),
        jobs=9,
    )
    settled = sum(took[:over])
    own = Begun(StageOccurrence("a", 1), runs, settled + more, over, settled)
    belief = model.belief(JobEvidence(begun=(own,)))
    (own,) = belief.evidence.begun
    left = belief.mean - belief.after
    each = (left + own.received - own.settled) / (runs - over)
    assert left_of(belief, own) == pytest.approx(max(left, FLOOR * each * (runs - over)))


def net_parts(net):
    return net.cards, net.parents, net.tables


# -- what jobs under way have in common -------------------------------------------------


@QUIET
@given(under_way(), st.integers(1, 4))
def test_a_stage_that_nobody_knows_is_absorbed(made, occurrence):
    """It changes no part of a belief, whatever it received."""
    model, evidence = made
    strange = StageOccurrence("nowhere", occurrence)
    more = replace(
        evidence,
        finished=(ended("elsewhere", 7.0),),
        begun=(*evidence.begun, Begun(strange, 2, 5.0, 1, 3.0)),
        skipped=frozenset({"never"}),
    )
    plain, absorbed = model.belief(evidence), model.belief(more)
    assert absorbed.mean == plain.mean
    assert absorbed.after == plain.after
    assert absorbed.expected == plain.expected
    assert absorbed.uncertainty_reduction(strange) == 0.0


@pytest.mark.parametrize("occurrence", [1, 2, 5])
def test_times_that_share_a_variable_count_once(occurrence):
    """A stage that runs once more than it should, or side by side with itself, is no stage twice."""
    model = model_of(["a", "b"], [(4.0, 8.0), (1.0,)], ((), ()), (np.array([0.0, 0.5, 0.5]), [0.0, 1.0]))
    begun = tuple(Begun(StageOccurrence("a", n)) for n in range(1, occurrence + 1))
    belief = model.belief(JobEvidence(begun=begun))
    assert belief.mean == pytest.approx(6.0 + 1.0)
    left = sum(left_of(belief, own) for own in begun if own.stage_occurrence in belief.expected)
    assert belief.after + left == pytest.approx(belief.mean)
