"""Knows how what runs did corrects an application: kinds, nodes that nobody saw, how often loops go round.

Does not know runs, only what they were seen to do, node by node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmsched_langgraph._application.application import AUTHORS_WORD, Application, Kind, Node

ENOUGH = 20
"""Runs of a node without a call of a model after which it is believed to make none."""


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """What all runs of one node did.

    Attributes:
        runs: how many there were.
        calls: calls of models in them.
        side_by_side: the most that ran at the same time in one job.
        occurrences: the most times that it ran in one job, one after the other.
    """

    runs: int = 0
    calls: int = 0
    side_by_side: int = 0
    occurrences: int = 0

    def __add__(self, other: NodeSeen) -> NodeSeen:
        return NodeSeen(
            self.runs + other.runs,
            self.calls + other.calls,
            max(self.side_by_side, other.side_by_side),
            max(self.occurrences, other.occurrences),
        )


def corrected(application: Application, seen: Mapping[str, NodeSeen]) -> Application:
    """The same application, fingerprint and all, as runs showed it to be.

    Loops are unrolled as far as they went. A node that called a model calls one, whatever its code looked
    like; one that never did in `ENOUGH` runs does not; one that ran side by side is dynamic. Nodes
    that are not in the template are added to it. What its author said of a node stays.
    """
    nodes = [_corrected(node, seen[node.path]) if node.path in seen else node for node in application.nodes]
    containers = {path for node in application.nodes for path in _around(node.path)}
    nodes += [
        _corrected(Node(path, reason="runs came to it", learned=True), experience)
        for path, experience in sorted(seen.items())
        if path not in application.by_path and path not in containers
    ]
    if tuple(nodes) != application.nodes:
        application = replace(application, nodes=tuple(nodes))
    return application.unrolled({path: experience.occurrences for path, experience in seen.items()})


def _corrected(node: Node, seen: NodeSeen) -> Node:
    if node.reason == AUTHORS_WORD:
        return node
    kind: Kind = node.kind
    if seen.calls and not node.calls_llm:
        kind = Kind.LLM if node.kind is Kind.REGULAR else node.kind
        node = replace(node, kind=kind, calls_llm=True, reason="called a model when it ran")
    elif node.calls_llm and not seen.calls and seen.runs >= ENOUGH:
        kind = Kind.REGULAR if node.kind is Kind.LLM else node.kind
        node = replace(node, kind=kind, calls_llm=False, reason=f"called no model in {seen.runs} runs")
    if seen.side_by_side > 1 and node.kind is not Kind.DYNAMIC:
        reason = f"ran up to {seen.side_by_side} times side by side; {node.reason}"
        node = replace(node, kind=Kind.DYNAMIC, reason=reason)
    return node


def _around(path: str) -> list[str]:
    """The paths of the nodes around a node."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]
