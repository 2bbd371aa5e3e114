"""Generates the simulator's jobs: the paper's six applications, its four mixes, and arrival times.

Uses no clock, policy or server; every random choice comes from a seed argument.
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
