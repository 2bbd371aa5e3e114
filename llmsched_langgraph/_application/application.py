"""Defines an application: the template shared by all runs of a graph, with a stable fingerprint.

Does not depend on LangGraph, and holds neither costs nor the state of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import NamedTuple

from llmsched_langgraph._application.nesting import Nest, nested, place_of
from llmsched_langgraph._application.order import components
from llmsched_langgraph._application.unrolling import Unrolling

DEFAULT_ROUNDS = 2
"""Separate occurrences per loop before any run is observed. The tail covers all later ones."""

MAX_ROUNDS = 12
"""Maximum number of separate occurrences per loop."""

MAX_INNER_STAGES = 24
"""Bound of rounds (inner_rounds + 1): the stages of a node in an inner loop, but for that of later visits."""


AUTHORS_WORD = "its author says so"
"""The reason of a kind that the graph's author declared. Runs never correct it."""


class Kind(StrEnum):
    """The kind of a stage, as the LLMSched paper defines it."""

    REGULAR = "regular"
    LLM = "llm"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Node:
    """A node of the graph, before loops are unrolled into stages.

    Attributes:
        path: the node's name, prefixed with the enclosing subgraph nodes: `outer/inner`.
        kind: regular (no LLM), LLM, or dynamic (an earlier stage decides what runs here).
        reason: why the node has this kind, as text for display.
        planned_by: path of the node that decides what a dynamic node runs; None if unknown.
        calls_llm: whether the node is known to call a model. Dynamic nodes may do so.
        deferred: whether the node has `defer=True` and runs after all other nodes of its graph.
        learned: whether the node was observed in runs but is missing from the compiled graph. Learned nodes
            are not part of the fingerprint.
        tools: names of the tools that its code can reach.
    """

    path: str
    kind: Kind = Kind.REGULAR
    reason: str = ""
    planned_by: str | None = None
    calls_llm: bool = False
    deferred: bool = False
    learned: bool = False
    tools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """One occurrence of a node: a vertex of the unrolled DAG.

    Attributes:
        id: the node's path; in a loop followed by `#2` for the second occurrence, or `#3+` for the third
            and all later ones. In an inner loop, `#2.1` is the first occurrence in the second visit, and
            `#2.3+` stands for the third and all later ones in this visit.
        node: the node's path.
        occurrence: number of the occurrence within a job, from 1; in an inner loop as in `nesting`.
        tail: whether the stage also stands for later occurrences.
        kind: as in `Node`.
        reason: as in `Node`.
        planned_by: id of the stage that decides what this stage runs; None if unknown.
        last: number of the last occurrence that the stage stands for; None without a limit.
    """

    id: str
    node: str
    occurrence: int
    tail: bool
    kind: Kind
    reason: str
    planned_by: str | None = None
    last: int | None = None


