"""The smallest program of each ingredient that the package gets wrong, or once did, played for real."""

from __future__ import annotations

import pytest

from programs.batches import Player
from programs.features import WRONG, Feature
from programs.grammar.bounds import Interrupt, Pause, Slot, Timeout
from programs.grammar.calls import Batch, Call, Nested, Pumped, Stream
from programs.grammar.graphs import Graph, Node, Side, Sketch, written
from programs.grammar.models import Chained, Ensemble, Leaf
from programs.grammar.page import Statement
from programs.grammar.spreading import Background, Blocking, Fork, Gather, Threads
from programs.stage.runs import Client, Run

PATIENCE_S = 5.0  # reached by programs that stand still, and by others on no machine

pytestmark = pytest.mark.timeout(120)

QUICK, SLOW = Leaf("Plain", 1), Leaf("Plain", 200)
STREAM = Leaf("Streaming", 1)
ONE_NODE = Graph((Side((Node((Call(QUICK),), "async"),)),))


def on_a_loop(*nodes: tuple[Statement, ...], runs: int = 2) -> Sketch:
    """A graph of asynchronous nodes side by side, run several times at once on one slot."""
    graph = Graph((Side(tuple(Node(body, "async") for body in nodes)),))
    return Sketch(graph, 1, "fcfs", (Client("loop", (Run(),) * runs),))


def in_a_row(*nodes: tuple[Statement, ...]) -> Sketch:
    """A graph of asynchronous nodes, one after the other, run once on a loop and two slots."""
    graph = Graph(tuple(Side((Node(body, "async"),)) for body in nodes))
    return Sketch(graph, 2, "fcfs", (Client("loop", (Run(),)),))


def on_closed_loops(body: tuple[Statement, ...]) -> Sketch:
    """A graph of one asynchronous node, run on two loops that are closed under what it left running."""
    graph = Graph((Side((Node(body, "async"),)),))
    return Sketch(graph, 1, "fcfs", (Client("loop", (Run(),), "closes"),) * 2)


def in_a_thread(body: tuple[Statement, ...]) -> Sketch:
    """A graph of one synchronous node, run in a thread on one slot."""
    return Sketch(Graph((Side((Node(body, "sync"),)),)), 1, "fcfs", (Client("thread", (Run(),)),))


EXAMPLES = {
    Feature.FAN_OUT_ON_LOOP: on_a_loop((Call(QUICK), Blocking((Batch(QUICK),)))),
    Feature.PUMPED: on_a_loop((Pumped(STREAM, (Call(QUICK),)),), runs=1),
    Feature.LEFT_OPEN: on_a_loop((Stream(STREAM, "left open"), Interrupt())),
    Feature.KEPT_OPEN: on_a_loop((Stream(STREAM, "kept open"),)),
    Feature.ENSEMBLE: on_a_loop((Call(Ensemble(SLOW, 3)),), runs=1),
    Feature.PARALLEL_IN_SLOT: on_a_loop((Slot((Batch(SLOW, 3),)),), runs=1),
    Feature.OUTLIVES_SLOT: on_a_loop(
        (Timeout((Call(Chained(Leaf("SyncOnly", 200))),), after_ms=100), Call(SLOW)), runs=1
    ),
    Feature.BACKGROUND_GRAPH: in_a_row((Background((Pause(100), Nested(ONE_NODE))),), (Call(SLOW),)),
    Feature.CLOSED_LOOP: on_closed_loops((Background((Call(SLOW),)), Call(QUICK))),
    Feature.UNMARKED_THREADS: on_a_loop((Threads("pool", 3, (Call(SLOW),)),), runs=1),
    Feature.FORK: in_a_thread((Gather(((Call(SLOW),), (Pause(100), Fork(QUICK)))),)),
}
"""Programs that go wrong each time, as long as the package gets their ingredient wrong."""


def _marks(feature: Feature) -> list[pytest.MarkDecorator]:
    return [pytest.mark.xfail(reason=WRONG[feature], strict=True)] if feature in WRONG else []


@pytest.mark.parametrize(
    ("feature", "sketch"),
    [
        pytest.param(feature, sketch, id=feature, marks=_marks(feature))
        for feature, sketch in EXAMPLES.items()
    ],
)
def test_smallest_program(feature: Feature, sketch: Sketch) -> None:
    """It ends as it does bare, within its slots, and leaves nothing behind."""
    program = written(sketch)
    assert feature in program.features
    with Player(PATIENCE_S) as player:
        verdict = player.play(feature, program.source)
    assert not verdict.kind, f"{verdict.kind}: {verdict.text}\n{program.source}"


def test_every_wrong_ingredient_has_an_example() -> None:
    """What random programs leave out is not forgotten."""
    assert EXAMPLES.keys() >= WRONG.keys()
