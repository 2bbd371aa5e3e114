"""Knows how a graph and the graphs inside it become one application: expanded, and each node of a kind.

Does not know how loops are unrolled, nor what any of it costs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langgraph.constants import END, START
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.pregel.protocol import PregelProtocol

from llmsched_langgraph._application.application import AUTHORS_WORD, Application, Kind, Node
from llmsched_langgraph._compiler.annotations import Annotation, annotation_of
from llmsched_langgraph._compiler.topology import Member, Topology, Way, topology_of
from llmsched_langgraph.errors import UnsupportedGraphError

MAX_NODES = 5_000
"""Graphs inside graphs are expanded up to this many nodes; what lies deeper is one LLM stage each."""


def compile_graph(graph: object) -> Application:
    """The application that all runs of the graph share: a DAG of regular, LLM and dynamic stages.

    Static: no node is run, no model called, no socket opened. Subgraphs are expanded to any depth;
    nodes of a graph inside node `outer` are called `outer/inner`. A remote graph is one LLM stage,
    an `@entrypoint` one dynamic stage.

    Args:
        graph: a compiled graph, scheduled or not.

    Raises:
        UnsupportedGraphError: the object is no compiled graph.
        ConfigurationError: an author's annotation cannot be understood.
    """
    if not isinstance(graph, PregelProtocol):
        raise UnsupportedGraphError(not_a_graph("compile_graph", graph))
    name = graph.get_name()
    if not isinstance(graph, Pregel):
        node = Node(name, Kind.LLM, "a graph on another server: its stages cannot be seen", calls_llm=True)
        return Application.of(name, [node])
    expansion = _Expansion()
    level = expansion.expand(graph, "", frozenset())
    return Application.of(name, expansion.nodes(), expansion.edges, level.entries)


def not_a_graph(function: str, given: object) -> str:
    """What to tell someone who gave `function` something that is no compiled graph."""
    if isinstance(given, StateGraph):
        return f"{function}() needs a compiled graph: write {function}(builder.compile())"
    return (
        f"{function}() needs a compiled LangGraph graph (builder.compile(), create_agent(...), or an "
        f"@entrypoint function), not {type(given).__name__}"
    )


@dataclass(slots=True)
class _Level:
    """One graph, expanded.

    Attributes:
        entries: paths at which it begins.
        exits: paths at which it ends.
        ups: its nodes that may go on in the graph around it, each with whether it may do something else.
        calls_llm: whether a model is called anywhere in it.
    """

    entries: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    ups: list[tuple[str, bool]] = field(default_factory=list)
    calls_llm: bool = False


@dataclass(slots=True)
class _Draft:
    """A node on its way: what is known of it before its kind can be told.

    Attributes:
        annotation: the author's word.
        inner: the graphs inside it.
        plans: paths of the nodes that decide whether, or how often, it is run.
        sent_by_input: whether the run's input decides that.
        heads: paths at which it begins: its own, or those of what it contains.
        tails: paths at which it ends.
    """

    path: str
    member: Member
    annotation: Annotation
    inner: list[_Level] = field(default_factory=list)
    plans: list[str] = field(default_factory=list)
    sent_by_input: bool = False
    heads: list[str] = field(default_factory=list)
    tails: list[str] = field(default_factory=list)

    @property
    def calls_llm(self) -> bool:
        return self.member.contents.model is not None or any(level.calls_llm for level in self.inner)

    @property
    def follows_llm(self) -> bool:
        """Whether what it decides is a model's decision."""
        return self.calls_llm or bool(self.plans) or self.member.contents.tools is not None

    @property
    def stands(self) -> bool:
        """Whether it is a node of the application; if not, what it contains stands for it."""
        only_contains = isinstance(self.member.bound, Pregel) and bool(self.inner)
        return not only_contains or bool(self.plans) or self.sent_by_input

    def join(self) -> Iterator[tuple[str, str]]:
        """The edges from itself to what it contains, once its plans are known."""
        entries = [path for level in self.inner for path in level.entries]
        exits = [path for level in self.inner for path in level.exits]
        self.heads = [self.path] if self.stands else entries
        self.tails = exits or self.heads
        return ((self.path, entry) for entry in entries if self.stands)