@dataclass(frozen=True)
class Application:
    """The template of a graph: its nodes, its edges, and the stages derived from them.

    Nodes are sorted topologically (within a loop: by one iteration), edges and entries alphabetically. Each
    loop is unrolled into `rounds` separate occurrences and a tail stage. A loop inside it has a counter of
    its own, which begins anew with each visit (`nesting`): each of `rounds` visits is unrolled into
    `inner_rounds` separate occurrences and a tail, and one stage per node stands for all later visits.

    Attributes:
        name: the graph's name.
        nodes: the nodes, including those of subgraphs.
        edges: (source path, target path) pairs, including those that close a loop.
        entries: paths of the nodes at which a run may begin.
        rounds: for each of `loops`, the number of separate occurrences before the tail.
        inner_rounds: for each of `inner_loops`, that number within one visit.
        fingerprint: hash of name, paths, edges and entries; the key of the application's profile. It is equal
            across processes and restarts. It excludes kinds and rounds, because runs correct them.

    Raises:
        ValueError: a path is duplicate or unknown, or `rounds` or `inner_rounds` does not have one number per
            loop.
    """

    name: str
    nodes: tuple[Node, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    entries: tuple[str, ...] = ()
    rounds: tuple[int, ...] = ()
    inner_rounds: tuple[int, ...] = ()
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        paths = [node.path for node in self.nodes]
        if len(set(paths)) < len(paths):
            twice = next(path for path in paths if paths.count(path) > 1)
            raise ValueError(f"duplicate node {twice!r}")
        known = set(paths)
        planners = [node.planned_by for node in self.nodes if node.planned_by is not None]
        for path in (*(end for edge in self.edges for end in edge), *self.entries, *planners):
            if path not in known:
                raise ValueError(f"unknown node {path!r}")
        put = object.__setattr__
        put(self, "edges", tuple(sorted(set(self.edges))))
        put(self, "entries", tuple(sorted(set(self.entries))))
        by_path = {node.path: node for node in self.nodes}
        put(self, "nodes", tuple(by_path[path] for part in self._ordered.parts for path in part))
        given = tuple(min(max(rounds, 1), MAX_ROUNDS) for rounds in self.rounds)
        put(self, "rounds", given or (DEFAULT_ROUNDS,) * len(self.loops))
        if len(self.rounds) != len(self.loops):
            raise ValueError(f"rounds: got {len(self.rounds)} numbers for {len(self.loops)} loops")
        inner = self.inner_rounds or (DEFAULT_ROUNDS,) * len(self.inner_loops)
        if len(inner) != len(self.inner_loops):
            raise ValueError(f"inner_rounds: got {len(inner)} numbers for {len(self.inner_loops)} loops")
        most = [MAX_INNER_STAGES // self.rounds[self.loop_of[loop[0]]] - 1 for loop in self.inner_loops]
        put(self, "inner_rounds", tuple(map(_within, inner, most)))
        own = sorted(node.path for node in self.nodes if not node.learned)
        text = json.dumps([self.name, own, self.edges, self.entries], separators=(",", ":"))
        put(self, "fingerprint", hashlib.sha256(text.encode()).hexdigest()[:16])

    @classmethod
    def of(
        cls,
        name: str,
        nodes: Iterable[str | Node] = (),
        edges: Iterable[tuple[str, str]] = (),
        entries: Iterable[str] = (),
    ) -> Application:
        """Build an application from names or nodes; of duplicate paths, the last one is used.

        `entries` defaults to the nodes without an incoming edge; self-loops do not count.
        """
        given = {node if isinstance(node, str) else node.path: node for node in nodes}
        edges = tuple(edges)
        entered = {target for source, target in edges if source != target}
        return cls(
            name,
            tuple(Node(node) if isinstance(node, str) else node for node in given.values()),
            edges,
            tuple(entries) or tuple(path for path in given if path not in entered),
        )

    @cached_property
    def _ordered(self) -> _Order:
        paths = sorted(node.path for node in self.nodes)
        number = {path: n for n, path in enumerate(paths)}
        successors: list[list[int]] = [[] for _ in paths]
        for source, target in self.edges:
            successors[number[source]].append(number[target])
        found = components(successors)
        home = [0] * len(paths)
        for n, members in enumerate(found):
            for node in members:
                home[node] = n
        starts = {number[path] for path in self.entries}
        entered = {
            target for node, after in enumerate(successors) for target in after if home[node] != home[target]
        }
        graphs = [containers(path) for path in paths]
        nests: list[Nest] = []
        for members in found:
            # Entries come first: an edge from outside the component may lead to the middle of the loop.
            begin = sorted(starts.intersection(members)) + sorted(entered.intersection(members))
            nests.append(nested(members, successors, begin, graphs))

        def named(edges: Iterable[tuple[int, int]]) -> Iterator[tuple[str, str]]:
            return ((paths[source], paths[target]) for source, target in edges)

        return _Order(
            tuple(tuple(paths[node] for node in nest.order) for nest in nests),
            frozenset(edge for nest in nests for edge in named(nest.back)),
            tuple(tuple(paths[node] for node in loop) for nest in nests for loop in nest.inner),
            frozenset(edge for nest in nests for edge in named(nest.inner_back)),
        )

    @cached_property
    def loops(self) -> tuple[tuple[str, ...], ...]:
        """The loops (cyclic components): the paths of each, in the order of one iteration."""
        again = set(self.edges)
        return tuple(part for part in self._ordered.parts if len(part) > 1 or (part[0], part[0]) in again)

    @property
    def inner_loops(self) -> tuple[tuple[str, ...], ...]:
        """The loops inside `loops`: the paths of each, in the order of one iteration."""
        return self._ordered.inner

    @cached_property
    def loop_of(self) -> Mapping[str, int]:
        """For each node of a loop, the index of the loop in `loops`."""
        return {path: n for n, loop in enumerate(self.loops) for path in loop}

    @cached_property
    def inner_loop_of(self) -> Mapping[str, int]:
        """For each node of an inner loop, the index of the loop in `inner_loops`."""
        return {path: n for n, loop in enumerate(self.inner_loops) for path in loop}

    @cached_property
    def after_inner(self) -> tuple[frozenset[str], ...]:
        """For each of `inner_loops`, the nodes that end a visit.

        They are those of the loop around it to which its edges lead, and the one at which that loop begins.
        """
        after = [{self.loops[self.loop_of[inner[0]]][0]} for inner in self.inner_loops]
        for source, target in self.edges:
            n, around = self.inner_loop_of.get(source), self.loop_of.get(source)
            if n is not None and self.loop_of.get(target) == around:
                after[n].add(target)
        return tuple(frozenset(ends - set(own)) for ends, own in zip(after, self.inner_loops, strict=True))

    @cached_property
    def _place(self) -> dict[str, int]:
        return {node.path: n for n, node in enumerate(self.nodes)}

    @cached_property
    def by_path(self) -> Mapping[str, Node]:
        """Nodes by path."""
        return {node.path: node for node in self.nodes}

    @cached_property
    def tools(self) -> frozenset[str]:
        """Names of the tools that the graph has. Runs name no others: a model may have written those."""
        return frozenset(tool for node in self.nodes for tool in node.tools)

    @cached_property
    def _reach(self) -> dict[str, int]:
        """For each path, a bit mask over `nodes` of those reachable from it."""
        after: dict[str, list[str]] = {}
        for source, target in self.edges:
            after.setdefault(source, []).append(target)
        reach: dict[str, int] = {}
        for part in reversed(self._ordered.parts):
            bits = 0
            for path in part:
                for target in after.get(path, ()):
                    bits |= 1 << self._place[target] | reach.get(target, 0)
            reach.update(dict.fromkeys(part, bits))
        return reach

    def reachable(self, paths: Iterable[str]) -> frozenset[str]:
        """Return the paths reachable from any of `paths`, ignoring unknown ones."""
        bits = 0
        for path in paths:
            bits |= self._reach.get(path, 0)
        return frozenset(node.path for n, node in enumerate(self.nodes) if bits >> n & 1)

    @cached_property
    def _unrolling(self) -> Unrolling:
        return Unrolling(
            parts=self._ordered.parts,
            back=self._ordered.back,
            inner_back=self._ordered.inner_back,
            rounds={path: self.rounds[n] for path, n in self.loop_of.items()},
            loop_of=self.loop_of,
            inner=self.inner_loops,
            inner_rounds=self.inner_rounds,
        )

    def occurrences(self, path: str) -> int:
        """Return the number of stages that the node is unrolled into, including the tails."""
        return self._unrolling.occurrences(path)

    def stage_id(self, path: str, occurrence: int) -> str:
        """Return the id of the stage that covers the node's occurrence with this number."""
        return self._unrolling.stage_id(path, occurrence)

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The vertices of the unrolled DAG in topological order."""
        unrolling, made = self._unrolling, []
        for path, first in unrolling.stages():
            node, last = self.by_path[path], unrolling.last_covered(path, first)
            planner = None
            if node.planned_by is not None:
                planner = unrolling.planner(node.planned_by, path, first)
            made.append(
                Stage(
                    unrolling.stage_id(path, first),
                    path,
                    first,
                    tail=path in self.loop_of and last != first,
                    kind=node.kind,
                    reason=node.reason,
                    planned_by=planner,
                    last=last,
                )
            )
        return tuple(made)

    @cached_property
    def stage_edges(self) -> tuple[tuple[str, str], ...]:
        """The edges of the DAG, as pairs of stage ids.

        Raises:
            AssertionError: the edges have a cycle, which is a bug in the unrolling.
        """
        covered: dict[str, list[int]] = {}
        for stage in self.stages:
            covered.setdefault(stage.node, []).append(stage.occurrence)
        edges = [
            (self.stage_id(source, first), self.stage_id(target, after))
            for source, target in self.edges
            for first in covered[source]
            if (after := self._unrolling.following(source, target, first)) is not None
        ]
        place = {stage.id: n for n, stage in enumerate(self.stages)}
        assert all(place[source] < place[target] for source, target in edges), (
            "the unrolled graph has a cycle"
        )
        return tuple(edges)

    def unrolled(self, seen: Mapping[str, int]) -> Application:
        """Return the application with loops unrolled to the occurrences in `seen`, by path.

        The number of a node in an inner loop encodes both its visits and its occurrences in one visit.
        """
        if not self.loops:
            return self
        known = {path: place_of(number) for path, number in seen.items() if number}
        rounds = [
            max(
                (known[path][path not in self.inner_loop_of] for path in loop if path in known),
                default=DEFAULT_ROUNDS,
            )
            for loop in self.loops
        ]
        inner = [
            max((known[path][1] for path in loop if path in known), default=DEFAULT_ROUNDS)
            for loop in self.inner_loops
        ]
        return replace(self, rounds=tuple(rounds), inner_rounds=tuple(inner))


class _Order(NamedTuple):
    """The order of an application's nodes.

    Attributes:
        parts: the components in topological order, each ordered by one iteration.
        back: the edges that lead to a loop's next iteration.
        inner: the inner loops, each ordered by one iteration.
        inner_back: the edges that lead to an inner loop's next iteration.
    """

    parts: tuple[tuple[str, ...], ...]
    back: frozenset[tuple[str, str]]
    inner: tuple[tuple[str, ...], ...]
    inner_back: frozenset[tuple[str, str]]


def containers(path: str) -> list[str]:
    """Return the paths of the nodes that contain a node."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]


def _within(rounds: int, most: int) -> int:
    return max(1, min(rounds, most, MAX_ROUNDS))


DIRECT = Application.of("direct")
"""The application of calls made outside any run: no stages; each call is a separate job."""
