"""Loads ReAct runs: thought, action and observation of every step, in tokens.

Converts already parsed records; opens no files.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmsched_langgraph._fields import Field
from llmsched_langgraph._jobs.ended import Derived, EndedJob
from llmsched_langgraph.traces.loaders.shape import Shape, Stages, call

_EXAMPLES = {"react_hotpotqa": 1476, "react_fever": 794}
"""Tokens (cl100k) of the few-shot examples in every prompt, by application; 0 if unknown."""

_NO_TOOL = ("finish", "think", "reflect")
"""Actions that use no tool."""


def _react(node: Field) -> Iterator[EndedJob]:
    """Yield a chain of `think`, one call for thought and action, and the action's tool.

    Reflexion's agent (HotpotQA, runs `react_...`) used two calls: `think` for the thought, then `act` for the
    action. Output tokens are lengths of the recorded texts. Prompt tokens are derived: the examples, the
    question, and all earlier thoughts, actions and observations. No seconds of calls and tools are recorded;
    FEVER has the job's time.
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
