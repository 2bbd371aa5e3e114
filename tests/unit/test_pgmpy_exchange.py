"""A network as a pgmpy network and back: the same answers, any order, and one clear error for each fault."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from support.beliefs import ended, fan_job, loop_job
from support.profiles import TEMPLATE, profile

from llmsched_langgraph import Profile
from llmsched_langgraph._belief.fit import pgmpy_exchange
from llmsched_langgraph._belief.fit.fitting import fitted
from llmsched_langgraph._belief.fit.models import Lessons, learn
from llmsched_langgraph._belief.fit.pgmpy_exchange import (
    edges_of,
    ges,
    hill_climb,
    read_bif,
    state_names,
)
from llmsched_langgraph._belief.fit.template import template_of
from llmsched_langgraph._belief.model.bins import Bins
from llmsched_langgraph._belief.model.columns import Column, Quantity
from llmsched_langgraph._belief.model.evidence import JobEvidence
from llmsched_langgraph._belief.model.model import ApplicationModel
from llmsched_langgraph._belief.network.network import independent
from llmsched_langgraph._belief.profile.merging import merged, profile_from_jobs, profile_of
from llmsched_langgraph._belief.profile.profile import History
from llmsched_langgraph._belief.profile.serialization import profile_from_json, profile_to_json
from llmsched_langgraph._jobs.observed import Unit, observed
from llmsched_langgraph._jobs.stages import StageOccurrence
from llmsched_langgraph.errors import InvalidDataError

pytestmark = pytest.mark.timeout(120)  # pgmpy takes seconds to import

FAN = TEMPLATE.fingerprint


def learned(jobs=60, app="fan"):
    """A profile of jobs whose width tells all, with the network that they teach."""
    traces = [fan_job(n, (1, 2, 4)[n % 3], app) for n in range(jobs)]
    outcomes = [observed(job) for job in traces]
    own = profile_from_jobs(template_of(app, traces), traces)
    return profile_of([replace(own, model=learn(own.template, outcomes), modelled=own.jobs)])


@pytest.fixture(scope="module")
def fan():
    return learned()


def names_of(whole):
    return [column.name for column in whole.applications[FAN].model.columns]


def inferred(network, wanted, evidence):
    """What pgmpy infers of a variable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what pgmpy imports itself
        from pgmpy.inference import VariableElimination
    return VariableElimination(network).query([wanted], evidence=evidence, show_progress=False)


def dag(names, edges):
    from pgmpy.base import DAG

    made = DAG()
    made.add_nodes_from(names)
    made.add_edges_from(edges)
    return made


# -- out ---------------------------------------------------------------------------------


def test_it_comes_out_as_a_valid_network(fan):
    """Named variables, readable states, the same edges and the same numbers."""
    network, model = fan.to_pgmpy(FAN), fan.applications[FAN].model
    assert network.check_model()
    assert list(network.nodes) == list(model.network.names)
    assert "work:split" in network.nodes
    for i, name in enumerate(model.network.names):
        cpd = network.get_cpds(name)
        assert list(network.predecessors(name)) == [model.network.names[p] for p in model.network.parents[i]]
        assert np.array_equal(np.moveaxis(cpd.values, 0, -1), model.network.tables[i])
        assert cpd.state_names[name] == state_names(model)[name]
        assert cpd.state_names[name][0] == "absent"
    assert {"1 run", "2 runs", "4 runs"} < set(state_names(model)["fan_out:map"])


@pytest.mark.parametrize("application", [FAN, "fan", TEMPLATE], ids=["fingerprint", "name", "application"])
def test_an_application_is_named_in_three_ways(fan, application):
    assert fan.to_pgmpy(application).check_model()
    assert fan.with_network(application, fan.to_pgmpy(application)).applications[FAN].model.given


def test_states_say_what_was_seen():
    """As many digits as tell bins apart, and the unit of each quantity."""
    bins = Bins.fit([None, *[1.00001] * 2, *[1.00002] * 2, 1500.0, 2600.0], most=3)

    def named(quantity, unit):
        column = Column(quantity, "a")
        table = np.full(bins.states, 1 / bins.states)
        network = independent([column.name], [table])
        model = ApplicationModel(
            fingerprint="f" * 16, unit=unit, columns=(column,), bins=(bins,), network=network, jobs=9
        )
        return state_names(model)[column.name]

    seconds = ["absent", "1.00001 s", "1.00002 s", "1500 to 2600 s"]
    assert named(Quantity.WORK, Unit.SECONDS) == named(Quantity.TOOL, Unit.TOOL_SECONDS) == seconds
    assert named(Quantity.PROMPT, Unit.SECONDS)[-1] == "1500 to 2600 tokens"
    assert named(Quantity.TASKS, Unit.SECONDS)[-1] == "1500 to 2600 uses"
    assert named(Quantity.TOTAL, Unit.TOKENS)[-1] == "1500 to 2600 tokens"


