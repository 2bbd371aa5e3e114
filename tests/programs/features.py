"""Names the ingredients of random programs that can be switched on and off, and those known to be wrong.

Does not say how an ingredient is written: the classes of `grammar` do.
"""

from __future__ import annotations

import importlib.util
from enum import StrEnum


class Feature(StrEnum):
    """One ingredient. A written program lists those that it has."""

    # models
    FAILING = "failing"
    STREAMING = "streaming"
    SYNC_ONLY = "sync-only"
    ASYNC_ONLY = "async-only"
    HOUSE = "house"
    CHAINED = "chained"
    ENSEMBLE = "ensemble"
    DELEGATING = "delegating"
    # calls
    BATCH = "batch"
    PARALLEL = "parallel"
    RETRIES = "retries"
    FALLBACKS = "fallbacks"
    TOOL = "tool"
    NESTED = "nested"
    READ_AND_ASK = "read-and-ask"
    DROPPED = "dropped"
    LEFT_OPEN = "left-open"
    KEPT_OPEN = "kept-open"
    PUMPED = "pumped"
    # tasks, threads, loops, processes
    GATHER = "gather"
    MARKED_THREADS = "marked-threads"
    UNMARKED_THREADS = "unmarked-threads"
    OWN_LOOP = "own-loop"
    BACKGROUND = "background"
    BACKGROUND_GRAPH = "background-graph"
    FORK = "fork"
    SYNC_ON_LOOP = "sync-on-loop"
    FAN_OUT_ON_LOOP = "fan-out-on-loop"
    # bounds
    SLOT = "slot"
    PARALLEL_IN_SLOT = "parallel-in-slot"
    OUTLIVES_SLOT = "outlives-slot"
    TIMEOUT = "timeout"
    SCOPE = "scope"
    CAUGHT = "caught"
    INTERRUPT = "interrupt"
    # graphs
    SEND = "send"
    SUBGRAPH = "subgraph"
    PARALLEL_NODES = "parallel-nodes"
    TOOL_NODE = "tool-node"
    NODE_RETRY = "node-retry"
    # runs
    MANY_RUNS = "many-runs"
    SEVERAL_LOOPS = "several-loops"
    UVLOOP = "uvloop"
    CLOSED_LOOP = "closed-loop"
    CANCELLED = "cancelled"
    HUNG_UP = "hung-up"
    BROKEN_OFF = "broken-off"


GO_AHEAD = frozenset(
    {
        Feature.SYNC_ON_LOOP,
        Feature.FAN_OUT_ON_LOOP,
        Feature.READ_AND_ASK,
        Feature.DROPPED,
        Feature.LEFT_OPEN,
        Feature.KEPT_OPEN,
        Feature.PUMPED,
    }
)
"""Ingredients with which a call may have to go ahead over the slots: without one, none may."""

WRONG: dict[Feature, str] = {}
"""Ingredients that the package gets wrong, each with what happens. The random programs leave them out.

`test_wrong.py` has the smallest program of each, and fails when one of them comes right: delete the entry
here then.
"""

AVAILABLE = frozenset(Feature) - ({Feature.UVLOOP} if importlib.util.find_spec("uvloop") is None else set())
"""The ingredients for which everything is installed."""

SOUND = AVAILABLE - WRONG.keys()
"""The ingredients of the random programs."""
