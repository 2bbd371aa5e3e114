"""Knows how what runs did corrects an application: kinds, nodes that nobody saw, how often loops go round.

Does not know runs, only what they were seen to do, node by node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmsched_langgraph._application.application import AUTHORS_WORD, Application, Kind, Node

RUNS_WITHOUT_CALLS = 20
"""Runs of a node without a call of a model after which it is believed to make none."""


@dataclass(frozen=True, slots=True)
class NodeBehaviour:
    """What all runs of one node did.

    Attributes:
        runs: how many there were.
        calls: calls of models in them.
        side_by_side: the most that ran at the same time in one job.
        occurrences: the most times that it ran in one job, one after the other.
    """

    runs: int = 0
    calls: int = 0
    concurrency: int = 0
    occurrences: int = 0

    def __add__(self, other: NodeBehaviour) -> NodeBehaviour:
        return NodeBehaviour(
            self.runs + other.runs,
            self.calls + other.calls,
            max(self.concurrency, other.concurrency),
            max(self.occurrences, other.occurrences),
        )


def corrected(application: Application, seen: Mapping[str, NodeBehaviour]) -> Application:
    """The same application, fingerprint and all, as runs showed it to be.

    Loops are unrolled as far as they went. A node that called a model calls one, whatever its code looked
    like; one that never did in `RUNS_WITHOUT_CALLS` runs makes none; one that ran concurrently is dynamic.
    Nodes that are not in the template are added to it. What its author said of a node stays.
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


def _corrected(node: Node, seen: NodeBehaviour) -> Node:
    if node.reason == AUTHORS_WORD:
        return node
    kind: Kind = node.kind
    if seen.calls and not node.calls_llm:
        kind = Kind.LLM if node.kind is Kind.REGULAR else node.kind
        node = replace(node, kind=kind, calls_llm=True, reason="called a model when it ran")
    elif node.calls_llm and not seen.calls and seen.runs >= RUNS_WITHOUT_CALLS:
        kind = Kind.REGULAR if node.kind is Kind.LLM else node.kind
        node = replace(node, kind=kind, calls_llm=False, reason=f"called no model in {seen.runs} runs")
    if seen.concurrency > 1 and node.kind is not Kind.DYNAMIC:
        reason = f"ran up to {seen.concurrency} times side by side; {node.reason}"
        node = replace(node, kind=Kind.DYNAMIC, reason=reason)
    return node


def _around(path: str) -> list[str]:
    """The paths of the nodes around a node."""
    names = path.split("/")
    return ["/".join(names[:n]) for n in range(1, len(names))]