def test_the_jobs_come_out_as_states(fan):
    """One row a remembered job, categorical with all states, so that pgmpy can learn from them."""
    frame, model = fan.states("fan"), fan.applications[FAN].model
    assert list(frame.columns) == list(model.network.names)
    assert len(frame) == 60
    for name in frame.columns:
        assert list(frame[name].cat.categories) == state_names(model)[name]
    lessons = Lessons.for_model(model, fan.applications[FAN].outcomes)
    assert np.array_equal(frame.apply(lambda own: own.cat.codes).to_numpy(), lessons.rows)


# -- in ----------------------------------------------------------------------------------


def test_what_went_out_comes_in_as_it_was(fan):
    """The same network, now one that was given; the old profile has its own still."""
    taken = fan.with_network("fan", fan.to_pgmpy("fan"))
    before, after = fan.applications[FAN].model, taken.applications[FAN].model
    assert after.network == before.network
    assert replace(after, given=False) == before
    assert (before.given, after.given) == (False, True)
    assert "given network" in repr(after)
    assert after.belief(JobEvidence()).mean == before.belief(JobEvidence()).mean


def test_any_order_of_edges_and_states(fan):
    """Columns follow the network's order, and tables the model's; beliefs are the same."""
    from pgmpy.factors.discrete import TabularCPD
    from pgmpy.models import DiscreteBayesianNetwork

    model = fan.applications[FAN].model
    names, states = names_of(fan), state_names(model)
    last, first = "work:map", "work:split"
    made = DiscreteBayesianNetwork()
    made.add_nodes_from(reversed(names))
    made.add_edge(last, first)
    random = np.random.default_rng(0)
    shown = {name: random.permutation(states[name]).tolist() for name in names}
    for name in names:
        above = [last] if name == first else []
        table = random.dirichlet(np.ones(len(states[name])), size=[len(states[v]) for v in above])
        values = table.reshape(-1, len(states[name])).T
        cards = [len(states[v]) for v in above]
        made.add_cpds(
            TabularCPD(
                name,
                len(states[name]),
                values,
                above or None,
                cards or None,
                state_names={v: shown[v] for v in (name, *above)},
            )
        )
    assert made.check_model()
    taken = fan.with_network("fan", made).applications[FAN].model
    order = [column.name for column in taken.columns]
    assert order.index(last) < order.index(first)
    assert set(order) == set(names)
    at, given = order.index(last), states[last][2]
    evidence = {at: np.eye(taken.network.cards[at])[2]}
    for name in names:
        if name != last:
            expected = inferred(made, name, {last: given})
            own = [expected.get_value(**{name: state}) for state in states[name]]
            assert taken.network.marginals(evidence)[order.index(name)] == pytest.approx(own, abs=1e-12)


@pytest.mark.parametrize("written", [int, str], ids=["numbers", "texts"])
def test_states_may_go_by_their_numbers(fan, written):
    """As pgmpy numbers them where nobody names them."""
    from pgmpy.factors.discrete import TabularCPD

    network = fan.to_pgmpy("fan")
    for cpd in list(network.get_cpds()):
        card = [len(cpd.state_names[v]) for v in cpd.variables]
        numbered = {v: [written(i) for i in range(n)] for v, n in zip(cpd.variables, card, strict=True)}
        other = TabularCPD(
            cpd.variable, card[0], cpd.get_values(), cpd.variables[1:], card[1:], state_names=numbered
        )
        network.remove_cpds(cpd)
        network.add_cpds(other)
    taken = fan.with_network("fan", network)
    assert taken.applications[FAN].model.network == fan.applications[FAN].model.network


def test_a_structure_is_filled_from_the_jobs(fan):
    """As the learner would fill it; a network without edges is the marginals."""
    names = names_of(fan)
    chain = dag(names, [("work:map", "work:split"), ("work:map", "work:join")])
    model = fan.with_network("fan", chain).applications[FAN].model
    assert (model.jobs, model.given, model.correlated) == (60, True, True)
    order = [column.name for column in model.columns]
    assert model.network.parents[order.index("work:split")] == (order.index("work:map"),)
    long = JobEvidence(finished=(ended("map", 1.6),))
    assert model.belief(long).mean > model.belief(JobEvidence(finished=(ended("map", 0.4),))).mean
    alone = fan.with_network("fan", dag(names, [])).applications[FAN].model
    assert not alone.correlated
    assert alone.given


