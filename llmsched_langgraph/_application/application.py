"""Knows an application: the template that all runs of one graph share, and its stable fingerprint.

Does not know LangGraph, what the stages cost, or any single run.
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
"""Times round a loop that are told apart as long as no run has been seen; all later ones are the tail."""

MAX_ROUNDS = 12
"""Times round a loop that are ever told apart."""


AUTHORS_WORD = "its author says so"
"""The reason of a kind that no run corrects."""


class Kind(StrEnum):
    """What a stage is, in the paper's words."""

    REGULAR = "regular"
    LLM = "llm"
    DYNAMIC = "dynamic"


@dataclass(frozen=True, slots=True)
class Node:
    """A stage before its loops are unrolled.

    Attributes:
        path: its name in its graph, behind the nodes of the graphs around it: `outer/inner`.
        kind: regular (no LLM), LLM, or dynamic (an earlier stage decides what happens here).
        reason: why it is of this kind, for people.
        planned_by: path of the node that decides what a dynamic one does, if one could be found.
        calls_llm: whether it calls a model, as far as is known; a dynamic one may, too.
        deferred: whether it waits for everything else before the graph around it ends (`defer=True`).
        learned: whether runs came to it that the graph did not show; it is not part of the fingerprint.
    """

    path: str
    kind: Kind = Kind.REGULAR
    reason: str = ""
    planned_by: str | None = None
    calls_llm: bool = False
    deferred: bool = False
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Stage:
    """One occurrence of a node: a node of the DAG.

    Attributes:
        id: the node's path, with `#2` for the second time round a loop; `#3+` for the third and all later.
        node: the node's path.
        occurrence: which time it runs in a job, from 1.
        tail: whether it also stands for every later occurrence.
        planned_by: id of the stage that decides what this one does, if it is known.
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
    """A graph's template. Two graphs with the same name, nodes and edges are the same application.

    Whatever order they are given in, nodes stand in the order in which a run comes to them, edges
    sorted. Stages are derived: each loop is unrolled into `rounds` occurrences and a tail.

    Attributes:
        name: what the graph calls itself (shown to people).
        nodes: its nodes, with those of its subgraphs.
        edges: pairs of paths, from node to node; loops included.
        entries: paths of the nodes at which a run may begin.
        rounds: for each of `loops`, how many times round are told apart.
        fingerprint: hash of name, paths, edges and entries, equal across processes and restarts: the key of
            its profile. Kinds and rounds are not in it, because runs correct them.
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
            raise ValueError(f"node {twice!r} is there twice")
        known = set(paths)
        planners = [node.planned_by for node in self.nodes if node.planned_by is not None]
        for path in (*(end for edge in self.edges for end in edge), *self.entries, *planners):
            if path not in known:
                raise ValueError(f"there is no node {path!r}")
        put = object.__setattr__
        put(self, "edges", tuple(sorted(set(self.edges))))
        put(self, "entries", tuple(sorted(set(self.entries))))
        by_path = {node.path: node for node in self.nodes}
        put(self, "nodes", tuple(by_path[path] for part in self._ordered[0] for path in part))
        given = tuple(min(max(rounds, 1), MAX_ROUNDS) for rounds in self.rounds)
        put(self, "rounds", given or (DEFAULT_ROUNDS,) * len(self.loops))
        if len(self.rounds) != len(self.loops):
            raise ValueError(f"{len(self.rounds)} numbers of rounds were given for {len(self.loops)} loops")
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
        """An application of plain names; duplicates are dropped. Without `entries`, what no edge leads to."""
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
        """Components in topological order, each in the order of one way round; edges that close a round."""
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
            # Where a run may begin comes first: what leads in from outside may be a way back from far away.
            begin = sorted(starts.intersection(members)) + sorted(entered.intersection(members))
            order, back = once_round(members, successors, begin)
            parts.append(tuple(paths[node] for node in order))
            closing |= {(paths[node], paths[target]) for node, target in back}
        return tuple(parts), frozenset(closing)

    @cached_property
    def loops(self) -> tuple[tuple[str, ...], ...]:
        """The loops: paths of the nodes that can come round again, in the order of one way round."""
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
        """The nodes by their paths."""
        return {node.path: node for node in self.nodes}

    @cached_property
    def _reach(self) -> dict[str, int]:
        """For each node the nodes that can come after it, as bits in the order of `nodes`."""
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
        """The nodes that can come after any of these; paths of no node lead nowhere."""
        bits = 0
        for path in paths:
            bits |= self._reach.get(path, 0)
        return frozenset(node.path for n, node in enumerate(self.nodes) if bits >> n & 1)

    def occurrences(self, path: str) -> int:
        """How many stages the node is unrolled into, the tail included."""
        loop = self._loop_of.get(path)
        return 1 if loop is None else self.rounds[loop] + 1

    def stage_id(self, path: str, occurrence: int) -> str:
        """The id of the stage in which the node's `occurrence`-th time falls."""
        count = self.occurrences(path)
        if count == 1:
            return path
        return f"{path}#{occurrence}" if occurrence < count else f"{path}#{count}+"

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The nodes of the DAG, each behind all those that have an edge to it."""
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
            occurrence -= 1  # it is planned by the round before
        return self.stage_id(planner, occurrence) if occurrence else None

    @cached_property
    def stage_edges(self) -> tuple[tuple[str, str], ...]:
        """The edges of the DAG, as pairs of stage ids.

        Raises:
            AssertionError: they have a cycle, which cannot be.
        """
        edges = []
        for source, target in self.edges:
            loop = self._loop_of.get(source)
            for occurrence in range(1, self.occurrences(source) + 1):
                if loop is None or self._loop_of.get(target) != loop:
                    next_ = 1
                elif (source, target) in self._ordered[1]:
                    if occurrence == self.occurrences(source):
                        continue  # round and round within the tail
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
        """The same, each loop unrolled as far as `seen`: the most times that each node ran in a job."""
        rounds = tuple(max(seen.get(path, 0) for path in loop) or DEFAULT_ROUNDS for loop in self.loops)
        return replace(self, rounds=rounds) if self.loops else self


DIRECT = Application.of("direct")
"""Calls made outside any run: each is a job of its own with this one stage-less template."""
