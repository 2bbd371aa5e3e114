"""What the simulator runs: seeded jobs of the paper's six applications, their mixes, and when they arrive.

Knows no clock, no policy and no server; every random choice comes from a seed in the call.
"""

from llmsched_langgraph.lab.sim.workloads.arrivals import (
    Arrivals,
    Bursty,
    Poisson,
    Recorded,
    TimedJob,
    Traced,
    arrive,
)
from llmsched_langgraph.lab.sim.workloads.mixes import APPLICATIONS, MIXES, generate, resample

__all__ = [
    "APPLICATIONS",
    "MIXES",
    "Arrivals",
    "Bursty",
    "Poisson",
    "Recorded",
    "TimedJob",
    "Traced",
    "arrive",
    "generate",
    "resample",
]
