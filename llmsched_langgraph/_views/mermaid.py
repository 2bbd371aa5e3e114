"""Writes an application as a Mermaid flowchart.

Does not place the nodes: the program that draws the text does.
"""

from __future__ import annotations

from llmsched_langgraph._application.application import Application, Kind, Stage
from llmsched_langgraph._views.palette import FILL, STROKE

_SHAPES = {Kind.REGULAR: ("[", "]"), Kind.LLM: ("([", "])"), Kind.DYNAMIC: ("{{", "}}")}


def mermaid(application: Application) -> str:
    """Return the unrolled DAG: LLM stages round, dynamic stages hexagonal, loops boxed, plans dotted."""
    names = {stage.id: f"s{number}" for number, stage in enumerate(application.stages)}
    lines = ["flowchart LR"]
    looping = {path: number for number, loop in enumerate(application.loops) for path in loop}
    lines += [
        f"  {_node(names[stage.id], stage)}" for stage in application.stages if stage.node not in looping
    ]
    for number, rounds in enumerate(application.rounds):
        lines.append(f'  subgraph loop{number}["loop: {rounds} rounds, then the rest"]')
        lines += [
            f"    {_node(names[stage.id], stage)}"
            for stage in application.stages
            if looping.get(stage.node) == number
        ]
        lines.append("  end")
    edges = set(application.stage_edges)
    plans = {(stage.planned_by, stage.id) for stage in application.stages if stage.planned_by is not None}
    for source, target in application.stage_edges:
        arrow = "-. plans .->" if (source, target) in plans else "-->"
        lines.append(f"  {names[source]} {arrow} {names[target]}")
    for planner, planned in sorted(plans - edges, key=str):
        lines.append(f"  {names[str(planner)]} -. plans .-> {names[planned]}")
    lines += [f"  classDef {kind.value} fill:{FILL[kind]},stroke:{STROKE[kind]},color:#111" for kind in Kind]
    return "\n".join(lines)


def _node(name: str, stage: Stage) -> str:
    left, right = _SHAPES[stage.kind]
    return f'{name}{left}"{_quoted(stage.id)}"{right}:::{stage.kind.value}'


def _quoted(text: str) -> str:
    # Mermaid entities start with # where HTML entities start with &.
    return "".join(f"#{ord(char)};" if char in '"#<>&;`' else char for char in text)
