"""Extracts the nodes and links of one compiled graph.

Does not expand subgraphs or determine kinds. It reads the builder, not LangGraph's drawing, which stops after
250 steps and takes time quadratic in the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from langgraph.constants import END, START
from langgraph.pregel import Pregel

from llmsched_langgraph._compiler.contents import Contents, contents_of


class Way(Enum):
    """How the successor of a node is determined."""

    EDGE = "edge"  # an edge or a branch: the target runs once or not at all
    SEND = "send"  # a `Send`: the source decides how often the target runs
    GOTO = "goto"  # a `Command(goto=...)`: the source decides which target runs


@dataclass(frozen=True, slots=True)
class Link:
    """A possible succession of two nodes; START and END are nodes here."""

    source: str
    target: str
    way: Way = Way.EDGE


@dataclass(slots=True)
class Member:
    """One node as it was added to its graph.

    Attributes:
        bound: the runnable of the node.
        metadata: the author's metadata.
        contents: what its code, and that of its branches, can reach.
        deferred: whether it waits for all other nodes (`defer=True`).
        functional: whether it is the function of an `@entrypoint`.
    """

    bound: Any
    metadata: Mapping[str, Any]
    contents: Contents
    deferred: bool = False
    functional: bool = False


@dataclass(slots=True)
class Topology:
    """One graph. `ups` are the names of its nodes that may continue in the parent graph."""

    members: dict[str, Member] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)
    ups: list[str] = field(default_factory=list)


def topology_of(graph: Pregel[Any, Any, Any, Any]) -> Topology:
    """Return the graph's nodes and links."""
    builder = getattr(graph, "builder", None)
    return _of_raw(graph) if builder is None else _of_builder(builder)


def _of_builder(builder: Any) -> Topology:
    found = Topology()
    for name, spec in builder.nodes.items():
        found.members[name] = Member(
            spec.runnable, spec.metadata or {}, contents_of(spec.runnable), deferred=bool(spec.defer)
        )
    names = frozenset(found.members)
    links = {Link(source, target) for source, target in builder.edges}
    links |= {Link(source, end) for sources, end in builder.waiting_edges for source in sources}
    for source, branches in builder.branches.items():
        for branch in branches.values():
            links.update(_of_branch(source, branch, names, found.members.get(source)))
    for name, spec in builder.nodes.items():
        handler = getattr(spec, "error_handler_node", None)
        if handler:
            links.add(Link(name, handler))
        links.update(_of_commands(name, spec.ends or (), found.members[name].contents, names))
        if found.members[name].contents.goes_up:
            found.ups.append(name)
    led_to = {link.target for link in links}
    for name, member in found.members.items():
        contents = member.contents
        if contents.sends_anywhere or (contents.goes and not any(link.source == name for link in links)):
            # Its targets are not known: assume all nodes without another predecessor.
            links |= {Link(name, lost, Way.SEND) for lost in names - led_to}
    found.links = sorted(links, key=lambda link: (link.source, link.target, link.way.value))
    return found


def _of_branch(source: str, branch: Any, names: frozenset[str], member: Member | None) -> Iterator[Link]:
    path = contents_of(branch.path)
    if path.model is not None and member is not None and member.contents.model is None:
        member.contents.model = f"its conditional edge {path.model}"
    if branch.ends is not None:
        targets = set(branch.ends.values())
    else:
        # Targets are not declared: use the node names in its code or, without any, all nodes.
        targets = path.strings & {*names, END} or {*names - {source}, END}
    sent = (path.sends & names) | (targets if path.sends_anywhere else set())
    for target in sorted(targets | sent):
        yield Link(source, target, Way.SEND if target in sent and target != END else Way.EDGE)


def _of_commands(
    source: str, ends: Iterable[str], contents: Contents, names: frozenset[str]
) -> Iterator[Link]:
    declared = set(ends)
    targets = declared or (
        contents.strings & {*names, END} if contents.goes and not contents.goes_up else set()
    )
    sent = contents.sends & names
    way = Way.GOTO if len(targets | sent) > 1 else Way.EDGE  # a single target is no decision
    for target in sorted(targets | sent):
        yield Link(source, target, Way.SEND if target in sent else way)


def _of_raw(graph: Pregel[Any, Any, Any, Any]) -> Topology:
    """Analyse a graph without a builder: an `@entrypoint`, or one built from channels."""
    found = Topology()
    inputs = graph.input_channels
    entries = {inputs} if isinstance(inputs, str) else set(inputs)
    functional = len(graph.nodes) == 1 and {START, END, "__previous__"} <= set(graph.channels)
    triggered: dict[str, list[str]] = {}
    for name, node in graph.nodes.items():
        found.members[name] = Member(
            node.bound, node.metadata or {}, contents_of(node.bound), functional=functional
        )
        for trigger in node.triggers:
            triggered.setdefault(trigger, []).append(name)
            if trigger in entries:
                found.links.append(Link(START, name))
    outputs = graph.output_channels
    ends = {outputs} if isinstance(outputs, str) else set(outputs)
    for name, node in graph.nodes.items():
        for channel in _written(node.writers):
            found.links += [Link(name, after) for after in triggered.get(channel, ())]
            if channel in ends:
                found.links.append(Link(name, END))
    return found


def _written(writers: Iterable[Any]) -> Iterator[str]:
    for writer in writers:
        for entry in getattr(writer, "writes", ()):
            channel = getattr(entry, "channel", None)
            if isinstance(channel, str):
                yield channel
