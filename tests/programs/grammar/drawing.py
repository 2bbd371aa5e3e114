"""Draws small random programs: the same seed and number give the same program, whatever came before.

Does not write them. Each program has a few ingredients of those allowed, drawn anew for each ("swarm
testing"): programs stay small, and any two ingredients also meet without a third beside them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast, get_args

from llmsched_langgraph.policies import POLICIES
from programs.features import Feature
from programs.grammar.bounds import Caught, Fail, Interrupt, Pause, Scope, Slot, Timeout
from programs.grammar.calls import Batch, Call, Nested, Parallel, Pumped, Stream, Tool
from programs.grammar.graphs import FanOut, Form, Graph, Node, Side, Sketch, Sub, Tools, Written, written
from programs.grammar.models import PAUSES_MS, Chained, Delegating, Ensemble, House, Leaf
from programs.grammar.page import Body, Unwritable
from programs.grammar.spreading import Background, Blocking, Fork, Gather, OwnLoop, Threads
from programs.stage.runs import Client, Run, Way

T = TypeVar("T")

SHARE = 0.3
"""The share of the allowed ingredients that one program may have."""

MAX_LINES = 140
"""The most lines of a program's source."""

_TRIES = 4_000
_AFTER = (0, 1, 2, 4, 8, 15, 30, 60, 120, 250, 500)  # turns of a loop


@dataclass(frozen=True)
class Drawn:
    """A program that was drawn."""

    name: str
    sketch: Sketch
    written: Written


def draw(
    seed: int, number: int, allowed: AbstractSet[Feature], wanted: AbstractSet[Feature] = frozenset()
) -> Drawn:
    """Draw one program, with ingredients that are allowed only, and with those that are wanted.

    Raises:
        ValueError: no such program was found; the wanted ingredients may need some that are not allowed.
    """
    name = f"{seed}/{number}"
    chance = random.Random(name)
    for _ in range(_TRIES):
        some = frozenset(each for each in sorted(allowed) if chance.random() < SHARE)
        sketch = Dice(chance, some | wanted).sketch()
        try:
            program = written(sketch)
        except Unwritable:
            continue
        if wanted <= program.features <= allowed and program.source.count("\n") <= MAX_LINES:
            return Drawn(name, sketch, program)
    raise ValueError(f"no program with {', '.join(sorted(wanted))} of {', '.join(sorted(allowed))}")


