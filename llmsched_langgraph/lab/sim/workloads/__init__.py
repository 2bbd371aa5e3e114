"""Generates the simulator's jobs: the paper's six applications, its four mixes, arrival times
and closed loops.

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
from llmsched_langgraph.lab.sim.workloads.closed import Client, closed_loop
from llmsched_langgraph.lab.sim.workloads.mixes import APPLICATIONS, MIXES, generate, resample

__all__ = [
    "APPLICATIONS",
    "MIXES",
    "Arrivals",
    "Bursty",
    "Client",
    "Poisson",
    "Recorded",
    "TimedJob",
    "Traced",
    "arrive",
    "closed_loop",
    "generate",
    "resample",
]
