"""Any graph that LangGraph accepts compiles, to a DAG in which all its nodes and edges are found again."""

from __future__ import annotations

import graphlib
import operator
from typing import Annotated, Any, TypedDict

from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send

from llmsched_langgraph import compile_graph


class State(TypedDict):
    items: Annotated[list[str], operator.add]


def nothing(state: State) -> dict[str, Any]:
    return {}


@st.composite
def graphs(draw, depth: int = 2) -> tuple[Any, set[str], set[tuple[str, str]]]:
    """A compiled graph, the paths of its innermost nodes, and its edges between nodes that are no graphs."""
    builder = StateGraph(State)
    names = [f"n{number}" for number in range(draw(st.integers(1, 6)))]
    plain, paths, edges = set(), set(), set()
    for name in names:
        if depth and draw(st.integers(0, 3)) == 0:
            inner, inner_paths, inner_edges = draw(graphs(depth=depth - 1))
            builder.add_node(name, inner)
            paths |= {f"{name}/{path}" for path in inner_paths}
            edges |= {(f"{name}/{source}", f"{name}/{target}") for source, target in inner_edges}
        else:
            builder.add_node(name, nothing, defer=draw(st.booleans()))
            plain.add(name)
            paths.add(name)
    builder.add_edge(START, names[0])
    pairs = st.tuples(st.sampled_from(names), st.sampled_from([*names, END]))
    for source, target in draw(st.lists(pairs, max_size=12, unique=True)):
        builder.add_edge(source, target)
        if {source, target} <= plain:
            edges.add((source, target))
    for source in draw(st.lists(st.sampled_from(names), max_size=2, unique=True)):
        targets = draw(st.lists(st.sampled_from([*names, END]), min_size=1, max_size=3, unique=True))
        send = draw(st.booleans())
        path = (lambda state: [Send(state["items"][0], {})]) if send else (lambda state: state["items"][0])
        builder.add_conditional_edges(source, path, targets)
        edges |= {(source, target) for target in targets if {source, target} <= plain}
    return builder.compile(), paths, edges


@settings(max_examples=150, deadline=None)
@given(graphs())
def test_any_graph_compiles(made):
    """Every node and every edge is found, the DAG has no cycle, and stages have kinds and reasons."""
    graph, paths, edges = made
    application = compile_graph(graph)
    assert paths <= set(application.by_path)
    assert edges <= set(application.edges)
    before: dict[str, set[str]] = {stage.id: set() for stage in application.stages}
    for source, target in application.stage_edges:
        before[target].add(source)
    list(graphlib.TopologicalSorter(before).static_order())
    assert all(stage.reason for stage in application.stages)
    assert compile_graph(graph) == application
