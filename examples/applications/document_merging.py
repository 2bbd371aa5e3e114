"""Document merging by a graph of thoughts: several merges, each scored, the best aggregated, then improved.

    merge (several at once) -> score -> aggregate (the best) -> score -> improve -> score -> ... -> finish

A score is two marks of the model's, asked for several times: how much of the documents is still
there, and how little of it is said twice. A merge is as good as the harmonic mean of both.
"""

from __future__ import annotations

import re
from statistics import fmean
from typing import Any, Literal

from langchain_core.language_models.chat_models import BaseChatModel
from langgraph.graph import END, START, StateGraph
from model import default_model, read_inputs
from typing_extensions import TypedDict

MERGES, KEPT, AGGREGATES, JUDGES = 4, 2, 2, 2
"""Merges written at first, those of them that are aggregated, aggregates written, scores of each text."""
IMPROVEMENTS = 2
"""Rounds of improvement at most."""
GOOD = 9.5
"""A text with this score or more, of 10, needs no improvement."""

MERGE = """Merge the following {count} documents into a single one. Keep every piece of information, say \
each only once. Answer with the merged document between <Merged> and </Merged>.

{documents}"""
AGGREGATE = """Below are {count} documents, and several attempts at merging them into one. Combine what is \
best in the attempts into a better merged document: all that the documents say, each piece only \
once. Answer with it between <Merged> and </Merged>.

{documents}

{attempts}"""
IMPROVE = """Below are {count} documents, and an attempt at merging them into one that got {score:.1f} of 10 \
points. Correct it: add what is missing, strike what is said twice. Answer with the whole document between \
<Merged> and </Merged>.

{documents}

{attempts}"""
SCORE = """The document <S> should merge the {count} documents below. Give two marks from 0 to 10: for \
redundancy (10: nothing is said twice) and for what is retained (10: nothing is lost). Answer with \
<Redundancy>MARK</Redundancy> and <Retained>MARK</Retained>.

{documents}

<S>
{text}
</S>"""


class Draft(TypedDict):
    """A merged document; without a readable mark its score is 0."""

    text: str
    score: float


class State(TypedDict, total=False):
    """Documents come in; drafts of the last step and the best one of all lead to the merged document."""

    documents: list[str]
    step: Literal["merge", "aggregate", "improve"]
    drafts: list[Draft]
    best: Draft
    rounds: int
    merged: str
    score: float


def documents_of(state: State) -> str:
    """The documents as they stand in every prompt."""
    texts = enumerate(state["documents"], 1)
    return "\n\n".join(f"<Doc{number}>\n{text}\n</Doc{number}>" for number, text in texts)


def text_in(answer: str) -> str:
    """What stands between the tags; all of it if the model forgot them."""
    found = re.search(r"<Merged>(.*?)(?:</Merged>|$)", answer, re.DOTALL)
    return (found.group(1) if found else answer).strip()


def score_in(answer: str) -> float | None:
    """The harmonic mean of the two marks, or None if they cannot be read."""
    marks = []
    for name in ("Redundancy", "Retained"):
        found = re.search(rf"<{name}>\s*(\d+(?:\.\d+)?)", answer)
        if found is None:
            return None
        marks.append(min(float(found.group(1)), 10.0))
    return 2 * marks[0] * marks[1] / sum(marks) if any(marks) else 0.0


def build(model: BaseChatModel) -> Any:
    """The graph; its nodes make all calls of a stage at once."""

    async def write(prompt: str, times: int, **known: Any) -> State:
        answers = await model.abatch([prompt] * times)
        # The same text twice needs no second judgement.
        texts = dict.fromkeys(text_in(answer.text) for answer in answers)
        return {"drafts": [Draft(text=text, score=0.0) for text in texts], **known}

    async def merge(state: State) -> State:
        prompt = MERGE.format(count=len(state["documents"]), documents=documents_of(state))
        return await write(prompt, MERGES, step="merge", rounds=0)

    async def score(state: State) -> State:
        drafts, documents = state["drafts"], documents_of(state)
        count = len(state["documents"])
        prompts = [SCORE.format(count=count, documents=documents, text=draft["text"]) for draft in drafts]
        answers = await model.abatch([prompt for prompt in prompts for _ in range(JUDGES)])
        scored = []
        for at, draft in enumerate(drafts):
            marks = [score_in(answer.text) for answer in answers[at * JUDGES : (at + 1) * JUDGES]]
            readable = [mark for mark in marks if mark is not None]
            scored.append(Draft(text=draft["text"], score=fmean(readable) if readable else 0.0))
        scored.sort(key=lambda draft: -draft["score"])
        best = state.get("best")
        if best is None or scored[0]["score"] > best["score"]:
            best = scored[0]
        return {"drafts": scored, "best": best}

    async def aggregate(state: State) -> State:
        return await write(
            with_attempts(AGGREGATE, state, state["drafts"][:KEPT]), AGGREGATES, step="aggregate"
        )

    async def improve(state: State) -> State:
        prompt = with_attempts(IMPROVE, state, [state["best"]])
        return await write(prompt, 1, step="improve", rounds=state["rounds"] + 1)

    def with_attempts(prompt: str, state: State, drafts: list[Draft]) -> str:
        attempts = "\n\n".join(
            f"<Attempt{at}>\n{draft['text']}\n</Attempt{at}>" for at, draft in enumerate(drafts, 1)
        )
        count, score = len(state["documents"]), drafts[0]["score"]
        return prompt.format(count=count, documents=documents_of(state), attempts=attempts, score=score)

    def go_on(state: State) -> Literal["aggregate", "improve", "finish"]:
        if state["step"] == "merge":
            return "aggregate"
        good = state["best"]["score"] >= GOOD
        return "finish" if good or state["rounds"] >= IMPROVEMENTS else "improve"

    def finish(state: State) -> State:
        return {"merged": state["best"]["text"], "score": state["best"]["score"]}

    builder = StateGraph(State)
    for node in (merge, score, aggregate, improve, finish):
        builder.add_node(node)
    builder.add_edge(START, "merge")
    for node in ("merge", "aggregate", "improve"):
        builder.add_edge(node, "score")
    builder.add_conditional_edges("score", go_on)
    builder.add_edge("finish", END)
    return builder.compile(name="document_merging")


def inputs() -> list[dict[str, Any]]:
    """Sets of short documents that overlap."""
    return read_inputs("document_merging")


def shown(output: dict[str, Any]) -> str:
    """The result in a line."""
    return f"score {output['score']:.1f}: {output['merged']}"


graph = build(default_model())
