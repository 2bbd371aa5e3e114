"""Code generation with feedback: write a function, run its tests in a subprocess, give the error back.

write -> test -> end (passed, or no attempts left)
  ^        |
  +--------+  the error
"""

from __future__ import annotations

import re
from typing import Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from model import default_model, read_inputs
from sandbox import Limits, run_python
from typing_extensions import TypedDict

ATTEMPTS = 5

WRITE = """Write a Python function. Use the standard library only. Answer with the whole code in one \
```python block and nothing else.

{task}"""
AGAIN = """

Your last attempt failed. The code:
```python
{code}
```
The error:
{fault}

Correct it."""


class State(TypedDict, total=False):
    """A task and its tests come in; code comes out, and whether it passed."""

    task: str
    tests: str
    code: str
    fault: str
    attempts: int
    passed: bool


def code_in(answer: str) -> str:
    """The last code block; the whole answer if there is none."""
    blocks = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", answer, re.DOTALL)
    return (blocks[-1] if blocks else answer).strip()


def build(model: BaseChatModel, *, limits: Limits | None = None) -> Any:
    """The graph."""

    async def write(state: State) -> State:
        prompt = WRITE.format(task=state["task"])
        if state.get("fault"):
            prompt += AGAIN.format(code=state["code"], fault=state["fault"])
        answer = await model.ainvoke(prompt)
        return {"code": code_in(answer.text), "attempts": state.get("attempts", 0) + 1}

    def test(state: State) -> State:  # a plain function: LangGraph runs it in a thread
        # The tests say themselves that they came to their end, so that `exit()` in the code is no success.
        done = "all tests have run"
        outcome = run_python(f"{state['code']}\n\n{state['tests']}\nprint({done!r})", limits)
        if outcome.passed and not outcome.output.endswith(f"{done}\n"):
            return {"fault": "it ended before its tests did", "passed": False}
        return {"fault": outcome.fault, "passed": outcome.passed}

    def go_on(state: State) -> Literal["write", "__end__"]:
        return END if state["passed"] or state["attempts"] >= ATTEMPTS else "write"

    builder = StateGraph(State)
    builder.add_node(write)
    builder.add_node(test)
    builder.add_edge(START, "write")
    builder.add_edge("write", "test")
    builder.add_conditional_edges("test", go_on)
    return builder.compile(name="code_generation")


def inputs() -> list[dict[str, Any]]:
    """Small functions, each with tests that the model does not see."""
    return read_inputs("code_generation")


def shown(output: dict[str, Any]) -> str:
    """The result in a line."""
    how = "passed" if output["passed"] else f"failed ({output['fault'].splitlines()[-1]})"
    return f"{how} after {output['attempts']} attempts: {output['code']}"


graph = build(default_model())
