"""Any graph becomes a DAG: checked with the standard library's own topological sorter."""

from __future__ import annotations

import graphlib
import json

from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import MAX_INNER_STAGES, MAX_ROUNDS, Kind, Node
from llmsched_langgraph._application.nesting import VISIT, number_of
from llmsched_langgraph._application.serialization import application_from_json, application_to_json


@st.composite
def applications(draw):
    count = draw(st.integers(1, 12))
    # Some are nodes of a graph inside a node.
    inside = draw(st.sampled_from([0, 2, 3]))
    paths = [f"{'g/' if inside and number % inside else ''}n{number}" for number in range(count)]
    edges = draw(st.lists(st.tuples(st.sampled_from(paths), st.sampled_from(paths)), max_size=30))
    nodes = []
    for path in draw(st.permutations(paths)):
        kind = draw(st.sampled_from(Kind))
        planner = draw(st.none() | st.sampled_from(paths)) if kind is Kind.DYNAMIC else None
        nodes.append(Node(path, kind, "", planner, calls_llm=draw(st.booleans())))
    application = Application.of("app", nodes, edges, draw(st.lists(st.sampled_from(paths), max_size=2)))
    numbers = st.builds(number_of, st.integers(1, 4), st.integers(1, 20))
    return application.unrolled(draw(st.dictionaries(st.sampled_from(paths), numbers)))


def reachable(edges, start):
    after = {}
    for source, target in edges:
        after.setdefault(source, set()).add(target)
    seen, todo = set(), [start]
    while todo:
        for target in after.get(todo.pop(), ()):
            if target not in seen:
                seen.add(target)
                todo.append(target)
    return seen


@given(applications())
def test_the_unrolled_graph_has_no_cycle(application):
    """Nor does any stage stand before one that leads to it."""
    before = {stage.id: set() for stage in application.stages}
    for source, target in application.stage_edges:
        before[target].add(source)
    list(graphlib.TopologicalSorter(before).static_order())
    place = {stage.id: number for number, stage in enumerate(application.stages)}
    assert all(place[source] < place[target] for source, target in application.stage_edges)


@given(applications())
def test_loops_are_exactly_the_nodes_that_can_come_again(application):
    """A node is in a loop if and only if it leads to itself, together with all that it leads to and from."""
    again = {node.path for node in application.nodes if node.path in reachable(application.edges, node.path)}
    assert {path for loop in application.loops for path in loop} == again
    for loop in application.loops:
        for path in loop:
            assert set(loop) <= reachable(application.edges, path)
    assert len({path for loop in application.loops for path in loop}) == sum(map(len, application.loops))


@given(applications())
def test_every_occurrence_has_one_stage(application):
    """From the first to the millionth time a node runs, and no two stages share an id."""
    ids = [stage.id for stage in application.stages]
    assert len(set(ids)) == len(ids)
    for node in application.nodes:
        count = application.occurrences(node.path)
        inner = application.inner_loop_of.get(node.path)
        assert 1 <= count <= (MAX_ROUNDS + 1 if inner is None else 2 * MAX_INNER_STAGES)
        times = (*range(1, count + 3), VISIT - 1)
        numbers = times if inner is None else [number_of(visit, n) for visit in times[:-1] for n in times]
        assert {application.stage_id(node.path, n) for n in numbers} == {
            stage.id for stage in application.stages if stage.node == node.path
        }
        covered = [stage for stage in application.stages if stage.node == node.path]
        for n in numbers:
            (stage,) = [s for s in covered if s.occurrence <= n and (s.last is None or n <= s.last)]
            assert stage.id == application.stage_id(node.path, n)


@given(applications())
def test_inner_loops_are_inside_loops(application):
    """Each node is in at most one, its nodes are consecutive, and they lead to each other within it."""
    paths = [path for loop in application.inner_loops for path in loop]
    assert len(set(paths)) == len(paths)
    order = [node.path for node in application.nodes]
    for loop in application.inner_loops:
        (around,) = [outer for outer in application.loops if set(loop) <= set(outer)]
        assert set(loop) < set(around)
        assert list(loop) == order[order.index(loop[0]) :][: len(loop)]
        within = [edge for edge in application.edges if set(edge) <= set(loop)]
        assert all(set(loop) <= reachable(within, path) for path in loop)


@given(applications())
def test_nothing_is_lost_by_unrolling(application):
    """Every edge of the graph is among the edges of the DAG, and none that was not there."""
    node_of = {stage.id: stage.node for stage in application.stages}
    kept = {(node_of[source], node_of[target]) for source, target in application.stage_edges}
    assert kept == set(application.edges)


@given(applications())
def test_planners_stand_before_what_they_plan(application):
    """Wherever a dynamic stage names its planner and they share a loop, the planner comes first."""
    place = {stage.id: number for number, stage in enumerate(application.stages)}
    loop_of = {path: number for number, loop in enumerate(application.loops) for path in loop}
    planner_of = {node.path: node.planned_by for node in application.nodes}
    for stage in application.stages:
        shared = stage.node in loop_of and loop_of[stage.node] == loop_of.get(planner_of[stage.node])
        if shared and stage.planned_by is not None:
            assert place[stage.planned_by] < place[stage.id]


@given(applications())
def test_json_round_trip(application):
    """Written and read it is equal, whatever it is."""
    assert application_from_json(json.loads(json.dumps(application_to_json(application)))) == application


@given(applications(), st.randoms())
def test_the_order_in_which_it_is_given_does_not_matter(application, random):
    """Equal, with the same stages in the same order."""
    nodes, edges, entries = map(list, (application.nodes, application.edges, application.entries))
    for part in (nodes, edges, entries):
        random.shuffle(part)
    unrolled = application.rounds, application.inner_rounds
    other = Application(application.name, tuple(nodes), tuple(edges), tuple(entries), *unrolled)
    assert other == application
    assert other.stages == application.stages
