"""Knows the records of planners: a request, and the graph of tool uses that was planned for it.

Does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


def _plan(node: Field) -> Iterator[EndedJob]:
    """`plan`, one call, and a stage `subtask` for every planned tool, after those that the plan puts before.

    The plan's length is recorded. Its prompt is derived and is the request alone: the planner's
    instructions are not recorded, nor is an answer that a model may have written at the end. Plans are real
    outputs of models, so some name a tool twice, link tools that they do not use, or go in circles: a link
    runs from the first stage of its source to the last of its target, a link to nowhere is left out, and a
    circle is cut where the plan's own order goes back. Nothing was executed: the tools have no seconds.
    """
    names = [name.text() for name in node["nodes"].items()]
    wanted: list[set[int]] = [set() for _ in names]
    for edge in node["edges"].items():
        source, target = (end.value for end in edge.items(2))
        if source in names and target in names:
            first, last = names.index(source), len(names) - 1 - names[::-1].index(target)
            wanted[last] |= {first} - {last}
    stages = Stages()
    request, length = node["req_tok"].count(), node["plan_tok"].count()
    planned = stages.llm("plan", call(request, length, derived=Derived.PROMPT))
    placed: dict[int, int] = {}
    while len(placed) < len(names):
        open_ones = [index for index in range(len(names)) if index not in placed]
        chosen = next((index for index in open_ones if wanted[index] <= placed.keys()), open_ones[0])
        after = tuple(placed[index] for index in wanted[chosen] if index in placed) or (planned,)
        placed[chosen] = stages.tool("subtask", None, tool=names[chosen], after=after)
    yield stages.job(node["id"].text(), f"plan_{node['set'].text()}", None)


PLANS = Shape("tool plans", ("set", "nodes", "edges", "plan_tok"), _plan)
