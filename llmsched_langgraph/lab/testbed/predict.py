"""Knows what the simulator foretells of a comparison: the same jobs and arrivals, the server's speed.

Does not know what came of it. Times are seconds of the wall.
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
from llmsched_langgraph.lab.sim.simulation import Simulated, Simulation
from llmsched_langgraph.lab.sim.workloads import TimedJob
from llmsched_langgraph.lab.testbed.script import in_supersteps

_OCTAVES = 2.0
"""By how many times 2 the speed under load may differ from what was measured without."""

_HALVINGS = 10
"""Of the range in which the speed lies: less than a hundredth is left."""

_ROUNDS = 4
"""How often speed and handover are corrected in turn, from no handover on. Where no call waits, one does what
the other does, and then this finds the smaller handover."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What the warm-up shows of an endpoint that calls of one length do not.

    Attributes:
        speed: how fast it is with these calls and this client beside it, as times what was measured.
        handover_s: seconds of a call in which it has its slot and the server does not work for it.
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
        """By how much scheduling should lower it, as a fraction of stock's."""
        return 1 - self.scheduled_mean_jct_s / self.stock_mean_jct_s


@dataclass(frozen=True, slots=True)
class Predictor:
    """What is known of an endpoint and of the graphs that run on it.

    Attributes:
        applications: by name, as their graphs show them.
        slots: of the server.
        policy: of the scheduled side; the stock one is served in the order of calls.
        latency: of the server, in seconds of the wall.
        ahead: how many slots more than the server the scheduler has.
    """

    applications: Mapping[str, Application]
    slots: int
    policy: str | Policy
    latency: LatencyModel
    ahead: int = 0

    def fitted(self, warmup: Sequence[TimedJob], mean_jct_s: float, held_s: float) -> Fit:
        """The speed and handover with which the simulator finds what the warm-up was.

        Stock jobs, which wait at the server, tell its speed; how much longer than that scheduled calls have
        their slots is the handover.

        Args:
            warmup: jobs that were run stock, and scheduled by who had learned nothing yet.
            mean_jct_s: their mean job completion time when they ran stock.
            held_s: how long their calls had their slots when they ran scheduled, in the mean.
        """

        def with_handover(handover_s: float) -> Fit:
            """With the speed that goes with it."""
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
        """What should come of these jobs, once those of the warm-up were learned from."""
        profile = Profile()
        if warmup:
            learned = [in_supersteps(timed.job) for timed in warmup]
            profile = learned_from(learned, self.applications)
        stock, scheduled = self._stock(jobs, fit), self._scheduled(jobs, profile, fit)
        return Prediction(_mean_jct_s(stock), _mean_jct_s(scheduled), fit)

    def _stock(self, jobs: Sequence[TimedJob], fit: Fit) -> Simulated:
        """Nobody keeps slots: there are some for all calls at once, and the server has a queue of its own."""
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
