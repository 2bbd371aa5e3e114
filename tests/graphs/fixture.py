"""What a graph of this package says about itself, and how its runs are played."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langgraph.types import Command

Kind = Literal["llm", "regular", "dynamic"]


@dataclass(frozen=True)
class Run:
    """One run, on a thread of its own.

    Attributes:
        name: what is special about it.
        given: the input.
        outcome: what must come of it, as the fixture's `outcome` sees it.
        calls: how many model calls that takes in all.
        then: inputs given afterwards on the same thread, each when the one before has come to rest.
        visits: how often each of these nodes runs, where that is what the run is about.
        config: what to run it with besides its thread.
    """

    name: str
    given: Any
    outcome: Any
    calls: int
    then: tuple[Any, ...] = ()
    visits: Mapping[str, int] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def inputs(self) -> tuple[Any, ...]:
        """All inputs, in order."""
        return (self.given, *self.then)

    def fresh_config(self) -> dict[str, Any]:
        """The configuration, with a thread that nobody used before."""
        configurable = {**self.config.get("configurable", {}), "thread_id": str(uuid.uuid4())}
        return {"recursion_limit": 60, **self.config, "configurable": configurable}


@dataclass(frozen=True)
class Fixture:
    """A graph, how it is run, and what a compiler must find in it without running it.

    Paths are node names joined by `/`, outermost first. A node that is nothing but a subgraph is a
    container: it is left out of `kinds` unless a plan decides about it.

    Attributes:
        name: its own in this package.
        build: makes the compiled graph anew, without a model call and without a socket.
        runs: what it can be run with.
        kinds: the kind of each node.
        outcome: takes from a run's last output what the run is about.
        planned: for each dynamic node the path of the node whose model call plans it, or None.
        calls_llm: dynamic nodes that call a model themselves.
        loops: the strongly connected nodes of each graph and subgraph by itself, containers included.
        tasks: names of what runs only because a function asks for it, with the node of that function; no
            compiler can know them, and that node stands for them. LangGraph streams such a task as a
            neighbour of the node and runs it in a namespace inside the node.
        ignored_warning: what building it warns of, as a filter of pytest.
    """

    name: str
    build: Callable[[], Any]
    runs: tuple[Run, ...]
    kinds: Mapping[str, Kind]
    outcome: Callable[[Any], Any]
    planned: Mapping[str, str | None] = field(default_factory=dict)
    calls_llm: frozenset[str] = frozenset()
    loops: frozenset[frozenset[str]] = frozenset()
    tasks: Mapping[str, str] = field(default_factory=dict)
    ignored_warning: str | None = None

    def __post_init__(self) -> None:
        dynamic = {path for path, kind in self.kinds.items() if kind == "dynamic"}
        assert dynamic == set(self.planned), f"{self.name}: who plans {dynamic ^ set(self.planned)}?"
        assert dynamic >= self.calls_llm, f"{self.name}: not dynamic: {self.calls_llm - dynamic}"

    def stage(self, path: str) -> str:
        """The node that stands for what ran at this path."""
        return self.tasks.get(path.rpartition("/")[2], path)

    @property
    def callers(self) -> frozenset[str]:
        """All nodes that call a model themselves."""
        return self.calls_llm | {path for path, kind in self.kinds.items() if kind == "llm"}

    @property
    def loops_flat(self) -> frozenset[frozenset[str]]:
        """The loops once every subgraph stands in place of its container: the outermost, with all inside."""
        outermost = [
            loop
            for loop in self.loops
            if not any(path.startswith(f"{node}/") for path in loop for other in self.loops for node in other)
        ]
        return frozenset(
            frozenset(
                path
                for path in self.kinds
                if any(path == node or path.startswith(f"{node}/") for node in loop)
            )
            for loop in outermost
        )


def loops(*sets: set[str]) -> frozenset[frozenset[str]]:
    """Loops, written as sets."""
    return frozenset(frozenset(nodes) for nodes in sets)


def resume(value: Any) -> Any:
    """An input that answers what a run asked its human."""
    return Command(resume=value)


def play(graph: Any, run: Run) -> Any:
    """All inputs of a run in this thread; the last output."""
    config, output = run.fresh_config(), None
    for given in run.inputs():
        output = graph.invoke(given, config)
    return output


async def aplay(graph: Any, run: Run) -> Any:
    """All inputs of a run on this loop; the last output."""
    config, output = run.fresh_config(), None
    for given in run.inputs():
        output = await graph.ainvoke(given, config)
    return output


def asked(text: str) -> dict[str, Any]:
    """The input of an agent."""
    return {"messages": [("user", text)]}


def last_text(output: Any) -> str:
    """The last word of a conversation."""
    return output["messages"][-1].text