class Dice:
    """Draws the parts of one program.

    Args:
        chance: the random numbers.
        some: the ingredients that it may have.
    """

    def __init__(self, chance: random.Random, some: AbstractSet[Feature]) -> None:
        self._chance = chance
        self._some = some

    def _has(self, feature: Feature) -> bool:
        return feature in self._some

    def _one(self, items: Any) -> Any:
        return self._chance.choice(list(items))

    def _maybe(self, share: float) -> bool:
        return self._chance.random() < share

    def _of(self, *choices: tuple[Feature | None, float, Callable[[], T]]) -> T:
        """One of what is possible, by weight."""
        possible = [
            (weight, make) for feature, weight, make in choices if feature is None or self._has(feature)
        ]
        weights = [weight for weight, _ in possible]
        return self._chance.choices([make for _, make in possible], weights)[0]()

    # -- whole programs ----------------------------------------------------------------

    def sketch(self) -> Sketch:
        """A whole program."""
        return Sketch(
            graph=self.graph(2),
            slots=self._one((1, 1, 2, 3)),
            policy=self._one(POLICIES),
            clients=tuple(self.client() for _ in range(self._clients())),
        )

    def _clients(self) -> int:
        return self._chance.randint(2, 3) if self._has(Feature.SEVERAL_LOOPS) else 1

    def client(self) -> Client:
        """Who runs the graph."""
        kind = self._of(
            (None, 2, lambda: "thread"),
            (None, 3, lambda: "loop"),
            (Feature.UVLOOP, 6, lambda: "uvloop"),
        )
        number = self._chance.randint(1, 4) if self._has(Feature.MANY_RUNS) else 1
        runs = tuple(self.run(kind == "thread") for _ in range(number))
        end = self._of(
            (None, 2, lambda: "awaits"),
            (None, 1, lambda: "cancels"),
            (Feature.CLOSED_LOOP, 3, lambda: "closes"),
        )
        return Client(cast(Any, kind), runs, cast(Any, "awaits" if kind == "thread" else end))

    def run(self, in_thread: bool) -> Run:
        """One run."""
        ways = [way for way in get_args(Way) if way != "broken off" or self._has(Feature.BROKEN_OFF)]
        way: Way = "invoke" if self._maybe(0.5) else self._one(ways)
        if in_thread:
            return Run("stream" if way == "events" else way)
        cut = self._of(
            (None, 1, lambda: ""),
            (Feature.CANCELLED, 1, lambda: self._one(("cancelled", "timed out"))),
            (Feature.HUNG_UP, 1, lambda: "hung up"),
        )
        return Run(way, cast(Any, cut), self._one(_AFTER) if cut else 0)

    # -- graphs ------------------------------------------------------------------------

    def graph(self, depth: int) -> Graph:
        """A graph; `depth`: how deep its parts may be nested."""
        layers = tuple(self.layer(depth) for _ in range(self._one((1, 1, 2))))
        return Graph(layers, scheduled=self._maybe(0.7))

    def layer(self, depth: int) -> Any:
        """A layer of a graph."""
        number = self._chance.randint(2, 3) if self._has(Feature.PARALLEL_NODES) else 1
        if depth <= 0:
            return Side((self.node(0),))
        return self._of(
            (None, 2, lambda: Side(tuple(self.node(depth) for _ in range(number)))),
            (Feature.SEND, 2, lambda: FanOut(self.node(depth), self._one((2, 3, 4)))),
            (Feature.SUBGRAPH, 2, lambda: Sub(self.graph(depth - 1))),
            (Feature.TOOL_NODE, 2, lambda: Tools(self.body(depth - 1), self._one((1, 2, 3)), self._form())),
        )

    def node(self, depth: int) -> Node:
        """A node."""
        return Node(self.body(depth), self._form(), self._has(Feature.NODE_RETRY) and self._maybe(0.5))

    def _form(self) -> Form:
        return cast(Form, self._one(("both", "sync", "async", "async")))

    # -- statements --------------------------------------------------------------------

    def body(self, depth: int) -> Body:
        """Statements; `depth`: how deep others may stand inside of them."""
        return tuple(self.statement(depth) for _ in range(self._one((1, 1, 2, 3))))

    def statement(self, depth: int) -> Any:
        """A statement."""
        inside = depth - 1
        if depth <= 0:
            return self._of(
                (None, 5, self._call),
                (None, 1, lambda: Stream(self.model(), cast(Any, self._read()))),
                (Feature.BATCH, 2, lambda: Batch(self.model(), self._one((2, 3)))),
            )
        return self._of(
            (None, 3, self._call),
            (None, 0.5, lambda: Pause(self._one((0, 1, 3)))),
            (Feature.BATCH, 2, lambda: Batch(self.model(), self._one((2, 3)))),
            (Feature.PARALLEL, 2, lambda: Parallel(self.model(), self.model())),
            (None, 1, lambda: Stream(self.model(), cast(Any, self._read()))),
            (Feature.READ_AND_ASK, 2, lambda: Stream(self.model(), cast(Any, self._read()), self.body(0))),
            (Feature.LEFT_OPEN, 3, lambda: Stream(self.model(), "left open")),
            (Feature.KEPT_OPEN, 3, lambda: Stream(self.model(), "kept open")),
            (Feature.PUMPED, 3, lambda: Pumped(self.model(), self.body(0))),
            (Feature.TOOL, 1, lambda: Tool(self.body(inside))),
            (Feature.NESTED, 2, lambda: Nested(self.graph(inside))),
            (Feature.GATHER, 2, lambda: Gather(tuple(self.body(inside) for _ in range(self._one((2, 3)))))),
            (Feature.MARKED_THREADS, 2, lambda: Threads("marked", self._one((1, 2, 3)), self.body(inside))),
            (Feature.UNMARKED_THREADS, 2, self._unmarked_threads),
            (Feature.OWN_LOOP, 2, lambda: OwnLoop(self.body(inside))),
            (Feature.BACKGROUND, 2, lambda: Background(self.body(inside), self._marked())),
            (Feature.FORK, 2, lambda: Fork(Leaf("Plain", self._one(PAUSES_MS)))),
            (Feature.SYNC_ON_LOOP, 2, lambda: Blocking((self._call(),))),
            (Feature.FAN_OUT_ON_LOOP, 3, lambda: Blocking(self.body(inside))),
            (Feature.SLOT, 2, lambda: Slot(self.body(inside))),
            (Feature.TIMEOUT, 2, lambda: Timeout(self.body(inside), self._one((0, 1, 3)))),
            (Feature.SCOPE, 2, lambda: Scope(self.body(inside), self._one((0, 1, 3)), self._maybe(0.5))),
            (Feature.CAUGHT, 2, lambda: Caught(self.body(inside))),
            (Feature.FAILING, 0.5, Fail),
            (Feature.INTERRUPT, 1, Interrupt),
        )

    def _unmarked_threads(self) -> Threads:
        kind: Literal["pool", "bare"] = self._one(("pool", "bare"))
        return Threads(kind, self._one((1, 2, 3)), self.body(0))

    def _marked(self) -> bool:
        return not self._has(Feature.UNMARKED_THREADS) or self._maybe(0.5)

    def _read(self) -> str:
        return cast(str, self._one(("all", "all", "first", "closed")))

    def _call(self) -> Call:
        guard = self._of(
            (None, 2, lambda: ""),
            (Feature.RETRIES, 2, lambda: "retries"),
            (Feature.FALLBACKS, 2, lambda: "falls back"),
        )
        return Call(self.model(), cast(Any, guard))

    # -- models ------------------------------------------------------------------------

    def model(self) -> Any:
        """A model."""
        return self._of(
            (None, 8, self.leaf),
            (Feature.HOUSE, 3, lambda: House(self._one(("PlainModel", "StreamingModel", "SyncOnlyModel")))),
            (Feature.CHAINED, 3, lambda: Chained(self.leaf())),
            (Feature.ENSEMBLE, 3, lambda: Ensemble(self.leaf(), self._one((2, 3, 4)), self._how())),
            (Feature.DELEGATING, 3, lambda: Delegating(self.graph(0))),
        )

    def _how(self) -> Any:
        return self._one(("batch", "pool")) if self._has(Feature.UNMARKED_THREADS) else "batch"

    def leaf(self) -> Leaf:
        """A model that is a backend's."""
        kind = self._of(
            (None, 3, lambda: "Plain"),
            (Feature.STREAMING, 6, lambda: "Streaming"),
            (Feature.SYNC_ONLY, 3, lambda: "SyncOnly"),
            (Feature.ASYNC_ONLY, 3, lambda: "AsyncOnly"),
        )
        fails = self._one(("never", "never", "first", "always")) if self._has(Feature.FAILING) else "never"
        return Leaf(cast(Any, kind), self._one(PAUSES_MS), cast(Any, fails))