def test_more_than_two_parents(fan):
    """As many as a table can have."""
    names = names_of(fan)
    *above, last = names
    model = fan.with_network("fan", dag(names, [(name, last) for name in above[:4]])).applications[FAN].model
    assert max(map(len, model.network.parents)) == 4
    assert model.belief(JobEvidence()).mean > 0


def test_impossible_is_not_the_end_of_beliefs(fan):
    """Whatever a network calls impossible may happen, and the job has a belief still."""
    network = fan.to_pgmpy("fan")
    for cpd in network.get_cpds():
        hard = np.zeros_like(cpd.values)
        np.put_along_axis(hard, cpd.values.argmax(axis=0)[None], 1.0, axis=0)
        cpd.values = hard
    model = fan.with_network("fan", network).applications[FAN].model
    assert min(table.min() for table in model.network.tables) == 0.0
    for first, second in ((0.2, 9.0), (9.0, 0.1)):
        belief = model.belief(JobEvidence(9, (ended("split", first), ended("map", second))))
        assert np.isfinite([belief.mean, belief.entropy_bits, belief.index, *belief.quantiles]).all()
        assert belief.uncertainty_reduction(StageOccurrence("join", 1)) >= 0.0


def test_a_rounded_table_is_scaled(fan):
    """A file may hold four digits."""
    network = fan.to_pgmpy("fan")
    for cpd in network.get_cpds():
        cpd.values = np.round(cpd.values, 3)
    model = fan.with_network("fan", network).applications[FAN].model
    assert all(np.allclose(table.sum(axis=-1), 1.0) for table in model.network.tables)


def test_through_a_file_and_json(fan, tmp_path):
    """A .bif of pgmpy's, and the profile's own file, keep it."""
    from pgmpy.readwrite import BIFWriter

    BIFWriter(fan.to_pgmpy("fan")).write(str(tmp_path / "fan.bif"))
    taken = fan.with_network("fan", read_bif(tmp_path / "fan.bif"))
    model = taken.applications[FAN].model
    for one, other in zip(model.network.tables, fan.applications[FAN].model.network.tables, strict=True):
        assert one == pytest.approx(other, abs=1e-12)
    again = profile_from_json(json.loads(json.dumps(profile_to_json(taken))))
    assert again == taken
    assert again.applications[FAN].model.given
    assert "given" not in profile_to_json(fan)["applications"][0]["model"]


def test_a_given_network_wins_when_profiles_are_merged(fan):
    """Whatever more jobs taught, unless the other one has forgotten jobs since."""
    given = fan.with_network("fan", fan.to_pgmpy("fan")).applications[FAN]
    more = replace(fan.applications[FAN], counted=1_000, modelled=1_000)
    for one, other in ((given, more), (more, given)):
        assert merged(one, other).model is given.model
    drifted = replace(more, forgotten_before=5.0)
    for one, other in ((given, drifted), (drifted, given)):
        assert merged(one, other).model is more.model
    later = replace(given, modelled=1_000, model=replace(given.model, jobs=59))
    assert merged(later, given).model is later.model


# -- what is refused ---------------------------------------------------------------------


def refused(whole, network, words, application="fan"):
    with pytest.raises(InvalidDataError, match=words) as caught:
        whole.with_network(application, network)
    assert "\n" not in str(caught.value)


def test_an_application_that_is_not_there(fan):
    """What is there is listed."""
    with pytest.raises(
        InvalidDataError, match=f"application 'x': not in the profile; applications in it: fan .{FAN}"
    ):
        fan.to_pgmpy("x")
    with pytest.raises(InvalidDataError, match="not in the profile; applications in it: none"):
        Profile().to_pgmpy(TEMPLATE)
    traces = [loop_job(n, 1 + n % 2, "fan") for n in range(9)]
    twin = profile_from_jobs(template_of("fan", traces), traces)
    both = fan.having(twin)
    with pytest.raises(InvalidDataError, match=f"the name is ambiguous; give a fingerprint: fan .{FAN}"):
        both.to_pgmpy("fan")
    assert both.to_pgmpy(FAN).check_model()


