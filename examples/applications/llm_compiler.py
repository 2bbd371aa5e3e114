"""LLMCompiler: plan tool calls that refer to each other, run all that can run, join, or plan again.

plan -> fetch -> run_tool (all whose references are there, at once) -> fetch -> ... -> join
 ^                                                                                      |
 +---------------------------------- what is still missing ----------------------------+
"""

from __future__ import annotations

import ast
import operator
import re
from typing import Annotated, Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from library import best, facts
from model import asks_for, data_in, default_model, read_inputs
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

ROUNDS = 3
"""Plans at most; then the joiner must answer with what there is."""

PLAN = """Plan the tool calls that answer the question. The tools:
- look_up(WHAT): the number that the table has for WHAT, such as "height of NAME" or "population of NAME"
- calculate(EXPRESSION): arithmetic with + - * / and brackets

Write $N in an argument where the result of call number N belongs. Calls that do not refer to each other run \
at the same time: make as many of them independent as you can. Numbers go on from {first}.

Question: {question}

Known so far:
{known}"""
JOIN = """Decide whether the results answer the question. If so, give the answer in one sentence. If not, \
leave the answer empty and say what should be done differently.{last}

Question: {question}

Results:
{known}"""
LAST = " There is no time left to try again: answer as well as the results allow."


class Call(TypedDict):
    """One tool call; $N in its argument is the result of call N."""

    number: Annotated[int, Field(ge=1, le=50)]
    tool: Literal["look_up", "calculate"]
    argument: str


class Calls(BaseModel):
    """A plan."""

    calls: list[Call] = Field(min_length=1, max_length=8)


class Verdict(BaseModel):
    """An answer, or what is missing."""

    answer: str = Field(default="", description="empty if the results do not answer the question")
    missing: str = Field(default="", description="what to do differently")


class State(TypedDict, total=False):
    """A question comes in; plans, results by call, and an answer come of it."""

    question: str
    rounds: int
    calls: list[Call]
    log: Annotated[list[str], operator.add]
    results: Annotated[dict[int, str], operator.or_]
    answer: str


def look_up(what: str) -> str:
    """A number of the table."""
    found = {key.lower(): value for key, value in facts().items()}.get(what.strip().lower())
    if found is None:
        near = ", ".join(best(what, dict.fromkeys(facts(), ""), 4)) or "nothing like it"
        raise ValueError(f"the table has no {what!r}; it has {near}")
    return f"{found:.15g}" if isinstance(found, float) else str(found)


def calculate(expression: str) -> str:
    """What an arithmetic expression comes to; anything else is refused."""
    ways = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}

    def value(node: ast.AST) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return float(number)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in ways:
                return ways[type(op)](value(left), value(right))
        raise ValueError(f"{expression!r} is not plain arithmetic")

    if len(expression) > 200:
        raise ValueError("an expression so long is not calculated")
    try:
        return f"{value(ast.parse(expression.strip(), mode='eval').body):.10g}"
    except (SyntaxError, ArithmeticError, RecursionError, MemoryError) as error:
        raise ValueError(f"{expression!r} cannot be calculated: {error}") from None


TOOLS = {"look_up": look_up, "calculate": calculate}


def needs(call: Call) -> set[int]:
    """The calls that it refers to."""
    return {int(number) for number in re.findall(r"\$(\d{1,3})", call["argument"])}


def faults(calls: list[Call], known: dict[int, str]) -> list[str]:
    """Why the plan cannot be run, if it cannot."""
    found, earlier = [], set(known)
    for call in calls:
        if call["number"] in earlier:
            found.append(f"there is a call {call['number']} already")
        lost = sorted(needs(call) - earlier)
        found += [
            f"call {call['number']} refers to ${other}, which does not come before it" for other in lost
        ]
        earlier.add(call["number"])
    return found


def ready(state: State) -> list[Send] | Literal["join"]:
    """All calls whose references are there; the joiner, when there is nothing left to run."""
    results = state.get("results", {})
    free = [
        call for call in state["calls"] if call["number"] not in results and needs(call) <= results.keys()
    ]
    return [Send("run_tool", (call, {n: results[n] for n in needs(call)})) for call in free] or "join"


async def run_tool(given: tuple[Call, dict[int, str]]) -> State:
    """Run one call; what it cannot do is a result, too, and reaches the joiner."""
    call, known = given
    argument = re.sub(r"\$(\d{1,3})", lambda found: known[int(found.group(1))], call["argument"])
    try:
        lost = sorted(number for number, result in known.items() if result.startswith("failed"))
        if lost:
            argument = call["argument"]
            raise ValueError(f"there is no ${lost[0]}")
        result = TOOLS[call["tool"]](argument)
    except ValueError as error:
        result = f"failed: {error}"
    return {
        "results": {call["number"]: result},
        "log": [f"${call['number']} = {call['tool']}({argument}) = {result}"],
    }


def known_in(state: State) -> str:
    """All that happened so far, as the prompts tell it."""
    return "\n".join(state.get("log", [])) or "nothing"


def build(model: BaseChatModel) -> Any:
    """The graph."""
    planner, joiner = asks_for(model, Calls), asks_for(model, Verdict)

    async def plan(state: State) -> State:
        results = state.get("results", {})
        first = max(results, default=0) + 1
        prompt = PLAN.format(question=state["question"], known=known_in(state), first=first)
        made, fault = data_in(await planner.ainvoke(prompt), Calls)
        fault = fault if made is None else "; ".join(faults(made.calls, results))
        rounds = state.get("rounds", 0) + 1
        if made is None or fault:
            return {"calls": [], "rounds": rounds, "log": [f"A plan could not be used: {fault}"]}
        return {"calls": made.calls, "rounds": rounds}

    def fetch(state: State) -> State:
        return {}  # where all calls of one round come together before `ready` looks for the next

    async def join(state: State) -> State:
        last = state["rounds"] >= ROUNDS
        prompt = JOIN.format(question=state["question"], known=known_in(state), last=LAST if last else "")
        said = await joiner.ainvoke(prompt)
        verdict, fault = data_in(said, Verdict)
        if verdict is not None and verdict.answer.strip():
            return {"answer": verdict.answer}
        if last:
            return {"answer": said["raw"].text.strip() or "No answer was found."}
        return {"log": [f"Not answered yet: {verdict.missing if verdict else fault}"]}

    def go_on(state: State) -> Literal["plan", "__end__"]:
        return END if state.get("answer") else "plan"

    builder = StateGraph(State)
    for node in (plan, fetch, run_tool, join):
        builder.add_node(node)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "fetch")
    builder.add_conditional_edges("fetch", ready, ["run_tool", "join"])
    builder.add_edge("run_tool", "fetch")
    builder.add_conditional_edges("join", go_on)
    return builder.compile(name="llm_compiler")


def inputs() -> list[dict[str, Any]]:
    """Questions that take several numbers."""
    return read_inputs("llm_compiler")


def shown(output: dict[str, Any]) -> str:
    """The answer."""
    return output["answer"]


graph = build(default_model())
