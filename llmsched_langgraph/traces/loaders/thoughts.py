"""Knows the records of three programs that search among thoughts: Graph of Thoughts, ARIES, Tree of Thoughts.

Does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedCall, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call


def _graph_of_thoughts(node: Field) -> Iterator[EndedJob]:
    """A chain: consecutive requests of one operation are the calls of one stage, named by its type.

    The operations' edges are not recorded, only their order. The client made one request after the other,
    also within an operation whose requests do not need each other: those count as parallel here, so a job
    can be faster than its recorded time. Tokens and seconds are recorded; a few job times hold long pauses.
    """
    stages = Stages()
    steps = [tuple(step.items(7)) for step in node["steps"].items()]
    for (_, name), group in groupby(steps, key=lambda step: (step[0].count(), step[1].text())):
        calls = (call(step[2].count(), step[3].count(), step[4].maybe_number()) for step in group)
        stages.llm(name, *calls)
    app = f"{node['app'].text()}_{node['method'].text()}"
    yield stages.job(node["id"].text(), app, node["jct"].maybe_number())


_LOCAL = ("score", "keepbest", "groundtruth", "rescore")
"""Actions that a program does without a model."""


def _aries(node: Field) -> Iterator[EndedJob]:
    """A chain: each action is a stage; where a model chose it, a stage `decide` with that call goes before.

    An action that makes thoughts has one call for each of them, whose output tokens are the thought's length;
    scoring and keeping are tools. Prompt tokens and all seconds are not recorded.
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
"""More thoughts than any step keeps."""


def _tree_of_thoughts(node: Field) -> Iterator[EndedJob]:
    """Two stages a step: the calls that make new thoughts, then those that judge them.

    Tokens are recorded for the job alone, so all are derived, by equal parts. Game of 24: `propose` has one
    call for each kept thought, `evaluate` one for each new thought. Creative writing: `sample` has one call
    for each new thought, whose output is that thought's recorded length, and `vote` as many; a request for
    several samples at once counts as so many calls. No seconds are recorded.
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
