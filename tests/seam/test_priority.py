"""The priority of a run: which calls go first, and who may say so."""

from __future__ import annotations

import asyncio

import pytest
from langgraph.graph import START, StateGraph
from support.turns import State, as_user, graph_of_one_call, in_turn, order_of

from llmsched_langgraph import ConfigurationError, schedule
from llmsched_langgraph.traces import read_jobs


def configured(part, priority):
    return {part: {"llmsched_priority": priority}}


@pytest.fixture
def make_graph(make_scheduler):
    def make(**settings):
        return graph_of_one_call(make_scheduler(1, policy="fcfs", **settings))

    return make


@pytest.mark.parametrize("part", ["metadata", "configurable"])
def test_a_smaller_priority_goes_first(make_graph, part):
    """Before all larger ones; 0 without a word; ties go by the policy."""
    priorities = [5, 0, -5, 1, -5]
    configs = [configured(part, priority) for priority in priorities]
    assert order_of(make_graph(), *configs, None) == "241530"


def test_the_graphs_own_configuration(make_graph):
    """It counts where the run says nothing."""
    scheduler, graph, order = make_graph()
    urgent = graph.with_config(configured("configurable", -1))
    runs = [graph.ainvoke({"name": "a"}), urgent.ainvoke({"name": "b"})]
    runs.append(urgent.ainvoke({"name": "c"}, configured("metadata", 1)))
    asyncio.run(in_turn(scheduler, *runs))
    assert order == ["b", "a", "c"]


@pytest.mark.parametrize("wrong", [6, -6, 1.5, "high", True, [1]])
def test_a_priority_that_is_none(make_graph, wrong):
    """The error names the key; no run began."""
    scheduler, graph, _ = make_graph()
    with pytest.raises(ConfigurationError, match="llmsched_priority must be a whole number from -5 to 5"):
        graph.invoke({"name": "a"}, configured("metadata", wrong))
    assert (scheduler.statistics().jobs_running, scheduler.statistics().jobs_ended) == (0, 0)
    with pytest.raises(ConfigurationError, match="priority must be a whole number from -5 to 5"):
        scheduler.slot(priority=wrong)


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    "user", [{"langgraph_auth_user_id": "u"}, {"langgraph_auth_user": {"identity": "u"}}]
)
def test_an_authenticated_user_is_trusted_if_the_scheduler_says_so(make_graph, trust, user):
    """Also with a priority that is none, which is ignored then."""
    claims = [as_user(configured(part, -5), **user) for part in ("metadata", "configurable")]
    assert order_of(make_graph(trust_config=trust), None, *claims) == ("120" if trust else "012")
    if not trust:
        assert order_of(make_graph(), as_user(configured("metadata", "high"), **user)) == "0"


def test_the_priority_is_recorded(make_graph, tmp_path):
    """That of a job whose priority is not 0."""
    scheduler, graph, _ = make_graph(record=tmp_path / "jobs.jsonl")
    for config in (configured("metadata", 3), None):
        graph.invoke({"name": "a"}, config)
    scheduler.close()
    assert [job.priority for job in read_jobs(tmp_path / "jobs.jsonl")] == [3, None]


def test_an_empty_user_is_none(make_graph):
    claim = as_user(configured("metadata", -5), langgraph_auth_user_id="")
    assert order_of(make_graph(), None, claim) == "10"


def test_calls_outside_runs(make_scheduler):
    """Each is a job of its own, with the priority that it is given."""
    scheduler, order = make_scheduler(1, policy="fcfs"), []

    async def call(name, priority):
        async with scheduler.slot(priority=priority):
            order.append(name)

    asyncio.run(in_turn(scheduler, call("a", None), call("b", -1), call("c", 0), call("d", 5)))
    assert order == ["b", "a", "c", "d"]


def test_a_call_inside_a_run_has_the_runs_priority(make_scheduler):
    scheduler, order = make_scheduler(1, policy="fcfs"), []

    async def node(state):
        async with scheduler.slot(priority=-5):
            order.append("run")

    async def call():
        async with scheduler.slot():
            order.append("call")

    graph = StateGraph(State).add_node("n", node).add_edge(START, "n").compile()
    asyncio.run(in_turn(scheduler, call(), schedule(graph, scheduler).ainvoke({"name": "a"})))
    assert order == ["call", "run"]


def test_an_overdue_call_goes_before_smaller_priorities(make_graph):
    """The only grant that does."""
    made = make_graph(max_wait_s=0.0, overdue_every=1)
    assert order_of(made, configured("metadata", 5), configured("metadata", -5)) == "01"


@pytest.mark.parametrize("wrong", [None, 1, "yes"])
def test_a_trust_that_is_none(make_scheduler, wrong):
    with pytest.raises(ConfigurationError, match="trust_config must be True or False"):
        make_scheduler(1, trust_config=wrong)
