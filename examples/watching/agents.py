"""Agents of three tenants that share four slots, and the metrics of their scheduler for Prometheus.

python agents.py [--port 9400] [--runs 0]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import operator
import random
from typing import Annotated, TypedDict

from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, StateGraph
from prometheus_client import CollectorRegistry, start_http_server

from llmsched_langgraph import Scheduler, observe, schedule
from llmsched_langgraph.lab.serve_sim.server import SimulatedBackend, running_backend

SLOTS = 4
TENANTS = {"gold": 3.0, "silver": 2.0, "trial": 1.0}
"""Their weights. Each has four clients, whose next run begins when their last one has ended."""


class Research(TypedDict):
    """A question, and the notes on it."""

    question: str
    rounds: int
    notes: Annotated[list[str], operator.add]


def research_graph(model: ChatOpenAI):
    """A graph that takes as many notes as it has rounds."""

    async def note(state: Research):
        answer = await model.ainvoke(f"A note on: {state['question']}")
        return {"notes": [answer.text]}

    builder = StateGraph(Research)
    builder.add_node("note", note)
    builder.add_edge(START, "note")
    builder.add_conditional_edges(
        "note", lambda state: END if len(state["notes"]) >= state["rounds"] else "note", [END, "note"]
    )
    return builder.compile(name="research")


async def client(graph, tenant: str, numbers: itertools.count[int], runs: int) -> None:
    """Run the graph again and again."""
    config = {"metadata": {"llmsched_tenant": tenant}}
    while (number := next(numbers)) <= runs or not runs:
        rounds = random.Random(number).choice((1, 1, 2, 8))
        await graph.ainvoke({"question": f"question {number}", "rounds": rounds, "notes": []}, config)


async def main(base_url: str, port: int, runs: int) -> None:
    """Run the clients, and serve the metrics meanwhile."""
    model = ChatOpenAI(model="sim-model", base_url=base_url, api_key="no-key-needed")
    registry, numbers = CollectorRegistry(), itertools.count(1)
    with Scheduler(SLOTS, tenants=TENANTS) as scheduler, observe.prometheus(scheduler, registry):
        graph = schedule(research_graph(model), scheduler)
        server, _ = start_http_server(port, "127.0.0.1", registry)
        print(f"serving http://127.0.0.1:{server.server_port}/metrics", flush=True)
        await asyncio.gather(*(client(graph, tenant, numbers, runs) for tenant in TENANTS for _ in range(4)))
        print(scheduler, flush=True)
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--port", type=int, default=9400)
    parser.add_argument("--runs", type=int, default=0, help="number of runs to make; 0 for no end")
    parser.add_argument("--time-scale", type=float, default=1.0, help="speed-up of the embedded backend")
    options = parser.parse_args()
    with running_backend(SimulatedBackend(slots=SLOTS, time_scale=options.time_scale)) as backend:
        asyncio.run(main(backend.base_url, options.port, options.runs))
