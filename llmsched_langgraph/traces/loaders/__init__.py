"""The other shapes that records of jobs come in, each with the function that makes jobs of them.

A loader gets one line as a `Node` and gives the jobs in it. What it cannot find in the record it leaves as
None ("not recorded") or computes and marks `Derived`; seconds are never made up here: `fill_seconds` does
that, by one stated model, for whoever wants them.
"""

from llmsched_langgraph.traces.loaders.coding import AUTOCODEROVER, CHATDEV, REFLEXION, SWE_AGENT
from llmsched_langgraph.traces.loaders.conversations import CLAUDE_CODE, TAU_BENCH
from llmsched_langgraph.traces.loaders.plans import PLANS
from llmsched_langgraph.traces.loaders.react import REACT
from llmsched_langgraph.traces.loaders.shape import Shape
from llmsched_langgraph.traces.loaders.thoughts import ARIES, GRAPH_OF_THOUGHTS, TREE_OF_THOUGHTS

SHAPES: tuple[Shape, ...] = (
    AUTOCODEROVER,
    SWE_AGENT,
    CHATDEV,
    REFLEXION,
    CLAUDE_CODE,
    TAU_BENCH,
    REACT,
    PLANS,
    GRAPH_OF_THOUGHTS,
    ARIES,
    TREE_OF_THOUGHTS,
)
"""In the order in which they are tried; no record matches two."""

__all__ = ["SHAPES", "Shape"]
