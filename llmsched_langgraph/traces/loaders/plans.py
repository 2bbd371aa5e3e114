"""Loads plans: a request, and the graph of tool uses that a model planned for it.

Converts already parsed records; opens no files.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


def _plan(node: Field) -> Iterator[EndedJob]:
    """Yield `plan`, one call, and a stage `subtask` per planned tool, after its predecessors.

    The plan's length is recorded. The prompt is derived: it is the request alone, because the planner's
    instructions are not recorded. A final answer by a model is not recorded either. Plans are real model
    outputs, so some name a tool twice, link tools that they do not use, or contain cycles: a link connects
    the first stage of its source with the last of its target, a link to an unused tool is dropped, and a
    cycle is cut at a link that goes back in the plan's order. Nothing was executed, so tools have no seconds.
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
