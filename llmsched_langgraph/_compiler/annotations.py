"""Reads and validates an author's annotation of a node, in the node's metadata.

builder.add_node("ask", ask, metadata={"llmsched": {"kind": "llm"}})
builder.add_node("work", work, metadata={"llmsched": {"kind": "dynamic", "planned_by": "plan"}})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmsched_langgraph._application.application import Kind
from llmsched_langgraph.errors import ConfigurationError

KEY = "llmsched"


@dataclass(frozen=True, slots=True)
class Annotation:
    """The author's annotation of one node. A field that was not given is None.

    Attributes:
        kind: the kind of the node.
        planned_by: the node of the same graph that plans it.
    """

    kind: Kind | None = None
    planned_by: str | None = None


def annotation_of(path: str, metadata: Mapping[str, Any], siblings: Mapping[str, object]) -> Annotation:
    """Return the author's annotation of the node at `path`.

    Raises:
        ConfigurationError: it is malformed, contradicts itself, or names an unknown node.
    """
    given = metadata.get(KEY)
    if given is None:
        return Annotation()
    what = f"node {path!r}: metadata[{KEY!r}]"
    if not isinstance(given, Mapping):
        raise ConfigurationError(f'{what} must be a dict such as {{"kind": "llm"}}, not {given!r}')
    unknown = sorted(set(map(str, given)) - {"kind", "planned_by"})
    if unknown:
        raise ConfigurationError(f"{what} has {', '.join(unknown)}; valid keys are kind and planned_by")
    kind, planner = given.get("kind"), given.get("planned_by")
    if kind is not None and kind not in set(Kind):
        raise ConfigurationError(f"{what}: kind must be one of {', '.join(Kind)}, not {kind!r}")
    if planner is not None:
        if kind is not None and kind != Kind.DYNAMIC:
            raise ConfigurationError(
                f"{what} contradicts itself: a node that is planned by {planner!r} is dynamic, not {kind}; "
                f"remove kind or planned_by"
            )
        if planner not in siblings:
            known = ", ".join(siblings)
            raise ConfigurationError(f"{what}: planned_by names {planner!r}; the graph's nodes are {known}")
        kind = Kind.DYNAMIC
    return Annotation(None if kind is None else Kind(kind), planner)