def test_an_application_without_a_model():
    whole = profile_of([profile(range(3))])
    with pytest.raises(
        InvalidDataError, match="fan: no model was learned from its 3 jobs yet; run `Scheduler"
    ):
        whole.to_pgmpy("fan")
    refused(whole, None, "no model was learned")


def test_other_things_than_a_directed_network(fan):
    from pgmpy.base import PDAG
    from pgmpy.models import DiscreteMarkovNetwork

    refused(
        fan,
        PDAG(undirected_ebunch=[("total", "prompt")]),
        "PDAG has undirected edges; .*return_type='dag'",
    )
    refused(
        fan, DiscreteMarkovNetwork(), "must be a pgmpy DiscreteBayesianNetwork or DAG, not a DiscreteMarkov"
    )
    refused(fan, "fan.bif", "DiscreteBayesianNetwork or DAG, not a str")


def test_other_variables(fan):
    names = names_of(fan)
    refused(
        fan, dag([*names, "weather"], []), "the model has no variable 'weather'; the variables are 'total'"
    )
    refused(fan, dag(names[:-1], []), f"has no variable '{names[-1]}'; add it, without edges if nothing")


def test_a_cycle(fan):
    import networkx as nx

    made = nx.DiGraph()
    made.add_nodes_from(names_of(fan))
    made.add_edges_from([("work:map", "work:join"), ("work:join", "work:map")])
    refused(fan, made, "edges 'work:\\w+' -> 'work:\\w+' -> 'work:\\w+' form a cycle; remove one of them")


def test_a_table_that_is_too_large():
    traces = [loop_job(n, 1 + n % 12) for n in range(200)]
    own = profile_from_jobs(template_of("loop", traces), traces)
    whole = profile_of([replace(own, model=learn(own.template, own.outcomes), modelled=200)])
    *above, last = [column.name for column in whole.applications[own.application.fingerprint].model.columns]
    words = f"'{last}': its {len(above)} parents need a table of more than 4,194,304 cells; remove parents"
    refused(whole, dag([*above, last], [(name, last) for name in above]), words.replace("+", "\\+"), "loop")


def changed(fan, name, change):
    """The network with one CPD made anew from its variables, cards, values and states."""
    from pgmpy.factors.discrete import TabularCPD

    network = fan.to_pgmpy("fan")
    cpd = network.get_cpds(name)
    parts = {
        "variable": name,
        "variable_card": cpd.variable_card,
        "values": cpd.get_values(),
        "evidence": cpd.variables[1:] or None,
        "evidence_card": list(cpd.cardinality[1:]) or None,
        "state_names": cpd.state_names,
    }
    change(parts)
    network.remove_cpds(cpd)
    network.add_cpds(TabularCPD(**parts))
    return network


def test_tables_that_do_not_fit(fan):
    """Too few states, other states, a distribution that is none: the variable is named, and the cure."""
    total = names_of(fan)[0]

    def fewer(parts):
        parts |= {"variable_card": 2, "values": [[0.5], [0.5]], "state_names": {total: ["absent", "some"]}}

    def renamed(parts):
        parts["state_names"] = {total: [f"s{i}" for i in range(parts["variable_card"])]}

    assert not list(fan.to_pgmpy("fan").predecessors(total))
    words = f"the CPD of '{total}' has 2 states for '{total}'; it must have \\d: 'absent'"
    refused(fan, changed(fan, total, fewer), words)
    words = f"the CPD of '{total}' names the states of '{total}' 's0', .*; name them 'absent', .*, or 0 to"
    refused(fan, changed(fan, total, renamed), words)
    network = fan.to_pgmpy("fan")
    network.get_cpds(total).values = network.get_cpds(total).values / 2
    refused(fan, network, f"P\\({total}\\) is \\[.*\\]; it must sum to 1 and have no negative entries")
    network = fan.to_pgmpy("fan")
    child = next(name for name in network.nodes if list(network.predecessors(name)))
    network.get_cpds(child).values = -network.get_cpds(child).values
    refused(fan, network, f"P\\({child} \\| .*=absent\\) is \\[.*; it must sum to 1")


def test_tables_that_are_missing(fan):
    """All of them, or none."""
    network = fan.to_pgmpy("fan")
    network.remove_cpds(network.get_cpds("work:map"))
    refused(fan, network, "variable 'work:map' has no CPD; add it, or remove all CPDs to have them estimated")
    empty = replace(fan.applications[FAN], history=History())
    words = "fan: the network has no CPDs, and the profile has no jobs to estimate them from; add CPDs"
    refused(fan.having(empty), dag(names_of(fan), []), words)


