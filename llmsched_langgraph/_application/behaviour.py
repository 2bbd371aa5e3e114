"""Corrects an application by observed behaviour: kinds of nodes, missing nodes, loop lengths.

Does not read runs; it gets the observed behaviour of each node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmsched_langgraph._application.application import AUTHORS_WORD, Application, Kind, Node, containers
from llmsched_langgraph._application.nesting import widest

RUNS_WITHOUT_CALLS = 20
"""Number of stage runs without a model call after which a node is corrected to make none."""


@dataclass(frozen=True, slots=True)
class NodeBehaviour:
    """Observed behaviour of one node over all its stage runs.

    Attributes:
        runs: number of stage runs.
        calls: number of model calls in those runs.
        concurrency: maximum number of concurrent stage runs in one job.
        occurrences: number of the last occurrence in one job. For a node in an inner loop, it encodes the
            maximum number of visits, and of occurrences in one visit.
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
            widest(self.occurrences, other.occurrences),
        )


def corrected(application: Application, seen: Mapping[str, NodeBehaviour]) -> Application:
    """Return the application corrected by observed behaviour, with the same fingerprint.

    Loops are unrolled to their longest observed length. A node that called a model is marked as calling one.
    A node without a call in `RUNS_WITHOUT_CALLS` runs is marked as calling none. A node that ran concurrently
    becomes dynamic. Observed nodes that the template lacks are added. Kinds that the author declared stay.

    Args:
        application: the application to correct.
        seen: observed behaviour by node path.
    """
    nodes = [_corrected(node, seen[node.path]) if node.path in seen else node for node in application.nodes]
    outer = {path for node in application.nodes for path in containers(node.path)}
    nodes += [
        _corrected(Node(path, reason="runs came to it", learned=True), experience)
        for path, experience in sorted(seen.items())
        if path not in application.by_path and path not in outer
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
