"""Compiles a graph and its subgraphs to one application, and determines each node's kind.

Does not unroll loops or estimate costs.
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
"""Subgraphs are expanded up to this number of nodes; each further subgraph is one LLM stage."""

_HOOKS = frozenset({"before_agent", "before_model", "after_model", "after_agent"})
"""`create_agent` has a node `NAME.HOOK` for each of these hooks of its middleware."""


def compile_graph(graph: object) -> Application:
    """Return the graph's application: a DAG of regular, LLM and dynamic stages that all runs share.

    The analysis is static: it runs no node, calls no model, opens no socket. Subgraphs are expanded at any
    depth; nodes of a graph inside node `outer` are named `outer/inner`. A remote graph is one LLM stage, an
    `@entrypoint` one dynamic stage.

    Args:
        graph: a compiled graph, scheduled or not.

    Raises:
        UnsupportedGraphError: the object is not a compiled graph.
        ConfigurationError: an annotation in the graph is invalid.
    """
    if not isinstance(graph, PregelProtocol):
        raise UnsupportedGraphError(not_a_graph("compile_graph", graph))
    name = graph.get_name()
    if not isinstance(graph, Pregel):
        node = Node(name, Kind.LLM, "a graph on another server: its stages are not visible", calls_llm=True)
        return Application.of(name, [node])
    expansion = _Expansion()
    level = expansion.expand(graph, "", frozenset())
    return Application.of(name, expansion.nodes(), expansion.edges, level.entries)


def not_a_graph(function: str, given: object) -> str:
    """Return the error message for an argument of `function` that is not a compiled graph."""
    if isinstance(given, StateGraph):
        return f"{function}() needs a compiled graph: write {function}(builder.compile())"
    return (
        f"{function}() needs a compiled LangGraph graph (builder.compile(), create_agent(...), or an "
        f"@entrypoint function), not {type(given).__name__}"
    )


@dataclass(slots=True)
class _Level:
    """The result of expanding one graph, the root or one inside a node.

    Attributes:
        entries: paths of its first nodes.
        exits: paths of its last nodes.
        ups: for each node that may continue in the parent graph: its path, and whether it may also
            continue or end in this graph.
        calls_llm: whether a node in it can call a model.
    """

    entries: list[str] = field(default_factory=list)
    exits: list[str] = field(default_factory=list)
    ups: list[tuple[str, bool]] = field(default_factory=list)
    calls_llm: bool = False


@dataclass(slots=True)
class _Draft:
    """A node during compilation, before its kind is known.

    Attributes:
        annotation: the author's annotation.
        inner: the graphs inside it.
        plans: paths of the nodes that decide whether, or how often, it runs.
        sent_by_input: whether the run's input decides how often it runs.
        heads: paths at which it starts: its own, or those of its inner graphs.
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
    def runs_tool_calls(self) -> bool:
        """Whether it is a function that runs the tool calls of a model that an earlier node called."""
        if self.path.rpartition(".")[2] in _HOOKS:
            return False  # it answers in place of a tool at most; another node runs the tools
        return self.member.contents.answers_tool_calls and self.member.contents.model is None

    @property
    def follows_llm(self) -> bool:
        """Whether a decision of this node depends on a model."""
        if self.runs_tool_calls:  # where the run goes on was decided by the model that called the tools
            return bool(self.plans)
        return self.calls_llm or bool(self.plans) or self.member.contents.tools is not None

    @property
    def stands(self) -> bool:
        """Whether the node is kept in the application; otherwise its inner graphs replace it."""
        only_contains = isinstance(self.member.bound, Pregel) and bool(self.inner)
        return not only_contains or bool(self.plans) or self.sent_by_input

    def join(self) -> Iterator[tuple[str, str]]:
        """Set heads and tails from the complete `plans`, and yield the edges to inner graphs."""
        entries = [path for level in self.inner for path in level.entries]
        exits = [path for level in self.inner for path in level.exits]
        self.heads = [self.path] if self.stands else entries
        self.tails = exits or self.heads
        return ((self.path, entry) for entry in entries if self.stands)


@dataclass(slots=True)
class _Expansion:
    """All nodes so far, by path, and the edges between nodes of the application."""

    drafts: dict[str, _Draft] = field(default_factory=dict)
    edges: set[tuple[str, str]] = field(default_factory=set)

    def expand(self, graph: Pregel[Any, Any, Any, Any], prefix: str, around: frozenset[int]) -> _Level:
        """Add the graph's nodes and, after each, those of its inner graphs."""
        topology = topology_of(graph)
        around |= {_identity(graph)}
        here = {
            name: self._draft(prefix + name, member, topology, around)
            for name, member in topology.members.items()
        }
        # Sources are paths, because some are nodes of inner graphs.
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
        if same is not draft:  # two graphs inside one node have nodes of this name
            same.member.contents.model = same.member.contents.model or member.contents.model
            same.member.contents.tool_names |= member.contents.tool_names
            draft = same
        if draft.annotation.kind is None:  # the annotation covers everything inside the node
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
        """Yield the nodes of the application, with their kinds."""
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
            tools=tuple(sorted(draft.member.contents.tool_names)),
        )

    def _llm_before(self, sources: Iterable[str], before: Mapping[str, list[str]]) -> str | None:
        """Return the nearest node that calls a model, searching backwards from `sources`."""
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
        if draft.runs_tool_calls:
            return Kind.DYNAMIC, "runs the tool calls of a model by hand"
        if contents.model is not None:
            return Kind.LLM, contents.model
        return Kind.REGULAR, "no model can be reached from its code"
    return Kind.DYNAMIC, "; ".join(reasons)


def _identity(graph: Any) -> int:
    """Return an identity that a graph and its copies share, scheduled ones included."""
    return id(getattr(graph, "builder", None) or graph.nodes)
