"""Pictures of applications: everything is in them, names are escaped, and nothing lies on anything else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._views.layout import layered
from llmsched_langgraph._views.mermaid import mermaid
from llmsched_langgraph._views.outline import outline
from llmsched_langgraph._views.svg import svg

ODD = Application.of(
    'a <graph> & "more"',
    [
        Node('ask "it"', Kind.LLM, "calls <M> & co", calls_llm=True),
        Node("do; #1", Kind.DYNAMIC, "runs", planned_by='ask "it"'),
        Node("do; #1/inner", deferred=True),
        Node("a very long name of a node that nobody can read in one go"),
    ],
    [('ask "it"', "do; #1"), ("do; #1", "do; #1/inner"), ("do; #1/inner", 'ask "it"')],
    ['ask "it"'],
)
EMPTY = Application.of("empty")


@pytest.mark.parametrize("application", [ODD, EMPTY], ids=["odd", "empty"])
def test_svg_is_sound(application):
    """Well-formed, with a title for each stage, and all three kinds told apart."""
    root = ET.fromstring(svg(application))
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == [f"{stage.id}: {stage.kind.value}. {stage.reason}" for stage in application.stages]
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert application.name in texts
    assert any(text.startswith("…") for text in texts) == (application is ODD)


def test_mermaid_escapes():
    """No name can break the flowchart."""
    text = mermaid(ODD)
    labels = re.findall(r'"([^"]*)"', text)
    assert "ask #34;it#34;#35;1" in labels
    assert text.count('"') == 2 * len(labels)


def test_outline_says_who_decides_and_what_waits():
    """What the reason does not say already."""
    text = outline(ODD)
    assert 'decided by ask "it"' in text
    assert "waits for everything else" in text
    assert "after nothing found" in text


@st.composite
def dags(draw):
    count = draw(st.integers(0, 15))
    nodes = [f"n{number}" for number in range(count)]
    pairs = [(nodes[a], nodes[b]) for a in range(count) for b in range(a + 1, count)]
    return nodes, draw(st.lists(st.sampled_from(pairs), max_size=30)) if pairs else []


@given(dags())
def test_layout(dag):
    """Edges lead to the right, no two things stand in one place, and ways pass every layer between."""
    nodes, edges = dag
    layout = layered(nodes, edges)
    assert set(layout.places) == set(nodes)
    for source, target in edges:
        way = layout.ways[source, target]
        assert (way[0], way[-1]) == (layout.places[source], layout.places[target])
        assert [layer for layer, _ in way] == list(range(way[0][0], way[-1][0] + 1))
        assert len(way) >= 2
    between = [place for way in layout.ways.values() for place in way[1:-1]]
    places = [*layout.places.values(), *between]
    assert len(set(places)) == len(places)
    assert all(0 <= row <= max(layout.rows - 1, 0) for _, row in places)
