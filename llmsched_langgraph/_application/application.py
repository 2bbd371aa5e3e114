"""Defines an application: the template shared by all runs of a graph, with a stable fingerprint.

Does not depend on LangGraph, and holds neither costs nor the state of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

from llmsched_langgraph._application.order import components, once_round

DEFAULT_ROUNDS = 2
"""Separate occurrences per loop before any run is observed. The tail covers all later ones."""

MAX_ROUNDS = 12
"""Maximum number of separate occurrences per loop."""


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
            and all later ones.
        node: the node's path.
        occurrence: number of the occurrence within a job, from 1.
        tail: whether the stage also stands for every later occurrence.
        kind: as in `Node`.
        reason: as in `Node`.
        planned_by: id of the stage that decides what this stage runs; None if unknown.
    """

    id: str
    node: str
    occurrence: int
    tail: bool
    kind: Kind
    reason: str
    planned_by: str | None = None


@dataclass(frozen=True)
class Application:
    """The template of a graph: its nodes, its edges, and the stages derived from them.

    Nodes are sorted topologically (within a loop: by one iteration), edges and entries alphabetically. Each
    loop is unrolled into `rounds` separate occurrences and a tail stage.

    Attributes:
        name: the graph's name.
        nodes: the nodes, including those of subgraphs.
        edges: (source path, target path) pairs, including those that close a loop.
        entries: paths of the nodes at which a run may begin.
        rounds: for each of `loops`, the number of separate occurrences before the tail.
        fingerprint: hash of name, paths, edges and entries; the key of the application's profile. It is equal
            across processes and restarts. It excludes kinds and rounds, because runs correct them.

    Raises:
        ValueError: a path is duplicate or unknown, or `rounds` does not have one number per loop.
    """

    name: str
    nodes: tuple[Node, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    entries: tuple[str, ...] = ()
    rounds: tuple[int, ...] = ()
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
        put(self, "nodes", tuple(by_path[path] for part in self._ordered[0] for path in part))
        given = tuple(min(max(rounds, 1), MAX_ROUNDS) for rounds in self.rounds)
        put(self, "rounds", given or (DEFAULT_ROUNDS,) * len(self.loops))
        if len(self.rounds) != len(self.loops):
            raise ValueError(f"rounds: got {len(self.rounds)} numbers for {len(self.loops)} loops")
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
    def _ordered(self) -> tuple[tuple[tuple[str, ...], ...], frozenset[tuple[str, str]]]:
        """Components in topological order, each ordered by one iteration; and the back edges."""
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
        parts: list[tuple[str, ...]] = []
        closing: set[tuple[str, str]] = set()
        for members in found:
            # Entries come first: an edge from outside the component may lead to the middle of the loop.
            begin = sorted(starts.intersection(members)) + sorted(entered.intersection(members))
            order, back = once_round(members, successors, begin)
            parts.append(tuple(paths[node] for node in order))
            closing |= {(paths[node], paths[target]) for node, target in back}
        return tuple(parts), frozenset(closing)

    @cached_property
    def loops(self) -> tuple[tuple[str, ...], ...]:
        """The loops (cyclic components): the paths of each, in the order of one iteration."""
        again = set(self.edges)
        return tuple(part for part in self._ordered[0] if len(part) > 1 or (part[0], part[0]) in again)

    @cached_property
    def _loop_of(self) -> dict[str, int]:
        return {path: n for n, loop in enumerate(self.loops) for path in loop}

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
        for part in reversed(self._ordered[0]):
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

    def occurrences(self, path: str) -> int:
        """Return the number of stages that the node is unrolled into, including the tail."""
        loop = self._loop_of.get(path)
        return 1 if loop is None else self.rounds[loop] + 1

    def stage_id(self, path: str, occurrence: int) -> str:
        """Return the id of the stage that covers the node's `occurrence`-th occurrence."""
        count = self.occurrences(path)
        if count == 1:
            return path
        return f"{path}#{occurrence}" if occurrence < count else f"{path}#{count}+"

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The vertices of the unrolled DAG in topological order."""
        stages = []
        for part in self._ordered[0]:
            for occurrence in range(1, self.occurrences(part[0]) + 1):
                for path in part:
                    node, count = self.by_path[path], self.occurrences(path)
                    stages.append(
                        Stage(
                            self.stage_id(path, occurrence),
                            path,
                            occurrence,
                            tail=1 < count == occurrence,
                            kind=node.kind,
                            reason=node.reason,
                            planned_by=self._planner(node, occurrence),
                        )
                    )
        return tuple(stages)

    def _planner(self, node: Node, occurrence: int) -> str | None:
        planner = node.planned_by
        if planner is None:
            return None
        loop = self._loop_of.get(node.path)
        if loop is None or self._loop_of.get(planner) != loop:
            return self.stage_id(planner, 1)
        if self._place[planner] >= self._place[node.path]:
            occurrence -= 1  # the previous iteration plans it
        return self.stage_id(planner, occurrence) if occurrence else None

    @cached_property
    def stage_edges(self) -> tuple[tuple[str, str], ...]:
        """The edges of the DAG, as pairs of stage ids.

        Raises:
            AssertionError: the edges have a cycle, which is a bug in the unrolling.
        """
        edges = []
        for source, target in self.edges:
            loop = self._loop_of.get(source)
            for occurrence in range(1, self.occurrences(source) + 1):
                if loop is None or self._loop_of.get(target) != loop:
                    next_ = 1
                elif (source, target) in self._ordered[1]:
                    if occurrence == self.occurrences(source):
                        continue  # the tail stands for all later iterations
                    next_ = occurrence + 1
                else:
                    next_ = occurrence
                edges.append((self.stage_id(source, occurrence), self.stage_id(target, next_)))
        place = {stage.id: n for n, stage in enumerate(self.stages)}
        assert all(place[source] < place[target] for source, target in edges), (
            "the unrolled graph has a cycle"
        )
        return tuple(edges)

    def unrolled(self, seen: Mapping[str, int]) -> Application:
        """Return the application with loops unrolled to the occurrences in `seen`, by path."""
        rounds = tuple(max(seen.get(path, 0) for path in loop) or DEFAULT_ROUNDS for loop in self.loops)
        return replace(self, rounds=rounds) if self.loops else self


DIRECT = Application.of("direct")
"""The application of calls made outside any run: no stages; each call is a separate job."""
