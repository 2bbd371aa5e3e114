"""Knows how an application is written as JSON, and how it is read back.

Does not know files. What `llmsched inspect --json` prints is this form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmsched_langgraph.dag.application import Application, Kind, Node
from llmsched_langgraph.errors import InvalidDataError


def application_to_json(application: Application) -> dict[str, Any]:
    """The application as plain dicts, lists, strings and numbers.

    `stages` and `edges` are the unrolled DAG, every stage behind those that lead to it. `entries`,
    `calls_llm`, `deferred` and `learned` list nodes by their paths.
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
        "entries": list(application.entries),
        "calls_llm": [node.path for node in application.nodes if node.calls_llm],
        "deferred": [node.path for node in application.nodes if node.deferred],
        "learned": [node.path for node in application.nodes if node.learned],
    }


def application_from_json(data: object) -> Application:
    """The application that `application_to_json` wrote.

    Raises:
        InvalidDataError: naming the field that is missing or wrong.
    """
    given = _object(data, "the application")
    nodes: dict[str, Node] = {}
    node_of: dict[str, str] = {}
    occurrences: dict[str, int] = {}
    calls_llm = set(_strings(given, "calls_llm", default=()))
    deferred = set(_strings(given, "deferred", default=()))
    learned = set(_strings(given, "learned", default=()))
    stages = [_object(stage, f"stages[{n}]") for n, stage in enumerate(_list(given, "stages"))]
    for n, stage in enumerate(stages):
        node_of[_string(stage, "id", f"stages[{n}]")] = _string(stage, "node", f"stages[{n}]")
    for n, stage in enumerate(stages):
        where, path = f"stages[{n}]", stage["node"]
        kind = _string(stage, "kind", where)
        if kind not in set(Kind):
            raise InvalidDataError(f"{where}.kind must be one of {', '.join(Kind)}, not {kind!r}")
        occurrence = stage.get("occurrence")
        if isinstance(occurrence, bool) or not isinstance(occurrence, int) or occurrence < 1:
            raise InvalidDataError(f"{where}.occurrence must be a whole number of at least 1")
        occurrences[path] = max(occurrences.get(path, 0), occurrence)
        planner = stage.get("planned_by")
        if planner is not None:
            if planner not in node_of:
                raise InvalidDataError(f"{where}.planned_by names {planner!r}, which is no stage")
            planner = node_of[planner]
        elif path in nodes:
            planner = nodes[path].planned_by
        nodes[path] = Node(
            path,
            Kind(kind),
            _string(stage, "reason", where),
            planner,
            calls_llm=path in calls_llm,
            deferred=path in deferred,
            learned=path in learned,
        )
    edges = set()
    for number, edge in enumerate(_list(given, "edges")):
        try:
            source, target = (node_of[end] for end in edge)
        except (KeyError, TypeError, ValueError):
            raise InvalidDataError(f"edges[{number}] must be two ids of stages, not {edge!r}") from None
        edges.add((source, target))
    try:
        application = Application(
            _string(given, "name", ""), tuple(nodes.values()), tuple(edges), tuple(_strings(given, "entries"))
        ).unrolled({path: count - 1 for path, count in occurrences.items()})
    except ValueError as error:
        raise InvalidDataError(f"the application does not fit together: {error}") from None
    if application.fingerprint != given.get("fingerprint"):
        raise InvalidDataError(
            f"fingerprint is {given.get('fingerprint')!r}, but name, nodes, edges and entries give "
            f"{application.fingerprint!r}: the data was changed"
        )
    return application


def _object(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidDataError(f"{where} must be a JSON object, not {type(value).__name__}")
    return value


def _list(data: Mapping[str, Any], field: str) -> Sequence[Any]:
    value = data.get(field)
    if not isinstance(value, list | tuple):
        raise InvalidDataError(f"{field} must be a list, not {type(value).__name__}")
    return value


def _strings(data: Mapping[str, Any], field: str, default: Sequence[str] | None = None) -> Sequence[str]:
    if default is not None and field not in data:
        return default
    value = _list(data, field)
    if not all(isinstance(item, str) for item in value):
        raise InvalidDataError(f"{field} must be a list of strings")
    return value


def _string(data: Mapping[str, Any], field: str, where: str) -> str:
    value = data.get(field)
    if not isinstance(value, str):
        raise InvalidDataError(f"{where + '.' if where else ''}{field} must be a string, not {value!r}")
    return value