@dataclass(slots=True)
class _Expansion:
    """All nodes found so far, by path, and the edges between those that stand."""

    drafts: dict[str, _Draft] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)

    def expand(self, graph: Pregel[Any, Any, Any, Any], prefix: str, around: frozenset[int]) -> _Level:
        """Add the graph's nodes and, behind each, those of the graphs inside it."""
        topology = topology_of(graph)
        around |= {_identity(graph)}
        here = {
            name: self._draft(prefix + name, member, topology, around)
            for name, member in topology.members.items()
        }
        # Who leads to whom: sources are paths, for some of them are nodes of the graphs inside.
        links = [
            (prefix + link.source, link.target, link.way) for link in topology.links if link.source != START
        ]
        for name, draft in here.items():
            for level in draft.inner:
                for source, freely in level.ups:
                    names = self.drafts[source].member.contents.strings & here.keys() - {name}
                    way = Way.GOTO if freely or len(names) > 1 else Way.EDGE
                    links += [(source, target, way) for target in sorted(names)]
        for source, target, way in links:
            decides = way is Way.SEND or (way is Way.GOTO and self.drafts[source].follows_llm)
            if decides and target in here:
                here[target].plans.append(source)
        for link in topology.links:
            if link.source == START and link.way is Way.SEND:
                here[link.target].sent_by_input = True
        for draft in here.values():
            self.edges |= set(draft.join())
        level = _Level(calls_llm=any(draft.calls_llm for draft in here.values()))
        for source, target, _ in links:
            if target in here:
                self.edges |= {
                    (tail, head) for tail in self.drafts[source].tails for head in here[target].heads
                }
        goes_on = {source for source, target, _ in links if target != END}
        ends = {source for source, target, _ in links if target == END}
        for draft in here.values():
            if draft.path in ends or draft.path not in goes_on:
                level.exits += draft.tails
        begins = {link.target for link in topology.links if link.source == START}
        level.entries = [path for name in here if name in begins for path in here[name].heads]
        level.ups = [(prefix + name, prefix + name in goes_on | ends) for name in topology.ups]
        return level

    def _draft(self, path: str, member: Member, topology: Topology, around: frozenset[int]) -> _Draft:
        draft = _Draft(path, member, annotation_of(path, member.metadata, topology.members))
        same = self.drafts.setdefault(path, draft)
        if same is not draft:  # two graphs inside one node have a node of this name each
            same.member.contents.model = same.member.contents.model or member.contents.model
            draft = same
        if draft.annotation.kind is None:  # the author's word is about all that is in it
            contents = member.contents
            for graph in contents.graphs:
                if _identity(graph) in around:
                    contents.model = contents.model or "runs the graph that it is part of"
                elif len(self.drafts) > MAX_NODES:
                    contents.model = contents.model or "a graph so deep inside others is not expanded"
                else:
                    draft.inner.append(self.expand(graph, f"{path}/", around))
        return draft

    def nodes(self) -> Iterator[Node]:
        """The nodes that stand, each of its kind."""
        before: dict[str, list[str]] = {}
        for source, target in sorted(self.edges):
            before.setdefault(target, []).append(source)
        for draft in self.drafts.values():
            if draft.stands:
                yield self._node(draft, before)

    def _node(self, draft: _Draft, before: Mapping[str, list[str]]) -> Node:
        kind, reason = _kind(draft)
        planner = None
        if draft.annotation.planned_by is not None:
            planner = draft.path[: -len(draft.path.rpartition("/")[2])] + draft.annotation.planned_by
        elif kind is Kind.DYNAMIC and not draft.member.functional:
            planner = self._llm_before(draft.plans or before.get(draft.path, ()), before)
        return Node(
            draft.path,
            kind,
            reason,
            planner,
            calls_llm=kind is Kind.LLM or (kind is Kind.DYNAMIC and draft.member.contents.model is not None),
            deferred=draft.member.deferred,
        )

    def _llm_before(self, sources: Iterable[str], before: Mapping[str, list[str]]) -> str | None:
        """The first node that calls a model, from `sources` on backwards."""
        todo = deque(tail for source in sources for tail in self.drafts[source].tails)
        seen = set(todo)
        while todo:
            path = todo.popleft()
            if self.drafts[path].member.contents.model is not None:
                return path
            for earlier in before.get(path, ()):
                if earlier not in seen:
                    seen.add(earlier)
                    todo.append(earlier)
        return None


def _kind(draft: _Draft) -> tuple[Kind, str]:
    contents = draft.member.contents
    reasons = [contents.model] if contents.model else []
    if contents.tools is not None:
        reasons.insert(0, f"runs the tools that a model calls: {', '.join(contents.tools)}")
    if draft.annotation.kind is not None:
        return draft.annotation.kind, AUTHORS_WORD
    if draft.member.functional:
        reasons.insert(0, "a functional graph: its tasks are known once they run")
    elif draft.plans:
        reasons.insert(0, f"planned by {', '.join(sorted(set(draft.plans)))}")
    elif draft.sent_by_input:
        reasons.insert(0, "the input decides how often it runs")
    elif contents.tools is None:
        if contents.model is not None:
            return Kind.LLM, contents.model
        return Kind.REGULAR, "no model can be reached from its code"
    return Kind.DYNAMIC, "; ".join(reasons)


def _identity(graph: Any) -> int:
    """The same for a graph and its copies, a scheduled one among them."""
    return id(getattr(graph, "builder", None) or graph.nodes)
