"""What the compiler finds in graphs as users write them, without running any of them."""

from __future__ import annotations

import graphlib
import socket

import pytest
from graphs import EACH
from graphs.scripted import CALLS

from llmsched_langgraph import compile_graph, schedule
from llmsched_langgraph._application.serialization import application_from_json, application_to_json

each = pytest.mark.parametrize("fixture", EACH)

# What can be reached is more than what is called: specifications of subagents hold their models.
TOO_MUCH = {"deep_agent": {"tools"}}


@each
def test_stages_and_kinds(fixture):
    """Every node is there and classified, with who plans it."""
    application = compile_graph(fixture.build())
    seen = {node.path: node for node in application.nodes}
    assert seen.keys() == fixture.kinds.keys()
    for node in seen.values():
        assert_as_written(fixture, node)
    assert {node.path for node in application.nodes if node.kind == "llm"} <= {
        node.path for node in application.nodes if node.calls_llm
    } | {node.path for node in application.nodes if node.reason == "its author says so"}
    assert all(node.reason for node in application.nodes)


def assert_as_written(fixture, node):
    """The node's kind, who plans it, and whether it calls a model, are what a reader of the graph says."""
    path, dynamic = node.path, node.kind == "dynamic"
    assert node.kind == fixture.kinds[path], path
    assert (node.planned_by if dynamic else None) == fixture.planned.get(path), path
    if dynamic and path not in TOO_MUCH.get(fixture.name, set()):
        assert node.calls_llm == (path in fixture.calls_llm), path


@each
def test_loops(fixture):
    """What can come round again, with subgraphs in the place of their containers."""
    application = compile_graph(fixture.build())
    assert {frozenset(loop) for loop in application.loops} == fixture.loops_flat


@each
def test_everything_can_be_reached(fixture):
    """A run begins somewhere, and from there every node can be come to."""
    application = compile_graph(fixture.build())
    assert application.entries
    reached = application.reachable(application.entries) | set(application.entries)
    assert reached == {node.path for node in application.nodes}


@each
def test_the_unrolled_graph_has_no_cycle(fixture):
    """However far its loops are unrolled."""
    application = compile_graph(fixture.build())
    for rounds in (1, 3, 12):
        unrolled = application.unrolled({node.path: rounds for node in application.nodes})
        sorter = graphlib.TopologicalSorter({stage.id: () for stage in unrolled.stages})
        for source, target in unrolled.stage_edges:
            sorter.add(target, source)
        assert len(list(sorter.static_order())) == len(unrolled.stages)


@each
def test_compiling_runs_nothing(fixture, monkeypatch):
    """No model is called, no socket opened; a copy that is scheduled compiles to the same application."""
    graph = fixture.build()

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    with CALLS.none_allowed():
        application = compile_graph(graph)
        assert compile_graph(schedule(graph)) == application
    assert compile_graph(fixture.build()).fingerprint == application.fingerprint


@each
def test_json_round_trip(fixture):
    """Written and read, it is the same application."""
    application = compile_graph(fixture.build())
    assert application_from_json(application_to_json(application)) == application
