"""How the time to compile a graph grows with its nodes: 10, 100, 1,000, as ratios measured in one run.

    python benchmarks/compiling.py [--repeats N]

Linear growth is a ratio of 10 from each size to the next. Each node is a function of its own that calls
a helper, as in real graphs; nothing of it is run.
"""

from __future__ import annotations

import argparse
import operator
import statistics
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import FakeListChatModel
from langgraph.graph import START, StateGraph
from measuring import Clock, Cost, in_turn, print_table, ratio

from llmsched_langgraph import compile_graph

SIZES = (10, 100, 1_000)
MODEL = FakeListChatModel(responses=["."])


class State(TypedDict):
    """What the graphs pass on; they are never run."""

    items: Annotated[list[str], operator.add]


def helper(text: str) -> str:
    """What every second node calls."""
    return str(MODEL.invoke(text).content)


def node(number: int) -> Any:
    """A function of its own."""
    if number % 2:
        return lambda state: {"items": [helper(f"{number} {state['items']}")]}
    return lambda state: {"items": [str(number)]}


def chain(size: int) -> Any:
    """One node after the other."""
    builder = StateGraph(State)
    for number in range(size):
        builder.add_node(f"n{number}", node(number))
        builder.add_edge(f"n{number - 1}" if number else START, f"n{number}")
    return builder.compile()


def loops(size: int) -> Any:
    """The same, with a way back after every tenth."""
    builder = StateGraph(State)
    for number in range(size):
        builder.add_node(f"n{number}", node(number))
        builder.add_edge(f"n{number - 1}" if number else START, f"n{number}")
        if number % 10 == 9:
            builder.add_edge(f"n{number}", f"n{number - 9}")
    return builder.compile()


def fan(size: int) -> Any:
    """All side by side between two."""
    builder = StateGraph(State).add_node("first", node(0)).add_node("last", node(1))
    builder.add_edge(START, "first")
    for number in range(size - 2):
        builder.add_node(f"n{number}", node(number))
        builder.add_edge("first", f"n{number}")
        builder.add_edge(f"n{number}", "last")
    return builder.compile()


def nested(size: int) -> Any:
    """Graphs of ten nodes, one after the other."""
    builder = StateGraph(State)
    for number in range(size // 10):
        builder.add_node(f"g{number}", chain(10))
        builder.add_edge(f"g{number - 1}" if number else START, f"g{number}")
    return builder.compile()


def once(graph: Any) -> Cost:
    """To compile the graph and unroll it."""
    with Clock(1) as clock:
        assert compile_graph(graph).stage_edges
    return clock.cost


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=9, help="per figure (default %(default)s)")
    repeats = parser.parse_args().repeats
    rows = []
    for shape in (chain, loops, fan, nested):
        cases = {str(size): partial(once, shape(size)) for size in SIZES}
        costs = {name: [cost.cpu for cost in all_] for name, all_ in in_turn(cases, repeats).items()}
        growth = [ratio(costs[str(larger)], costs[str(smaller)]) for smaller, larger in pairwise(SIZES)]
        rows.append([shape.__name__, f"{1e3 * statistics.median(costs['10']):.1f}", *growth])
    print_table(["", "10 nodes, ms of CPU", "100 costs times 10", "1,000 costs times 100"], rows)


if __name__ == "__main__":
    main()
