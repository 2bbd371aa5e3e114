"""Loaders for other formats of recorded jobs.

A loader gets one line as a `Field` and yields its jobs. A value that the record lacks is None ("not
recorded"), or is computed and marked `Derived`. Loaders never estimate seconds; `fill_seconds` does.
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
"""The formats in matching order; no record matches two."""

__all__ = ["SHAPES", "Shape"]
