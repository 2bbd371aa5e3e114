"""Converts applications to and from JSON data, the form that `llmsched inspect --json` prints.

Does not read or write files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmsched_langgraph._application.application import Application, Kind, Node
from llmsched_langgraph._application.nesting import number_of, place_of, widest
from llmsched_langgraph._fields import Field
from llmsched_langgraph.errors import InvalidDataError


def application_to_json(application: Application) -> dict[str, Any]:
    """Return the application as plain JSON data.

    `stages` (in topological order) and `edges` are the unrolled DAG. `entries`, `calls_llm`, `deferred` and
    `learned` list node paths. `tools` lists node paths, each with the names of the node's tools.
    """
    return {
        "name": application.name,
        "fingerprint": application.fingerprint,
        "stages": [
            {
                "id": stage.id,
                "node": stage.node,
                "occurrence": stage.occurrence,
                "kind": stage.kind.value,
                "reason": stage.reason,
                "planned_by": stage.planned_by,
            }
            for stage in application.stages
        ],
        "edges": [list(edge) for edge in application.stage_edges],
        "loops": [list(loop) for loop in application.loops],
        "inner_loops": [list(loop) for loop in application.inner_loops],
        "entries": list(application.entries),
        "calls_llm": [node.path for node in application.nodes if node.calls_llm],
        "deferred": [node.path for node in application.nodes if node.deferred],
        "learned": [node.path for node in application.nodes if node.learned],
        "tools": [[node.path, *node.tools] for node in application.nodes if node.tools],
    }


def application_from_json(data: object) -> Application:
    """Return the application that `application_to_json` wrote.

    Raises:
        InvalidDataError: a field is missing or wrong; the message names the field.
    """
    given = Field.of(data)
    nodes: dict[str, Node] = {}
    node_of: dict[str, str] = {}
    stages_of: dict[str, int] = {}
    marked = {name: set(_paths(given.get(name))) for name in ("calls_llm", "deferred", "learned")}
    tools: dict[str, tuple[str, ...]] = {}
    if (listed := given.get("tools")) is not None:
        for own in listed.items():
            path, *names = _paths(own)
            tools[path] = tuple(names)
    stages = list(given["stages"].items())
    for stage in stages:
        node_of[stage["id"].text()] = stage["node"].text()
    for stage in stages:
        path = stage["node"].text()
        number = stage["occurrence"].count(least=1)
        stages_of[path] = widest(stages_of.get(path, number), number)
        planner = nodes[path].planned_by if path in nodes else None
        named = stage.get("planned_by")
        if named is not None:
            planner = _stage(named, node_of)
        nodes[path] = Node(
            path,
            stage["kind"].choice(Kind),
            stage["reason"].string(),
            planner,
            calls_llm=path in marked["calls_llm"],
            deferred=path in marked["deferred"],
            learned=path in marked["learned"],
            tools=tools.get(path, ()),
        )
    edges = [tuple(_stage(end, node_of) for end in edge.items(2)) for edge in given["edges"].items()]
    try:
        application = Application(
            given["name"].string(),
            tuple(nodes.values()),
            tuple((source, target) for source, target in edges),
            tuple(_paths(given["entries"])),
        ).unrolled({path: _before_tails(number) for path, number in stages_of.items()})
    except ValueError as error:
        raise InvalidDataError(f"{given.field or 'the application'} is inconsistent: {error}") from None
    fingerprint = given["fingerprint"]
    if application.fingerprint != fingerprint.value:
        raise fingerprint.fault(f"{application.fingerprint!r}, the hash of name, nodes, edges and entries")
    return application


def _before_tails(number: int) -> int:
    """Return the last number before the tails, given the widest number of a node's stages."""
    visit, nth = place_of(number)
    return number_of(max(visit - 1, 1), nth - 1) if nth > 1 else 0


def _stage(field: Field, node_of: Mapping[str, str]) -> str:
    """Return the node of the stage whose id is in the field."""
    if field.text() not in node_of:
        raise field.fault("the id of a stage")
    return node_of[field.text()]


def _paths(field: Field | None) -> list[str]:
    return [] if field is None else [item.text() for item in field.items()]
