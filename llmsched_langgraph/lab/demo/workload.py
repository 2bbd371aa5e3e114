"""Generates the demo's runs from a seed: graph, arrival, and tokens of each answer.

Does not run anything. The mix is synthetic but has the shape of agent traffic: most jobs are small, a few
are large, and the large jobs make most of the work.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from llmsched_langgraph.lab.demo.graphs import simulate

SHARES = {"chain": 0.5, "react": 0.3, "planner": 0.2}
"""Probability of each graph."""

BURST = 0.1
"""Length of the arrival window, as a fraction of the least time that the backend needs for all runs."""


@dataclass(frozen=True, slots=True)
class DemoRun:
    """One run.

    Attributes:
        graph: name of the graph.
        input: input of the graph.
        tokens: output tokens of all its answers.
        arrival: arrival as a fraction of the arrival window, 0 to 1.
    """

    graph: str
    input: dict[str, Any]
    tokens: int
    arrival: float


def workload(runs: int, seed: int) -> list[DemoRun]:
    """Return `runs` runs in order of arrival; the same seed gives the same runs."""
    rng = random.Random(seed)
    # Given their number, the arrivals of a Poisson process are independent and uniform.
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
