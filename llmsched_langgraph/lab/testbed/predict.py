"""Predicts a comparison by simulation: the same jobs and arrivals, and a server fitted to the warm-up.

Does not run jobs on the endpoint. Times are seconds of wall time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from llmsched_langgraph._application.application import Application
from llmsched_langgraph._belief.profile.profile import Profile
from llmsched_langgraph._core.policies import Policy, as_policy
from llmsched_langgraph.lab.sim.evaluation import learned_from
from llmsched_langgraph.lab.sim.latency import LatencyModel
from llmsched_langgraph.lab.sim.servers import BatchingReplicas, Handover
from llmsched_langgraph.lab.sim.simulated import Simulated
from llmsched_langgraph.lab.sim.simulation import Simulation
from llmsched_langgraph.lab.sim.workloads import TimedJob
from llmsched_langgraph.lab.testbed.script import in_supersteps

_OCTAVES = 2.0
"""The fitted speed lies in [2^-_OCTAVES, 2^_OCTAVES] times the latency model's speed."""

_HALVINGS = 10
"""Bisection steps for log2(speed); the remaining range is 2 * _OCTAVES / 2^_HALVINGS < 0.01."""

_ROUNDS = 4
"""Alternations between the fits of handover and speed, from handover 0 on. If no call waits, speed and
handover have the same effect; the start at 0 then selects the smaller handover."""


@dataclass(frozen=True, slots=True)
class Fit:
    """Corrections of the latency model, fitted to the warm-up.

    Attributes:
        speed: speed of the endpoint under the warm-up's load, as a multiple of the latency model's speed.
        handover_s: seconds in which a call holds its slot but the server does not work on it.
    """

    speed: float = 1.0
    handover_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Prediction:
    """Mean job completion times of both sides, in seconds."""

    stock_mean_jct_s: float
    scheduled_mean_jct_s: float
    fit: Fit

    @property
    def mean_jct_reduction(self) -> float:
        """The relative reduction of the predicted mean JCT, 1 - scheduled / stock."""
        return 1 - self.scheduled_mean_jct_s / self.stock_mean_jct_s


@dataclass(frozen=True, slots=True)
class Predictor:
    """Simulates both sides of a comparison.

    Attributes:
        applications: the compiled graphs, by name.
        slots: slots of the server.
        policy: policy of the scheduled side; the stock side is served first come, first served.
        latency: latency model of the server, in seconds of wall time.
        ahead: slots of the scheduler beyond `slots`.
    """

    applications: Mapping[str, Application]
    slots: int
    policy: str | Policy
    latency: LatencyModel
    ahead: int = 0

    def fitted(self, warmup: Sequence[TimedJob], mean_jct_s: float, held_s: float) -> Fit:
        """Fit speed and handover so that the simulation reproduces the warm-up.

        The speed is fitted to the mean JCT of the stock pass. The handover is the measured minus the
        simulated mean seconds that a call of the scheduled pass holds its slot.

        Args:
            warmup: jobs that ran stock, and scheduled with an empty profile.
            mean_jct_s: their mean job completion time in the stock pass, in seconds.
            held_s: mean seconds that their calls held their slots in the scheduled pass.
        """

        def with_handover(handover_s: float) -> Fit:
            """Bisect the speed for this handover."""
            low, high = -_OCTAVES, _OCTAVES
            for _ in range(_HALVINGS):
                fit = Fit(2.0 ** ((low + high) / 2), handover_s)
                too_slow = _mean_jct_s(self._stock(warmup, fit)) > mean_jct_s
                low, high = ((low + high) / 2, high) if too_slow else (low, (low + high) / 2)
            return fit

        fit = with_handover(0.0)
        for _ in range(_ROUNDS):
            done = self._scheduled(warmup, Profile(), fit)
            simulated_s = fmean(call.seconds or 0.0 for job in done.records for call in job.llm_calls())
            fit = with_handover(max(fit.handover_s + held_s - simulated_s, 0.0))
        return fit

    def prediction(self, warmup: Sequence[TimedJob], jobs: Sequence[TimedJob], fit: Fit) -> Prediction:
        """Predict both mean JCTs of `jobs`, with a profile learned from the warm-up."""
        profile = Profile()
        if warmup:
            learned = [in_supersteps(timed.job) for timed in warmup]
            profile = learned_from(learned, self.applications)
        stock, scheduled = self._stock(jobs, fit), self._scheduled(jobs, profile, fit)
        return Prediction(_mean_jct_s(stock), _mean_jct_s(scheduled), fit)

    def _stock(self, jobs: Sequence[TimedJob], fit: Fit) -> Simulated:
        """Simulate the stock side: no call waits for a slot; calls queue at the server."""
        calls = sum(1 for timed in jobs for _ in timed.job.llm_calls())
        return self._simulated(jobs, "fcfs", Profile(), fit, slots=max(calls, 1))

    def _scheduled(self, jobs: Sequence[TimedJob], profile: Profile, fit: Fit) -> Simulated:
        return self._simulated(jobs, self.policy, profile, fit, slots=self.slots + self.ahead)

    def _simulated(
        self, jobs: Sequence[TimedJob], policy: str | Policy, profile: Profile, fit: Fit, *, slots: int
    ) -> Simulated:
        server = BatchingReplicas(1, self.slots, self.latency.times(fit.speed))
        return Simulation(
            [replace(timed, job=in_supersteps(timed.job)) for timed in jobs],
            slots=slots,
            policy=as_policy(policy),
            profile=profile,
            applications=self.applications,
            server=Handover(server, fit.handover_s),
            keep=True,
        ).run()


def _mean_jct_s(done: Simulated) -> float:
    return fmean(job.jct_s for job in done.jobs)
