"""Sequence sorting by a graph of thoughts: split, sort the parts, merge by twos, mend what has errors.

    split -> sort (one for each part, several tries) -> score -> merge (each pair) -> score -> ... -> finish
                                                          |  ^
                                                        improve

A thought is a sorted list that stands for some of the parts. Errors are counted, not asked for: what is
out of order, missing or invented. Of all thoughts about the same parts the best one goes on.
"""

from __future__ import annotations

import json
import operator
import re
from collections import Counter
from itertools import pairwise
from typing import Annotated, Any

from langchain_core.language_models.chat_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from model import default_model, read_inputs
from typing_extensions import TypedDict

PART = 16
"""Numbers that a model sorts well in one go."""
IMPROVEMENTS = 2
"""Rounds in which a list with errors is given back; after them it goes on as it is."""

SPLIT = """Split the following list of {length} numbers into {parts} lists of at most {part} \
numbers each, in the order in which they stand. Answer with one JSON object \
{{"List 1": [...], "List 2": [...], ...}} and nothing else.

Input: {numbers}"""
SORT = """Sort the following list of numbers in ascending order. Keep duplicates. Answer with the sorted \
list in square brackets and nothing else.

Input: {numbers}"""
MERGE = """Merge the following two sorted lists into one sorted list. Keep duplicates. Answer with the \
merged list in square brackets and nothing else.

List 1: {left}
List 2: {right}"""
IMPROVE = """The second list should be the first one in ascending order, but it has errors: {faults}.
Answer with the corrected second list in square brackets and nothing else.

Input: {numbers}
Incorrectly sorted: {attempt}"""


class Thought(TypedDict):
    """A list that should be `given` in order; it stands for the parts from `start` up to `stop`."""

    start: int
    stop: int
    given: list[int]
    found: list[int]
    round: int


class State(TypedDict, total=False):
    """Numbers come in; the best thought about all of them is what comes out."""

    numbers: list[int]
    parts: list[list[int]]
    thoughts: Annotated[list[Thought], operator.add]
    best: list[Thought]
    result: list[int]
    errors: int


def split_in(text: str, numbers: list[int], parts: int) -> list[list[int]]:
    """The model's split if not a number is lost or moved, else one that is."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        lists = [list(part) for part in json.loads(found.group() if found else "").values()]
        if [number for part in lists for number in part] == numbers and all(lists):
            return lists
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass  # no JSON, or JSON of another shape: numbers must not depend on it
    size = -(-len(numbers) // parts)
    return [numbers[at : at + size] for at in range(0, len(numbers), size)]


def numbers_in(text: str) -> list[int]:
    """The last list in the text; an answer without one is an empty list, all of whose numbers are missing."""
    found = re.findall(r"\[([^\[\]]*)\]", text)
    return [int(digits) for digits in re.findall(r"-?\d{1,18}", found[-1])] if found else []


def faults(thought: Thought) -> list[str]:
    """What is wrong with it, one by one."""
    there, wanted = Counter(thought["found"]), Counter(thought["given"])
    found = [f"{a} stands before {b}" for a, b in pairwise(thought["found"]) if a > b]
    found += [f"{number} is missing" for number in sorted((wanted - there).elements())]
    return found + [f"{number} is too much" for number in sorted((there - wanted).elements())]


def score(state: State) -> State:
    """Of the thoughts about the same parts the best; then of those the ones that no other contains."""
    best: dict[tuple[int, int], Thought] = {}
    tried: Counter[tuple[int, int]] = Counter()
    for thought in state.get("thoughts", []):
        span = thought["start"], thought["stop"]
        tried[span] = max(tried[span], thought["round"])
        if span not in best or len(faults(thought)) < len(faults(best[span])):
            best[span] = thought
    front: list[Thought] = []
    for span in sorted(best, key=lambda span: (span[0], -span[1])):
        if not front or span[0] >= front[-1]["stop"]:
            front.append(Thought(**{**best[span], "round": tried[span]}))
    return {"best": front}


def finish(state: State) -> State:
    """What all was for; of no numbers there is no thought."""
    best = state.get("best")
    return (
        {"result": best[0]["found"], "errors": len(faults(best[0]))} if best else {"result": [], "errors": 0}
    )


def build(model: BaseChatModel, *, samples: int = 2) -> Any:
    """The graph; each list is sorted, merged and mended `samples` times over, and the best one is kept."""

    async def split(state: State) -> State:
        numbers = state["numbers"]
        parts = -(-len(numbers) // PART)
        if parts <= 1:
            return {"parts": [numbers] if numbers else []}
        prompt = SPLIT.format(length=len(numbers), parts=parts, part=PART, numbers=numbers)
        return {"parts": split_in((await model.ainvoke(prompt)).text, numbers, parts)}

    def each_part(state: State) -> list[Send] | str:
        blank = [
            Thought(start=at, stop=at + 1, given=part, found=[], round=0)
            for at, part in enumerate(state["parts"])
        ]
        return [Send("sort", thought) for thought in blank for _ in range(samples)] or "finish"

    async def sort(thought: Thought) -> State:
        return await think(thought, SORT.format(numbers=thought["given"]))

    async def merge(pair: tuple[Thought, Thought]) -> State:
        left, right = pair
        given = left["given"] + right["given"]
        merged = Thought(start=left["start"], stop=right["stop"], given=given, found=[], round=0)
        return await think(merged, MERGE.format(left=left["found"], right=right["found"]))

    async def improve(thought: Thought) -> State:
        wrong = "; ".join(faults(thought)[:10])
        prompt = IMPROVE.format(faults=wrong, numbers=thought["given"], attempt=thought["found"])
        return await think(Thought(**{**thought, "round": thought["round"] + 1}), prompt)

    async def think(thought: Thought, prompt: str) -> State:
        found = numbers_in((await model.ainvoke(prompt)).text)
        return {"thoughts": [Thought(**{**thought, "found": found})]}

    def go_on(state: State) -> list[Send] | str:
        best = state["best"]
        wrong = [thought for thought in best if faults(thought) and thought["round"] < IMPROVEMENTS]
        if wrong:
            return [Send("improve", thought) for thought in wrong for _ in range(samples)]
        pairs = list(zip(best[::2], best[1::2], strict=False))
        return [Send("merge", pair) for pair in pairs for _ in range(samples)] or "finish"

    builder = StateGraph(State)
    builder.add_node("split", split)
    builder.add_node("sort", sort)
    builder.add_node("score", score)
    # Who merges and mends is counted, but how many parts there are is the split's decision.
    builder.add_node("merge", merge, metadata={"llmsched": {"planned_by": "split"}})
    builder.add_node("improve", improve)
    builder.add_node("finish", finish)
    builder.add_edge(START, "split")
    builder.add_conditional_edges("split", each_part, ["sort", "finish"])
    for node in ("sort", "merge", "improve"):
        builder.add_edge(node, "score")
    builder.add_conditional_edges("score", go_on, ["improve", "merge", "finish"])
    builder.add_edge("finish", END)
    return builder.compile(name="sequence_sorting")


def inputs() -> list[dict[str, Any]]:
    """Lists of several lengths."""
    return read_inputs("sequence_sorting")


def shown(output: dict[str, Any]) -> str:
    """The result in a line."""
    return f"{len(output['result'])} numbers, {output['errors']} errors: {output['result']}"


graph = build(default_model())
