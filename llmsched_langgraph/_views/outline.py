"""Writes an application as lines of text, for a terminal.

Does not use colours or the width of the terminal.
"""

from __future__ import annotations

from llmsched_langgraph._application.application import Application


def outline(application: Application) -> str:
    """Return name, fingerprint, and each node with its kind, predecessors and the kind's reason."""
    lines = [f"{application.name}  fingerprint {application.fingerprint}", ""]
    before: dict[str, list[str]] = {}
    for source, target in application.edges:
        before.setdefault(target, []).append(source)
    width = max((len(node.path) for node in application.nodes), default=0)
    for node in application.nodes:
        after = [*(["(start)"] if node.path in application.entries else []), *before.get(node.path, ())]
        lines.append(
            f"  {node.path:{width}}  {node.kind.value:7}  after {', '.join(after) or 'nothing found'}"
        )
        notes = [node.reason] if node.reason else []
        if node.planned_by is not None and f"planned by {node.planned_by}" not in node.reason:
            notes.append(f"decided by {node.planned_by}")
        if node.deferred:
            notes.append("waits for everything else")
        lines += [f"  {'':{width}}           {note}" for note in notes]
    for number, (loop, rounds) in enumerate(zip(application.loops, application.rounds, strict=True), 1):
        lines += [
            "",
            f"  loop {number}: {' -> '.join(loop)} -> again ({rounds} rounds, then a tail)",
        ]
        for inner, visit in zip(application.inner_loops, application.inner_rounds, strict=True):
            if set(inner) <= set(loop):
                way = " -> ".join(inner)
                lines += [f"    inside it: {way} -> again ({visit} rounds a visit, then a tail)"]
    lines += ["", f"  {len(application.nodes)} nodes, unrolled into {len(application.stages)} stages"]
    return "\n".join(lines)
