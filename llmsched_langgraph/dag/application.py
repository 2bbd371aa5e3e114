"""Knows an application: the template that all runs of one graph share, and its stable fingerprint.

Does not know LangGraph, what the stages cost, or any single run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Application:
    """A graph's template. Two graphs with the same name, nodes and edges are the same application.

    Attributes:
        name: what the graph calls itself (shown to people).
        nodes: the graph's node names, sorted.
        edges: pairs of node names, sorted.
        fingerprint: hash of the three, equal across processes and restarts: the key of its profile.
    """

    name: str
    nodes: tuple[str, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.name, self.nodes, self.edges], separators=(",", ":"))
        object.__setattr__(self, "fingerprint", hashlib.sha256(text.encode()).hexdigest()[:16])

    @classmethod
    def of(cls, name: str, nodes: Iterable[str] = (), edges: Iterable[tuple[str, str]] = ()) -> Application:
        """An application with its nodes and edges put in order, duplicates dropped."""
        return cls(name, tuple(sorted(set(nodes))), tuple(sorted(set(edges))))


DIRECT = Application.of("direct")
"""Calls made outside any run: each is a job of its own with this one stage-less template."""
