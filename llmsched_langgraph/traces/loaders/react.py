"""Knows the records of ReAct agents: thought, action and observation of every step, in tokens.

Does not know files.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call

_EXAMPLES = {"react_hotpotqa": 1476, "react_fever": 794}
"""Tokens (cl100k) of the examples that begin every prompt, by application; not known of others."""

_NO_TOOL = ("finish", "think", "reflect")
"""Actions that ask nobody anything."""


def _react(node: Field) -> Iterator[EndedJob]:
    """A chain of `think`, one call for thought and action, and the tool that the action names.

    Reflexion's agent (HotpotQA, runs `react_...`) made thought and action in two calls: `think`, then `act`.
    Finishing and thinking to oneself run no tool. Output tokens are lengths of the recorded
    texts. Prompt tokens are derived: the examples (none where their length is not known), the question,
    and all that was said and seen before. No call's seconds and no tool's are recorded; FEVER has the job's.
    """
    app = node["app"].text()
    prompt = _EXAMPLES.get(app, 0) + node["q_tok"].count()
    two_calls = app == "react_hotpotqa" and node["run"].text().startswith("react_")
    stages = Stages()
    for step in node["steps"].items():
        thought, action, seen, name = step.items(4)
        said = thought.count() + action.count()
        if two_calls:
            stages.llm("think", call(prompt, thought.count(), derived=Derived.PROMPT))
            after = prompt + thought.count()
            stages.llm("act", call(after, action.count(), derived=Derived.PROMPT))
        else:
            stages.llm("think", call(prompt, said, derived=Derived.PROMPT))
        if (tool := name.text().lower()) not in _NO_TOOL:
            stages.tool("use_tool", None, tool=tool)
        prompt += said + seen.count()
    jct = node.get("jct")
    yield stages.job(node["id"].text(), app, None if jct is None else jct.number())


REACT = Shape("ReAct trajectories", ("steps", "q_tok", "n", "trial"), _react)