def test_evidence_that_is_no_parent(fan):
    from pgmpy.factors.discrete import TabularCPD

    network = fan.to_pgmpy("fan")
    cards = dict(zip(names_of(fan), fan.applications[FAN].model.network.cards, strict=True))
    name, other = "total", "work:join"
    values = np.full((cards[name], cards[other]), 1 / cards[name])
    network.remove_cpds(network.get_cpds(name))
    network.cpds.append(TabularCPD(name, cards[name], values, [other], [cards[other]]))
    refused(
        fan, network, r"the CPD of 'total' has the evidence \['work:join'\], but its parents are \[\]; make"
    )


def test_files_that_cannot_be_read(tmp_path):
    for name, text, words in (
        ("no.bif", None, "no.bif: cannot be read: No such file"),
        ("empty.bif", "network x {\n}\n", "empty.bif: contains no network"),
        ("bad.bif", "network x {\n}\nvariable a {\n}\n", "bad.bif: pgmpy cannot read it as BIF"),
        ("bytes.bif", b"\xff\xfe", "bytes.bif: cannot be read: it is not UTF-8"),
    ):
        if text is not None:
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InvalidDataError, match=words):
            read_bif(tmp_path / name)


# -- searches ----------------------------------------------------------------------------


def lessons(fan):
    own = fan.applications[FAN]
    return Lessons.of(own.template, own.outcomes, Unit.SECONDS)


@pytest.mark.parametrize("score", ["k2", "bdeu", "bic"])
def test_hill_climbing_keeps_the_order(fan, score):
    """Parents come before, two at most, and the same jobs give the same edges."""
    parents = hill_climb(score)(lessons(fan))
    assert any(parents)
    assert all(p < i for i, own in enumerate(parents) for p in own)
    assert max(map(len, parents)) <= 2
    assert parents == hill_climb(score)(lessons(fan))


def test_a_search_gets_numbers_of_python(fan):
    """As names of the variables, in whatever way it reads them: pandas 2 does not find numpy's."""
    given = []

    class Search:
        def fit(self, frame):
            given.extend([*frame, *frame.columns, *frame.columns.to_numpy(), *frame.columns.tolist()])
            self.causal_graph_ = nx.empty_graph(frame.columns, nx.DiGraph)
            return self

    data = lessons(fan)
    assert pgmpy_exchange._searched(data, "bic", lambda _: Search()) == [[]] * len(data.cards)
    assert given == [*range(len(data.cards))] * 4
    assert {type(name) for name in given} == {int}


@pytest.mark.parametrize("score", ["bdeu", "bic"])
def test_ges(fan, score):
    """Any order, without a cycle; not by K2, and not of more variables than are allowed."""
    data = lessons(fan)
    parents = ges(score)(data)
    made = fitted(TEMPLATE, fan.applications[FAN].outcomes, {"ges": ges(score)})
    assert any(parents)
    assert made.candidates[0].bits < made.candidates[1].bits
    with pytest.raises(InvalidDataError, match="a score that is equal for equivalent networks: bic or bdeu"):
        ges("k2")(data)
    with pytest.raises(
        InvalidDataError, match=f"{len(data.cards)} variables; GES is too slow for more than 2"
    ):
        ges(score, 2)(data)


def test_a_search_that_goes_in_circles_is_given_up(fan, monkeypatch):
    """pgmpy's GES does, on some data."""
    monkeypatch.setattr("llmsched_langgraph._belief.fit.pgmpy_exchange.MOST_SCORES", 0.01)
    with pytest.raises(InvalidDataError, match="does not converge: stopped after"):
        ges("bdeu")(lessons(fan))


@pytest.mark.parametrize("search", [hill_climb("bic"), ges("bic")], ids=["hill-climb", "ges"])
def test_few_jobs_and_constants(fan, search):
    """A variable of one state, and one row: what pgmpy cannot do is one clear error."""
    data = lessons(fan)
    still = data._replace(rows=np.ones_like(data.rows[:6]))
    assert search(still) == [[]] * len(data.cards)
    with pytest.raises(InvalidDataError, match=r"pgmpy.s search failed: ValueError.*at least 2"):
        search(data._replace(rows=data.rows[:1]))


def test_the_edges_of_a_network_are_a_search(fan):
    network = fan.to_pgmpy("fan")
    own = fan.applications[FAN].model.network
    data = Lessons.for_model(fan.applications[FAN].model, fan.applications[FAN].outcomes)
    assert [tuple(parents) for parents in edges_of(network)(data)] == list(own.parents)
