"""Loads runs of three thought-search programs: Graph of Thoughts, ARIES, Tree of Thoughts.

Converts already parsed records; opens no files.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedCall, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


def _graph_of_thoughts(node: Field) -> Iterator[EndedJob]:
    """Yield a chain: consecutive requests of one operation are the calls of one stage.

    The stage is named by the operation's type. The operations' order is recorded, their edges are not. The
    client sent its requests sequentially, also independent ones of one operation. They count as parallel
    here, so a job can be faster than its recorded time. Tokens and seconds are recorded; a few job times
    include long pauses.
    """
    stages = Stages()
    steps = [tuple(step.items(7)) for step in node["steps"].items()]
    for (_, name), group in groupby(steps, key=lambda step: (step[0].count(), step[1].text())):
        calls = (call(step[2].count(), step[3].count(), step[4].maybe_number()) for step in group)
        stages.llm(name, *calls)
    app = f"{node['app'].text()}_{node['method'].text()}"
    yield stages.job(node["id"].text(), app, node["jct"].maybe_number())


_LOCAL = ("score", "keepbest", "groundtruth", "rescore")
"""Actions that use no model."""


def _aries(node: Field) -> Iterator[EndedJob]:
    """Yield a chain: each action is a stage, after a stage `decide` if a model chose the action.

    An action that produces thoughts has one call per thought, whose output tokens are the thought's length;
    all other actions are tools. Prompt tokens and seconds are not recorded.
    """
    stages = Stages()
    for step in node["steps"].items():
        action, _, _, explained, thoughts = step.items(5)
        name = action.text().lower()
        if explained.count():
            stages.llm("decide", call(None, explained.count()))
        made = [call(None, thought.count()) for thought in thoughts.items()]
        if name in _LOCAL or not made:
            stages.tool(name, None)
        else:
            stages.llm(name, *made)
    yield stages.job(node["id"].text(), node["app"].text(), None)


_KEPT = 1000
"""Upper bound of the thoughts that a step keeps."""


def _tree_of_thoughts(node: Field) -> Iterator[EndedJob]:
    """Yield two stages per step: calls that generate thoughts, then calls that evaluate them.

    Tokens are recorded per job only, so all are derived, in equal shares. Game of 24: `propose` has one call
    per kept thought, `evaluate` one per new thought. Creative writing: `sample` has one call per new thought,
    with that thought's recorded length as its output, and `vote` has the same number of calls; a request for
    n samples counts as n calls. No seconds are recorded.
    """
    steps = [(step["in_ys"].count(_KEPT), list(step["new_tok"].items())) for step in node["steps"].items()]
    sent, answered = node["tin"].count(), node["tout"].count()
    stages = Stages()
    if "game24" in node["app"].text():
        requests = max(sum(kept + len(new) for kept, new in steps), 1)
        one = _even(sent, answered, requests)
        for kept, new in steps:
            stages.llm("propose", *[one] * kept)
            stages.llm("evaluate", *[one] * len(new))
    else:
        known = sum(thought.count() for _, new in steps for thought in new)
        votes = max(sum(len(new) for _, new in steps), 1)
        one = _even(sent // 2, max(answered - known, 0), votes)
        for _, new in steps:
            stages.llm("sample", *(call(one.prompt_tokens, n.count(), derived=Derived.PROMPT) for n in new))
            stages.llm("vote", *[one] * len(new))
    yield stages.job(node["id"].text(), node["app"].text(), None)


def _even(sent: int, answered: int, requests: int) -> EndedCall:
    both = Derived.PROMPT | Derived.OUTPUT
    return call(round(sent / requests), round(answered / requests), derived=both)


GRAPH_OF_THOUGHTS = Shape(
    "Graph of Thoughts runs", ("steps", "method", "complete", "jct"), _graph_of_thoughts
)
ARIES = Shape("ARIES runs", ("steps", "method", "n"), _aries)
TREE_OF_THOUGHTS = Shape("Tree of Thoughts runs", ("steps", "tin", "tout"), _tree_of_thoughts)
