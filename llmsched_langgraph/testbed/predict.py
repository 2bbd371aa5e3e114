"""Knows what the simulator foretells of a comparison: the same jobs and arrivals, the server's speed.

Does not know what came of it. Times are seconds of the wall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from llmsched_langgraph.belief.profile import Profile
from llmsched_langgraph.core.policies import Policy, as_policy
from llmsched_langgraph.dag.application import Application
from llmsched_langgraph.sim.evaluation import learned_from
from llmsched_langgraph.sim.latency import LatencyModel
from llmsched_langgraph.sim.servers import BatchingReplicas
from llmsched_langgraph.sim.simulation import Simulation
from llmsched_langgraph.sim.workloads import TimedJob
from llmsched_langgraph.testbed.script import in_supersteps
from llmsched_langgraph.traces.job import TraceJob


@dataclass(frozen=True, slots=True)
class Prediction:
    """Mean job completion times of both sides, in seconds."""

    stock_mean_jct_s: float
    scheduled_mean_jct_s: float

    @property
    def mean_jct_reduction(self) -> float:
        """By how much scheduling should lower it, as a fraction of stock's."""
        return 1 - self.scheduled_mean_jct_s / self.stock_mean_jct_s


def predicted(
    warmup: Sequence[TraceJob],
    jobs: Sequence[TimedJob],
    applications: Mapping[str, Application],
    *,
    slots: int,
    policy: str | Policy,
    latency: LatencyModel,
) -> Prediction:
    """What should come of these jobs.

    Args:
        warmup: what the scheduled side learned from, with the seconds of its calls.
        jobs: with their arrivals, in seconds of the wall.
        applications: by name, as their graphs show them.
        slots: of the server.
        policy: of the scheduled side; the stock one is served in the order of calls.
        latency: of the server, in seconds of the wall.
    """
    as_run = [replace(timed, job=in_supersteps(timed.job)) for timed in jobs]
    profile = learned_from([in_supersteps(job) for job in warmup], applications) if warmup else Profile()

    def mean_jct_s(by: str | Policy) -> float:
        done = Simulation(
            as_run,
            slots=slots,
            policy=as_policy(by),
            profile=profile,
            applications=applications,
            server=BatchingReplicas(1, slots, latency),
        ).run()
        return fmean(job.jct_s for job in done.jobs)

    return Prediction(mean_jct_s("fcfs"), mean_jct_s(policy))
