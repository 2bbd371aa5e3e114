"""Task automation as in HuggingGPT: a plan of typed tools that depend on each other, run, then an answer.

plan -> dispatch -> run_tool (all tasks that are ready, at once) -> dispatch -> ... -> answer
 ^  |
 +--+  what is wrong with the plan
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Annotated, Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from model import asks_for, data_in, default_model, read_inputs
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

ATTEMPTS = 3

Type = Literal["text", "number", "numbers", "words"]


@dataclass(frozen=True)
class Tool:
    """A function that makes a value of one type from a value of another."""

    takes: Type
    gives: Type
    run: Callable[[Any], Any]
    does: str


TOOLS = {
    "find_numbers": Tool(
        "text",
        "numbers",
        lambda text: [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)],
        "all numbers that stand in a text",
    ),
    "find_names": Tool(
        "text", "words", lambda text: re.findall(r"\b[A-Z][a-z]+\b", text), "all capitalised words of a text"
    ),
    "split_words": Tool("text", "words", lambda text: re.findall(r"\w+", text), "the words of a text"),
    "capitals": Tool("text", "text", str.upper, "a text in capital letters"),
    "count": Tool("words", "number", len, "how many words there are"),
    "join": Tool("words", "text", ", ".join, "words in one line"),
    "total": Tool("numbers", "number", sum, "the sum of numbers"),
    "average": Tool("numbers", "number", fmean, "the average of numbers"),
    "largest": Tool("numbers", "number", max, "the largest of numbers"),
}

PLAN = """Plan how to do what the user asks for with these tools:
{tools}

Each task runs one tool. It has a number of its own. Its input is either a text, word for word, or the \
output of an earlier task, written <output-NUMBER>; that number then stands in `after`, too. A tool takes \
only inputs of its type. Use as few tasks as you can.

Request: {request}"""
AGAIN = "\n\nYour last plan cannot be used: {fault}. Make a better one."
ANSWER = """Answer the request from the results of the tools. If a result is missing, say so.

Request: {request}

Results:
{results}"""


class Task(TypedDict):
    """One tool to run."""

    id: Annotated[int, Field(ge=1, le=20)]
    tool: Literal[tuple(TOOLS)]  # type: ignore[valid-type]  # known only when it runs
    input: Annotated[str, Field(description="a text, or <output-NUMBER>")]
    after: Annotated[list[int], Field(description="numbers of the tasks that must have run")]


class Plan(BaseModel):
    """Tasks, each behind those that it needs."""

    tasks: list[Task] = Field(min_length=1, max_length=8)


class State(TypedDict, total=False):
    """A request comes in; a plan, results by task, and an answer come of it."""

    request: str
    attempts: int
    fault: str
    tasks: list[Task]
    results: Annotated[dict[int, str], operator.or_]
    values: Annotated[dict[int, Any], operator.or_]
    answer: str


def source(task: Task) -> int | None:
    """The task whose output is its input."""
    found = re.fullmatch(r"\s*<output-(\d{1,3})>\s*", task["input"])
    return int(found.group(1)) if found else None


def needs(task: Task) -> set[int]:
    """The tasks that must have run."""
    return {*task["after"], source(task)} - {None}


def faults(plan: Plan) -> list[str]:
    """Why the plan cannot be run, if it cannot."""
    found: list[str] = []
    gives: dict[int, Type] = {}
    for task in plan.tasks:
        number, tool, before = task["id"], TOOLS[task["tool"]], source(task)
        if number in gives:
            found.append(f"there are two tasks {number}")
        lost = sorted(needs(task) - gives.keys())
        found += [f"task {number} needs task {other}, which does not come before it" for other in lost]
        given = "text" if before is None else gives.get(before, tool.takes)
        if given != tool.takes:
            found.append(f"task {number}: {task['tool']} takes {tool.takes}, not {given}")
        gives[number] = tool.gives
    return found


def ready(state: State) -> list[Send] | Literal["answer"]:
    """All tasks whose needs are there; the answer, when there is nothing left to run."""
    results, values = state.get("results", {}), state.get("values", {})
    free = [task for task in state["tasks"] if task["id"] not in results and needs(task) <= results.keys()]
    return [
        Send("run_tool", (task, task["input"] if (before := source(task)) is None else values[before]))
        for task in free
    ] or "answer"


async def run_tool(given: tuple[Task, Any]) -> State:
    """Run one tool; what it cannot do is a result, too, and reaches the answer."""
    task, value = given
    try:
        if value is None:
            raise ValueError(f"task {source(task)} gave nothing")
        value = TOOLS[task["tool"]].run(value)
        result = f"{value:.15g}" if isinstance(value, float) else str(value)
    except Exception as error:  # whatever a tool may raise
        value, result = None, f"failed: {error}"
    return {"results": {task["id"]: result}, "values": {task["id"]: value}}


def build(model: BaseChatModel) -> Any:
    """The graph."""
    planner = asks_for(model, Plan)
    tools = "\n".join(f"- {name}: {tool.takes} -> {tool.gives}, {tool.does}" for name, tool in TOOLS.items())

    async def plan(state: State) -> State:
        prompt = PLAN.format(tools=tools, request=state["request"])
        if state.get("fault"):
            prompt += AGAIN.format(fault=state["fault"])
        made, fault = data_in(await planner.ainvoke(prompt), Plan)
        fault = fault if made is None else "; ".join(faults(made))
        tasks = [] if made is None or fault else made.tasks
        return {"tasks": tasks, "fault": fault, "attempts": state.get("attempts", 0) + 1}

    def check(state: State) -> Literal["plan", "dispatch", "answer"]:
        if not state["fault"]:
            return "dispatch"
        return "plan" if state["attempts"] < ATTEMPTS else "answer"

    def dispatch(state: State) -> State:
        return {}  # where all tasks of one round come together before `ready` looks for the next

    async def answer(state: State) -> State:
        results, tasks = state.get("results", {}), state["tasks"]
        told = "\n".join(f"{task['tool']}({task['input']}) = {results[task['id']]}" for task in tasks)
        prompt = ANSWER.format(request=state["request"], results=told or "none: no plan could be made")
        return {"answer": (await model.ainvoke(prompt)).text}

    builder = StateGraph(State)
    for node in (plan, dispatch, run_tool, answer):
        builder.add_node(node)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", check)
    builder.add_conditional_edges("dispatch", ready, ["run_tool", "answer"])
    builder.add_edge("run_tool", "dispatch")
    builder.add_edge("answer", END)
    return builder.compile(name="task_automation")


def inputs() -> list[dict[str, Any]]:
    """Requests that take several tools."""
    return read_inputs("task_automation")


def shown(output: dict[str, Any]) -> str:
    """The result in a line."""
    return f"{len(output.get('results', {}))} tools: {output['answer']}"


graph = build(default_model())
