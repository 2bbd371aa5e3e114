"""Networks that were written by hand in pgmpy, or found there, predict for a scheduler: all the way round."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest

from llmsched_langgraph import Profile, Scheduler
from llmsched_langgraph._belief.fit.evaluation import job_bits
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Quantity
from llmsched_langgraph._belief.model.evidence import JobEvidence
from llmsched_langgraph._belief.profile.merging import profile_from_jobs, profile_of
from llmsched_langgraph._jobs.observed import ObservedStage, Part, observed
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.lab.sim.workloads import generate

pytestmark = pytest.mark.timeout(180)  # pgmpy takes seconds to import

APP = "sequence_sorting"
EDGES = [
    ("work:split", "fan_out:sort"),
    ("fan_out:sort", "work:sort"),
    ("work:sort", "work:merge#1"),
    ("work:split", "total"),
]
"""What somebody who knows the application would write down; of the rest, each on its own."""


@pytest.fixture(scope="module")
def runs():
    """Runs of the paper's sequence sorting: some to learn from, and others."""
    jobs = [job for job in generate("predefined", 600, 0) if job.app == APP]
    return jobs[:200], [observed(job) for job in jobs[200:]]


@pytest.fixture(scope="module")
def profile(runs):
    outcomes = [observed(job) for job in runs[0]]
    own = profile_from_jobs(template_of(APP, runs[0]), runs[0])
    alone = learn(own.template, outcomes, correlated=False)
    return profile_of([replace(own, model=alone, modelled=own.jobs)])


def model_in(profile: Profile):
    (own,) = profile.applications.values()
    return own.model


def by_hand(profile):
    """A network with tables that follow a rule: a child is as far up among its states as its parent."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork

    template, network = profile.to_pgmpy(APP), DiscreteBayesianNetwork()
    network.add_nodes_from(template.nodes)
    network.add_edges_from(EDGES)
    states = {name: template.get_cpds(name).state_names[name] for name in template.nodes}
    for name, named in states.items():
        above = list(network.predecessors(name))
        if not above:
            network.add_cpds(template.get_cpds(name))
            continue
        rows = len(states[above[0]])
        near = -np.abs(np.arange(len(named))[:, None] / len(named) - np.arange(rows)[None] / rows)
        values = np.exp(6 * near) / np.exp(6 * near).sum(axis=0)
        shown = {variable: states[variable] for variable in (name, *above)}
        network.add_cpds(TabularCPD(name, len(named), values, above, [rows], state_names=shown))
    assert network.check_model()
    return network


def found(profile):
    """The edges that pgmpy's hill climbing finds in the remembered runs."""
    from pgmpy.causal_discovery import HillClimbSearch

    search = HillClimbSearch(scoring_method="bic-d", return_type="dag", max_indegree=3, show_progress=False)
    return search.fit(profile.states(APP)).causal_graph_


@pytest.fixture(scope="module", params=[by_hand, found], ids=["by hand", "by hill climbing"])
def taken(request, profile):
    """The profile with a network of pgmpy's, and that network's edges."""
    network = request.param(profile)
    return profile.with_network(APP, network), set(network.edges)


def ended(column, work_s, runs=1):
    return ObservedStage(
        StageOccurrence(column.node, column.first), (Part(calls=runs, runs=runs, work_s=work_s),)
    )


def test_it_predicts_other_runs_better_than_the_marginals(taken, profile, runs):
    """Held-out bits of a run, with the same bins."""
    marginals = np.array([job_bits(model_in(profile), run) for run in runs[1]])
    network = np.array([job_bits(model_in(taken[0]), run) for run in runs[1]])
    gains = marginals - network
    assert gains.mean() > 3 * gains.std() / np.sqrt(len(gains))


def test_it_is_handed_out_as_it_came(taken):
    """The same edges, valid tables, and the same answers to any question, ours and pgmpy's."""
    whole, edges = taken
    network, model = whole.to_pgmpy(APP), model_in(whole)
    assert network.check_model()
    assert set(network.edges) == edges
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what pgmpy imports itself
        from pgmpy.inference import VariableElimination
    reference = VariableElimination(network)
    states = {name: network.get_cpds(name).state_names[name] for name in network.nodes}
    random = np.random.default_rng(0)
    sample = model.network.sample(8, seed=1)
    for row in sample:
        seen = random.choice(len(row), 3, replace=False)
        ours = model.network.marginals({int(i): np.eye(model.network.cards[i])[row[i]] for i in seen})
        names = [column.name for column in model.columns]
        told = {names[i]: states[names[i]][row[i]] for i in seen}
        for i in set(range(len(names))) - set(map(int, seen)):
            theirs = reference.query([names[i]], evidence=told, show_progress=False)
            expected = [theirs.get_value(**{names[i]: state}) for state in states[names[i]]]
            assert ours[i] == pytest.approx(expected, abs=1e-9)


def test_it_decides_what_is_left_of_a_run(taken):
    """E[remaining work], once the split has ended: the sum over stages that pgmpy's posteriors give."""
    whole, _ = taken
    model, network = model_in(whole), whole.to_pgmpy(APP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from pgmpy.inference import VariableElimination
    at = model.column(StageOccurrence("split", 1))
    means = []
    for state in (1, model.bins[at].states - 1):
        split_s = model.bins[at].means[state]
        belief = model.belief(JobEvidence(finished=(ended(model.columns[at], split_s),)))
        told = {"work:split": network.get_cpds("work:split").state_names["work:split"][state]}
        expected = 0.0
        total = model.totals[0]
        for column, bins in zip(model.columns, model.bins, strict=True):
            if column.counts and column.name != "work:split":
                virtual = reached(network, model.columns[total].name, model.bins[total], split_s)
                posterior = VariableElimination(network).query(
                    [column.name], evidence=told, virtual_evidence=virtual, show_progress=False
                )
                named = network.get_cpds(column.name).state_names[column.name]
                chances = [posterior.get_value(**{column.name: name}) for name in named]
                expected += float(np.dot(chances, bins.means))
        assert belief.mean == pytest.approx(expected, rel=1e-6)
        means.append(belief.mean)
    assert means[0] < means[1]


def reached(network, name, bins: Bins, amount):
    """That the run's work has come so far, as virtual evidence."""
    from pgmpy.factors.discrete import TabularCPD

    weights = bins.at_least(amount).weights[:, None]
    states = {name: network.get_cpds(name).state_names[name]}
    return [TabularCPD(name, len(weights), weights, state_names=states)]


def test_a_scheduler_takes_it(taken):
    """It goes on from there, and learning leaves the network alone."""
    whole, edges = taken
    with Scheduler(2, policy="srtf", profile=whole) as scheduler:
        scheduler.learn()
        assert scheduler.profile == whole
        assert set(scheduler.profile.to_pgmpy(APP).edges) == edges
    assert any(column.quantity is Quantity.TOTAL for column in model_in(whole).columns)
