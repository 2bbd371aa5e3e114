"""Reconstructs an application from recorded jobs: its nodes, edges, loops and plans.

Does not estimate work.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmsched_langgraph._application.application import Application, Kind, Node
from llmsched_langgraph._jobs.ended import EndedJob


def template_of(name: str, jobs: Iterable[EndedJob]) -> Application:
    """Return the application with the jobs' stage names as nodes and dependencies as edges.

    Stages with LLM calls are LLM stages; stages with recorded tools are dynamic, planned by the stage that
    `_planner` finds.
    """
    seen = list(jobs)
    edges: set[tuple[str, str]] = set()
    entries: set[str] = set()
    calling: set[str] = set()
    typed: set[str] = set()
    paths: dict[str, None] = {}
    for job in seen:
        for stage in job.stages:
            paths[stage.name] = None
            edges.update((job.stages[dep].name, stage.name) for dep in stage.deps)
            if not stage.deps:
                entries.add(stage.name)
            if stage.kind == "llm":
                calling.add(stage.name)
            if stage.tool is not None:
                typed.add(stage.name)
    planner = _planner(seen) if typed else None
    nodes = [
        Node(
            path,
            Kind.DYNAMIC if path in typed else Kind.LLM if path in calling else Kind.REGULAR,
            "recorded jobs show it",
            planner if path in typed and path != planner else None,
            calls_llm=path in calling,
        )
        for path in paths
    ]
    return Application.of(name, nodes, edges, entries)


def _planner(jobs: list[EndedJob]) -> str | None:
    """Return the stage that plans all tools of a job at once, or None.

    The planner runs exactly once in every job with tools, precedes all of them, and in some job is the only
    dependency of several tool stages: stages that start together were planned together. The last such stage
    is returned. An agent that chooses each tool after the previous result has no planner.
    """
    common: set[str] | None = None
    starts: set[str] = set()
    place: dict[str, int] = {}
    for job in jobs:
        behind: list[set[int]] = []
        together: dict[tuple[int, ...], int] = {}
        shared: set[int] | None = None
        for index, stage in enumerate(job.stages):
            behind.append({above for dep in stage.deps for above in (*behind[dep], dep)})
            if stage.tool is not None:
                shared = set(behind[index]) if shared is None else shared & behind[index]
                together[stage.deps] = together.get(stage.deps, 0) + 1
        if shared is None:
            continue
        names = [stage.name for stage in job.stages]
        once = {names[index]: index for index in shared if names.count(names[index]) == 1}
        common = set(once) if common is None else common & set(once)
        for path, index in once.items():
            place[path] = max(place.get(path, 0), index)
        starts |= {names[deps[0]] for deps, count in together.items() if len(deps) == 1 and count > 1}
    found = (common or set()) & starts
    return max(found, key=lambda path: (place[path], path)) if found else None
