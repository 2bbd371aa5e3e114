"""Pictures of profiles: every quantity and edge is in them, and nothing lies on anything else."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.beliefs import model_of
from support.networks import network

from llmsched_langgraph import Application
from llmsched_langgraph._application.application import Kind, Node
from llmsched_langgraph._belief.fit.evaluation import Guess, Guesses
from llmsched_langgraph._belief.fit.models import learn
from llmsched_langgraph._jobs.observed import Unit
from llmsched_langgraph._views.network_picture import network_picture
from llmsched_langgraph._views.picture import Arrow, Box, Words, picture_svg

SVG = "{http://www.w3.org/2000/svg}"


def application(names):
    return Application.of("a <b> & $c", [Node(name, Kind.LLM, calls_llm=True) for name in names])


@st.composite
def models(draw):
    """Up to seven stages, any edges, some names long."""
    count = draw(st.integers(1, 7))
    names = [f"s{i}" * draw(st.sampled_from((1, 1, 30))) for i in range(count)]
    parents = tuple(
        tuple(sorted(draw(st.sets(st.integers(0, i - 1), max_size=2)))) if i else () for i in range(count)
    )
    drawn = network(draw(st.integers(0, 2**32)), [2] * count, parents)
    return application(names), model_of(names, [(1.0,)] * count, parents, drawn.tables)


@settings(max_examples=60, deadline=None)
@given(models())
def test_a_network_is_drawn(drawn):
    """A box for each quantity, an arrow for each edge from box to box, all on the paper and apart."""
    picture = network_picture(*drawn)
    model = drawn[1]
    boxes = [shape for shape in picture.shapes if isinstance(shape, Box) and shape.height > 20]
    arrows = [shape for shape in picture.shapes if isinstance(shape, Arrow)]
    assert len(boxes) == len(model.columns)
    assert len(arrows) == sum(map(len, model.network.parents))
    for box in boxes:
        assert box.left >= 0
        assert box.left + box.width <= picture.width
        assert box.top >= 0
        assert box.top + box.height <= picture.height
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            assert (
                one.left >= other.left + other.width
                or other.left >= one.left + one.width
                or one.top >= other.top + other.height
                or other.top >= one.top + one.height
            )
    starts = {(box.left + box.width, box.top + box.height / 2) for box in boxes}
    ends = {(box.left - 1, box.top + box.height / 2) for box in boxes}
    for arrow in arrows:
        assert arrow.points[0] in starts
        assert arrow.points[-1] in ends
        for x, y in arrow.points[1:-1]:  # what passes a layer passes between its boxes
            assert not any(b.left < x < b.left + b.width and b.top <= y <= b.top + b.height for b in boxes)
    root = ET.fromstring(picture_svg(picture))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert texts == [shape.text for shape in picture.shapes if isinstance(shape, Words)]
    assert "a <b> & $c" in texts


def test_an_application_of_which_nothing_is_known():
    """A prior of a call is one box."""
    empty = Application.of("empty")
    picture = network_picture(empty, learn(empty, []))
    texts = [shape.text for shape in picture.shapes if isinstance(shape, Words)]
    assert "work of all calls" in texts
    assert any(text.startswith("learned from 0 jobs: 1 quantity, 0 edges") for text in texts)


def test_a_png(tmp_path):
    """The same shapes; names that matplotlib could take for formulas are names."""
    pytest.importorskip("matplotlib")
    from llmsched_langgraph._views.picture_png import write_png

    names = ["a$b$", "c"]
    drawn = network(1, [2, 2], ((), (0,)))
    picture = network_picture(application(names), model_of(names, [(1.0,)] * 2, ((), (0,)), drawn.tables))
    write_png(picture, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_guesses_are_drawn(tmp_path):
    """A panel for each application, a point for each moment, and the line on which all should lie."""
    pytest.importorskip("matplotlib")
    from llmsched_langgraph._views.profile_plots import guesses_figure, write_guesses

    measured = [
        Guesses("one", Unit.SECONDS, tuple(Guess(n % 3, 1.0 + n, 2.0) for n in range(9))),
        Guesses("two", Unit.TOKENS, (Guess(5, 100.0, 0.0),)),
        Guesses("none", Unit.SECONDS, ()),
    ]
    figure = guesses_figure(measured)
    one, two, none = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "one (9 moments)",
        "two (1 moments)",
        "none (0 moments)",
    ]
    assert one.collections[0].get_offsets().tolist() == [[1.0 + n, 2.0] for n in range(9)]
    assert "output tokens" in two.get_xlabel()
    assert not len(none.collections[0].get_offsets())
    for axes in figure.axes:
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_xscale() == axes.get_yscale() == "log"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["0", "1", "2", "5"]
    for name in ("a.svg", "b.svg", "c.png"):
        write_guesses(measured, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
