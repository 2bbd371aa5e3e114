"""Knows what the demo runs: which graph, when, and how many tokens each answer has. All from one seed.

Does not know how anything is run. The mix is made up, in the shape that agent traffic has: most jobs
are small, a few are large, and the large ones make most of the work.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from llmsched_langgraph.lab.demo.graphs import simulate

SHARES = {"chain": 0.5, "react": 0.3, "planner": 0.2}
"""How many of the runs each graph gets."""

BURST = 0.1
"""All runs arrive within this part of the time that the backend needs for them at best."""


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One run: a graph, its input, the tokens its answers have in all, and when it arrives.

    `arrival` is a fraction of the arrival window, 0 to 1.
    """

    graph: str
    input: dict[str, Any]
    tokens: int
    arrival: float


def workload(runs: int, seed: int) -> list[DemoRun]:
    """`runs` runs in order of arrival; the same for the same seed."""
    rng = random.Random(seed)
    # A Poisson process, given how many arrive, puts them independently and evenly.
    arrivals = sorted(rng.random() for _ in range(runs))
    graphs = rng.choices(list(SHARES), weights=list(SHARES.values()), k=runs)
    return [
        _RUNS[graph](rng, n, arrival) for n, (graph, arrival) in enumerate(zip(graphs, arrivals, strict=True))
    ]


def _chain(rng: random.Random, n: int, arrival: float) -> DemoRun:
    tokens = [rng.randint(25, 60), rng.randint(25, 60), rng.randint(8, 16)]
    return DemoRun("chain", {"subject": f"subject {n}", "tokens": tokens}, sum(tokens), arrival)


def _react(rng: random.Random, n: int, arrival: float) -> DemoRun:
    tools = [("search", "query"), ("look_up", "article")]
    turns: list[dict[str, Any]] = []
    for step in range(rng.randint(1, 9)):
        name, argument = rng.choice(tools)
        call = {"name": name, "arguments": {argument: f"item {n}.{step}"}}
        turns.append({"output_tokens": rng.randint(30, 80), "tool_calls": [call]})
    turns.append({"output_tokens": rng.randint(60, 140)})
    question = f"What became of item {n}? {simulate(turns=turns)}"
    tokens = sum(turn["output_tokens"] for turn in turns)
    return DemoRun("react", {"messages": [("user", question)]}, tokens, arrival)


def _planner(rng: random.Random, n: int, arrival: float) -> DemoRun:
    sections = [rng.randint(80, 240) for _ in range(rng.randint(3, 14))]
    plan, summary = 20 + 12 * len(sections), rng.randint(120, 260)
    state = {
        "topic": f"topic {n}",
        "plan_tokens": plan,
        "section_tokens": sections,
        "summary_tokens": summary,
    }
    return DemoRun("planner", state, plan + sum(sections) + summary, arrival)


_RUNS = {"chain": _chain, "react": _react, "planner": _planner}
